package wire

import (
	"encoding/binary"
	"fmt"
)

const (
	// SizeLen is the length of the size prefix of a frame; the size does not count it.
	SizeLen = 4
	// HeadLen is the length of the key and version that start each frame's body.
	HeadLen = 4
)

// Frame is a command or a response with a fixed layout: a pointer to one of the structs of this package.
type Frame interface {
	// Head returns the key and version the frame is written with.
	Head() (Key, uint16)
	fields(*codec)
}

// Append appends the whole frame, size prefix included. It fails, leaving b as it was, when a string
// does not fit its 16-bit length.
func Append(b []byte, f Frame) ([]byte, error) {
	start := len(b)
	key, version := f.Head()
	c := codec{buf: appendHead(b, key, version)}
	f.fields(&c)
	if c.err != nil {
		return b[:start], fmt.Errorf("encode %v: %w", key, c.err)
	}
	return finishFrame(c.buf, start), nil
}

// Decode reads the fields of f from a frame's body that follows key and version (see SplitHead).
// Slices of bytes in f alias the body; strings are copies.
func Decode(fields []byte, f Frame) error {
	c := codec{buf: fields, decoding: true}
	f.fields(&c)
	if c.err == nil && len(c.buf) > 0 {
		c.fail("bytes left over")
	}
	if c.err != nil {
		key, _ := f.Head()
		return fmt.Errorf("decode %v: %w", key, c.err)
	}
	return nil
}

// SplitHead reads key and version and returns what follows them. A frame shorter than that is malformed.
func SplitHead(frame []byte) (key Key, version uint16, fields []byte, err error) {
	if len(frame) < HeadLen {
		return 0, 0, nil, fmt.Errorf("%w: no key and version", ErrMalformed)
	}
	key = Key(binary.BigEndian.Uint16(frame))
	return key, binary.BigEndian.Uint16(frame[2:]), frame[HeadLen:], nil
}

// Correlation reads the correlation id that starts most requests and responses.
func Correlation(fields []byte) (uint32, bool) {
	if len(fields) < 4 {
		return 0, false
	}
	return binary.BigEndian.Uint32(fields), true
}

func appendHead(b []byte, key Key, version uint16) []byte {
	b = append(b, 0, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(key))
	return binary.BigEndian.AppendUint16(b, version)
}

// finishFrame writes the size of the frame that began at start.
func finishFrame(b []byte, start int) []byte {
	binary.BigEndian.PutUint32(b[start:], uint32(len(b)-start-SizeLen))
	return b
}
