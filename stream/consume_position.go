package stream

import (
	"context"
	"errors"
	"fmt"

	"github.com/tidemark-go/tidemark/internal/broker"
	"github.com/tidemark-go/tidemark/internal/mark"
	"github.com/tidemark-go/tidemark/internal/wire"
)

// findPosition decides where the coming session begins. It asks the node that
// the session will read from, and at the beginning of a run the OffsetStore.
func (r *run) findPosition(ctx context.Context, s *subscription) (mark.Position, error) {
	if !r.place.Begun() && !r.recreated && !r.isPartition() { // a superRun looks itself
		if err := r.letters.check(ctx, s.lease); err != nil {
			return mark.Position{}, err
		}
	}
	if err := r.checkFilters(ctx, s); err != nil {
		return mark.Position{}, err
	}
	extent, err := s.lease.Stats(ctx, r.consumer.stream)
	switch {
	case err != nil:
	case r.place.Begun():
		r.place.Resume()
		if err = r.checkRecreated(ctx, s, extent); err == nil {
			err = r.recognise(ctx, s)
		}
	default:
		err = r.beginPlace(ctx, s, extent)
	}
	if err != nil {
		return mark.Position{}, err
	}
	r.place.Told(r.toldBelow.Load())
	if lost := r.place.Lost(mark.Extent(extent)); lost > 0 {
		r.reportLost(mark.Gap{From: extent.FirstOffset - lost, To: extent.FirstOffset - 1})
	}
	s.watchJumps(r.place.Jumps(), r.lostInSession)
	return r.place.Next(), nil
}

// beginPlace sets where the run begins: after the stored offset, or where Start
// says.
func (r *run) beginPlace(ctx context.Context, s *subscription, extent broker.Extent) error {
	if r.recreated {
		return r.beginAt(ctx, s, r.start.inNewStream(), extent)
	}
	if !r.named() || !r.start.usesStored() {
		return r.beginAt(ctx, s, r.start, extent)
	}
	stored, err := r.storedOffset(ctx, s)
	switch {
	case err == nil:
		return r.beginAfterStored(ctx, s, extent, stored)
	case !errors.Is(err, ErrNoOffset):
		return err
	}
	overtaken, err := r.overtaken(ctx, s)
	switch {
	case err != nil:
		return err
	case overtaken:
		r.report(StateChange{State: StateMessagesLost, Err: errOvertaken})
		r.place.Begin(mark.AtFirst(), mark.AtFirst())
		return nil
	}
	return r.beginAt(ctx, s, r.start, extent)
}

// beginAfterStored begins the run after the stored offset, or behind the stream's
// end if that comes before.
func (r *run) beginAfterStored(ctx context.Context, s *subscription, extent broker.Extent, stored uint64) error {
	stored, err := r.checkWithin(ctx, s, extent, stored)
	if err != nil {
		return err
	}
	if r.marksStart() {
		if err := r.markStarted(ctx, s); err != nil {
			return err
		}
	}
	r.place.BeginAfterStored(stored)
	return r.knowStored(ctx, s, stored)
}

// knowStored looks at the chunk with the stored offset, by which later sessions
// recognise the stream. Without a filter that chunk is the first that comes.
func (r *run) knowStored(ctx context.Context, s *subscription, stored uint64) error {
	if !r.filters() || stored == BeforeFirst {
		return nil
	}
	chunk, err := s.peek(ctx, wire.OffsetSpec{Type: wire.OffsetAt, Value: stored})
	if err == nil && chunk != nil {
		r.place.Receive(chunk)
	}
	return err
}

// storedOffset asks the broker or the OffsetStore for the stored offset. If
// there is none, the error is ErrNoOffset.
func (r *run) storedOffset(ctx context.Context, s *subscription) (uint64, error) {
	c := r.consumer
	if c.cfg.OffsetStore != nil {
		return loadOffset(ctx, c.cfg.OffsetStore, c.cfg.Name, c.stream)
	}
	return s.lease.QueryOffset(ctx, c.cfg.Name, c.stream)
}

// recognise makes sure that the stream on the node is the one that the run has
// read, before a session in which the broker may skip the chunks that would show
// it: it looks at the chunk without the filter. Other sessions recognise the
// stream by the first chunk that they get; see Place.Recognises.
func (r *run) recognise(ctx context.Context, s *subscription) error {
	if !r.filters() || !r.place.MustRecognise() {
		return nil
	}
	return r.checkSameStream(ctx, s)
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
