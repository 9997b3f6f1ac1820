package stream

import (
	"fmt"
	"time"

	"github.com/tidemark-go/tidemark/internal/mark"
)

// StorePolicy says when the consumer stores the mark, which is the offset of
// the last handled message. Each store is an entry in the stream's log, so
// frequent stores cost. A crash repeats the messages that are handled and not
// stored, so rare stores cost too. Whatever the policy, a run stores its mark
// when it ends, except with Manual.
//
// An offset that was read back is stored by the stream's leader, and its replicas
// may not have it yet. If the leader dies before a majority of them has it, the
// stored offset goes back to the last store that they have, and what was handled
// since comes again, although Commit has returned nil or the run has ended in
// order. That is what was handled while the replicas were behind: as a rule a
// moment, and longer where the leader was cut off from them. When leaders were
// killed for a test, that happened in 6 of 1,158 cases, and with Every: 1 up to 70
// messages came again. Committed keeps stores from that. A stream without replicas
// is not concerned.
//
// The zero value stores the mark of every message while traffic is slow, and
// every 100 ms in a burst. A crash then repeats the messages of about 100 ms.
// On a super stream of more than 10 partitions the time is 10 ms for each of them,
// 5 s at most, so that the consumer makes 100 stores a second in all: with 100
// partitions each stores its mark every second, and a crash repeats the messages of
// about a second. Set an Interval of 100 ms to store as often as elsewhere.
//
// The consumers of an Env that read the same stream store together: what became
// due since the last time leaves in one packet, 100 ms after it. N consumers of
// a busy stream thus make 10 N stores a second at most, in 10 packets for each
// node that they read from. RabbitMQ writes a packet of 1,000 stores in some 7
// chunks, and each chunk wakes every reader of the stream, in other processes
// too. The stores of consumers with Every, or with an Interval below 200 ms, do
// not wait for that.
//
// The last store of a run, except with Every, waits for others that end too: 1 ms
// for each further consumer of the stream since the last packet, at most 100 ms.
// A Commit leaves at once, by itself.
type StorePolicy struct {
	// Every stores the mark after that many handled messages, before the next
	// handler runs. With Every: 1 a crash of the process repeats at most the
	// message, or batch, in hand. With Workers it repeats what they have
	// handled above the mark. Default 0: the number of messages does not
	// matter.
	//
	// In a burst Linux may hold stores back for up to 200 ms, to send them
	// together. A crash of the machine, or a broken network, can lose those.
	// Meanwhile other clients see an older offset. RabbitMQ lists such a
	// consumer twice, the second time without credit.
	Every int
	// Interval stores the mark that long after the first handled message that
	// is not stored yet, or up to 100 ms earlier, together with the marks of
	// other consumers of the stream. If Every is set too, the mark is stored
	// when the first of the two is reached. Default 0: the time does not
	// matter. At most 24 h.
	Interval time.Duration
	// Manual stores the mark only on [Consumer.Commit]. It excludes the other
	// two.
	Manual bool
	// Committed makes a store count once a majority of the stream's replicas has
	// it, so that no death of a leader takes it back. It holds for the stores
	// that somebody waits for: that of Commit, the last one of a run, and with
	// Every each of them, before the next handler runs. If there is no majority,
	// Commit waits under its context, the next handler is not called, and a run
	// that is told to end returns [ErrNotStored] after [CloseTimeout]. A leader
	// that has just been elected may not know for minutes what a majority has.
	//
	// The stream's leader is asked, on another connection of the Env if the
	// consumer reads from a replica, so its node must be reachable. A store then
	// takes six round trips more, and the time in which the replicas follow: on
	// one busy machine 4 ms with a lone node and 11 ms with three, where Every: 1
	// without Committed took 0.07 ms at most. It excludes
	// ConsumerConfig.OffsetStore. Default false.
	Committed bool
}

// forMark returns the policy without what the mark does not depend on.
func (p StorePolicy) forMark() mark.Policy {
	return mark.Policy{Every: p.Every, Interval: p.Interval, Manual: p.Manual}
}

// validate rejects a policy whose fields contradict each other.
func (p StorePolicy) validate() error {
	switch {
	case p.Every < 0 || p.Interval < 0 || p.Interval > maxDuration:
		return fmt.Errorf("%w: Store.Every %d and Store.Interval %v must not be negative, and the interval at most %v", ErrInvalidConfig, p.Every, p.Interval, maxDuration)
	case p.Manual && (p.Every > 0 || p.Interval > 0):
		return fmt.Errorf("%w: Store.Manual goes without Every and Interval", ErrInvalidConfig)
	}
	return nil
}
