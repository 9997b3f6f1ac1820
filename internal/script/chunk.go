package script

import (
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// FirstID is the id of the first subscription on a connection.
const FirstID = 1

// Noon is the time of chunks whose time does not matter.
var Noon = time.Date(2024, 5, 6, 12, 0, 0, 0, time.UTC)

// Chunk returns a Deliver frame for the first subscription, with messages from an
// offset on.
func Chunk(first uint64, bodies ...string) []byte { return ChunkTo(FirstID, first, bodies...) }

// ChunkTo is Chunk for another subscription.
func ChunkTo(id uint8, first uint64, bodies ...string) []byte {
	return ChunkAt(Noon, id, first, bodies...)
}

// LaterChunk is Chunk of a stream that was created again an hour later.
func LaterChunk(first uint64, bodies ...string) []byte {
	return ChunkAt(Noon.Add(time.Hour), FirstID, first, bodies...)
}

// ChunkAt is ChunkTo with the time at which the broker wrote the chunk.
func ChunkAt(at time.Time, id uint8, first uint64, bodies ...string) []byte {
	var data []byte
	for _, body := range bodies {
		data = wire.AppendEntry(data, message(body))
	}
	return Deliver(id, wire.ChunkHeader{FirstOffset: first, Entries: uint16(len(bodies)), Records: uint32(len(bodies)), Timestamp: at.UnixMilli()}, data)
}

// Deliver returns a Deliver frame. It fills in the checksum, the length, and Noon
// for a time that is missing.
func Deliver(id uint8, h wire.ChunkHeader, data []byte) []byte {
	h.CRC, h.DataLength = wire.Checksum(data), uint32(len(data))
	if h.Timestamp == 0 {
		h.Timestamp = Noon.UnixMilli()
	}
	head := make([]byte, wire.ChunkHeaderLen)
	h.Put(head)
	b := wire.AppendDeliverHead(nil, wire.Version1, id, 0, len(head)+len(data))
	return append(append(b, head...), data...)
}

// message returns a body as an AMQP 1.0 message: one section of data (OASIS AMQP
// 1.0, part 3, section 3.2.6).
func message(body string) []byte {
	n := len(body)
	if n < 256 {
		return append([]byte{0, 0x53, 0x75, 0xa0, byte(n)}, body...)
	}
	return append([]byte{0, 0x53, 0x75, 0xb0, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}, body...)
}
