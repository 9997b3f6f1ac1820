package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
)

// ErrFrameTooLarge says that a peer announced a frame above the limit of its
// reader.
var ErrFrameTooLarge = errors.New("frame too large")

const (
	// initialBuffer is the size of a reader's buffer until a frame needs more.
	initialBuffer = 16 << 10
	// smallFrame is the size up to which an owned frame goes through the
	// reader's buffer, so that one read brings many of them.
	smallFrame = 4 << 10
	// ownAtOnce is the most that a reader allocates for an owned frame (see
	// Give) before the bytes of that frame have arrived.
	ownAtOnce = 4 << 20
)

// FrameReader cuts a stream of bytes into frames. It reads as much as the
// connection has, so that many small frames cost one system call. Its memory
// grows only as bytes arrive: a length that is announced, with nothing behind
// it, makes the reader allocate ownAtOnce at most. Only one goroutine may use
// it at a time.
type FrameReader struct {
	r          io.Reader
	buf        []byte
	start, end int // the bytes of buf that were read and not yet returned
	max        uint32
	ownedKey   Key // key of the frames that get memory of their own; 0: none
	alloc      func(id byte, n int) []byte
}

// NewFrameReader returns a reader that accepts frames of up to max bytes,
// without their size prefix. With 0 it accepts any length below 2 GiB.
func NewFrameReader(r io.Reader, max uint32) *FrameReader {
	return &FrameReader{r: r, max: max}
}

// SetMax changes the limit from the next frame on; see NewFrameReader.
func (f *FrameReader) SetMax(max uint32) { f.max = max }

// Give makes the reader put each frame with this key into memory of its own,
// which the caller may keep. The reader asks alloc for that memory, and alloc
// returns n bytes, whatever their content. id is the first byte after the
// frame's head; in a Deliver it is the subscription. A frame without that byte
// stays in the reader's buffer, like the frames with other keys. For a frame
// above ownAtOnce the reader allocates memory itself, without calling alloc.
func (f *FrameReader) Give(key Key, alloc func(id byte, n int) []byte) {
	f.ownedKey, f.alloc = key, alloc
}

// Next returns the body of the next frame, and blocks until it has arrived. The
// caller may use the body until the following call, or keep it if the frame has
// memory of its own (see Give). Next returns io.EOF if the stream ends between
// two frames, io.ErrUnexpectedEOF if it ends inside one, and an error that
// wraps ErrFrameTooLarge if the frame exceeds the limit.
func (f *FrameReader) Next() ([]byte, error) {
	if err := f.bufferAtLeast(SizeLen); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(f.buf[f.start:])
	if f.max != 0 && size > f.max || boundedInt(size) < 0 {
		return nil, fmt.Errorf("%w: %d bytes, limit %d", ErrFrameTooLarge, size, f.max)
	}
	f.start += SizeLen
	frame, err := f.readBody(int(size))
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return frame, err
}

// Ready reports whether Next returns without reading: the rest of the bytes
// that were read holds a whole frame, or one that exceeds the limit.
func (f *FrameReader) Ready() bool {
	buffered := f.end - f.start
	if buffered < SizeLen {
		return false
	}
	size := binary.BigEndian.Uint32(f.buf[f.start:])
	return uint64(size) <= uint64(buffered-SizeLen) || f.max != 0 && size > f.max || boundedInt(size) < 0
}

func (f *FrameReader) readBody(size int) ([]byte, error) {
	if f.ownedKey != 0 && size > HeadLen {
		if err := f.bufferAtLeast(HeadLen + 1); err != nil {
			return nil, err
		}
		if Key(binary.BigEndian.Uint16(f.buf[f.start:])) == f.ownedKey {
			return f.readOwned(size)
		}
	}
	if err := f.bufferAtLeast(size); err != nil {
		return nil, err
	}
	f.start += size
	return f.buf[f.start-size : f.start : f.start], nil
}

// readOwned reads a frame of size bytes into memory of its own. The buffer
// holds the first bytes of the frame, up to its id at least. The rest goes from
// the connection into that memory without a copy, but for a frame above
// ownAtOnce, whose memory grows as the bytes arrive.
func (f *FrameReader) readOwned(size int) ([]byte, error) {
	if size <= smallFrame {
		if err := f.bufferAtLeast(size); err != nil {
			return nil, err
		}
	}
	var frame []byte
	if size <= ownAtOnce {
		frame = f.alloc(f.buf[f.start+HeadLen], size)
	} else {
		frame = make([]byte, ownAtOnce)
	}
	n := copy(frame, f.buf[f.start:f.end])
	f.start += n
	for n < size {
		if n == len(frame) {
			longer := fourfold(n, size)
			frame = append(make([]byte, 0, longer), frame...)[:longer]
		}
		m, err := f.r.Read(frame[n:])
		if n += m; n < size && err != nil {
			return nil, err
		}
	}
	return frame[:size], nil
}

// bufferAtLeast reads until the buffer holds n bytes. It reads nothing if it
// holds them already.
func (f *FrameReader) bufferAtLeast(n int) error {
	for f.end-f.start < n {
		f.makeRoom(n)
		m, err := f.r.Read(f.buf[f.end:])
		f.end += m
		if f.end-f.start >= n {
			return nil
		}
		if err != nil {
			if f.end > f.start && errors.Is(err, io.EOF) {
				return io.ErrUnexpectedEOF
			}
			return err
		}
	}
	return nil
}

// makeRoom leaves space behind end, for a frame or a part of one that takes n
// bytes from start on. It moves what is buffered to the front if n bytes do not
// fit otherwise. It doubles the buffer only if that is full.
func (f *FrameReader) makeRoom(n int) {
	if f.start == f.end {
		f.start, f.end = 0, 0
	}
	if f.start > 0 && n > len(f.buf)-f.start {
		f.end = copy(f.buf, f.buf[f.start:f.end])
		f.start = 0
	}
	if f.end < len(f.buf) {
		return
	}
	bigger := make([]byte, max(initialBuffer, doubled(len(f.buf))))
	f.end = copy(bigger, f.buf[f.start:f.end])
	f.start, f.buf = 0, bigger
}

// doubled returns twice n, or the largest int if that is less.
func doubled(n int) int {
	if n > math.MaxInt/2 {
		return math.MaxInt
	}
	return 2 * n
}

// fourfold returns four times n, or limit if that is less.
func fourfold(n, limit int) int {
	if n > limit/4 {
		return limit
	}
	return 4 * n
}
