package stream

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/Azure/go-amqp"
)

// This file encodes and decodes AMQP 1.0 messages. Our own code handles a
// message that is one data section, as most are, and finds the body of any
// other. The rest is go-amqp's codec. The official client has a copy of that
// codec, its package amqp, which we do not use: it reads small negative
// integers as positive ones.

// The codes of the sections. A section begins with the bytes 00 53 code (OASIS
// AMQP 1.0, part 3, section 3.2).
const (
	sectionHeader                = 0x70
	sectionDeliveryAnnotations   = 0x71
	sectionAnnotations           = 0x72
	sectionProperties            = 0x73
	sectionApplicationProperties = 0x74
	sectionData                  = 0x75
	sectionSequence              = 0x76
	sectionValue                 = 0x77
	sectionFooter                = 0x78
)

// encode returns the message in AMQP 1.0. The result shares no memory with m,
// unless m.raw is set: then it is m.raw.
func (m *Message) encode() ([]byte, error) {
	if m.raw != nil {
		return m.raw, nil
	}
	if m.plain() {
		return appendData(nil, m.Body), nil
	}
	b, err := m.marshal()
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrInvalidMessage, err)
	}
	return b, nil
}

// plain reports whether the message has nothing but a body.
func (m *Message) plain() bool {
	return m.Value == nil && m.Properties == nil && m.ApplicationProperties == nil && m.Annotations == nil &&
		m.DeliveryAnnotations == nil && m.Header == nil && m.Footer == nil
}

// appendData appends a data section in its shortest form.
func appendData(b, body []byte) []byte {
	if b == nil {
		b = make([]byte, 0, len(body)+8)
	}
	if len(body) <= 255 {
		b = append(b, 0, 0x53, sectionData, 0xa0, byte(len(body)))
	} else {
		b = binary.BigEndian.AppendUint32(append(b, 0, 0x53, sectionData, 0xb0), uint32(len(body)))
	}
	return append(b, body...)
}

// marshal encodes the message with the codec. The user's values may be of any
// type, so it turns a panic of the codec into an error.
func (m *Message) marshal() (b []byte, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("cannot be encoded: %v", r)
		}
	}()
	if err := m.Properties.check(); err != nil {
		return nil, err
	}
	out := amqp.Message{
		Annotations:         annotationsOut(m.Annotations),
		DeliveryAnnotations: annotationsOut(m.DeliveryAnnotations),
		Footer:              annotationsOut(m.Footer),
		Properties:          m.Properties.out(),
	}
	if m.Header != nil {
		h := amqp.MessageHeader(*m.Header)
		out.Header = &h
	}
	if m.ApplicationProperties != nil {
		out.ApplicationProperties = make(map[string]any, len(m.ApplicationProperties))
		for k, v := range m.ApplicationProperties {
			out.ApplicationProperties[k] = valueOut(v)
		}
	}
	if m.Value != nil {
		if m.Body != nil {
			return nil, fmt.Errorf("it has both Body and Value; AMQP 1.0 allows one of them")
		}
		out.Value = valueOut(m.Value)
	} else {
		out.Data = [][]byte{m.Body}
	}
	return out.MarshalBinary()
}

// check rejects ids of types that the standard does not allow, because the
// codec would send them.
func (p *Properties) check() error {
	if p == nil {
		return nil
	}
	for _, id := range []any{p.MessageID, p.CorrelationID} {
		switch id.(type) {
		case nil, uint64, UUID, []byte, string:
		default:
			return fmt.Errorf("an id is a %T; it must be a uint64, UUID, []byte or string", id)
		}
	}
	return nil
}

// out returns the properties as the codec takes them.
func (p *Properties) out() *amqp.MessageProperties {
	if p == nil {
		return nil
	}
	return &amqp.MessageProperties{
		MessageID: valueOut(p.MessageID), UserID: p.UserID, To: unlessZero(p.To), Subject: unlessZero(p.Subject),
		ReplyTo: unlessZero(p.ReplyTo), CorrelationID: valueOut(p.CorrelationID),
		ContentType: unlessZero(p.ContentType), ContentEncoding: unlessZero(p.ContentEncoding),
		AbsoluteExpiryTime: unlessZero(p.AbsoluteExpiryTime), CreationTime: unlessZero(p.CreationTime),
		GroupID: unlessZero(p.GroupID), GroupSequence: unlessZero(p.GroupSequence), ReplyToGroupID: unlessZero(p.ReplyToGroupID),
	}
}

// propertiesIn returns the codec's properties as ours.
func propertiesIn(p *amqp.MessageProperties) *Properties {
	return &Properties{
		MessageID: valueIn(p.MessageID), UserID: p.UserID, To: orZero(p.To), Subject: orZero(p.Subject),
		ReplyTo: orZero(p.ReplyTo), CorrelationID: valueIn(p.CorrelationID),
		ContentType: orZero(p.ContentType), ContentEncoding: orZero(p.ContentEncoding),
		AbsoluteExpiryTime: orZero(p.AbsoluteExpiryTime), CreationTime: orZero(p.CreationTime),
		GroupID: orZero(p.GroupID), GroupSequence: orZero(p.GroupSequence), ReplyToGroupID: orZero(p.ReplyToGroupID),
	}
}

func unlessZero[T string | uint32 | time.Time](v T) *T {
	if v == *new(T) {
		return nil
	}
	return &v
}

func orZero[T any](v *T) T {
	if v == nil {
		return *new(T)
	}
	return *v
}

// annotationsOut returns annotations as the codec takes them.
func annotationsOut(m map[string]any) amqp.Annotations {
	if m == nil {
		return nil
	}
	out := make(amqp.Annotations, len(m))
	for k, v := range m {
		out[k] = valueOut(v)
	}
	return out
}

