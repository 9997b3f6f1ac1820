package stream

import (
	"context"
	"fmt"

	"github.com/tidemark-go/tidemark/internal/broker"
)

// OffsetStore keeps offsets in a place of the service's own, such as the
// database that its handlers write to. With ConsumerConfig.OffsetStore the
// broker stores nothing for the consumer, and Env.QueryOffset finds nothing.
//
// For exactly-once effects, the handler writes the effect and the offset in one
// transaction, and Load returns what the transaction wrote. StorePolicy.Manual
// then keeps the consumer from calling Save. This works for one message, or
// batch, at a time: with Workers the offset of a message says nothing about the
// messages before it. See examples/sqlite.
//
// Without such a transaction the consumer calls Save as StorePolicy says, and
// the effects happen at least once, as with the broker's store.
type OffsetStore interface {
	// Load returns the offset of the last handled message. If nothing is stored
	// it returns ok false; for a stored offset 0 it returns ok true. It may
	// return BeforeFirst. A run whose Start is Stored calls Load once, before it
	// reads, on the goroutine that called Run, and with SingleActive each time
	// that it becomes active. After a reconnect the run knows itself what it has
	// handled. An error ends the run.
	Load(ctx context.Context, consumer, stream string) (offset uint64, ok bool, err error)
	// Save records the offset of the last handled message and returns when it
	// is safe. A run calls Save on a goroutine of its own or on the one that
	// called Run, never twice at a time. The offsets may repeat but never fall,
	// unless the stream is created again (see [StateStreamRecreated]): for the
	// new stream they begin low again. Until the first Save for the new stream
	// the store keeps the old one's offset, and a run that begins then begins
	// after it.
	//
	// With SingleActive nothing is saved once another member may be active, but a
	// Save that is under way then is not taken back.
	//
	// ctx ends with the connection, or with the context of the Commit or
	// handler that waits for the store. At the end of a run it ends after
	// CloseTimeout.
	//
	// The consumer logs an error of Save and calls it again a second later.
	// With StorePolicy.Every the error ends the run. Commit returns the error,
	// and so does a run whose last Save fails. A panic of Load or Save counts as
	// an error, with its stack.
	Save(ctx context.Context, consumer, stream string, offset uint64) error
}

// loadOffset loads the stored offset, or returns ErrNoOffset.
func loadOffset(ctx context.Context, from OffsetStore, consumer, stream string) (uint64, error) {
	var offset uint64
	var ok bool
	err := protect(func() (err error) { offset, ok, err = from.Load(ctx, consumer, stream); return err })
	switch {
	case err != nil && ctx.Err() != nil:
		return 0, broker.ContextError(ctx)
	case err != nil:
		return 0, fmt.Errorf("%w: load: %w", ErrOffsetStore, err)
	case !ok:
		return 0, ErrNoOffset
	}
	return offset, nil
}

// protect calls f and returns a panic of f as an error.
func protect(f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = panicError(v)
		}
	}()
	return f()
}

// savedOffsets stores a run's offsets in its OffsetStore.
type savedOffsets struct {
	run     *run
	session *subscription // nil once the run has none
}

// store saves an offset, unless the session's stream is gone; see
// brokerOffsets.store.
func (s *savedOffsets) store(ctx context.Context, offset uint64, _ bool) error {
	if s.session != nil && s.session.streamGone() {
		return errMoved
	}
	if s.session != nil && s.session.member != nil {
		if err := s.session.member.mayStore(); err != nil {
			return err
		}
	}
	c := s.run.consumer
	err := protect(func() error { return c.cfg.OffsetStore.Save(ctx, c.cfg.Name, c.stream, offset) })
	if err != nil {
		s.run.log("the offset was not saved", "offset", offset, "error", err)
		return fmt.Errorf("%w: save offset %d: %w", ErrOffsetStore, offset, err)
	}
	return nil
}

// verify has nothing to do: Save returns when the offset is safe.
func (s *savedOffsets) verify(context.Context, uint64) error { return nil }

// commit has nothing to do: see verify.
func (s *savedOffsets) commit(context.Context, uint64) error { return nil }

// joinBatch returns nil: the OffsetStore gets each offset by itself.
func (s *savedOffsets) joinBatch(*storer) batch { return nil }

// release has nothing to do.
func (s *savedOffsets) release(context.Context, bool) {}
