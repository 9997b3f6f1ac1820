package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// ErrFrameTooLarge says that a peer announced a frame above the limit of its reader.
var ErrFrameTooLarge = errors.New("frame too large")

const firstBuffer = 4 << 10

// FrameReader cuts a stream of bytes into frames. It reads as much as the connection has, so that many
// small frames cost one system call, and grows its buffer only as bytes arrive: an announced length
// alone never makes it allocate. One goroutine at a time.
type FrameReader struct {
	r          io.Reader
	buf        []byte
	start, end int
	max        uint32
}

// NewFrameReader returns a reader whose frames may have up to max bytes (without their size prefix);
// 0 means any length.
func NewFrameReader(r io.Reader, max uint32) *FrameReader {
	return &FrameReader{r: r, max: max}
}

// SetMax changes the limit from the next frame on; 0 means any length.
func (f *FrameReader) SetMax(max uint32) { f.max = max }

// Buffered returns how many bytes were read from the connection and not handed out yet.
func (f *FrameReader) Buffered() int { return f.end - f.start }

// Next returns the body of the next frame, valid until the following call. At the clean end between two
// frames it returns io.EOF, inside a frame io.ErrUnexpectedEOF.
func (f *FrameReader) Next() ([]byte, error) {
	if err := f.fill(SizeLen); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(f.buf[f.start:])
	if f.max != 0 && size > f.max || boundedInt(size) < 0 {
		return nil, fmt.Errorf("%w: %d bytes, limit %d", ErrFrameTooLarge, size, f.max)
	}
	f.start += SizeLen
	if err := f.fill(int(size)); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	frame := f.buf[f.start : f.start+int(size) : f.start+int(size)]
	f.start += int(size)
	return frame, nil
}

// Detach gives the buffer that holds the last frame away: the frame stays valid for as long as its owner
// wants, and the reader goes on with a new buffer. It costs a copy of the bytes read ahead.
func (f *FrameReader) Detach() {
	rest := f.buf[f.start:f.end]
	f.buf = append(make([]byte, 0, max(len(f.buf), firstBuffer)), rest...)
	f.buf = f.buf[:cap(f.buf)]
	f.start, f.end = 0, len(rest)
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
	if f.start > 0 && f.start+n > len(f.buf) {
		f.end = copy(f.buf, f.buf[f.start:f.end])
		f.start = 0
	}
	if f.end < len(f.buf) {
		return
	}
	bigger := make([]byte, max(firstBuffer, 2*len(f.buf)))
	f.end = copy(bigger, f.buf[f.start:f.end])
	f.start, f.buf = 0, bigger
}
