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
	// maxOpened bounds the decompressed size of the sub-batches that are opened
	// for one block. A sub-batch that the block before has begun adds to that.
	// What a chunk's sub-batches sum up to has no bound.
	maxOpened = maxSubBatch
)

// decoder returns the messages of one chunk after the other, whose checksums were
// verified, in blocks. It decodes a block when it is asked for, and copies the
// bytes out of the chunk, unless the chunk is small and its memory is not used
// again (see buffers and smallChunks). It works in blocks because a chunk may
// have thousands of messages, and the garbage collector would look through all
// of them. Small chunks that come together share the memory of a block. A lending
// decoder has one block, which it fills again and again, and copies bytes out of a
// chunk only if other consumers read that too.
type decoder struct {
	loan     *loan      // of a lending decoder; else nil
	slab     []Delivery // memory for the next messages, all of it zero
	spare    []sections // memory for the sections of the next messages
	slabFor  int        // bytes of further chunks whose messages the slab may take
	chunkLen int        // bytes of the chunk's data
	follow   int        // chunks that wait behind this one

	stream    string
	timestamp time.Time
	from      uint64 // messages with lower offsets are left out
	end       uint64 // the offset behind the chunk
	entries   wire.ChunkEntries
	err       error  // what is wrong with the chunk
	bad, good uint64 // if err is set: the messages from bad on, below good, cannot be read

	subBatch       []byte // the records of a sub-batch that are not decoded yet
	subBatchCount  int    // how many records those are
	subBatchOffset uint64 // of the first of them

	match  func(*Delivery) bool // of the consumer's Filter; nil: all messages
	failed *HandlerError        // a panic of match; nothing more is decoded

	opened    int        // decompressed bytes of the sub-batches that the last block or fill has opened
	closed    wire.Entry // a sub-batch that the next block opens, if hasClosed
	closedAt  uint64     // its offset
	hasClosed bool
}

// decode returns a decoder for the messages of a chunk from an offset on.
func decode(stream string, chunk *wire.Chunk, from uint64) *decoder {
	d := &decoder{}
	d.begin(stream, chunk, from)
	return d
}

// begin makes d the decoder for the messages of a chunk from an offset on,
// whatever it was before.
func (d *decoder) begin(stream string, chunk *wire.Chunk, from uint64) {
	d.start(stream, chunk, from, copySize)
}

// beginKept is begin for a chunk whose memory is not used again, so that its
// messages may alias it. follow is how many chunks wait behind it.
func (d *decoder) beginKept(stream string, chunk *wire.Chunk, from uint64, follow int) {
	d.start(stream, chunk, from, 0)
	d.follow = follow
}

func (d *decoder) start(stream string, chunk *wire.Chunk, from uint64, copySize int) {
	d.clear()
	d.stream, d.timestamp = stream, time.UnixMilli(chunk.Timestamp).UTC()
	d.from, d.end = from, chunk.FirstOffset+uint64(chunk.Records)
	d.entries, d.chunkLen, d.follow = chunk.WalkCopies(copySize), len(chunk.Data), 0
}

// beginLent is begin for a chunk whose messages are handled before its memory is
// used again. Nobody else has the memory.
func (d *decoder) beginLent(stream string, chunk *wire.Chunk, from uint64) {
	d.start(stream, chunk, from, 0)
}

// finish forgets the chunk. What is left of the shared memory stays if chunks
// follow.
func (d *decoder) finish() {
	if d.loan != nil {
		d.loan.end()
	}
	if d.follow == 0 {
		d.slab, d.spare = nil, nil
	}
	d.clear()
	d.entries = wire.ChunkEntries{}
}

// clear forgets what only some chunks leave behind: chunks may be small and many,
// and to clear everything would cost as much as to decode such a chunk.
func (d *decoder) clear() {
	if d.err != nil || d.failed != nil || d.subBatch != nil || d.hasClosed {
		*d = decoder{loan: d.loan, slab: d.slab, spare: d.spare, slabFor: d.slabFor, match: d.match}
	}
}

// block returns the next messages, at most n, and fewer if they are large or lent.
// It returns none at the end of the chunk. Where the chunk cannot be decoded any
// further, block sets err and returns what comes before that.
func (d *decoder) block(n int) []Delivery {
	if d.loan != nil {
		n = min(n, lentSize)
	}
	// The announced count may be a lie, so it sizes a small list only.
	list := d.fill(d.room(d.announced(min(n, maxRoom))), n)
	d.slabFor -= d.opened
	return list
}

// batch returns the first messages of a batch of n, as block does. The list has
// room for those of the chunks that wait.
func (d *decoder) batch(n int) []Delivery {
	room := d.announced(min(n, maxRoom)) * min(1+d.follow, maxRoom)
	return d.fill(make([]Delivery, 0, min(room, n, maxRoom)), n)
}

// room returns an empty list with room for n messages. The messages of small
// chunks that wait share memory: up to blockSize messages, of chunks of up to
// copySize bytes together, or of one chunk, since a message that is kept keeps
// all of them.
func (d *decoder) room(n int) []Delivery {
	if d.loan != nil {
		return d.loan.room(n)
	}
	if n > len(d.slab) || d.chunkLen > d.slabFor {
		d.slab = make([]Delivery, max(n, min(n*min(1+d.follow, blockSize), blockSize)))
		d.spare, d.slabFor = nil, copySize
	}
	d.slabFor -= d.chunkLen
	list := d.slab[:0:n]
	d.slab = d.slab[n:]
	return list
}

