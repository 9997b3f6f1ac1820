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
	// refuses larger batches itself.
	maxBatch = 64 << 20
	// maxChunk bounds the decompressed size of a chunk's sub-batches together.
	maxChunk = 256 << 20
)

// decoder walks the messages of one chunk, whose checksum was verified. It copies
// and decodes them in blocks, as they are asked for. Nothing that it returns
// aliases the chunk (see ring). A block gives the garbage collector little to look
// through, while a chunk may have thousands of messages.
type decoder struct {
	stream    string
	timestamp time.Time
	from      uint64 // messages below are left out
	entries   wire.ChunkEntries
	budget    int   // bytes that the sub-batches to come may announce
	err       error // what is wrong with the chunk
	spare     []sections

	batch       []byte // the records of a sub-batch that are not decoded yet
	batchCount  int    // how many records those are
	batchOffset uint64 // of the first of them
}

func decode(stream string, chunk *wire.Chunk, from uint64) *decoder {
	return &decoder{stream: stream, timestamp: time.UnixMilli(chunk.Timestamp).UTC(), from: from, entries: chunk.WalkCopies(copySize), budget: maxChunk}
}

// block returns the next messages, at most n. It returns none at the end of the
// chunk, and behind what cannot be decoded, where it sets err.
func (d *decoder) block(n int) []Delivery {
	// The count is the sender's word, so it sizes little before it proves true.
	return d.fill(make([]Delivery, 0, d.announced(min(n, maxRoom))), n)
}

// fill appends messages to a list until it has n, or until the chunk ends. What
// lies behind the list's end in its memory must be zero.
func (d *decoder) fill(list []Delivery, n int) []Delivery {
	for len(list) < n && d.err == nil {
		if d.batchCount == 0 { // the short way for plain messages
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

// next returns the next message as the chunk has it.
func (d *decoder) next() (offset uint64, raw []byte, ok bool) {
	for d.batchCount == 0 {
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
	raw, rest, ok := wire.NextRecord(d.batch)
	d.batchCount--
	if !ok || d.batchCount == 0 && len(rest) > 0 {
		d.err = fmt.Errorf("sub-batch with offset %d: %w: its bytes are not its records", d.batchOffset, wire.ErrMalformed)
		return 0, nil, false
	}
	offset, d.batch = d.batchOffset, rest
	d.batchOffset++
	return offset, raw, true
}

// unread reports whether messages are left, by the word of the chunk.
func (d *decoder) unread() bool { return d.announced(1) > 0 && d.err == nil }

// announced returns how many messages are left, by the word of the chunk, and
// limit at most. A chunk may announce as many as an int holds on a 32-bit system,
// so announced bounds both counts before it adds them.
func (d *decoder) announced(limit int) int {
	return min(limit, min(limit, d.batchCount)+min(limit, d.entries.Records()))
}

const (
	// blockSize is how many messages are decoded at a time, and copySize how many
	// bytes are copied out of a chunk at a time. The runtime allocates both sizes
	// without waste, and does not treat them as large objects.
	blockSize = 256
	copySize  = 28 << 10
	// maxRoom bounds the room that block makes on the chunk's word.
	maxRoom = 4 * blockSize
)

// open makes next go on with the records of a sub-batch.
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
	d.batch, d.batchCount, d.batchOffset = records, int(entry.Records), offset
	return nil
}

// add appends a message. It fills the Delivery in place, because copying one costs
// more than the rest.
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

// decompress returns a sub-batch's records. It neither believes their announced
// size nor exceeds it.
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
	// The buffer has room for the announced size, as far as that costs little.
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

// zstdDecoders keeps decoders, which are expensive to make. With a concurrency of
// 1 they start no goroutines.
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
