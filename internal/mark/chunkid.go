package mark

import (
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// ChunkID tells a chunk from a chunk at the same offset in another stream of
// the same name.
type ChunkID struct {
	First     uint64 // the chunk's first offset
	timestamp int64  // when the broker wrote the chunk, in milliseconds since 1970
	epoch     uint64 // of the leader that wrote the chunk
}

// IDOf returns a chunk's identity.
func IDOf(c *wire.Chunk) ChunkID { return ChunkID{c.FirstOffset, c.Timestamp, c.Epoch} }

// clockSkew is how far the clocks of a cluster's nodes may be apart. If they
// are further apart, a stream may be taken for another one.
const clockSkew = 5 * time.Second

// Contradicts reports whether c cannot lie in the stream in which id was seen.
// Three kinds of chunks cannot: another one at id's offset, one that begins
// before that offset and reaches it, and one before it that was written later.
// A chunk behind id never contradicts it.
//
// Contradicts goes by chunks alone. Where a stream ends says nothing, because a
// replica may be behind, and a new leader may not know for a while what is
// committed.
func (id ChunkID) Contradicts(c *wire.Chunk) bool {
	switch end := c.FirstOffset + uint64(c.Records); {
	case c.FirstOffset == id.First:
		return IDOf(c) != id
	case c.FirstOffset < id.First:
		return end > id.First || c.Timestamp > id.timestamp+clockSkew.Milliseconds()
	}
	return false // retention may have removed id's chunk
}
