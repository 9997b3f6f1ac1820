package mark

import (
	"math"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// Position is where a subscription begins. The broker begins with a whole
// chunk, so the reader drops what lies before the position.
type Position struct {
	Spec wire.OffsetSpec // what to ask the broker for
	From uint64          // the first offset that is wanted

	// afterChunk drops the chunks up to and including this one, if
	// hasAfterChunk is set.
	afterChunk    uint64
	hasAfterChunk bool
}

// AtOffset begins with the message at an offset, or the first one behind it.
func AtOffset(offset uint64) Position {
	return Position{Spec: wire.OffsetSpec{Type: wire.OffsetAt, Value: offset}, From: offset}
}

// AtFirst begins with the oldest message that the stream still has.
func AtFirst() Position { return Position{Spec: wire.OffsetSpec{Type: wire.OffsetFirst}} }

// AtLast begins with the chunk that is the stream's last one when the broker
// begins.
func AtLast() Position { return Position{Spec: wire.OffsetSpec{Type: wire.OffsetLast}} }

// AtTime begins with the first chunk that was written at a time or later, in
// milliseconds since 1970.
func AtTime(ms int64) Position {
	return Position{Spec: wire.OffsetSpec{Type: wire.OffsetTimestamp, Value: uint64(ms)}}
}

// AfterChunk begins behind the chunk at an offset. It asks for that chunk, so
// that the run can recognise the stream.
func AfterChunk(first uint64) Position {
	return Position{Spec: wire.OffsetSpec{Type: wire.OffsetAt, Value: first}, afterChunk: first, hasAfterChunk: true}
}

// BeforeFirst is the stored offset of a consumer that has handled nothing yet:
// the offset behind it is 0, with the wrap-around of 64 bits.
const BeforeFirst = math.MaxUint64

// afterStored begins behind a stored offset. It asks for the chunk in which
// that offset lies, so that the run can recognise the stream. Behind
// BeforeFirst it begins with offset 0.
func afterStored(offset uint64) Position {
	if offset == BeforeFirst {
		return AtOffset(0)
	}
	return AtOffset(offset + 1).askingFor(offset)
}

// askingFor makes the subscription begin with the chunk that an offset lies in.
// That chunk contains the position or comes before it, so that nothing is left
// out. The position is an offset already, or behind a chunk.
func (p Position) askingFor(offset uint64) Position {
	p.Spec.Value = offset
	return p
}

// Offset returns an offset below which nothing is wanted.
func (p Position) Offset() uint64 {
	if p.hasAfterChunk {
		return max(p.From, p.afterChunk+1)
	}
	return p.From
}

// Exact returns what to ask the broker for where no chunk before the position is
// wanted.
func (p Position) Exact() wire.OffsetSpec {
	if p.Spec.Type == wire.OffsetAt && !p.hasAfterChunk {
		return wire.OffsetSpec{Type: wire.OffsetAt, Value: p.From}
	}
	return p.Spec
}

// Wants reports whether a chunk is to be read: it is a user chunk that
// AfterChunk does not drop. Its messages before From are dropped nevertheless.
func (p Position) Wants(chunk *wire.Chunk) bool {
	return chunk.Type == wire.ChunkUser && !(p.hasAfterChunk && chunk.FirstOffset <= p.afterChunk)
}

// HasNew reports whether a chunk that is wanted has messages from From on.
func (p Position) HasNew(chunk *wire.Chunk) bool {
	return chunk.FirstOffset+uint64(chunk.Records) > p.From
}
