package stream

import (
	"context"
	"log/slog"
)

// State is the state of a consumer or producer after a [StateChange].
type State int

const (
	// StateConnected: it reads or publishes, for the first time or again.
	StateConnected State = iota + 1
	// StateReconnecting: it has lost its connection or got none, for the reason
	// in Err. It pauses (Config.Backoff) and tries again.
	StateReconnecting
	// StateBlocked: the broker is alive and has confirmed nothing for 5 s, or for
	// ConfirmTimeout if that is shorter, or takes no producer now. Err names the
	// causes that this may have. The producer waits; StateConnected follows when
	// the broker takes messages again. A memory alarm does not block streams.
	StateBlocked
	// StateClosed: it has ended, for the reason in Err. Err is nil for a
	// producer that was closed in order, for a run that the end of its context
	// has stopped, and for a loop over All that ended by break or return.
	StateClosed
	// StateMessagesLost: retention has removed Lost messages that the consumer
	// had not read, while it was away or because it is too slow. It goes on at
	// the first message that is left. If Lost is 0, nobody knows how many:
	// retention has overtaken the stored offset, and the broker has forgotten it;
	// see [Stored].
	StateMessagesLost
	// StateOffsetBeyondEnd: the stored offset lies beyond the end of the stream,
	// so that every message up to it would be dropped. The consumer has seen so
	// twice, at least 10 s apart, and goes on behind the end that it saw first.
	// Err names both.
	StateOffsetBeyondEnd
	// StateStreamRecreated: the stream was deleted and created again. The
	// consumer starts over in the new stream, at the place that its Start names
	// for a consumer with nothing stored. Unless that is At, it starts at the
	// beginning, because all of the new stream is newer than the run. Err says
	// how the consumer noticed.
	StateStreamRecreated
	// StateActive: a consumer with SingleActive is the active member of its group
	// from now on, and has called OnActive.
	StateActive
	// StateWaiting: it has joined its group, or is no longer the active member.
	StateWaiting
	// StateOverlap: it was the active member, and another one may be active beside
	// it, because the connection is lost, the broker was not heard of for two
	// heartbeats, or handlers took longer than the broker waits. What handlers have
	// in hand, and what they handled since the broker gave the member up, may be
	// handled twice. Err says why. The member stores nothing any more and hands
	// nothing out until it is promoted again.
	StateOverlap
)

// String names the state.
func (s State) String() string {
	switch s {
	case StateConnected:
		return "connected"
	case StateReconnecting:
		return "reconnecting"
	case StateBlocked:
		return "blocked"
	case StateClosed:
		return "closed"
	case StateMessagesLost:
		return "messages lost"
	case StateOffsetBeyondEnd:
		return "offset beyond end"
	case StateStreamRecreated:
		return "stream recreated"
	case StateActive:
		return "active"
	case StateWaiting:
		return "waiting"
	case StateOverlap:
		return "overlap"
	}
	return "unknown"
}

// Role tells consumers from producers.
type Role int

// The roles of a [StateChange].
const (
	RoleConsumer Role = iota + 1
	RoleProducer
)

// String names the role.
func (r Role) String() string {
	switch r {
	case RoleConsumer:
		return "consumer"
	case RoleProducer:
		return "producer"
	}
	return "unknown"
}

// StateChange is one change of a consumer or producer, for Config.OnState.
type StateChange struct {
	State State
	Role  Role
	// Stream is the stream. For a consumer of a super stream it is the partition;
	// it is the super stream with StateClosed of the consumer as a whole, and with
	// StateReconnecting while the partitions are not known yet.
	Stream string
	Name   string // the consumer's or producer's, if it has one
	// Err is set with StateReconnecting, StateStreamRecreated, StateOverlap and
	// StateOffsetBeyondEnd, with StateMessagesLost if Lost is 0, and with
	// StateClosed unless the end was in order.
	Err error
	// Attempt is set with StateReconnecting: the number of the attempt that
	// follows. It starts again at 1 after a connection that delivered or
	// confirmed something, or on which a consumer was for longer than
	// Backoff.Max.
	Attempt int
	// Lost is set with StateMessagesLost: how many offsets the consumer passes
	// over, from LostFrom to LostTo. Some of them may be the broker's own
	// entries, so fewer messages may be lost.
	Lost             uint64
	LostFrom, LostTo uint64

	reconnected bool // with StateConnected: not for the first time
}

// states logs changes. It also hands them to OnState, in order, on a goroutine
// of its own.
type states struct {
	log     *slog.Logger
	onState func(StateChange)
	calls   *callbacks // nil without OnState
}

func startStates(cfg Config) *states {
	s := &states{log: cfg.Logger, onState: cfg.OnState}
	if s.onState != nil {
		s.calls = startCallbacks()
	}
	return s
}

// change logs a change and queues the callback. It never blocks.
func (s *states) change(c StateChange) {
	log := s.log.With("stream", c.Stream, c.Role.String(), c.Name)
	switch c.State {
	case StateConnected:
		level := slog.LevelDebug // a connection won back is news, the first one is not
		if c.reconnected {
			level = slog.LevelInfo
		}
		log.Log(context.Background(), level, "connected")
	case StateReconnecting:
		log.Warn("connection lost or not made; connecting again", "error", c.Err, "attempt", c.Attempt)
	case StateBlocked:
		log.Warn("the broker takes no messages; waiting", "error", c.Err)
	case StateStreamRecreated:
		log.Warn("the stream was deleted and created again; starting over in the new one", "error", c.Err)
	case StateActive:
		log.Info("active member of the group")
	case StateWaiting:
		log.Info("waiting in the group")
	case StateOverlap:
		log.Warn("another member of the group may be active beside this one", "error", c.Err)
	case StateOffsetBeyondEnd:
		log.Error("going on behind the end of the stream", "error", c.Err)
	case StateMessagesLost:
		if c.Err != nil {
			log.Error("going on at the first message that is left", "error", c.Err)
			break
		}
		log.Error("retention has removed messages before they were read; going on at the first that is left", "lost", c.Lost, "from", c.LostFrom, "to", c.LostTo)
	}
	if s.calls != nil {
		s.calls.add(func() { s.onState(c) })
	}
}

// drain waits until OnState has returned for every change so far, for
// CloseTimeout at most.
func (s *states) drain() error {
	if s.calls == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), CloseTimeout)
	defer cancel()
	return s.calls.drain(ctx)
}
