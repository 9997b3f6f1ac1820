package stream

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/tidemark-go/tidemark/internal/mark"
	"github.com/tidemark-go/tidemark/internal/wire"
)

// This file finds out how far the broker has looked for a subscription with a
// filter. What it skips leaves no frame, so without that the mark would stand
// still, and lag would grow, while nothing matches.
//
// The mark moves to the end of the stream's last chunk with messages, whose
// header is read by a subscription beside. StreamStats would not do: it says
// where the last chunk of any kind begins, and a store is a chunk too, so that
// two idle consumers would each store because of the other's store, for ever.

// lookout looks, on a goroutine of its own, while no chunk comes. It lives as
// long as a session, or as a term.
type lookout struct {
	r      *run // only to open another subscription
	s      *subscription
	core   mark.Lookout
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// startLookout begins to look. What is found goes to s.crossed.
func startLookout(r *run, s *subscription) *lookout {
	ctx, cancel := context.WithCancel(context.Background())
	l := &lookout{r: r, s: s, cancel: cancel}
	s.crossed, s.upTo = make(chan *wire.Chunk), nil // of an earlier term
	l.wg.Go(func() { l.run(ctx) })
	return l
}

// stop ends the goroutine and waits for it. A further call does nothing.
func (l *lookout) stop() {
	l.cancel()
	l.wg.Wait()
}

func (l *lookout) run(ctx context.Context) {
	for sleep(ctx, l.core.Pause()) == nil {
		arrivals, _ := l.s.arrived()
		if !l.core.Quiet(arrivals) {
			continue
		}
		chunk, err := l.look(ctx) // an error is the connection's, or comes again
		if err != nil || chunk == nil {
			continue
		}
		select {
		case l.s.crossed <- chunk:
		case <-ctx.Done():
		}
	}
}

// look returns the header of the stream's last chunk with messages, once the
// broker has sent all that comes before its end and that the filter lets
// through. It returns nil if there is nothing new, or if the credit did not
// suffice. See mark.Crossing.
func (l *lookout) look(ctx context.Context) (*wire.Chunk, error) {
	s := l.s
	extent, err := s.lease.Stats(ctx, s.stream)
	_, next := s.arrived()
	if err != nil || !l.core.Worth(mark.Extent(extent), next) {
		return nil, err
	}
	chunk, err := l.peekBeside(ctx, wire.OffsetSpec{Type: wire.OffsetLast})
	if err != nil {
		return nil, err
	}
	crossing := mark.Crossing{Granted: s.granted.Load()}
	if err := s.lease.Credit(ctx, 0); err != nil {
		return nil, err
	}
	if err := s.lease.Ping(ctx); err != nil {
		return nil, err
	}
	if crossing.Arrived, _ = s.arrived(); !crossing.Complete() {
		return nil, nil
	}
	l.core.Crossed(mark.Extent(extent))
	return chunk, nil
}

// arrived returns how many chunks have come, and the offset behind the newest.
func (s *subscription) arrived() (chunks, next uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.arrivals, s.jumpWatch.jumps.Next()
}

// expectBehind takes note that the broker has looked at everything up to the end
// of a chunk: retention takes nothing more of that from the consumer.
func (s *subscription) expectBehind(chunk *wire.Chunk) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.jumpWatch.jumps.Pass(chunk.FirstOffset + uint64(chunk.Records))
}

// peekBeside is peek by another subscription to the same node: on the same
// connection, or on another one if all ids of that are taken. What the other one
// sends is as committed, because both read one replica.
func (l *lookout) peekBeside(ctx context.Context, spec wire.OffsetSpec) (*wire.Chunk, error) {
	s := l.s
	beside := newSubscription(s.stream, s.node, int(s.flow.limit), s.memory, s.corruptChunks)
	lease, err := s.lease.Beside(beside)
	if err != nil {
		s.memory.leave(beside.share)
		if !s.alive() {
			return nil, err
		}
		if beside, err = l.r.openAside(ctx, s); err != nil {
			return nil, err
		}
		defer beside.releaseWithin(ctx, true)
		return beside.peek(ctx, spec)
	}
	beside.lease = lease
	defer beside.release(false)
	return beside.peek(ctx, spec)
}

// errCrossed ends a receive that has returned all that came before the end of
// the chunk in s.upTo, and that the filter lets through.
var errCrossed = errors.New("the broker has looked further")

// passCrossed moves the mark behind what the broker has looked at.
func (r *run) passCrossed(d dispatcher, s *subscription) error {
	chunk := s.upTo
	s.upTo = nil
	if !r.place.Receive(chunk) {
		return otherStream(chunk.FirstOffset)
	}
	s.expectBehind(chunk)
	return r.pass(d, chunk, r.countsForStore())
}

// countsForStore returns as how many messages StorePolicy.Every counts what the
// broker has skipped: as enough for a store, since no message may follow for long.
func (r *run) countsForStore() int { return max(r.consumer.cfg.Store.Every, 1) }

// passChunk moves the mark behind what the filter has left out of a chunk that
// was dispatched.
func (r *run) passChunk(d dispatcher, chunk *wire.Chunk) error {
	if !r.consumer.cfg.Filter.isSet() {
		return nil
	}
	return r.pass(d, chunk, 1)
}

// pass moves the mark to the end of a chunk, unless it is there. What lies between
// counts as n messages.
func (r *run) pass(d dispatcher, chunk *wire.Chunk, n int) error {
	if next := r.place.Next(); !next.Wants(chunk) || !next.HasNew(chunk) {
		return nil
	}
	return d.pass(chunk.FirstOffset+uint64(chunk.Records)-1, mark.IDOf(chunk), n)
}

// lastLookTime bounds the look at the end of a run. A broker that skips very many
// chunks at a time answers nothing meanwhile.
const lastLookTime = 2 * time.Second

// lookAtEnd moves the mark behind what the filter has left out, at the end of a
// run whose handlers have returned. It does nothing if a message of the session
// was not handled.
func (r *run) lookAtEnd(l *lookout) {
	if l == nil {
		return
	}
	l.stop()
	if r.unsettled {
		return
	}
	ctx, cancel := context.WithTimeout(r.beginClosing(), lastLookTime)
	defer cancel()
	chunk, err := l.look(ctx)
	if err != nil || chunk == nil || !l.s.idle() || !r.place.Receive(chunk) {
		return
	}
	_ = r.pass(r.dispatcher, chunk, 1) // an error is that of a store, which follows
}

// idle reports whether the subscription lives and no chunk waits to be handled.
func (s *subscription) idle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reason == nil && len(s.queue) == 0 && s.waiting() == 0
}
