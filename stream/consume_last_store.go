package stream

import (
	"context"
	"errors"
	"fmt"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// storeLast has the session's storer store the last mark and read it back. It
// waits under the context of beginClosing and not under the run's, which has
// usually ended.
func (r *run) storeLast() error {
	err := r.requests.ask(r.beginClosing(), storeLast, nil)
	if err != nil {
		snapshot, _ := r.progress.snapshot()
		err = notStored(snapshot.Mark, err)
	}
	return err
}

// notStored says that the mark could not be stored, and why.
func notStored(offset uint64, cause error) error {
	return fmt.Errorf("%w: the messages up to offset %d were handled, but: %w", ErrNotStored, offset, cause)
}

// finish waits for the handlers at work and stores the mark of a run whose
// session has ended without doing so. It tries new connections as long as
// beginClosing leaves time. It returns the error of the run, which has ended for
// the reason why, joined with a failure to store. ctx is the run's.
func (r *run) finish(ctx context.Context, why error) error {
	why = endedBy(ctx, r.dispatcher.end(why))
	snapshot, handled := r.progress.snapshot()
	if !handled || !r.named() || r.consumer.cfg.Store.Manual {
		return why
	}
	if err := r.storeUntilStored(r.beginClosing(), snapshot.Mark); err != nil {
		return joinErrors(why, notStored(snapshot.Mark, err))
	}
	return why
}

// joinErrors is errors.Join that returns a lone error as it is.
func joinErrors(first, second error) error {
	switch {
	case first == nil:
		return second
	case second == nil:
		return first
	}
	return errors.Join(first, second)
}

// storeUntilStored tries to store the mark until it is stored, trying again
// cannot help, or ctx ends. It returns what stood in the way last.
func (r *run) storeUntilStored(ctx context.Context, offset uint64) error {
	var obstacle error
	for attempt := 1; ; attempt++ {
		err := r.storeWithoutSession(ctx, offset)
		if err == nil || isFatal(err) || errors.Is(err, ErrNotStored) {
			return err
		}
		// The end of ctx makes the last attempt fail and says nothing about the
		// obstacle. Its deadline may end a dial a moment before ctx.Err is set.
		if obstacle == nil || ctx.Err() == nil && !errors.Is(err, context.DeadlineExceeded) {
			obstacle = err
		}
		if sleep(ctx, r.backoff(attempt)) != nil {
			return obstacle
		}
	}
}

// storeWithoutSession stores the mark once, over a connection to the stream's
// leader, and reads it back.
func (r *run) storeWithoutSession(ctx context.Context, offset uint64) error {
	c := r.consumer
	if c.cfg.OffsetStore != nil { // it does not need the broker
		return (&savedOffsets{run: r}).store(ctx, offset, false)
	}
	location, err := c.env.cluster.Find(ctx, c.stream)
	if err != nil {
		return err
	}
	s, err := c.env.openSubscription(ctx, location, location.Leader, c.stream, c.cfg.MaxBuffered)
	if err != nil {
		return err
	}
	defer s.releaseWithin(ctx, true)
	if err := r.checkSameStream(ctx, s); err != nil {
		return err
	}
	if err := s.lease.StoreOffset(ctx, c.cfg.Name, c.stream, offset); err != nil {
		return err
	}
	if err := s.lease.VerifyOffset(ctx, c.cfg.Name, c.stream, offset); err != nil || !c.cfg.Store.Committed {
		return err
	}
	return s.lease.AwaitCommitted(ctx, c.cfg.Name, c.stream, offset)
}

// checkSameStream returns an error unless the subscription's node has the chunk
// with the last handled message, or a chunk behind it. In a new stream of the
// same name the mark would make the next run skip messages.
func (r *run) checkSameStream(ctx context.Context, s *subscription) error {
	resume := r.place.ResumeChunk()
	chunk, err := s.peek(ctx, wire.OffsetSpec{Type: wire.OffsetAt, Value: resume.First})
	switch {
	case err != nil:
		return err
	case chunk == nil || chunk.FirstOffset < resume.First && !r.place.Contradicts(chunk):
		return fmt.Errorf("%w: its node does not have the messages that were read", ErrStreamUnavailable)
	case r.place.Contradicts(chunk):
		return otherStream(chunk.FirstOffset)
	}
	return nil
}
