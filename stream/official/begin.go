package official

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tidemark-go/tidemark/internal/mark"
	"github.com/tidemark-go/tidemark/internal/startspec"
	"github.com/tidemark-go/tidemark/internal/wire"
	"github.com/tidemark-go/tidemark/stream"
)

// begin decides where the run begins: after the stored offset, or where Start
// says. The official client's own resuming begins at the stored offset itself,
// and takes a stream that was created again for the old one.
func (r *run) begin(ctx context.Context) error {
	extent, err := r.gate.extent(ctx, r.stream)
	if err != nil {
		return err
	}
	if r.name == "" || !r.start.Stored {
		return r.beginAt(ctx, extent)
	}
	stored, err := r.gate.query(ctx, r.stream, r.name)
	switch {
	case err == nil:
		return r.beginAfter(ctx, extent, stored)
	case !errors.Is(err, stream.ErrNoOffset):
		return err
	}
	if r.marksStart() {
		_, err := r.gate.query(ctx, r.stream, startspec.StartedName(r.name))
		switch {
		case err == nil:
			r.log("retention has overtaken the stored offset, and the broker has forgotten it; going on at the oldest message")
			r.place.Begin(mark.AtFirst(), mark.AtFirst())
			return nil
		case !errors.Is(err, stream.ErrNoOffset):
			return err
		}
	}
	return r.beginAt(ctx, extent)
}

// beginAfter begins behind a stored offset.
func (r *run) beginAfter(ctx context.Context, extent mark.Extent, stored uint64) error {
	r.known = true
	stored, err := r.checkWithin(ctx, extent, stored)
	if err == nil && r.marksStart() {
		err = r.markStarted(ctx)
	}
	if err != nil {
		return err
	}
	r.place.BeginAfterStored(stored)
	if lost := r.place.Lost(extent); lost > 0 {
		r.log("retention has removed messages that were not handled", "from", extent.FirstOffset-lost, "to", extent.FirstOffset-1)
	}
	return nil
}

// lookPause is the time between two looks at a stream that ends before the
// stored offset.
const lookPause = time.Second

// checkWithin returns the offset behind which the run begins: the stored one, or
// one at the end of the stream if the stored one lies beyond it. The official
// client would drop every message up to the stored one.
//
// Usually the stored offset lies before the last chunk, which holds the store.
// Else checkWithin looks for a message there.
func (r *run) checkWithin(ctx context.Context, extent mark.Extent, stored uint64) (uint64, error) {
	if stored == mark.BeforeFirst || !extent.Empty && stored < extent.CommittedChunk {
		return stored, nil
	}
	beyond := mark.NewBeyondEnd(stored)
	for {
		found, err := r.gate.peek(ctx, r.stream, mark.AtOffset(stored), false)
		if err != nil || found.any {
			return stored, err
		}
		if extent, err = r.gate.extent(ctx, r.stream); err != nil {
			return stored, err
		}
		switch beyond.Look(lastChunk(extent), time.Now()) {
		case mark.Within:
			return stored, nil
		case mark.Beyond:
			r.log("the stored offset lies beyond the end of the stream; going on at the last chunk", "stored", stored, "from", beyond.End())
			return beyond.End() - 1, nil // BeforeFirst for an empty stream
		}
		if err := sleep(ctx, lookPause); err != nil {
			return stored, err
		}
	}
}

// lastChunk returns where the last chunk begins. Its end is not known; who begins
// there repeats messages and skips none.
func lastChunk(extent mark.Extent) uint64 {
	if extent.Empty {
		return 0
	}
	return extent.CommittedChunk
}

// beginAt begins where Start says. A run that stores its place makes it an offset
// for that.
func (r *run) beginAt(ctx context.Context, extent mark.Extent) error {
	at := position(r.start)
	if r.marksStart() && !r.policy.Manual && r.start.Moves() {
		offset, err := r.resolvePlace(ctx, extent)
		if err == nil {
			err = r.storePlace(ctx, offset-1) // BeforeFirst in front of 0
		}
		if err != nil {
			return err
		}
		at = mark.AtOffset(offset)
	}
	r.place.Begin(at, at)
	return nil
}

// position returns the place of a Start as the broker understands it.
func position(s startspec.Start) mark.Position {
	switch s.Kind {
	case startspec.Last:
		return mark.AtLast()
	case startspec.Next:
		return mark.Position{Spec: wire.OffsetSpec{Type: wire.OffsetNext}}
	case startspec.At:
		return mark.AtOffset(s.Offset)
	case startspec.Since:
		return mark.AtTime(s.Time.UnixMilli())
	}
	return mark.AtFirst()
}

// resolvePlace returns the offset at which a Start begins that means another
// place later.
func (r *run) resolvePlace(ctx context.Context, extent mark.Extent) (uint64, error) {
	if extent.Empty {
		return 0, nil
	}
	if r.start.Kind != startspec.Next {
		found, err := r.gate.peek(ctx, r.stream, position(r.start), false)
		if err != nil || found.any && (r.start.Kind == startspec.Last || found.first <= extent.CommittedChunk) {
			return found.first, err
		}
	}
	found, err := r.gate.peek(ctx, r.stream, mark.AtLast(), true)
	switch {
	case err != nil:
		return 0, err
	case found.any:
		return max(found.last+1, extent.CommittedChunk), nil
	}
	return extent.CommittedChunk, nil // the stream has only the broker's own entries
}

// marksStart reports whether the broker keeps, besides the offset, that there
// was one: where Start is First, the run begins there in any case.
func (r *run) marksStart() bool {
	return r.name != "" && r.start.Stored && r.start.Kind != startspec.First
}

// storePlace stores where the run begins, and after that that it has begun. In
// the other order a crash between the two would look like a lost offset.
func (r *run) storePlace(ctx context.Context, before uint64) error {
	if err := r.gate.storeVerified(ctx, r.stream, r.name, before); err != nil {
		return fmt.Errorf("the place where the consumer begins: %w", err)
	}
	r.known = true
	return r.markStarted(ctx)
}

// markStarted stores that the consumer has begun, unless that is stored.
func (r *run) markStarted(ctx context.Context) error {
	name := startspec.StartedName(r.name)
	_, err := r.gate.query(ctx, r.stream, name)
	if errors.Is(err, stream.ErrNoOffset) {
		err = r.gate.storeVerified(ctx, r.stream, name, startspec.StartedMark)
	}
	return err
}
