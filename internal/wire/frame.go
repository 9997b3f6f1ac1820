package wire

import (
	"encoding/binary"
	"fmt"
)

const (
	// SizeLen is the length of the size prefix of a frame. The size does not
	// count the prefix itself.
	SizeLen = 4
	// HeadLen is the length of a frame's head: the key and the version, with
	// which the body of each frame begins.
	HeadLen = 4
)

// Frame is a command or a response with a fixed layout: a pointer to one of the
// structs of this package.
type Frame interface {
	// Head returns the key and the version with which the frame is written.
	Head() (Key, uint16)
	fields(*codec)
}

// Append appends the whole frame, size prefix included. It fails if a string is
// too long for its 16-bit length, or if an offset type does not exist; it then
// returns b as it was.
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

// Decode reads the fields of f from what follows a frame's key and version (see
// SplitHead). Slices of bytes in f alias it; strings are copies. On an error,
// which wraps ErrMalformed, the content of f means nothing.
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

// SplitHead reads the key and the version at the start of a frame's body, and
// returns the fields that follow them. A shorter body is malformed.
func SplitHead(frame []byte) (key Key, version uint16, fields []byte, err error) {
	if len(frame) < HeadLen {
		return 0, 0, nil, fmt.Errorf("%w: no key and version", ErrMalformed)
	}
	key = Key(binary.BigEndian.Uint16(frame))
	return key, binary.BigEndian.Uint16(frame[2:]), frame[HeadLen:], nil
}

// Correlation reads the correlation id with which the fields of most requests
// and responses begin. It reports whether the fields are long enough.
func Correlation(fields []byte) (uint32, bool) {
	if len(fields) < 4 {
		return 0, false
	}
	return binary.BigEndian.Uint32(fields), true
}

// appendHead begins a frame: it appends room for the size, which finishFrame
// writes, then the key and the version.
func appendHead(b []byte, key Key, version uint16) []byte {
	b = append(b, 0, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(key))
	return binary.BigEndian.AppendUint16(b, version)
}

// finishFrame writes the size of the frame that begins at start and ends with
// b.
func finishFrame(b []byte, start int) []byte {
	binary.BigEndian.PutUint32(b[start:], uint32(len(b)-start-SizeLen))
	return b
}