// fill appends messages to a list until it has n, or until the chunk ends, or
// until the next sub-batch would make it hold more than maxOpened (see more).
// The list's memory behind its end must be zero. Messages that the consumer's
// filter leaves out do not count: only at the end of the chunk the list is as it
// was, or empty.
func (d *decoder) fill(list []Delivery, n int) []Delivery {
	d.opened = 0
	if d.match == nil {
		return d.fillAny(list, n)
	}
	for start := len(list); d.failed == nil; {
		before := len(list)
		list = d.fillAny(list, n)
		ended := len(list) < n && !d.hasClosed
		list = d.pick(list, before)
		if len(list) == start && d.subBatchCount == 0 {
			d.opened = 0 // nothing of what was opened is held
		}
		if ended || len(list) == n || d.hasClosed && len(list) > 0 {
			break
		}
	}
	return list
}

// pick removes the messages from an index on that the filter leaves out. At a
// panic of the filter it removes the message in question and those behind it.
func (d *decoder) pick(list []Delivery, from int) (picked []Delivery) {
	picked = list[:from]
	offset := uint64(0)
	defer func() {
		if v := recover(); v != nil {
			d.failed = &HandlerError{Stream: d.stream, Offset: offset, Attempts: 1, Err: fmt.Errorf("Filter.Match: %w", panicError(v))}
		}
		clear(list[len(picked):])
	}()
	for i := from; i < len(list); i++ {
		offset = list[i].Offset
		if !d.match(&list[i]) {
			continue
		}
		n := len(picked)
		if picked = list[:n+1]; n != i {
			picked[n] = list[i]
			d.loan.moved(picked, n)
		}
	}
	return picked
}

// fillAny is fill without the filter.
func (d *decoder) fillAny(list []Delivery, n int) []Delivery {
	for len(list) < n && d.err == nil {
		if d.subBatchCount == 0 && !d.hasClosed { // the short way for plain messages
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

// more reports whether the last block or fill has ended because of what it
// holds, so that the chunk goes on.
func (d *decoder) more() bool { return d.hasClosed && d.err == nil && d.failed == nil }

// next returns the next message, still encoded. At a sub-batch it opens it
// first. It reports false at the end of the block.
func (d *decoder) next() (offset uint64, raw []byte, ok bool) {
	for d.subBatchCount == 0 {
		var entry wire.Entry
		if offset, ok = d.nextEntry(&entry); !ok {
			return 0, nil, false
		}
		if !entry.Batch {
			return offset, entry.Body, true
		}
		if d.opened > 0 && d.opened+decompressedSize(&entry) > maxOpened {
			d.closed, d.closedAt, d.hasClosed = entry, offset, true
			return 0, nil, false
		}
		if err := d.open(&entry, offset); err != nil {
			d.err, d.bad, d.good = err, offset, offset+uint64(entry.Records)
			return 0, nil, false
		}
	}
	return d.nextRecord()
}

// nextEntry reads the next entry of the chunk, or the sub-batch that the block
// before has left closed.
func (d *decoder) nextEntry(entry *wire.Entry) (offset uint64, ok bool) {
	if d.hasClosed {
		*entry, d.hasClosed = d.closed, false
		d.closed = wire.Entry{}
		return d.closedAt, true
	}
	if offset, ok = d.entries.Next(entry); !ok {
		d.err, d.bad, d.good = d.entries.Err(), d.entries.Offset(), d.end
	}
	return offset, ok
}

// nextRecord returns the next message of the sub-batch. If bytes are left
// behind the last message, nextRecord returns that message and sets err.
func (d *decoder) nextRecord() (offset uint64, raw []byte, ok bool) {
	offset = d.subBatchOffset
	end := offset + uint64(d.subBatchCount)
	raw, d.subBatch, ok = wire.NextRecord(d.subBatch)
	d.subBatchCount--
	d.subBatchOffset++
	if !ok || d.subBatchCount == 0 && len(d.subBatch) > 0 {
		d.err = fmt.Errorf("sub-batch with offset %d: %w: its bytes are not its records", offset, wire.ErrMalformed)
		d.bad, d.good = offset, end
	}
	return offset, raw, ok
}

// unread reports whether the chunk announces further messages.
func (d *decoder) unread() bool { return d.announced(1) > 0 && d.err == nil && d.failed == nil }

// announced returns how many further messages the chunk announces, and limit at
// most. The chunk's count may be the largest int of a 32-bit system, so
// announced bounds both counts before it adds them.
func (d *decoder) announced(limit int) int {
	n := min(limit, d.subBatchCount) + min(limit, d.entries.Records())
	if d.hasClosed {
		n += min(limit, int(d.closed.Records))
	}
	return min(limit, n)
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
	records, err := decompress(entry)
	if err == nil && entry.Records == 0 && len(records) > 0 {
		err = fmt.Errorf("%w: more than 0 records", wire.ErrMalformed)
	}
	if err != nil {
		return fmt.Errorf("sub-batch at offset %d: %w", offset, err)
	}
	d.subBatch, d.subBatchCount, d.subBatchOffset = records, int(entry.Records), offset
	d.opened += decompressedSize(entry)
	return nil
}

// decompressedSize returns how many bytes a sub-batch takes besides the copy of
// the chunk in which it lies.
func decompressedSize(entry *wire.Entry) int {
	if entry.Compression == wire.CompressionNone {
		return 0
	}
	return int(min(entry.Uncompressed, maxSubBatch))
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
		m.sections = d.sectionsFor(n)
		m.sections.raw = raw
	}
	return list
}

// sectionsFor returns memory for the sections of the message with an index in its
// list. It allocates for several messages at a time, or has it lent.
func (d *decoder) sectionsFor(i int) *sections {
	if d.loan != nil {
		return &d.loan.sections[i]
	}
	if len(d.spare) == 0 {
		d.spare = make([]sections, min(blockSize, 1+d.announced(blockSize)+len(d.slab)))
	}
	s := &d.spare[0]
	d.spare = d.spare[1:]
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
