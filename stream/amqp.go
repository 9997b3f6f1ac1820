package stream

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"time"

	"github.com/Azure/go-amqp"
)

// This file encodes AMQP 1.0 messages and takes their bytes apart into
// sections. Our own code handles a message that is one data section, as most
// are. go-amqp's codec writes the other sections, except for values that it
// cannot write; see appendValue. The official client has a copy of that codec,
// its package amqp, which we do not use: it reads small negative integers as
// positive ones.

// The codes of the sections (OASIS AMQP 1.0, part 3, section 3.2). The body is
// made of sections of data, of sequences, or of one value.
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

	// sectionHead is the size of a section's descriptor in its usual form,
	// which is 00 53 code.
	sectionHead = 3
)

// The places of the sections in the order of a message.
const (
	placeHeader = iota
	placeDeliveryAnnotations
	placeAnnotations
	placeProperties
	placeApplicationProperties
	placeBody
	placeFooter
	places
)

// placeOf returns the place of a section.
func placeOf(code byte) int {
	switch {
	case code < sectionData:
		return int(code - sectionHeader)
	case code < sectionFooter:
		return placeBody
	}
	return placeFooter
}

// encode returns the message in AMQP 1.0. The result shares no memory with m.
func (m *Message) encode() ([]byte, error) {
	if m.raw != nil {
		return m.encodeOver()
	}
	if m.plain() {
		return appendData(nil, m.Body), nil
	}
	var b []byte
	for place := range places {
		var err error
		if b, err = m.appendSection(b, place); err != nil {
			return nil, fmt.Errorf("%w: %v", ErrInvalidMessage, err)
		}
	}
	return b, nil
}

// encodeOver returns m.raw with the sections replaced that the caller has set.
func (m *Message) encodeOver() ([]byte, error) {
	body, isAMQP := bodyOf(m.raw)
	changed := *m
	bodyChanged := m.Body != nil && !bytes.Equal(m.Body, body)
	if !bodyChanged {
		changed.Body = nil
	}
	if !bodyChanged && changed.plain() {
		return bytes.Clone(m.raw), nil
	}
	raw := m.raw
	if !isAMQP {
		raw = appendData(nil, m.raw)
	}
	var sections [places][]byte
	for place := range sections {
		if place == placeBody && !bodyChanged && m.Value == nil && m.Sequences == nil {
			continue
		}
		var err error
		if sections[place], err = changed.appendSection(nil, place); err != nil {
			return nil, fmt.Errorf("%w: %v", ErrInvalidMessage, err)
		}
	}
	return replaceSections(raw, sections), nil
}

// replaceSections returns an AMQP 1.0 message with the sections replaced that
// are not nil. Those that it does not have come where they belong.
func replaceSections(raw []byte, sections [places][]byte) []byte {
	var out []byte
	replaced, next := sections, 0
	for len(raw) > 0 {
		s, rest, ok := cutSection(raw)
		if !ok {
			break // cannot happen: the caller has looked
		}
		place := placeOf(s.code)
		for ; next <= place; next++ {
			out, sections[next] = append(out, sections[next]...), nil
		}
		if replaced[place] == nil {
			out = append(out, s.whole...)
		}
		raw = rest
	}
	for ; next < places; next++ {
		out = append(out, sections[next]...)
	}
	return out
}

// plain reports whether the message has nothing but a body.
func (m *Message) plain() bool {
	return m.Value == nil && m.Sequences == nil && m.Properties == nil && m.ApplicationProperties == nil && m.Annotations == nil &&
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

// appendSection appends what the message has at a place. The user's values may
// be of any type, so it turns a panic of the codec into an error.
func (m *Message) appendSection(b []byte, place int) (_ []byte, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("cannot be encoded: %v", r)
		}
	}()
	switch place {
	case placeHeader:
		return m.Header.appendTo(b)
	case placeDeliveryAnnotations:
		return appendAnnotations(b, sectionDeliveryAnnotations, m.DeliveryAnnotations)
	case placeAnnotations:
		return appendAnnotations(b, sectionAnnotations, m.Annotations)
	case placeProperties:
		return m.Properties.appendTo(b)
	case placeApplicationProperties:
		return appendApplicationProperties(b, m.ApplicationProperties)
	case placeBody:
		return m.appendBody(b)
	}
	return appendAnnotations(b, sectionFooter, m.Footer)
}

