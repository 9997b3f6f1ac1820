package stream

import (
	"context"
	"errors"
	"fmt"

	"github.com/tidemark-go/tidemark/internal/broker"
	"github.com/tidemark-go/tidemark/internal/mark"
)

// findPosition decides where the coming session begins. It asks the node that
// the session will read from, and at the beginning of a run the OffsetStore.
func (r *run) findPosition(ctx context.Context, s *subscription) (mark.Position, error) {
	if !r.place.Begun() && !r.recreated {
		if err := r.letters.check(ctx, s.lease); err != nil {
			return mark.Position{}, err
		}
	}
	extent, err := s.lease.Stats(ctx, r.consumer.stream)
	switch {
	case err != nil:
	case r.place.Begun():
		r.place.Resume()
		err = r.checkRecreated(ctx, s, extent)
	default:
		err = r.beginPlace(ctx, s.lease, extent)
	}
	if err != nil {
		return mark.Position{}, err
	}
	if lost := r.place.Lost(mark.Extent(extent)); lost > 0 {
		r.report(StateChange{State: StateMessagesLost, Lost: lost})
	}
	return r.place.Next(), nil
}

// beginPlace sets where the run begins: after the stored offset, or where Start
// says.
func (r *run) beginPlace(ctx context.Context, lease *broker.Lease, extent broker.Extent) error {
	start := r.start
	if r.recreated {
		start = start.inNewStream()
	} else if r.named() && start.usesStored() {
		stored, err := r.storedOffset(ctx, lease)
		switch {
		case err == nil:
			r.place.BeginAfterStored(stored)
			return nil
		case !errors.Is(err, ErrNoOffset):
			return err
		}
	}
	r.place.Begin(start.positions(Stats(extent)))
	return nil
}

// storedOffset asks the broker or the OffsetStore for the stored offset. If
// there is none, the error is ErrNoOffset.
func (r *run) storedOffset(ctx context.Context, lease *broker.Lease) (uint64, error) {
	c := r.consumer
	if c.cfg.OffsetStore != nil {
		return loadOffset(ctx, c.cfg.OffsetStore, c.cfg.Name, c.stream)
	}
	return lease.QueryOffset(ctx, c.cfg.Name, c.stream)
}

// checkRecreated returns ErrStreamRecreated if the stream on the node is not
// the one that the run has read. It looks only if the stream ends before what
// the run has read. A replica that is behind ends there too, so checkRecreated
// compares a chunk.
func (r *run) checkRecreated(ctx context.Context, s *subscription, extent broker.Extent) error {
	spec, suspect := r.place.Probe(mark.Extent(extent))
	if !suspect {
		return nil
	}
	chunk, err := s.peek(ctx, spec)
	if err == nil && chunk != nil && r.place.Contradicts(chunk) {
		err = fmt.Errorf("%w: it ends before offset %d, which was read from it, and its messages at offset %d are others", ErrStreamRecreated, r.place.Newest(), chunk.FirstOffset)
	}
	return err
}
