package stream

import (
	"encoding/binary"
	"fmt"
	"time"
)

// This file takes the bytes of a message apart. It does not look into a section
// unless that section is asked for, so that what is wrong with one does not
// hide the others.

// section is one section of a message.
type section struct {
	code  byte
	whole []byte // with its descriptor
	value []byte // with its constructor
}

// sectionNames are the descriptors of the sections as symbols. Most clients
// send the codes.
var sectionNames = map[string]byte{
	"amqp:header:list":                sectionHeader,
	"amqp:delivery-annotations:map":   sectionDeliveryAnnotations,
	"amqp:message-annotations:map":    sectionAnnotations,
	"amqp:properties:list":            sectionProperties,
	"amqp:application-properties:map": sectionApplicationProperties,
	"amqp:data:binary":                sectionData,
	"amqp:amqp-sequence:list":         sectionSequence,
	"amqp:amqp-value:*":               sectionValue,
	"amqp:footer:map":                 sectionFooter,
}

// cutSection returns the section at the front of b, and what follows it. ok is
// false if there is no whole section.
func cutSection(b []byte) (s section, rest []byte, ok bool) {
	code, head := sectionCode(b)
	if code < sectionHeader || code > sectionFooter {
		return section{}, nil, false
	}
	size := sizeOfValue(b[head:])
	if size < 0 {
		return section{}, nil, false
	}
	end := head + size
	return section{code: code, whole: b[:end:end], value: b[head:end:end]}, b[end:], true
}

// sectionCode returns the code of the descriptor at the front of b, and its
// size in bytes. The code is 0 if b begins with no descriptor of a section.
func sectionCode(b []byte) (code byte, head int) {
	if len(b) < 4 || b[0] != 0 {
		return 0, 0
	}
	if b[1] == 0x53 { // a small ulong, as everybody sends it
		return b[2], 3
	}
	size, start := valueSize(b[1:])
	if size < 0 {
		return 0, 0
	}
	switch content := b[1+start : 1+size]; b[1] {
	case 0x80:
		if n := binary.BigEndian.Uint64(content); n <= sectionFooter {
			return byte(n), 1 + size
		}
	case 0xa3, 0xb3:
		return sectionNames[string(content)], 1 + size
	}
	return 0, 0
}

// content returns the content of a section whose value is binary, a string or
// a symbol.
func (s *section) content() []byte {
	size, head := valueSize(s.value)
	return s.value[head:size:size] // so that append does not write into what follows
}

// findSection returns the value of a message's first section with a code, or
// nil if it has none. ok is false for a message that is not AMQP 1.0.
func findSection(raw []byte, code byte) (value []byte, ok bool) {
	ok = len(raw) > 0
	for len(raw) > 0 && ok {
		var s section
		if s, raw, ok = cutSection(raw); ok && s.code == code && value == nil {
			value = s.value
		}
	}
	return value, ok
}

// plainBody returns the body of a message that has the form which appendData
// makes, as most have. ok is false for any other message.
func plainBody(raw []byte) (body []byte, ok bool) {
	if len(raw) < 5 || raw[0] != 0 || raw[1] != 0x53 || raw[2] != sectionData {
		return nil, false
	}
	switch {
	case raw[3] == 0xa0 && len(raw) == 5+int(raw[4]):
		return raw[5:len(raw):len(raw)], true
	case raw[3] == 0xb0 && len(raw) > 8+255 && uint64(len(raw)) == 8+uint64(binary.BigEndian.Uint32(raw[4:])):
		return raw[8:len(raw):len(raw)], true
	}
	return nil, false
}

// bodyOf finds the body without decoding the message. The body is the bytes of
// the data section, of several data sections one behind the other, or of a
// value section that is a string or binary. It aliases raw, except for that of
// several data sections. A message that is not AMQP 1.0 is its own body, and ok
// is false.
func bodyOf(raw []byte) (body []byte, ok bool) {
	data, size := 0, 0 // the sections of data, and their bytes
	for rest := raw; len(rest) > 0; {
		var s section
		if s, rest, ok = cutSection(rest); !ok {
			return raw, false
		}
		switch {
		case s.code == sectionData && s.value[0] != 0xa0 && s.value[0] != 0xb0:
			return raw, false
		case s.code == sectionData:
			body = s.content()
			data, size = data+1, size+len(body)
		case s.code == sectionValue && isBytes(s.value[0]):
			body = s.content()
		}
	}
	if data > 1 {
		body = joinData(raw, size)
	}
	return body, len(raw) > 0
}

// joinData returns the contents of all data sections, which have size bytes
// together.
func joinData(raw []byte, size int) []byte {
	body := make([]byte, 0, size)
	for len(raw) > 0 {
		s, rest, _ := cutSection(raw)
		if s.code == sectionData {
			body = append(body, s.content()...)
		}
		raw = rest
	}
	return body
}

// isBytes reports whether a value is binary, a string or a symbol.
func isBytes(constructor byte) bool {
	switch constructor {
	case 0xa0, 0xb0, 0xa1, 0xb1, 0xa3, 0xb3:
		return true
	}
	return false
}

