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
	// maxSubBatch bounds the decompressed size of a sub-batch. RabbitMQ 4.3.5
	// refuses larger ones itself.
	maxSubBatch = 64 << 20
	// maxChunk bounds the decompressed size of a chunk's sub-batches together.
	maxChunk = 256 << 20
)

// decoder returns the messages of one chunk, whose checksum was verified, in
// blocks. It copies and decodes a block when it is asked for. Nothing that it
// returns aliases the chunk (see buffers). It works in blocks because a chunk may
// have thousands of messages, and the garbage collector would look through all
// of them.
type decoder struct {
	stream    string
	timestamp time.Time
	from      uint64 // messages with lower offsets are left out
	entries   wire.ChunkEntries
	budget    int        // bytes that the sub-batches to come may announce
	err       error      // what is wrong with the chunk
	spare     []sections // memory for the next messages' sections

	subBatch       []byte // the records of a sub-batch that are not decoded yet
	subBatchCount  int    // how many records those are
	subBatchOffset uint64 // of the first of them
}

// decode returns a decoder for the messages of a chunk from an offset on.
func decode(stream string, chunk *wire.Chunk, from uint64) *decoder {
	return &decoder{stream: stream, timestamp: time.UnixMilli(chunk.Timestamp).UTC(), from: from, entries: chunk.WalkCopies(copySize), budget: maxChunk}
}

// block returns the next messages, at most n. It returns none at the end of the
// chunk. Where the chunk cannot be decoded any further, block sets err and
// returns what comes before that.
func (d *decoder) block(n int) []Delivery {
	// The announced count may be a lie, so it sizes a small list only.
	return d.fill(make([]Delivery, 0, d.announced(min(n, maxRoom))), n)
}

// fill appends messages to a list until it has n, or until the chunk ends. The
// list's memory behind its end must be zero.
func (d *decoder) fill(list []Delivery, n int) []Delivery {
	for len(list) < n && d.err == nil {
		if d.subBatchCount == 0 { // the short way for plain messages
			if offset, raw, ok := d.entries.Message(); ok {
				if offset >= d.from {
					list = d.add(list, offset, raw)
				}
				continue
			}
		}
		offset, raw, ok := d.next()
		if !ok {
			break
		}
		if offset >= d.from {
			list = d.add(list, offset, raw)
		}
	}
	return list
}

// next returns the next message, still encoded. At a sub-batch it opens it
// first.
func (d *decoder) next() (offset uint64, raw []byte, ok bool) {
	for d.subBatchCount == 0 {
		var entry wire.Entry
		if offset, ok = d.entries.Next(&entry); !ok {
			d.err = d.entries.Err()
			return 0, nil, false
		}
		if !entry.Batch {
			return offset, entry.Body, true
		}
		if d.err = d.open(&entry, offset); d.err != nil {
			return 0, nil, false
		}
	}
	raw, rest, ok := wire.NextRecord(d.subBatch)
	d.subBatchCount--
	if !ok || d.subBatchCount == 0 && len(rest) > 0 {
		d.err = fmt.Errorf("sub-batch with offset %d: %w: its bytes are not its records", d.subBatchOffset, wire.ErrMalformed)
		return 0, nil, false
	}
	offset, d.subBatch = d.subBatchOffset, rest
	d.subBatchOffset++
	return offset, raw, true
}

// unread reports whether the chunk announces further messages.
func (d *decoder) unread() bool { return d.announced(1) > 0 && d.err == nil }

// announced returns how many further messages the chunk announces, and limit at
// most. The chunk's count may be the largest int of a 32-bit system, so
// announced bounds both counts before it adds them.
func (d *decoder) announced(limit int) int {
	return min(limit, min(limit, d.subBatchCount)+min(limit, d.entries.Records()))
}

const (
	// blockSize is how many messages are decoded at a time, and copySize how
	// many bytes are copied out of a chunk at a time. The runtime allocates
	// both sizes without waste, and does not treat them as large objects.
	blockSize = 256
	copySize  = 28 << 10
	// maxRoom bounds the length of a list that block allocates by the announced
	// count.
	maxRoom = 4 * blockSize
)

// open decompresses a sub-batch, so that next goes on with its records. It does
// nothing if all of them lie below from.
func (d *decoder) open(entry *wire.Entry, offset uint64) error {
	if offset+uint64(entry.Records) <= d.from {
		return nil
	}
	if d.budget -= int(min(entry.Uncompressed, maxChunk)); d.budget < 0 {
		return fmt.Errorf("%w: its sub-batches announce more than %d bytes", wire.ErrMalformed, maxChunk)
	}
	records, err := decompress(entry)
	if err == nil && entry.Records == 0 && len(records) > 0 {
		err = fmt.Errorf("%w: more than 0 records", wire.ErrMalformed)
	}
	if err != nil {
		return fmt.Errorf("sub-batch at offset %d: %w", offset, err)
	}
	d.subBatch, d.subBatchCount, d.subBatchOffset = records, int(entry.Records), offset
	return nil
}

// add appends a message to a list. It fills the Delivery in place, because a
// copy of a Delivery costs more than everything else here.
func (d *decoder) add(list []Delivery, offset uint64, raw []byte) []Delivery {
	n := len(list)
	if n < cap(list) {
		list = list[:n+1]
	} else {
		list = append(list, Delivery{})
	}
	m := &list[n]
	m.Stream, m.Offset, m.Timestamp = d.stream, offset, d.timestamp
	if body, ok := plainBody(raw); ok {
		m.Body = body
	} else {
		m.Body, _ = bodyOf(raw)
		m.sections = d.sections(raw)
	}
	return list
}

// sections returns memory for a message's sections. It allocates for several
// messages at a time.
func (d *decoder) sections(raw []byte) *sections {
	if len(d.spare) == 0 {
		d.spare = make([]sections, min(blockSize, 1+d.announced(blockSize)))
	}
	s := &d.spare[0]
	d.spare = d.spare[1:]
	s.raw = raw
	return s
}

// decompress returns a sub-batch's records. It allocates by what it finds, not
// by the announced size, and fails if the two differ.
func decompress(entry *wire.Entry) ([]byte, error) {
	if entry.Compression == wire.CompressionNone {
		return entry.Body, nil
	}
	if entry.Uncompressed > maxSubBatch {
		return nil, fmt.Errorf("%w: announces %d bytes, more than %d", wire.ErrMalformed, entry.Uncompressed, maxSubBatch)
	}
	r, done, err := decompressor(entry.Compression, bytes.NewReader(entry.Body))
	if err != nil {
		return nil, fmt.Errorf("%w: %v", wire.ErrMalformed, err)
	}
	defer done()
	// The buffer begins with room for the announced size, but at most 64 KiB.
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

// zstdDecoders keeps decoders, which are expensive to make. With a concurrency
// of 1 they start no goroutines.
var zstdDecoders = sync.Pool{New: func() any {
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxSubBatch))
	if err != nil {
		panic("tidemark: " + err.Error()) // the options are constant
	}
	return z
}}

// decompressor returns a reader of what in compresses. The caller calls done
// after the last read.
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
			_ = z.Reset(nil) // so that the pool does not keep in
			zstdDecoders.Put(z)
		}
	default:
		err = fmt.Errorf("unknown compression %d", c)
	}
	return r, done, err
}
