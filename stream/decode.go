package stream

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/golang/snappy"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4"
	"github.com/tidemark-go/tidemark/internal/wire"
)

const (
	// maxBatch bounds the decompressed size of a sub-batch. RabbitMQ 4.3.5
	// refuses batches above 64 MiB itself.
	maxBatch = 64 << 20
	// maxChunk bounds that of a chunk's sub-batches together.
	maxChunk = 256 << 20
)

// deliveries decodes a chunk whose checksum was verified. The records that
// keep rejects are left out. The result aliases the chunk's data.
func deliveries(stream string, chunk *wire.Chunk, keep func(offset uint64) bool) ([]Delivery, error) {
	// The count is the sender's word: it sizes nothing beyond the entries
	// that are really there, 4 bytes each.
	out := make([]Delivery, 0, min(int(chunk.Entries), len(chunk.Data)/4))
	at := time.UnixMilli(chunk.Timestamp)
	add := func(offset uint64, raw []byte) {
		if !keep(offset) {
			return
		}
		// Filled in place: a Delivery is more than a hundred bytes.
		out = append(out, Delivery{})
		d := &out[len(out)-1]
		d.Stream, d.Offset, d.Timestamp, d.raw = stream, offset, at, raw
		if body, ok := plainBody(raw); ok {
			d.Body = body
		} else {
			d.Body, _ = bodyOf(raw)
		}
	}
	walk := chunk.Walk()
	var entry wire.Entry
	for budget := maxChunk; ; {
		offset, ok := walk.Next(&entry)
		if !ok {
			return out, walk.Err()
		}
		if !entry.Batch {
			add(offset, entry.Body)
			continue
		}
		if budget -= int(min(entry.Uncompressed, maxChunk)); budget < 0 {
			return nil, fmt.Errorf("%w: its sub-batches announce more than %d bytes", wire.ErrMalformed, maxChunk)
		}
		if err := eachRecord(&entry, offset, add); err != nil {
			return nil, err
		}
	}
}

// eachRecord walks the records of a sub-batch.
func eachRecord(entry *wire.Entry, offset uint64, add func(uint64, []byte)) error {
	rest, err := decompress(entry)
	if err != nil {
		return fmt.Errorf("sub-batch at offset %d: %w", offset, err)
	}
	for i := range uint64(entry.Records) {
		record, r, ok := wire.NextRecord(rest)
		if !ok {
			return fmt.Errorf("sub-batch at offset %d: %w: fewer than %d records", offset, wire.ErrMalformed, entry.Records)
		}
		add(offset+i, record)
		rest = r
	}
	if len(rest) > 0 {
		return fmt.Errorf("sub-batch at offset %d: %w: more than %d records", offset, wire.ErrMalformed, entry.Records)
	}
	return nil
}

// decompress returns a sub-batch's records, whose announced size it neither
// believes nor exceeds.
func decompress(entry *wire.Entry) ([]byte, error) {
	if entry.Compression == wire.CompressionNone {
		return entry.Body, nil
	}
	if entry.Uncompressed > maxBatch {
		return nil, fmt.Errorf("%w: announces %d bytes, more than %d", wire.ErrMalformed, entry.Uncompressed, maxBatch)
	}
	r, done, err := decompressor(entry.Compression, bytes.NewReader(entry.Body))
	if err != nil {
		return nil, fmt.Errorf("%w: %v", wire.ErrMalformed, err)
	}
	defer done()
	// Room for what is announced, as far as that costs little.
	buf := bytes.NewBuffer(make([]byte, 0, min(int(entry.Uncompressed), 64<<10)+bytes.MinRead))
	if _, err := buf.ReadFrom(io.LimitReader(r, int64(entry.Uncompressed)+1)); err != nil {
		return nil, fmt.Errorf("%w: %v", wire.ErrMalformed, err)
	}
	out := buf.Bytes()
	if len(out) != int(entry.Uncompressed) {
		return nil, fmt.Errorf("%w: %d bytes announced, not what was found", wire.ErrMalformed, entry.Uncompressed)
	}
	return out, nil
}

// zstdDecoders keeps decoders, which are dear to make. With a concurrency of 1
// they have no goroutines.
var zstdDecoders = sync.Pool{New: func() any {
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxBatch))
	if err != nil {
		panic("tidemark: " + err.Error()) // the options are constant
	}
	return z
}}

func decompressor(c wire.Compression, in io.Reader) (r io.Reader, done func(), err error) {
	done = func() {}
	switch c {
	case wire.CompressionGzip:
		r, err = gzip.NewReader(in)
	case wire.CompressionSnappy:
		r = snappy.NewReader(in)
	case wire.CompressionLZ4:
		r = lz4.NewReader(in)
	case wire.CompressionZstd:
		z := zstdDecoders.Get().(*zstd.Decoder)
		r, err = z, z.Reset(in)
		done = func() {
			_ = z.Reset(nil) // lets go of in
			zstdDecoders.Put(z)
		}
	default:
		err = fmt.Errorf("unknown compression %d", c)
	}
	return r, done, err
}
