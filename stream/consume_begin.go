package stream

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/tidemark-go/tidemark/internal/broker"
	"github.com/tidemark-go/tidemark/internal/fence"
	"github.com/tidemark-go/tidemark/internal/mark"
	"github.com/tidemark-go/tidemark/internal/startspec"
	"github.com/tidemark-go/tidemark/internal/wire"
)

// beginning is the place of a Start in a stream, at the moment at which a run
// begins. Whatever happens after, the place stays where it is: "next", "last"
// and a time that is still to come mean other places later.
type beginning struct {
	position mark.Position
	known    *wire.Chunk // a chunk by which the run recognises the stream; may be nil
	before   uint64      // what a consumer has stored that goes on here
}

// lookup returns the first chunk, without its data, that a subscription with a
// spec gets, or nil if none comes.
type lookup func(wire.OffsetSpec) (*wire.Chunk, error)

// moves reports whether the start means another place later.
func (s Start) moves() bool { return s.kind != startFirst && s.kind != startAt }

// begin returns the place of the start in a stream of an extent. The start has
// to be resolved.
func (s Start) begin(extent Stats, look lookup) (beginning, error) {
	spec := wire.OffsetSpec{Type: wire.OffsetTimestamp, Value: uint64(s.time.UnixMilli())}
	switch {
	case s.kind == startFirst:
		return beginning{position: mark.AtFirst(), before: BeforeFirst}, nil
	case s.kind == startAt:
		return beginning{position: mark.AtOffset(s.offset)}, nil
	case extent.Empty:
		return beginning{position: mark.AtOffset(0), before: BeforeFirst}, nil
	case s.kind == startNext:
		return beginBehind(extent.CommittedChunk, look)
	case s.kind == startLast:
		spec = wire.OffsetSpec{Type: wire.OffsetLast}
	}
	chunk, err := look(spec)
	switch {
	case err != nil:
		return beginning{}, err
	case chunk != nil && (s.kind == startLast || chunk.FirstOffset <= extent.CommittedChunk):
		first := chunk.FirstOffset
		return beginning{position: mark.AtOffset(first), known: chunk, before: first - 1}, nil // BeforeFirst in front of 0
	}
	return beginBehind(extent.CommittedChunk, look)
}

// beginBehind returns the place behind the stream's last chunk, which may be
// one of the broker's own entries. Such a chunk is not delivered, so the last
// one that is delivered lies before it, or is nil.
func beginBehind(last uint64, look lookup) (beginning, error) {
	b := beginning{position: mark.AfterChunk(last), before: last}
	chunk, err := look(wire.OffsetSpec{Type: wire.OffsetLast})
	if err == nil && chunk != nil && chunk.FirstOffset > last { // it has come meanwhile
		chunk, err = look(wire.OffsetSpec{Type: wire.OffsetAt, Value: last})
	}
	if err != nil {
		return b, err
	}
	if b.known = chunk; chunk != nil && chunk.FirstOffset <= last {
		b.before = max(last, chunk.FirstOffset+uint64(chunk.Records)-1)
	}
	return b, nil
}

// beginAt begins the run where a start says, and stores that place if the next
// run would not find it again.
func (r *run) beginAt(ctx context.Context, s *subscription, start Start, extent broker.Extent) error {
	b, err := start.begin(r.extentAtBegin(extent), func(spec wire.OffsetSpec) (*wire.Chunk, error) { return s.peek(ctx, spec) })
	if err != nil {
		return err
	}
	if r.storesPlace() {
		if err := r.storePlace(ctx, s, b.before); err != nil {
			return err
		}
	}
	r.beginWith(b)
	return nil
}

func (r *run) beginWith(b beginning) {
	r.place.Begin(b.position, b.position)
	if b.known != nil {
		r.place.Receive(b.known)
		r.place.Resume() // with what Receive has found
	}
}

// extentAtBegin returns how far the stream reached when the run first asked. An
// attempt that fails after that does not move the place.
func (r *run) extentAtBegin(now broker.Extent) Stats {
	if r.firstExtent == nil {
		r.firstExtent = &now
	}
	first := *r.firstExtent
	first.Empty = first.Empty || now.Empty
	first.CommittedChunk = min(first.CommittedChunk, now.CommittedChunk)
	return Stats(first)
}

// storesPlace reports whether the run stores its place when it begins. Without
// that, a run that handles nothing stores nothing, and the next one skips what
// came meanwhile.
func (r *run) storesPlace() bool {
	cfg := r.consumer.cfg
	return r.marksStart() && !cfg.Store.Manual
}

// marksStart reports whether the broker keeps, besides the offset, that there
// was one; see startspec.StartedName.
func (r *run) marksStart() bool {
	return r.named() && r.consumer.cfg.OffsetStore == nil && r.start.usesStored() && r.start.kind != startFirst
}

// storePlace stores where the run begins, and after that that it has begun. In
// the other order a crash between the two would look like a lost offset.
func (r *run) storePlace(ctx context.Context, s *subscription, before uint64) error {
	if !r.start.moves() {
		return nil
	}
	err := storeOn(ctx, s, r.consumer.cfg.Name, before)
	if err == nil {
		return r.markStarted(ctx, s)
	}
	if errors.Is(err, ErrNotStored) {
		r.log("the place where the consumer begins was not stored; a run that ends before its first message is handled will not be resumed there", "offset", before, "error", err)
		return nil
	}
	return err
}

func storeOn(ctx context.Context, s *subscription, name string, offset uint64) error {
	if err := s.lease.StoreOffset(ctx, name, s.stream, offset); err != nil {
		return err
	}
	return s.lease.VerifyOffset(ctx, name, s.stream, offset)
}

// ownPrefixes begin the names of the library's own entries in the offset
// tracking of streams: those of consumers that have begun, and those by which
// producers keep others from their name. They are no consumers.
var ownPrefixes = []string{startspec.StartedPrefix, fence.Prefix}

// checkOwnName rejects a consumer's name that is one of the library's own.
func checkOwnName(name string) error {
	for _, own := range ownPrefixes {
		if strings.HasPrefix(name, own) {
			return fmt.Errorf("%w: the consumer's name %q begins with %q, which is reserved for the library's own entries", ErrInvalidConfig, name, own)
		}
	}
	return nil
}

// markStarted stores that the consumer has begun, unless that is stored.
func (r *run) markStarted(ctx context.Context, s *subscription) error {
	name := startspec.StartedName(r.consumer.cfg.Name)
	_, err := s.lease.QueryOffset(ctx, name, s.stream)
	if errors.Is(err, ErrNoOffset) {
		err = storeOn(ctx, s, name, startspec.StartedMark)
	}
	if errors.Is(err, ErrNotStored) {
		r.log("that the consumer has begun was not stored; if retention overtakes its offset, it begins as if it had never run", "error", err)
		return nil
	}
	return err
}

// errOvertaken is why a consumer that has run before finds nothing stored.
var errOvertaken = errors.New("retention has overtaken the stored offset, and the broker has forgotten it")

// overtaken reports whether retention has overtaken the offset of a consumer for
// which nothing is stored: the consumer has begun before.
func (r *run) overtaken(ctx context.Context, s *subscription) (bool, error) {
	if !r.marksStart() {
		return false, nil
	}
	_, err := s.lease.QueryOffset(ctx, startspec.StartedName(r.consumer.cfg.Name), s.stream)
	if errors.Is(err, ErrNoOffset) {
		return false, nil
	}
	return err == nil, err
}
