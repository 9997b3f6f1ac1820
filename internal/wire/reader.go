package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
)

// ErrFrameTooLarge says that a peer announced a frame above the limit of its reader.
var ErrFrameTooLarge = errors.New("frame too large")

const (
	firstBuffer = 16 << 10
	// ownAtOnce is how much is allocated for a frame that is given away before
	// its bytes have come.
	ownAtOnce = 4 << 20
)

// FrameReader cuts a stream of bytes into frames. It reads as much as the connection has, so that many
// small frames cost one system call, and grows its buffer only as bytes arrive: an announced length
// alone makes it allocate ownAtOnce at most. One goroutine at a time.
type FrameReader struct {
	r          io.Reader
	buf        []byte
	start, end int
	max        uint32
	given      Key // frames with this key are given away; 0: none
	alloc      func(id byte, n int) []byte
}

// NewFrameReader returns a reader whose frames may have up to max bytes (without their size prefix);
// 0 means any length.
func NewFrameReader(r io.Reader, max uint32) *FrameReader {
	return &FrameReader{r: r, max: max}
}

// SetMax changes the limit from the next frame on; 0 means any length.
func (f *FrameReader) SetMax(max uint32) { f.max = max }

// Give makes frames with this key come in memory of their own, which alloc returns and the caller may
// keep; it may have been used before. id is the first byte after the frame's head, by which Deliver says for
// which subscription it is; a frame that has none is not given away. Large frames are read into the memory
// without a copy.
func (f *FrameReader) Give(key Key, alloc func(id byte, n int) []byte) { f.given, f.alloc = key, alloc }

// Next returns the body of the next frame, valid until the following call unless it is given away (see
// Give). At the clean end between two frames it returns io.EOF, inside a frame io.ErrUnexpectedEOF.
func (f *FrameReader) Next() ([]byte, error) {
	if err := f.fill(SizeLen); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(f.buf[f.start:])
	if f.max != 0 && size > f.max || boundedInt(size) < 0 {
		return nil, fmt.Errorf("%w: %d bytes, limit %d", ErrFrameTooLarge, size, f.max)
	}
	f.start += SizeLen
	frame, err := f.body(int(size))
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return frame, err
}

func (f *FrameReader) body(size int) ([]byte, error) {
	if f.given != 0 && size > HeadLen {
		if err := f.fill(HeadLen + 1); err != nil {
			return nil, err
		}
		if Key(binary.BigEndian.Uint16(f.buf[f.start:])) == f.given {
			return f.give(size)
		}
	}
	if err := f.fill(size); err != nil {
		return nil, err
	}
	f.start += size
	return f.buf[f.start-size : f.start : f.start], nil
}

// give reads a frame into memory of its own.
func (f *FrameReader) give(size int) ([]byte, error) {
	var frame []byte
	if size <= ownAtOnce {
		frame = f.alloc(f.buf[f.start+HeadLen], size)
	} else { // it grows as its bytes come, which alloc's memory is not made for
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

// fill reads until n bytes are buffered.
func (f *FrameReader) fill(n int) error {
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

// makeRoom leaves space behind end. The buffer doubles only when it is full of a frame's bytes.
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
	bigger := make([]byte, max(firstBuffer, doubled(len(f.buf))))
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
