package stream

import (
	"context"
	"errors"
	"fmt"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// storeLast stores the mark at the end of a session and reads it back. The run's
// context has usually ended, so storeLast has a time of its own.
func (r *run) storeLast() error {
	ctx, cancel := context.WithTimeout(context.Background(), CloseTimeout)
	defer cancel()
	err := r.requests.ask(ctx, true, nil)
	if err != nil {
		snapshot, _ := r.progress.snapshot()
		err = notStored(snapshot.Mark, err)
	}
	return err
}

func notStored(offset uint64, cause error) error {
	return fmt.Errorf("%w: the messages up to offset %d were handled, but: %w", ErrNotStored, offset, cause)
}

// finish ends a run that has no session. If the mark may not be stored, it tries
// other connections for CloseTimeout. It returns cause, and a failure to store.
func (r *run) finish(cause error) error {
	snapshot, handled := r.progress.snapshot()
	if !handled || !r.named() || r.consumer.cfg.Store.Manual {
		return cause
	}
	ctx, cancel := context.WithTimeout(context.Background(), CloseTimeout)
	defer cancel()
	if err := r.storeUntilStored(ctx, snapshot.Mark); err != nil {
		return errors.Join(cause, notStored(snapshot.Mark, err))
	}
	return cause
}

// storeUntilStored tries to store the mark until that has worked, trying again
// cannot help, or ctx ends. It returns what stood in the way last.
func (r *run) storeUntilStored(ctx context.Context, offset uint64) error {
	var obstacle error
	for attempt := 1; ; attempt++ {
		err := r.storeWithoutSession(ctx, offset)
		if err == nil || isFatal(err) || errors.Is(err, ErrNotStored) {
			return err
		}
		// The deadline may end a dial a moment before it ends ctx. That says
		// nothing about the obstacle.
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
	if c.cfg.OffsetStore != nil { // which does not need the broker
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
	defer s.release(true)
	if err := r.checkSameStream(ctx, s); err != nil {
		return err
	}
	if err := s.lease.StoreOffset(ctx, c.cfg.Name, c.stream, offset); err != nil {
		return err
	}
	return s.lease.VerifyOffset(ctx, c.cfg.Name, c.stream, offset)
}

// checkSameStream returns an error unless the node has the chunk that the place is
// in. In a new stream of the same name the mark would skip messages.
func (r *run) checkSameStream(ctx context.Context, s *subscription) error {
	resume := r.place.ResumeChunk()
	chunk, err := s.peek(ctx, wire.OffsetSpec{Type: wire.OffsetAt, Value: resume.First})
	switch {
	case err != nil:
		return err
	case chunk == nil || chunk.FirstOffset < resume.First && !resume.Contradicts(chunk):
		return fmt.Errorf("%w: its leader does not have the messages that were read", ErrStreamUnavailable)
	case resume.Contradicts(chunk):
		return otherStream(chunk.FirstOffset)
	}
	return nil
}
