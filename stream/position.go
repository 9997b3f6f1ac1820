package stream

import (
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// position is where a subscription begins. The broker begins with a whole
// chunk, so what lies before the position is dropped here.
type position struct {
	spec wire.OffsetSpec
	from uint64 // records below are dropped

	// afterChunk drops the chunks up to and including this one, if set.
	afterChunk    uint64
	hasAfterChunk bool
}

func fromOffset(offset uint64) position {
	return position{spec: wire.OffsetSpec{Type: wire.OffsetAt, Value: offset}, from: offset}
}

// within makes the subscription begin with the chunk that an offset is in, which
// the position is in too or follows, so that the chunk can be recognised.
func (p position) within(offset uint64) position {
	p.spec.Value = offset
	return p
}

// wants reports whether a chunk is to be looked at.
func (p position) wants(chunk *wire.Chunk) bool {
	return chunk.Type == wire.ChunkUser && !(p.hasAfterChunk && chunk.FirstOffset <= p.afterChunk)
}

// begin turns an explicit, resolved start into a position for the first
// attempt, and into the one for later attempts as long as nothing has been
// handled: "next" and "last" mean another place by then, so they are tied to
// the chunk that is the last one now.
func (s Start) begin(now Stats) (first, again position) {
	switch s.kind {
	case startAt:
		first = fromOffset(s.offset)
	case startSince:
		first = position{spec: wire.OffsetSpec{Type: wire.OffsetTimestamp, Value: uint64(s.time.UnixMilli())}}
	case startNext:
		if now.Empty {
			return fromOffset(0), fromOffset(0)
		}
		first = fromOffset(now.CommittedChunk)
		first.from, first.afterChunk, first.hasAfterChunk = 0, now.CommittedChunk, true
	case startLast:
		if now.Empty {
			return fromOffset(0), fromOffset(0)
		}
		return position{spec: wire.OffsetSpec{Type: wire.OffsetLast}}, fromOffset(now.CommittedChunk)
	default:
		first = position{spec: wire.OffsetSpec{Type: wire.OffsetFirst}}
	}
	return first, first
}

// chunkID is what tells a chunk from one at the same place in another stream
// of the same name.
type chunkID struct {
	first     uint64
	timestamp int64
	epoch     uint64
}

func idOf(c *wire.Chunk) chunkID { return chunkID{c.FirstOffset, c.Timestamp, c.Epoch} }

// clockSkew is how far the clocks of a cluster's nodes may be apart.
const clockSkew = 5 * time.Second

// contradicts reports whether a chunk cannot be of the stream that the chunk id
// was seen in: it is another one at the same place, one that reaches into that
// place, or an earlier one that is younger. It goes by what is in the stream alone:
// where a stream ends says nothing, as a replica may be behind, and a new leader
// may not know for a while what is committed.
func (id chunkID) contradicts(c *wire.Chunk) bool {
	switch end := c.FirstOffset + uint64(c.Records); {
	case c.FirstOffset == id.first:
		return idOf(c) != id
	case c.FirstOffset < id.first:
		return end > id.first || c.Timestamp > id.timestamp+clockSkew.Milliseconds()
	}
	return false // retention may have taken the chunk
}
