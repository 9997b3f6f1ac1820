package stream

import (
	"context"
	"fmt"
)

// OffsetStore keeps offsets in a place of the service's own, such as the
// database that its handlers write to: with ConsumerConfig.OffsetStore the
// broker stores nothing for the consumer, and Env.QueryOffset finds nothing.
//
// For exactly-once effects, write the effect and the offset in one transaction
// within the handler, with StorePolicy.Manual, so that Save is never called;
// Load then finds what that transaction wrote. This is for one message, or
// batch, at a time: the offset of a message says nothing about those before it
// that other Workers have in hand. See examples/sqlite.
//
// Otherwise Save is called as StorePolicy says, and the effects are at least
// once, as with the broker's store.
type OffsetStore interface {
	// Load returns the offset of the last handled message, ok false if nothing
	// is stored; offset 0 is something. It is called once at the beginning of a
	// run whose Start is Stored, again only if the broker cannot be reached
	// right after it, on the goroutine that called Run. A run goes on by what it
	// has handled itself after a reconnect. An error ends the run.
	Load(ctx context.Context, consumer, stream string) (offset uint64, ok bool, err error)
	// Save records the offset of the last handled message and returns when it is
	// safe. Calls for one run come one after the other, with offsets that may
	// repeat but never fall, on a goroutine of the run. If the stream was created
	// again (see [StateStreamRecreated]) they begin anew; until then the offset of
	// the old stream stays here, for the next run to begin at if this one ends.
	//
	// ctx ends with the connection or the caller, at the latest after
	// CloseTimeout when a run ends. An error is logged and Save called again a
	// second later; with StorePolicy.Every, in Commit and at the end of a run it
	// is returned.
	Save(ctx context.Context, consumer, stream string, offset uint64) error
}

// loadOffset asks the broker or the OffsetStore.
func (r *run) loadOffset(ctx context.Context, c *conn) (offset uint64, err error) {
	if r.c.cfg.OffsetStore == nil {
		return c.queryOffset(ctx, r.c.cfg.Name, r.c.stream)
	}
	offset, ok, err := r.c.cfg.OffsetStore.Load(ctx, r.c.cfg.Name, r.c.stream)
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

// storeFor returns where a session stores, and what to call at its end, which says
// whether the broker is still there.
func (r *run) storeFor(ctx context.Context, s *subscription) (to offsets, done func(there bool), err error) {
	if r.c.cfg.OffsetStore != nil {
		return &savingStore{r: r, session: s}, func(bool) {}, nil
	}
	link, err := r.c.env.storeLinkFor(ctx, s, r.c.cfg.Name, r.c.cfg.Store)
	if err != nil {
		return nil, nil, err
	}
	return link, link.close, nil
}

// savingStore stores in the OffsetStore.
type savingStore struct {
	r       *run
	session *subscription // nil once the run has none
}

func (s *savingStore) store(ctx context.Context, offset uint64, _ bool) error {
	if s.session != nil && s.session.gone() {
		return errMoved // see storeLink
	}
	c := s.r.c
	err := c.cfg.OffsetStore.Save(ctx, c.cfg.Name, c.stream, offset)
	if err != nil {
		s.r.log("the offset was not saved", "offset", offset, "error", err)
		return fmt.Errorf("%w: save offset %d: %w", ErrOffsetStore, offset, err)
	}
	return nil
}

// verify has nothing to ask: Save returns when the offset is safe.
func (s *savingStore) verify(context.Context, uint64) error { return nil }