// valueOut replaces our UUID by the codec's, within containers too.
func valueOut(v any) any {
	switch v := v.(type) {
	case UUID:
		return amqp.UUID(v)
	case []any:
		return mapSlice(v, valueOut)
	case map[string]any:
		return mapMap(v, valueOut)
	case map[any]any:
		return mapMap(v, valueOut)
	}
	return v
}

// valueIn replaces the codec's types by ours, within containers too.
func valueIn(v any) any {
	switch v := v.(type) {
	case amqp.UUID:
		return UUID(v)
	case amqp.Symbol:
		return string(v)
	case []any:
		return mapSlice(v, valueIn)
	case map[string]any:
		return mapMap(v, valueIn)
	case map[any]any:
		return mapMap(v, valueIn)
	}
	return v
}

func mapSlice(in []any, f func(any) any) []any {
	out := make([]any, len(in))
	for i, v := range in {
		out[i] = f(v)
	}
	return out
}

func mapMap[K comparable](in map[K]any, f func(any) any) map[K]any {
	out := make(map[K]any, len(in))
	for k, v := range in {
		out[k] = f(v)
	}
	return out
}

// unmarshal decodes a message with the codec. Another client may have published
// any bytes, so it turns a panic of the codec into an error.
func unmarshal(raw []byte) (m *amqp.Message, err error) {
	defer func() {
		if r := recover(); r != nil {
			m, err = nil, fmt.Errorf("%w: %v", ErrMalformed, r)
		}
	}()
	switch sections, ok := sizeOfSections(raw); {
	case !ok:
		return nil, ErrMalformed
	case sections > maxSections:
		return nil, fmt.Errorf("%w: its sections besides the data have %d bytes; at most %d are decoded", ErrMalformed, sections, maxSections)
	}
	m = &amqp.Message{}
	if err := m.UnmarshalBinary(raw); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	return m, nil
}

// maxSections is how many bytes the sections besides the data may have for the
// codec to decode them. A hostile message makes the codec recurse once for each
// three bytes, and a stack that overflows ends the process.
const maxSections = 1 << 20

// sizeOfSections returns the size in bytes of all sections except those of
// data. ok is false for a message that is not AMQP 1.0.
func sizeOfSections(raw []byte) (n int, ok bool) {
	for rest := raw; len(rest) > 0; {
		code, value, _, ok := cutSection(rest)
		if !ok {
			return 0, false
		}
		if code != sectionData {
			n += value
		}
		rest = rest[3+value:]
	}
	return n, len(raw) > 0
}

// cutSection returns the code of the section at the front of b, and the size in
// bytes of its value, which begins at b[3]. head is how many of these bytes
// come before the value's content. ok is false if there is no whole section.
func cutSection(b []byte) (code byte, size, head int, ok bool) {
	if len(b) < 4 || b[0] != 0 || b[1] != 0x53 || b[2] < sectionHeader || b[2] > sectionFooter {
		return 0, 0, 0, false
	}
	size, head = valueSize(b[3:])
	return b[2], size, head, size >= 0
}

// annotationsIn returns the codec's annotations as ours. A key that is a number
// becomes its text.
func annotationsIn(a amqp.Annotations) map[string]any {
	if a == nil {
		return nil
	}
	out := make(map[string]any, len(a))
	for k, v := range a {
		out[fmt.Sprint(k)] = valueIn(v)
	}
	return out
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
// the data section, of several data sections together, or of a value section
// that is a string or binary. The body aliases raw. A message that is not AMQP
// 1.0 is its own body, and ok is false.
func bodyOf(raw []byte) (body []byte, ok bool) {
	found := false
	for rest := raw; len(rest) > 0; {
		code, size, head, ok := cutSection(rest)
		if !ok {
			return raw, false
		}
		value := rest[3+head : 3+size : 3+size] // so that append does not write into what follows
		switch {
		case code == sectionData && rest[3] != 0xa0 && rest[3] != 0xb0:
			return raw, false
		case code == sectionData && found:
			body = append(body[:len(body):len(body)], value...)
		case code == sectionData:
			body, found = value, true
		case code == sectionValue && isBytes(rest[3]):
			body, found = value, true
		}
		rest = rest[3+size:]
	}
	return body, len(raw) > 0
}

// isBytes reports whether a value is binary, a string or a symbol.
func isBytes(constructor byte) bool {
	switch constructor {
	case 0xa0, 0xb0, 0xa1, 0xb1, 0xa3, 0xb3:
		return true
	}
	return false
}

// valueSize returns the size in bytes of the AMQP value at the front of b
// (OASIS AMQP 1.0, part 1, section 1.2). head is how many of them come before
// the value's content. If b is too short or begins with no value, size is -1.
func valueSize(b []byte) (size, head int) {
	if len(b) == 0 {
		return -1, 0
	}
	width := 0
	switch b[0] >> 4 {
	case 0x4:
		size, head = 1, 1
	case 0x5, 0x6, 0x7, 0x8, 0x9:
		size, head = 1+1<<(b[0]>>4-5), 1
	case 0xa, 0xc, 0xe:
		width = 1
	case 0xb, 0xd, 0xf:
		width = 4
	default:
		return -1, 0
	}
	if width > 0 {
		if head = 1 + width; len(b) < head {
			return -1, 0
		}
		n := uint32(b[1])
		if width == 4 {
			n = binary.BigEndian.Uint32(b[1:])
		}
		if uint64(n) > uint64(len(b)-head) {
			return -1, 0
		}
		size = head + int(n)
	}
	if size > len(b) {
		return -1, 0
	}
	return size, head
}