// sizeOfValue returns the size in bytes of the AMQP value at the front of b,
// which may be a described one. It is -1 if there is no whole value. It does
// not recurse, because descriptors may have descriptors without end.
func sizeOfValue(b []byte) int {
	at := 0
	for missing := 1; missing > 0; {
		if at < len(b) && b[at] == 0 { // a descriptor and a value follow
			at++
			missing++
			continue
		}
		size, _ := valueSize(b[at:])
		if size < 0 {
			return -1
		}
		at += size
		missing--
	}
	return at
}

// valueSize returns the size in bytes of the AMQP value at the front of b,
// which is not a described one (OASIS AMQP 1.0, part 1, section 1.2). head is
// how many of them come before the value's content. If b is too short or begins
// with no value, size is -1.
func valueSize(b []byte) (size, head int) {
	if len(b) == 0 {
		return -1, 0
	}
	if size, head = contentSize(b[0], b[1:]); size < 0 {
		return -1, 0
	}
	return 1 + size, 1 + head
}

// contentSize returns the size in bytes of what follows a constructor. head is
// how many of them have the length of the content.
func contentSize(constructor byte, b []byte) (size, head int) {
	switch constructor >> 4 {
	case 0x4:
	case 0x5, 0x6, 0x7, 0x8, 0x9:
		size = 1 << (constructor>>4 - 5)
	case 0xa, 0xc, 0xe:
		if head = 1; len(b) < head {
			return -1, 0
		}
		size = head + int(b[0])
	case 0xb, 0xd, 0xf:
		if head = 4; len(b) < head {
			return -1, 0
		}
		n := binary.BigEndian.Uint32(b)
		if uint64(n) > uint64(len(b)-head) {
			return -1, 0
		}
		size = head + int(n)
	default:
		return -1, 0
	}
	if size > len(b) {
		return -1, 0
	}
	return size, head
}

// readMap returns the content of a section that is a map, or nil for one that
// is null. A key that is no string becomes its text.
func readMap(value []byte) (map[string]any, error) {
	v, err := readValue(value)
	if err != nil {
		return nil, err
	}
	switch m := v.(type) {
	case nil:
		return nil, nil
	case map[string]any:
		return m, nil
	case map[Symbol]any:
		return textKeys(m), nil
	case map[any]any:
		return textKeys(m), nil
	}
	return nil, fmt.Errorf("it is a %T and not a map", v)
}

func textKeys[K comparable](m map[K]any) map[string]any {
	out := make(map[string]any, len(m))
	for k, v := range m {
		out[fmt.Sprint(k)] = v
	}
	return out
}

// fields are the fields of a section that is a list. Those at the end may be
// missing, and the others null.
type fields struct {
	list []any
	err  error // of the first field that has a wrong type
}

// readFields returns the fields of a section that has at most n.
func readFields(value []byte, n int) (*fields, error) {
	v, err := readValue(value)
	if err != nil {
		return nil, err
	}
	list, ok := v.([]any)
	switch {
	case v == nil:
		return nil, nil
	case !ok:
		return nil, fmt.Errorf("it is a %T and not a list", v)
	case len(list) > n:
		return nil, fmt.Errorf("it has %d fields, and not %d at most", len(list), n)
	}
	return &fields{list: list}, nil
}

// field returns a field, or the default if it is missing.
func field[T any](f *fields, i int, missing T) T {
	if i >= len(f.list) || f.list[i] == nil {
		return missing
	}
	if v, ok := f.list[i].(T); ok {
		return v
	}
	if f.err == nil {
		f.err = fmt.Errorf("field %d is a %T and not a %T", i, f.list[i], missing)
	}
	return missing
}

// text returns a field that is a string or a symbol.
func (f *fields) text(i int) string {
	if i < len(f.list) {
		if s, ok := f.list[i].(Symbol); ok {
			return string(s)
		}
	}
	return field(f, i, "")
}

// id returns a field that has one of several types.
func (f *fields) id(i int) any {
	if i < len(f.list) {
		return f.list[i]
	}
	return nil
}

// readProperties returns the standard properties of a section, or nil if it is
// null.
func readProperties(value []byte) (*Properties, error) {
	f, err := readFields(value, 13)
	if f == nil {
		return nil, err
	}
	p := &Properties{
		MessageID: f.id(0), UserID: field[[]byte](f, 1, nil), To: f.text(2), Subject: f.text(3), ReplyTo: f.text(4),
		CorrelationID: f.id(5), ContentType: f.text(6), ContentEncoding: f.text(7),
		AbsoluteExpiryTime: field(f, 8, time.Time{}), CreationTime: field(f, 9, time.Time{}),
		GroupID: f.text(10), GroupSequence: field(f, 11, uint32(0)), ReplyToGroupID: f.text(12),
	}
	if f.err != nil {
		return nil, f.err
	}
	return p, nil
}

// defaultPriority is that of a header without one (OASIS AMQP 1.0, part 3,
// section 3.2.1).
const defaultPriority = 4

// readHeader returns the header of a section, or nil if it is null.
func readHeader(value []byte) (*Header, error) {
	f, err := readFields(value, 5)
	if f == nil {
		return nil, err
	}
	h := &Header{
		Durable: field(f, 0, false), Priority: field(f, 1, byte(defaultPriority)), TTL: time.Duration(field(f, 2, uint32(0))) * time.Millisecond,
		FirstAcquirer: field(f, 3, false), DeliveryCount: field(f, 4, uint32(0)),
	}
	if f.err != nil {
		return nil, f.err
	}
	return h, nil
}
