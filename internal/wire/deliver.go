package wire

import (
	"encoding/binary"
	"fmt"
)

// Deliver carries one chunk to a subscription. Only version 2 has a
// CommittedChunk.
type Deliver struct {
	SubscriptionID uint8
	CommittedChunk uint64 // first offset of the last committed chunk
	Chunk          []byte // as ParseChunk reads it; aliases the frame
}

// DecodeDeliver reads a Deliver frame of version 1 or 2.
func DecodeDeliver(version uint16, fields []byte) (Deliver, error) {
	head := 1
	if version == Version2 {
		head = 9
	}
	if len(fields) < head || version != Version1 && version != Version2 {
		return Deliver{}, fmt.Errorf("decode Deliver: %w: short or of unknown version", ErrMalformed)
	}
	d := Deliver{SubscriptionID: fields[0], Chunk: fields[head:]}
	if version == Version2 {
		d.CommittedChunk = binary.BigEndian.Uint64(fields[1:])
	}
	return d, nil
}

// AppendDeliverHead appends a Deliver frame up to its chunk, whose chunkLen
// bytes the caller appends. Version 1 does not write committedChunk.
func AppendDeliverHead(
	b []byte, version uint16, subscriptionID uint8, committedChunk uint64, chunkLen int,
) []byte {
	start := len(b)
	b = append(appendHead(b, KeyDeliver, version), subscriptionID)
	if version == Version2 {
		b = binary.BigEndian.AppendUint64(b, committedChunk)
	}
	binary.BigEndian.PutUint32(b[start:], uint32(len(b)-start-SizeLen+chunkLen))
	return b
}
