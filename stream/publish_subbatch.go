package stream

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/golang/snappy"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// This file makes the entries of Publish frames that hold several messages. The
// formats are those of the other clients, Java's and the official one among
// them: gzip, snappy in its framing format, LZ4 frames, and zstd frames.

// appendRecord appends a message as a Publish frame and a sub-batch have it:
// its length and the message. After an error b has its old length.
func appendRecord(b []byte, m *Message, creation time.Time) ([]byte, error) {
	start := len(b)
	out, err := appendMessage(append(b, 0, 0, 0, 0), m, creation)
	if err != nil {
		return b, err
	}
	binary.BigEndian.PutUint32(out[start:], uint32(len(out)-start-4))
	return out, nil
}

// appendSubBatch appends a sub-batch of records, which are as appendRecord lays
// them out, one behind the other. What does not become smaller by compression
// becomes a little larger; see subBatchBound. It does not allocate if b has that
// room. It waits while as many other sub-batches are compressed as there are
// cores. After an error b has its old length; the only errors are a count or
// size that a sub-batch cannot have.
func appendSubBatch(b []byte, c Compression, count int, records []byte) ([]byte, error) {
	if err := checkSubBatch(count, len(records)); err != nil {
		return b, err
	}
	start := len(b)
	out := wire.BeginBatch(b, wire.Entry{Records: uint16(count), Compression: wire.Compression(c), Uncompressed: uint32(len(records))})
	out, err := appendCompressed(out, c, records)
	if err != nil {
		return b, fmt.Errorf("compress a sub-batch: %w", err)
	}
	return wire.FinishBatch(out, start), nil
}

// checkSubBatch refuses what RabbitMQ 4.3.5 refuses, and other clients cannot
// read.
func checkSubBatch(count, size int) error {
	switch {
	case count < 1 || count > math.MaxUint16:
		return fmt.Errorf("a sub-batch of %d messages; it must have 1 to %d", count, math.MaxUint16)
	case size < 4*count:
		return fmt.Errorf("a sub-batch of %d messages in %d bytes", count, size)
	case size > maxSubBatch:
		return fmt.Errorf("%w: the messages of a sub-batch have %d bytes; at most %d are allowed", ErrMessageTooLarge, size, maxSubBatch)
	}
	return nil
}

// subBatchBound returns how many bytes a sub-batch has at most, given those of
// its records.
func subBatchBound(c Compression, size int) int {
	if c == CompressionNone {
		return wire.BatchHeadLen + size
	}
	return wire.BatchHeadLen + size + size/1024 + 256
}

// appendCompressed appends the compressed records.
func appendCompressed(b []byte, c Compression, records []byte) (_ []byte, err error) {
	switch c {
	case CompressionNone:
		return append(b, records...), nil
	case CompressionGzip, CompressionSnappy, CompressionLZ4, CompressionZstd:
		return subEncoders[c].append(b, records)
	}
	return nil, fmt.Errorf("%w: Compression %d is not one of the five there are", ErrInvalidConfig, c)
}

// subEncoder compresses the records of one sub-batch after the other.
type subEncoder interface {
	// compress appends the compressed records to b, and keeps neither.
	compress(b, records []byte) ([]byte, error)
}

// encoderPool has the encoders of one compression. An encoder takes up to 4 MiB
// (zstd), and is used for as long as one sub-batch takes. So all producers of the
// process share as many as there are cores, and the garbage collector removes
// those that nobody uses.
type encoderPool struct {
	permits chan struct{} // taken while an encoder is in use
	idle    sync.Pool     // of subEncoders
}

// subEncoders has a pool for each compression.
var subEncoders = [...]*encoderPool{
	CompressionGzip:   newEncoderPool(newGzipEncoder),
	CompressionSnappy: newEncoderPool(newSnappyEncoder),
	CompressionLZ4:    newEncoderPool(newLZ4Encoder),
	CompressionZstd:   newEncoderPool(newZstdEncoder),
}

func newEncoderPool(newEncoder func() subEncoder) *encoderPool {
	return &encoderPool{
		permits: make(chan struct{}, runtime.GOMAXPROCS(0)),
		idle:    sync.Pool{New: func() any { return newEncoder() }},
	}
}

// append compresses with an encoder of the pool. If the library panics, append
// returns an error and drops the encoder.
func (p *encoderPool) append(b, records []byte) (out []byte, err error) {
	p.permits <- struct{}{}
	defer func() { <-p.permits }()
	defer func() {
		if r := recover(); r != nil {
			out, err = nil, fmt.Errorf("the encoder failed: %v", r)
		}
	}()
	enc := p.idle.Get().(subEncoder)
	out, err = enc.compress(b, records)
	p.idle.Put(enc)
	return out, err
}