// appendBody appends the section, or the sections, of the body.
func (m *Message) appendBody(b []byte) (_ []byte, err error) {
	kinds := 0
	for _, set := range []bool{m.Body != nil, m.Value != nil, m.Sequences != nil} {
		if set {
			kinds++
		}
	}
	switch {
	case kinds > 1:
		return nil, fmt.Errorf("it has more than one of Body, Value and Sequences; AMQP 1.0 allows one of them")
	case m.Value != nil:
		return appendValue(append(b, 0, 0x53, sectionValue), m.Value, 0)
	case m.Sequences == nil:
		return appendData(b, m.Body), nil
	case len(m.Sequences) == 0:
		return nil, fmt.Errorf("its Sequences are empty; the body needs one at least, which may have no elements")
	}
	for _, list := range m.Sequences {
		if b, err = appendList(append(b, 0, 0x53, sectionSequence), list, 0); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// appendApplicationProperties appends the section, unless it is nil.
func appendApplicationProperties(b []byte, props map[string]any) ([]byte, error) {
	switch {
	case props == nil:
		return b, nil
	case !simple(props):
		return appendMap(append(b, 0, 0x53, sectionApplicationProperties), props, 0)
	}
	return appendSections(b, &amqp.Message{ApplicationProperties: props})
}

// appendAnnotations appends a section of annotations, whose keys are symbols,
// unless it is nil.
func appendAnnotations(b []byte, code byte, notes map[string]any) ([]byte, error) {
	if notes == nil {
		return b, nil
	}
	if !simple(notes) {
		symbols := make(map[Symbol]any, len(notes))
		for k, v := range notes {
			symbols[Symbol(k)] = v
		}
		return appendMap(append(b, 0, 0x53, code), symbols, 0)
	}
	out := make(amqp.Annotations, len(notes))
	for k, v := range notes {
		out[k] = v
	}
	at := len(b)
	b, err := appendSections(b, &amqp.Message{Annotations: out})
	if err == nil {
		b[at+2] = code
	}
	return b, err
}

// simple reports whether the codec writes all values of a map, and writes them
// right.
func simple(m map[string]any) bool {
	for _, v := range m {
		switch v.(type) {
		case nil, bool, int, int8, int16, int32, int64, uint, uint8, uint16, uint32, uint64, float32, float64, string, []byte, time.Time:
		default:
			return false
		}
	}
	return true
}

// appendSections appends the sections that the codec writes.
func appendSections(b []byte, m *amqp.Message) ([]byte, error) {
	out, err := m.MarshalBinary()
	if len(b) == 0 {
		return out, err
	}
	return append(b, out...), err
}

// appendTo appends the section, unless it is nil.
func (h *Header) appendTo(b []byte) ([]byte, error) {
	if h == nil {
		return b, nil
	}
	if ms := h.TTL.Milliseconds(); ms < 0 || ms > math.MaxUint32 {
		return nil, fmt.Errorf("Header.TTL is %v; it must be from 0 to %v", h.TTL, math.MaxUint32*time.Millisecond)
	}
	header := amqp.MessageHeader(*h)
	return appendSections(b, &amqp.Message{Header: &header})
}

// appendTo appends the section, unless it is nil. It rejects ids of types that
// the standard does not allow, because the codec would send them.
func (p *Properties) appendTo(b []byte) ([]byte, error) {
	if p == nil {
		return b, nil
	}
	for _, id := range []any{p.MessageID, p.CorrelationID} {
		switch id.(type) {
		case nil, uint64, UUID, []byte, string:
		default:
			return nil, fmt.Errorf("an id is a %T; it must be a uint64, UUID, []byte or string", id)
		}
	}
	return appendSections(b, &amqp.Message{Properties: &amqp.MessageProperties{
		MessageID: idOut(p.MessageID), UserID: p.UserID, To: unlessZero(p.To), Subject: unlessZero(p.Subject),
		ReplyTo: unlessZero(p.ReplyTo), CorrelationID: idOut(p.CorrelationID),
		ContentType: unlessZero(p.ContentType), ContentEncoding: unlessZero(p.ContentEncoding),
		AbsoluteExpiryTime: unlessZero(p.AbsoluteExpiryTime), CreationTime: unlessZero(p.CreationTime),
		GroupID: unlessZero(p.GroupID), GroupSequence: unlessZero(p.GroupSequence), ReplyToGroupID: unlessZero(p.ReplyToGroupID),
	}})
}

// idOut returns an id as the codec takes it.
func idOut(id any) any {
	if u, ok := id.(UUID); ok {
		return amqp.UUID(u)
	}
	return id
}

func unlessZero[T string | uint32 | time.Time](v T) *T {
	if v == *new(T) {
		return nil
	}
	return &v
}

// lacksCreationTime reports whether the message would be sent without a
// creation time, and may have one.
func (m *Message) lacksCreationTime() bool {
	if m.Properties == nil {
		return m.raw == nil && !m.forwarded
	}
	return m.Properties.CreationTime.IsZero()
}
