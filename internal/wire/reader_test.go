package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"runtime"
	"slices"
	"testing"
	"testing/iotest"
)

func frameOf(body string) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
}

// strictReader ends the test, instead of letting it hang, if it is read into no
// memory or again and again.
type strictReader struct {
	t     *testing.T
	r     io.Reader
	calls int
}

func strict(t *testing.T, r io.Reader) io.Reader { return &strictReader{t: t, r: r} }

func (s *strictReader) Read(p []byte) (int, error) {
	if s.calls++; len(p) == 0 || s.calls > 1_000_000 {
		s.t.Fatalf("read %d is into %d bytes", s.calls, len(p))
	}
	return s.r.Read(p)
}

func TestFrameReader(t *testing.T) {
	big := string(bytes.Repeat([]byte("x"), 3*initialBuffer))
	var stream []byte
	bodies := []string{"", "a", big, "bc", big, ""}
	for _, body := range bodies {
		stream = append(stream, frameOf(body)...)
	}
	readers := map[string]func() io.Reader{
		"at once":     func() io.Reader { return bytes.NewReader(stream) },
		"one by one":  func() io.Reader { return iotest.OneByteReader(bytes.NewReader(stream)) },
		"data at EOF": func() io.Reader { return iotest.DataErrReader(bytes.NewReader(stream)) },
	}
	for name, r := range readers {
		t.Run(name, func(t *testing.T) {
			f := NewFrameReader(strict(t, r()), 0)
			for i, body := range bodies {
				if got, err := f.Next(); err != nil || string(got) != body {
					t.Fatalf("frame %d: %d bytes, %v", i, len(got), err)
				}
			}
			if _, err := f.Next(); err != io.EOF {
				t.Errorf("end: %v", err)
			}
		})
	}
}

func TestFrameReaderLimits(t *testing.T) {
	f := NewFrameReader(strict(t, bytes.NewReader(frameOf("12345"))), 4)
	if _, err := f.Next(); !errors.Is(err, ErrFrameTooLarge) {
		t.Errorf("above the limit: %v", err)
	}
	f = NewFrameReader(strict(t, bytes.NewReader([]byte{0x7f, 0xff, 0xff, 0xff, 1, 2})), 0)
	if _, err := f.Next(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("half a frame: %v", err)
	}
	if len(f.buf) > 2*initialBuffer {
		t.Errorf("an announced length made it allocate %d bytes", len(f.buf))
	}
	f = NewFrameReader(strict(t, bytes.NewReader([]byte{0, 0})), 0)
	if _, err := f.Next(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("half a size: %v", err)
	}
}

// TestFrameReaderGives: a frame with memory of its own is whole and stays as it
// is, however its bytes arrive and however large it is.
func TestFrameReaderGives(t *testing.T) {
	owned := func(n int) string { return "\x00\x08" + string(bytes.Repeat([]byte("g"), n)) }
	other := "\x00\x09other"
	bodies := []string{owned(3), other, owned(3 * initialBuffer), other, owned(2*ownAtOnce + 1), "\x00", owned(3)}
	var stream []byte
	for _, body := range bodies {
		stream = append(stream, frameOf(body)...)
	}
	for name, r := range map[string]io.Reader{
		"at once":     bytes.NewReader(stream),
		"in halves":   iotest.HalfReader(bytes.NewReader(stream)),
		"data at EOF": iotest.DataErrReader(bytes.NewReader(stream)),
	} {
		f := NewFrameReader(strict(t, r), 0)
		f.Give(KeyDeliver, func(id byte, n int) []byte {
			if id != 'g' {
				t.Errorf("memory is asked for with the byte %q", id)
			}
			return make([]byte, n)
		})
		var kept [][]byte
		for i, body := range bodies {
			frame, err := f.Next()
			if err != nil || string(frame) != body {
				t.Fatalf("%s: frame %d: %d bytes, %v", name, i, len(frame), err)
			}
			if len(body) >= HeadLen && body[1] == byte(KeyDeliver) {
				kept = append(kept, frame)
			}
		}
		if _, err := f.Next(); err != io.EOF {
			t.Errorf("%s: end: %v", name, err)
		}
		for i, body := range []string{bodies[0], bodies[2], bodies[4], bodies[6]} {
			if string(kept[i]) != body {
				t.Errorf("%s: frame %d was changed", name, i)
			}
		}
	}
}

// TestFrameReaderGivesHostile: a large frame that is announced and does not
// arrive costs little memory.
func TestFrameReaderGivesHostile(t *testing.T) {
	f := NewFrameReader(strict(t, bytes.NewReader([]byte{0x7f, 0xff, 0xff, 0xff, 0, 8, 0, 1, 'x'})), 0)
	f.Give(KeyDeliver, func(_ byte, n int) []byte { return make([]byte, n) })
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := f.Next(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("half a frame: %v", err)
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 2*ownAtOnce {
		t.Errorf("%d bytes were allocated", n)
	}
	f = NewFrameReader(strict(t, bytes.NewReader([]byte{0, 0, 0, 9, 0, 8})), 0)
	f.Give(KeyDeliver, func(_ byte, n int) []byte { return make([]byte, n) })
	if _, err := f.Next(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("half a head: %v", err)
	}
}

// TestFrameReaderReady expects that Ready tells whether a whole frame waits.
func TestFrameReaderReadyForTooLarge(t *testing.T) {
	frame := []byte{0, 0, 0, 2, 'a', 'b'}
	r := NewFrameReader(bytes.NewReader(append(slices.Concat(frame, frame), frame[:5]...)), 0)
	for i, want := range []bool{false, true, false} {
		if got := r.Ready(); got != want {
			t.Errorf("before frame %d: %v, want %v", i, got, want)
		}
		_, err := r.Next()
		if i < 2 && err != nil {
			t.Fatal(err)
		}
	}
	r = NewFrameReader(bytes.NewReader(append(frame, 0, 0, 1, 0)), 16)
	if _, err := r.Next(); err != nil || !r.Ready() {
		t.Errorf("%v, ready %v; want a frame that is too large to be ready", err, r.Ready())
	}
}
