package mark

import (
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// noon is a time like any other.
var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// chunk returns a chunk of the stream that a test reads: 10 messages, of which
// each takes the broker a millisecond.
func chunk(first uint64) *wire.Chunk {
	return &wire.Chunk{ChunkHeader: wire.ChunkHeader{
		FirstOffset: first,
		Records:     10,
		Timestamp:   noon.UnixMilli() + int64(first),
		Epoch:       1,
	}}
}

// foreign returns the chunk at the same offset of a stream that was created an
// hour later under the same name.
func foreign(first uint64) *wire.Chunk {
	c := chunk(first)
	c.Timestamp += time.Hour.Milliseconds()
	return c
}

func id(first uint64) ChunkID { return IDOf(chunk(first)) }

func askFor(offset uint64) wire.OffsetSpec {
	return wire.OffsetSpec{Type: wire.OffsetAt, Value: offset}
}
