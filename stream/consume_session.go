package stream

import (
	"context"
	"errors"
	"fmt"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// sessionEnd is how a session ended.
type sessionEnd struct {
	err        error // why it ended, and why the mark could not be stored
	inOrder    bool  // its connection was alive, and the mark was stored over it if it could be
	progressed bool  // something new was delivered
}

// session handles what one subscription delivers, until the subscription, the
// handler or ctx ends. If the subscription still lives and the stream is surely
// the one that the run has read, session then waits for the handlers at work and
// stores the mark. ctx is the dispatcher's.
func (r *run) session(ctx context.Context, s *subscription) (end sessionEnd) {
	defer func() { s.releaseWithin(r.goodbye(ctx), false) }() // deferred, because the handler may call Goexit
	if r.named() {
		to, err := r.offsetsOf(ctx, s)
		if err != nil {
			return sessionEnd{err: err}
		}
		defer func() { to.release(r.goodbye(ctx), end.inOrder) }()
		if r.place.MustRecognise() && !r.filters() {
			r.progress.pauseStores() // until feed recognises the stream
		}
		r.storer = startStorer(to, r.progress, r.requests, r.log)
		defer r.storer.stop()
	}
	var look *lookout
	if r.named() && r.filters() {
		look = startLookout(r, s)
		defer look.stop()
	}
	end.progressed, end.err = r.deliver(s)
	if errors.Is(end.err, ErrStreamRecreated) || !s.alive() || r.progress.storesPaused() {
		return end
	}
	end.err = endedBy(ctx, r.dispatcher.end(end.err))
	if r.named() && !r.consumer.cfg.Store.Manual {
		r.lookAtEnd(look)
		s.leave(r.beginClosing())
		err := r.storeLast()
		if err != nil && !s.alive() {
			return end // run.finish stores over another connection
		}
		end.err = joinErrors(end.err, err)
	}
	if r.named() {
		r.storer.stop() // first, since a batch of others may go over the connection
	}
	s.releaseWithin(r.beginClosing(), true)
	end.inOrder = true
	return end
}

// offsetsOf returns where a session stores its offsets.
func (r *run) offsetsOf(ctx context.Context, s *subscription) (offsets, error) {
	c := r.consumer
	if c.cfg.OffsetStore != nil {
		return &savedOffsets{run: r, session: s}, nil
	}
	to, err := c.env.brokerOffsets(ctx, s, c.cfg.Name, c.cfg.Store)
	if err != nil {
		return nil, err
	}
	to.gap = r.progress.policy.BatchGap() // that of the consumer
	return to, nil
}

// deliver gives messages to the dispatcher until the subscription or the
// dispatcher's context ends.
func (r *run) deliver(s *subscription) (progressed bool, err error) {
	progressed, err = r.feed(r.dispatcher, s)
	return progressed, r.endAllIf(r.dispatcher.endSession(err))
}

// endAllIf ends the runs on the other partitions if a handler has ended this one,
// before its last store, which may take a while. It returns err.
func (r *run) endAllIf(err error) error {
	if r.isPartition() && endedByHandler(err) {
		r.endAll(err)
	}
	return err
}

// feed passes what the subscription delivers to the dispatcher, and checks that
// it comes from the stream that the run has read. It reports whether something
// new came.
func (r *run) feed(d dispatcher, s *subscription) (progressed bool, err error) {
	r.reading = s
	defer func() { r.reading = nil }()
	var received receivedChunk // outside of the loop: it escapes to the heap
	r.unsettled = false
	for {
		received, err = s.receive(d.context(), d.flushDue())
		switch err {
		case errFlushDue:
			r.unsettled = true
			if err = d.flush(); err == nil {
				r.unsettled = false
				continue
			}
		case errCrossed:
			if err = r.passCrossed(d, s); err == nil {
				continue
			}
		}
		if err != nil {
			if d.context().Err() != nil {
				err = errStopped
			}
			return progressed, err
		}
		chunk := &received.Chunk
		if !r.place.Receive(chunk) {
			return progressed, otherStream(chunk.FirstOffset)
		}
		if r.place.Recognises(chunk) {
			r.progress.resumeStores()
		}
		if next := r.place.Next(); next.Wants(chunk) && next.HasNew(chunk) {
			progressed, r.unsettled = true, true
			switch err := r.dispatch(d, s, &received, next.From); {
			case err == errSessionOver:
				return progressed, s.whyEnded()
			case err != nil:
				return progressed, err
			}
			r.unsettled = false
		}
		s.giveBack(d.context(), received)
		received = receivedChunk{} // while receive waits, nothing holds its memory
	}
}

// otherStream is the error of a session that meets a chunk of a stream which
// the run has not read.
func otherStream(offset uint64) error {
	return fmt.Errorf("%w: the messages at offset %d are not those that were read", ErrStreamRecreated, offset)
}

// dispatch passes a chunk's messages, from an offset on, to the dispatcher,
// which does not keep the chunk.
func (r *run) dispatch(d dispatcher, s *subscription, chunk *receivedChunk, from uint64) error {
	messages := &r.decoder // one for all chunks, since chunks may be small
	switch {
	case messages.loan != nil && !chunk.shared:
		messages.beginLent(r.consumer.stream, &chunk.Chunk, from)
	case chunk.kept():
		messages.beginKept(r.consumer.stream, &chunk.Chunk, from, s.waiting())
	default:
		messages.begin(r.consumer.stream, &chunk.Chunk, from)
	}
	defer messages.finish()
	if err := d.dispatch(&chunk.Chunk, messages); err != nil {
		return err
	}
	if messages.err == nil && messages.failed == nil {
		return r.passChunk(d, &chunk.Chunk)
	}
	if err := d.flush(); err != nil { // so that the advice leaves out nothing
		return err
	}
	if messages.failed != nil {
		return messages.failed
	}
	return r.undecodable(s, &chunk.Chunk, messages)
}

// undecodable is the error for a chunk that cannot be decoded any further, with
// everything handled that comes before. It ends the run: the chunk's checksum
// was right, so the chunk is the same on the broker and would be on every
// attempt. The error says how to go on at the next message that can be read:
// behind a sub-batch, or behind the chunk if that is cut wrongly.
func (r *run) undecodable(s *subscription, chunk *wire.Chunk, messages *decoder) error {
	cfg, last := r.consumer.cfg, messages.good-1
	advice := fmt.Sprintf("start with At(%d)", messages.good)
	switch {
	case cfg.OffsetStore != nil:
		advice = fmt.Sprintf("save offset %d in the OffsetStore", last)
	case cfg.Name != "" && cfg.Start.usesStored():
		advice = fmt.Sprintf("store offset %d with Env.StoreOffset", last)
	}
	return fmt.Errorf("%w: the messages with the offsets %d to %d, in the chunk at %d from %s, cannot be decoded (%v): to go on behind them, %s", ErrMalformed, messages.bad, last, chunk.FirstOffset, s.lease.Address(), messages.err, advice)
}
