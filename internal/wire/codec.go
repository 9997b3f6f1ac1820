package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// ErrMalformed says that a frame does not have the layout of its command: a
// length points outside the frame, or bytes are missing or left over. Every
// decoding error wraps it.
var ErrMalformed = errors.New("malformed frame")

// maxString is the length of the longest string that the protocol can carry.
// The length is a signed 16-bit number on the wire.
const maxString = math.MaxInt16

// Lengths on the wire that mean null, as opposed to empty.
const (
	nullString = math.MaxUint16 // also of a filter
	nullArray  = math.MaxUint32 // also of bytes
)

// codec walks the fields of one command. It appends them to buf when it
// encodes, and cuts them off the front of buf when it decodes. So one
// description of a layout serves both directions. After the first error, which
// err keeps, it decodes nothing more.
type codec struct {
	buf      []byte
	decoding bool
	err      error
}

// fail records an error, unless there is one already, and drops what is left of
// the frame.
func (c *codec) fail(what string) {
	if c.err == nil {
		c.err = fmt.Errorf("%w: %s", ErrMalformed, what)
	}
	c.buf = nil
}

// take cuts n bytes off the front of buf. It fails and returns nil if n is
// negative or if buf has fewer bytes.
func (c *codec) take(n int) []byte {
	if n < 0 || n > len(c.buf) {
		c.fail("short frame")
		return nil
	}
	b := c.buf[:n:n]
	c.buf = c.buf[n:]
	return b
}

func (c *codec) u8(v *uint8) {
	if !c.decoding {
		c.buf = append(c.buf, *v)
	} else if b := c.take(1); b != nil {
		*v = b[0]
	}
}

// boolean writes 1 for true, and reads every other byte than 0 as true.
func (c *codec) boolean(v *bool) {
	var n uint8
	if *v {
		n = 1
	}
	c.u8(&n)
	*v = n != 0
}

func (c *codec) u16(v *uint16) {
	if !c.decoding {
		c.buf = binary.BigEndian.AppendUint16(c.buf, *v)
	} else if b := c.take(2); b != nil {
		*v = binary.BigEndian.Uint16(b)
	}
}

func (c *codec) u32(v *uint32) {
	if !c.decoding {
		c.buf = binary.BigEndian.AppendUint32(c.buf, *v)
	} else if b := c.take(4); b != nil {
		*v = binary.BigEndian.Uint32(b)
	}
}

func (c *codec) u64(v *uint64) {
	if !c.decoding {
		c.buf = binary.BigEndian.AppendUint64(c.buf, *v)
	} else if b := c.take(8); b != nil {
		*v = binary.BigEndian.Uint64(b)
	}
}

func (c *codec) i64(v *int64) {
	n := uint64(*v)
	c.u64(&n)
	*v = int64(n)
}

func (c *codec) code(v *Code) { c.u16((*uint16)(v)) }

// str reads a null string as an empty one. The two fields where the difference
// matters, a filter and the data of SaslAuthenticate, have code of their own.
func (c *codec) str(v *string) {
	if !c.decoding {
		if len(*v) > maxString {
			c.fail("string too long")
			return
		}
		c.buf = append(binary.BigEndian.AppendUint16(c.buf, uint16(len(*v))), *v...)
		return
	}
	var n uint16
	c.u16(&n)
	if n == nullString {
		*v = ""
		return
	}
	if n > maxString {
		c.fail("negative string length")
		return
	}
	*v = string(c.take(int(n)))
}

// bytes writes a nil slice as null and reads null as nil. The slice that it
// reads aliases the frame.
func (c *codec) bytes(v *[]byte) {
	n := uint32(len(*v))
	if *v == nil {
		n = nullArray
	}
	c.u32(&n)
	if !c.decoding {
		c.buf = append(c.buf, *v...)
		return
	}
	*v = nil
	if n != nullArray {
		*v = c.take(boundedInt(n))
	}
}

// boundedInt converts a length on the wire to an int, and one that does not fit
// an int of 32 bits to -1.
func boundedInt(n uint32) int {
	if n > math.MaxInt32 {
		return -1
	}
	return int(n)
}

// array walks a list that follows its count. Each item takes at least minSize
// bytes. When decoding, a count that cannot fit into the rest of the frame
// fails before anything is allocated for it. Null and an empty list are both
// read as nil; an empty list is written.
func array[T any](c *codec, v *[]T, minSize int, item func(*codec, *T)) {
	n := uint32(len(*v))
	c.u32(&n)
	if !c.decoding {
		for i := range *v {
			item(c, &(*v)[i])
		}
		return
	}
	*v = nil
	if c.err != nil || n == 0 || n == nullArray {
		return
	}
	if uint64(n)*uint64(minSize) > uint64(len(c.buf)) {
		c.fail("array longer than its frame")
		return
	}
	*v = make([]T, n)
	for i := 0; i < len(*v) && c.err == nil; i++ {
		item(c, &(*v)[i])
	}
}

func (c *codec) strs(v *[]string) { array(c, v, 2, (*codec).str) }

func (c *codec) props(v *Properties) {
	array(c, (*[]Property)(v), 4, func(c *codec, p *Property) {
		c.str(&p.Key)
		c.str(&p.Value)
	})
}

// optionalProps walks properties at the end of a frame, which may be missing
// altogether. Empty ones are not written.
func (c *codec) optionalProps(v *Properties) {
	if c.decoding && len(c.buf) == 0 || !c.decoding && len(*v) == 0 {
		return
	}
	c.props(v)
}

// Property is one pair of a map on the wire.
type Property struct{ Key, Value string }

// Properties is a map on the wire, in the order in which it was sent.
type Properties []Property

// Get returns the value of key and whether there is one. If a key occurs
// several times, the last one counts, as in a map.
func (p Properties) Get(key string) (string, bool) {
	for i := len(p) - 1; i >= 0; i-- {
		if p[i].Key == key {
			return p[i].Value, true
		}
	}
	return "", false
}
