package stream

import (
	"context"
	"fmt"
)

// OffsetStore keeps offsets in a place of the service's own, such as the database
// that its handlers write to. With ConsumerConfig.OffsetStore the broker stores
// nothing for the consumer, and Env.QueryOffset finds nothing.
//
// For exactly-once effects, the handler writes the effect and the offset in one
// transaction. StorePolicy.Manual then keeps Save from being called, and Load
// finds what the transaction wrote. This works for one message, or batch, at a
// time: with Workers the offset of a message says nothing about the messages
// before it. See examples/sqlite.
//
// Otherwise the consumer calls Save as StorePolicy says, and the effects happen
// at least once, as with the broker's store.
type OffsetStore interface {
	// Load returns the offset of the last handled message, or ok false if
	// nothing is stored. A stored offset 0 is not nothing. The consumer calls
	// Load on the goroutine that called Run, at the beginning of a run whose
	// Start is Stored. It calls Load once, unless the broker becomes unreachable
	// right after it. After a reconnect a run goes on by what it has handled
	// itself. An error ends the run.
	Load(ctx context.Context, consumer, stream string) (offset uint64, ok bool, err error)
	// Save records the offset of the last handled message and returns when it is
	// safe. The calls for one run come one after the other, on a goroutine of the
	// run. Their offsets may repeat but never fall, unless the stream is created
	// again (see [StateStreamRecreated]), where they begin anew. Until then the
	// offset of the old stream stays, and the next run begins after it if this one
	// ends.
	//
	// ctx ends with the connection or the caller, and CloseTimeout after the end
	// of the run at the latest. The consumer logs an error and calls Save again a
	// second later. With StorePolicy.Every the error ends the run; Commit returns
	// it, and so does the end of a run.
	Save(ctx context.Context, consumer, stream string, offset uint64) error
}

// loadOffset loads the stored offset, or returns ErrNoOffset.
func loadOffset(ctx context.Context, from OffsetStore, consumer, stream string) (uint64, error) {
	offset, ok, err := from.Load(ctx, consumer, stream)
	switch {
	case err != nil && ctx.Err() != nil:
		return 0, context.Cause(ctx)
	case err != nil:
		return 0, fmt.Errorf("%w: load: %w", ErrOffsetStore, err)
	case !ok:
		return 0, ErrNoOffset
	}
	return offset, nil
}

// savedOffsets stores a run's offsets in its OffsetStore.
type savedOffsets struct {
	run     *run
	session *subscription // nil once the run has none
}

// store saves an offset, unless the session's stream is gone: see brokerOffsets.
func (s *savedOffsets) store(ctx context.Context, offset uint64, _ bool) error {
	if s.session != nil && s.session.streamGone() {
		return errMoved
	}
	c := s.run.consumer
	err := c.cfg.OffsetStore.Save(ctx, c.cfg.Name, c.stream, offset)
	if err != nil {
		s.run.log("the offset was not saved", "offset", offset, "error", err)
		return fmt.Errorf("%w: save offset %d: %w", ErrOffsetStore, offset, err)
	}
	return nil
}

// verify has nothing to do: Save returns when the offset is safe.
func (s *savedOffsets) verify(context.Context, uint64) error { return nil }

// release has nothing to do.
func (s *savedOffsets) release(bool) {}
