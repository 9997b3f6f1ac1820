package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"
	"testing/iotest"
)

func frameOf(body string) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
}

func TestFrameReader(t *testing.T) {
	big := string(bytes.Repeat([]byte("x"), 3*firstBuffer))
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
			f := NewFrameReader(r(), 0)
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
	f := NewFrameReader(bytes.NewReader(frameOf("12345")), 4)
	if _, err := f.Next(); !errors.Is(err, ErrFrameTooLarge) {
		t.Errorf("above the limit: %v", err)
	}
	f = NewFrameReader(bytes.NewReader([]byte{0x7f, 0xff, 0xff, 0xff, 1, 2}), 0)
	if _, err := f.Next(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("half a frame: %v", err)
	}
	if len(f.buf) > 2*firstBuffer {
		t.Errorf("an announced length made it allocate %d bytes", len(f.buf))
	}
	f = NewFrameReader(bytes.NewReader([]byte{0, 0}), 0)
	if _, err := f.Next(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("half a size: %v", err)
	}
}

func TestDetachKeepsFrame(t *testing.T) {
	f := NewFrameReader(bytes.NewReader(append(frameOf("first"), frameOf("second")...)), 0)
	first, _ := f.Next()
	f.Detach()
	second, err := f.Next()
	if err != nil || string(first) != "first" || string(second) != "second" {
		t.Errorf("%q, %q, %v", first, second, err)
	}
	second[0] = 'S'
	if string(first) != "first" {
		t.Error("the buffers are shared")
	}
}