// zstdEncoder keeps the level that the other clients have by default.
type zstdEncoder struct{ enc *zstd.Encoder }

func newZstdEncoder() subEncoder {
	// The window is a frame's usual limit. With a concurrency of 1 the encoder
	// starts no goroutines. There is no checksum, as by default in libzstd:
	// chunks have one.
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20), zstd.WithEncoderCRC(false))
	if err != nil {
		panic("tidemark: " + err.Error()) // the options are constant
	}
	return &zstdEncoder{enc: enc}
}

func (z *zstdEncoder) compress(b, records []byte) ([]byte, error) {
	return z.enc.EncodeAll(records, b), nil
}

// streamEncoder compresses with a writer that can be used again.
type streamEncoder struct {
	w   resetWriter
	out appendWriter
}

type resetWriter interface {
	io.WriteCloser
	Reset(io.Writer)
}

// appendWriter appends what is written to it.
type appendWriter struct{ b []byte }

func (w *appendWriter) Write(p []byte) (int, error) {
	w.b = append(w.b, p...)
	return len(p), nil
}

func newGzipEncoder() subEncoder   { return &streamEncoder{w: gzip.NewWriter(nil)} }
func newSnappyEncoder() subEncoder { return &streamEncoder{w: snappy.NewBufferedWriter(nil)} }

func (s *streamEncoder) compress(b, records []byte) ([]byte, error) {
	s.out.b = b
	s.w.Reset(&s.out)
	_, err := s.w.Write(records)
	if err == nil {
		err = s.w.Close()
	}
	b, s.out.b = s.out.b, nil
	return b, err
}

// lz4Encoder compresses blocks by the library and puts them into a frame itself,
// because the library's writer allocates two blocks for each frame. The frame
// has no checksum: chunks have one.
type lz4Encoder struct {
	// hashes is scratch space. What the call before has left in it only makes
	// the library look for matches in vain.
	hashes [1 << 16]int
}

// lz4BlockSizes are the sizes of blocks that a frame may announce. Readers may
// make room for a block, so a frame announces the smallest that is enough.
var lz4BlockSizes = [...]int{64 << 10, 256 << 10, 1 << 20}

// lz4Headers returns the header of a frame for each size of blocks.
var lz4Headers = sync.OnceValue(func() (headers [len(lz4BlockSizes)][]byte) {
	for i, size := range lz4BlockSizes {
		headers[i] = lz4Header(size)
	}
	return headers
})

// lz4Stored marks the length of a block that is not compressed.
const lz4Stored = 1 << 31

func newLZ4Encoder() subEncoder { return new(lz4Encoder) }

// lz4Header returns the header of a frame, which the library's writer makes.
func lz4Header(blockSize int) []byte {
	const end = 4 // the mark at the end of the empty frame
	var out appendWriter
	w := lz4.NewWriter(&out)
	w.Header = lz4.Header{NoChecksum: true, BlockMaxSize: blockSize}
	if err := w.Close(); err != nil {
		panic("tidemark: " + err.Error()) // the options are constant
	}
	return out.b[:len(out.b)-end]
}

func (z *lz4Encoder) compress(b, records []byte) ([]byte, error) {
	i := 0
	for i < len(lz4BlockSizes)-1 && len(records) > lz4BlockSizes[i] {
		i++
	}
	b = append(b, lz4Headers()[i]...)
	for len(records) > 0 {
		n := min(len(records), lz4BlockSizes[i])
		b = z.block(b, records[:n])
		records = records[n:]
	}
	return append(b, 0, 0, 0, 0), nil // the mark at the end
}

// block appends a block, compressed if it becomes smaller by that.
func (z *lz4Encoder) block(b, data []byte) []byte {
	start := len(b) + 4
	b = slices.Grow(b, 4+len(data))[:start+len(data)]
	n, err := lz4.CompressBlock(data, b[start:], z.hashes[:])
	if err != nil || n == 0 || n >= len(data) { // an error says that there is no room
		copy(b[start:], data)
		binary.LittleEndian.PutUint32(b[start-4:], uint32(len(data))|lz4Stored)
		return b
	}
	binary.LittleEndian.PutUint32(b[start-4:], uint32(n))
	return b[:start+n]
}
