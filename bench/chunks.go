package main

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// chunkCount is what a stream is made of.
type chunkCount struct {
	chunks, records int // of messages
	tracking        int // chunks of stored offsets alone
	stores          int // stored offsets in those, and at the end of the others
}

func (c *chunkCount) add(o chunkCount) {
	c.chunks += o.chunks
	c.records += o.records
	c.tracking += o.tracking
	c.stores += o.stores
}

// countCredit is how many chunks countChunks has on their way.
const countCredit = 50

// countChunks reads a stream from its beginning to where it ends now, chunks of
// stored offsets included, which consumers do not get. The stream must be idle.
// streamtest delivers chunks of messages only.
func (c *raw) countChunks(stream string) (n chunkCount, err error) {
	err = c.ask(&wire.Subscribe{SubscriptionID: 1, Stream: stream, Spec: wire.OffsetSpec{Type: wire.OffsetFirst}, Credit: 1,
		Properties: wire.Properties{{Key: "chunk_selector", Value: "all"}}})
	if err != nil {
		return n, err
	}
	for credit := 1; ; {
		if err := c.write(&wire.Credit{SubscriptionID: 1, Credit: int16(countCredit - credit)}); err != nil {
			return n, err
		}
		// All that is there for the credit comes before the answer.
		came, err := c.countUntilAnswer(stream, &n)
		if err != nil {
			return n, fmt.Errorf("counting chunks: %w", err)
		}
		if credit = countCredit - came; came == 0 {
			return n, c.ask(&wire.Unsubscribe{SubscriptionID: 1})
		}
	}
}

// lastOffset is the offset of the last message of a stream that is not empty.
func (c *raw) lastOffset(stream string) (uint64, error) {
	err := c.ask(&wire.Subscribe{SubscriptionID: 1, Stream: stream, Spec: wire.OffsetSpec{Type: wire.OffsetLast}, Credit: 1})
	if err != nil {
		return 0, err
	}
	for {
		key, version, fields, err := c.next()
		if err != nil {
			return 0, err
		}
		if key != wire.KeyDeliver {
			continue
		}
		d, err := wire.DecodeDeliver(version, fields)
		if err != nil {
			return 0, err
		}
		chunk, err := wire.ParseChunk(d.Chunk)
		return chunk.FirstOffset + uint64(chunk.Records) - 1, errors.Join(err, c.ask(&wire.Unsubscribe{SubscriptionID: 1}))
	}
}

// countUntilAnswer asks for something, and counts what comes before the answer.
func (c *raw) countUntilAnswer(stream string, n *chunkCount) (came int, err error) {
	ask := &wire.StreamStats{Stream: stream}
	if err := c.write(ask); err != nil {
		return 0, err
	}
	for {
		key, version, fields, err := c.next()
		switch {
		case err != nil || key == wire.KeyStreamStats.Response():
			return came, err
		case key != wire.KeyDeliver:
			continue
		}
		d, err := wire.DecodeDeliver(version, fields)
		if err != nil {
			return came, err
		}
		came++
		if err := n.chunk(d.Chunk); err != nil {
			return came, err
		}
	}
}

// chunk counts a chunk as it comes to who asks for all of them: with the trailer
// that consumers do not get.
func (c *chunkCount) chunk(b []byte) error {
	const dataLength = 36 // where it is in the header
	if len(b) < wire.ChunkHeaderLen {
		return wire.ErrMalformed
	}
	end := min(uint64(len(b)), wire.ChunkHeaderLen+uint64(binary.BigEndian.Uint32(b[dataLength:])))
	chunk, err := wire.ParseChunk(b[:end])
	if err != nil {
		return err
	}
	switch chunk.Type {
	case wire.ChunkUser:
		c.chunks++
		c.records += int(chunk.Records)
		c.stores += storesIn(b[end:])
	case wire.ChunkTrackingDelta:
		c.tracking++
		c.stores += int(chunk.Records)
	default: // a snapshot at the begin of a segment
	}
	return nil
}

// storesIn counts the stored offsets of a trailer. Its entries are a type, a
// name with its length in a byte, and a number of 8 bytes.
func storesIn(trailer []byte) (n int) {
	const offset = 1 // the type of stored offsets
	for len(trailer) >= 2 {
		size := 2 + int(trailer[1]) + 8
		if size > len(trailer) {
			return n
		}
		if trailer[0] == offset {
			n++
		}
		trailer = trailer[size:]
	}
	return n
}
