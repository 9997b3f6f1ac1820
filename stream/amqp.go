package stream

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"
)

// This file encodes AMQP 1.0 messages and takes their bytes apart into
// sections. Its bytes are those that go-amqp's codec writes, which writes some
// arrays only; see valueWriter. The codec returns bytes of its own, and we
// append to the frame that carries the message. The official client has a copy
// of that codec, its package amqp, which we do not use: it reads small negative
// integers as positive ones.

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
	// dataHead is the size of the longest head of a data section.
	dataHead = sectionHead + 5
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

// appendMessage appends the message in AMQP 1.0. If creation is not zero, it is
// sent as Properties.CreationTime of a message that has none and may have one.
// b gets a copy of everything, and a plain message is appended without
// allocating if b has the room. After an error b has its old length. The error
// wraps ErrInvalidMessage, or for a message of 2^31 bytes ErrMessageTooLarge.
func appendMessage(b []byte, m *Message, creation time.Time) ([]byte, error) {
	if !m.lacksCreationTime() {
		creation = time.Time{}
	}
	if size := max(len(m.Body), len(m.Raw)); size > maxEncoded-dataHead {
		return b, tooLong(size)
	}
	if m.Raw == nil && creation.IsZero() && m.plain() {
		return appendData(b, m.Body), nil
	}
	out, err := m.appendSections(b, creation)
	if err != nil {
		return b, fmt.Errorf("%w: %w", ErrInvalidMessage, err)
	}
	if size := len(out) - len(b); size > maxEncoded {
		return b, tooLong(size)
	}
	return out, nil
}

// appendSections appends a message that is more than a body.
func (m *Message) appendSections(b []byte, creation time.Time) ([]byte, error) {
	switch {
	case m.Raw == nil:
		return m.appendNew(b, creation)
	case m.relayed():
		return m.appendOver(b, creation)
	}
	if field := m.setField(); field != "" {
		return nil, fmt.Errorf("it has both Raw and %s; Raw is the whole message, with all sections", field)
	}
	return append(b, m.Raw...), nil
}

// setField returns the name of a field that has a section's content, or "".
func (m *Message) setField() string {
	switch {
	case m.Body != nil:
		return "Body"
	case m.Value != nil:
		return "Value"
	case m.Sequences != nil:
		return "Sequences"
	case m.Properties != nil:
		return "Properties"
	case m.ApplicationProperties != nil:
		return "ApplicationProperties"
	case m.Annotations != nil:
		return "Annotations"
	case m.DeliveryAnnotations != nil:
		return "DeliveryAnnotations"
	case m.Header != nil:
		return "Header"
	case m.Footer != nil:
		return "Footer"
	}
	return ""
}

// relayed reports whether the message comes from a Delivery, and has the Raw
// that came with it.
func (m *Message) relayed() bool { return m.origin != nil && m.origin == firstByte(m.Raw) }

// firstByte returns where a slice begins. All slices without memory begin at one
// place.
func firstByte(b []byte) *byte {
	if cap(b) == 0 {
		return &noByte
	}
	return &b[:1][0]
}

var noByte byte

// maxEncoded is how many bytes an encoded message may have at most: the top bit
// of its length marks a sub-batch.
const maxEncoded = math.MaxInt32

func tooLong(size int) error {
	return fmt.Errorf("%w: it has %d bytes; the protocol allows %d", ErrMessageTooLarge, size, maxEncoded)
}

// messageSize returns how many bytes appendMessage appends. known is false where
// the size shows only once the message is encoded.
func messageSize(m *Message, creation time.Time) (size int, known bool) {
	switch {
	case m.Raw != nil && m.setField() == "":
		return len(m.Raw), true
	case m.Raw != nil || !m.plain() || !creation.IsZero() && m.lacksCreationTime():
		return 0, false
	}
	if len(m.Body) <= 255 {
		return sectionHead + 2 + len(m.Body), true
	}
	return dataHead + len(m.Body), true
}

// appendNew appends the sections that the message has.
func (m *Message) appendNew(b []byte, creation time.Time) (_ []byte, err error) {
	limit := len(b) + maxSections
	for place := range places {
		if place == placeBody {
			limit += len(m.Body)
		}
		if b, err = m.appendSection(b, place, creation, limit); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// appendOver appends m.Raw with the sections replaced that the caller has set.
func (m *Message) appendOver(b []byte, creation time.Time) ([]byte, error) {
	body, isAMQP := bodyOf(m.Raw)
	bodyChanged := m.Body != nil && !bytes.Equal(m.Body, body)
	if !bodyChanged && m.plain() {
		return append(b, m.Raw...), nil
	}
	changed, raw := *m, m.Raw
	if !bodyChanged {
		changed.Body = nil
	}
	if !isAMQP {
		raw = appendData(nil, m.Raw)
	}
	var sections [places][]byte
	for place := range sections {
		if place == placeBody && !bodyChanged && m.Value == nil && m.Sequences == nil {
			continue
		}
		var err error
		if sections[place], err = changed.appendSection(nil, place, creation, maxSections); err != nil {
			return nil, err
		}
	}
	return appendReplaced(b, raw, sections), nil
}

// appendReplaced appends an AMQP 1.0 message with the sections replaced that are
// not nil. Those that it does not have come where they belong.
func appendReplaced(out, raw []byte, sections [places][]byte) []byte {
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
		b = make([]byte, 0, len(body)+dataHead)
	}
	if len(body) <= 255 {
		b = append(b, 0, 0x53, sectionData, 0xa0, byte(len(body)))
	} else {
		b = binary.BigEndian.AppendUint32(append(b, 0, 0x53, sectionData, 0xb0), uint32(len(body)))
	}
	return append(b, body...)
}

// appendSection appends what the message has at a place. The buffer may become
// as long as limit, data aside. The user's values may be of any type, so it turns
// a panic of the codec into an error.
func (m *Message) appendSection(b []byte, place int, creation time.Time, limit int) (_ []byte, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("it cannot be encoded: %v", r)
		}
	}()
	w := valueWriter{limit: limit, empty: maxEmpty}
	switch place {
	case placeHeader:
		return m.Header.appendTo(b)
	case placeDeliveryAnnotations:
		return w.section(b, sectionDeliveryAnnotations, "DeliveryAnnotations", m.DeliveryAnnotations)
	case placeAnnotations:
		return w.section(b, sectionAnnotations, "Annotations", m.Annotations)
	case placeProperties:
		return appendProperties(b, m.Properties, creation)
	case placeApplicationProperties:
		return w.section(b, sectionApplicationProperties, "ApplicationProperties", m.ApplicationProperties)
	case placeBody:
		return w.body(b, m)
	}
	return w.section(b, sectionFooter, "Footer", m.Footer)
}

// body appends the section, or the sections, of the body.
func (w *valueWriter) body(b []byte, m *Message) (_ []byte, err error) {
	kinds := 0
	for _, set := range [...]bool{m.Body != nil, m.Value != nil, m.Sequences != nil} {
		if set {
			kinds++
		}
	}
	switch {
	case kinds > 1:
		return nil, errors.New("it has more than one of Body, Value and Sequences; AMQP 1.0 allows one of them")
	case m.Value != nil:
		b, err = w.value(append(b, 0, 0x53, sectionValue), m.Value, 0)
		return b, inField("Value", err)
	case m.Sequences == nil:
		return appendData(b, m.Body), nil
	case len(m.Sequences) == 0:
		return nil, errors.New("its Sequences are empty; the body needs one at least, which may have no elements")
	}
	for i, list := range m.Sequences {
		w.empty = maxEmpty
		if b, err = w.list(append(b, 0, 0x53, sectionSequence), list, 0); err != nil {
			return nil, inField(fmt.Sprintf("Sequences[%d]", i), err)
		}
	}
	return b, nil
}

// section appends a section that is a map, unless it is nil. The keys are
// strings in the application properties, and symbols elsewhere.
func (w *valueWriter) section(b []byte, code byte, field string, m map[string]any) (_ []byte, err error) {
	if m == nil {
		return b, nil
	}
	key := appendSymbol[string]
	if code == sectionApplicationProperties {
		key = appendText
	}
	opened := len(b) + sectionHead
	b = openCompound(append(b, 0, 0x53, code), 0xd1, 2*len(m))
	for k, v := range m {
		if b, err = key(b, k); err == nil {
			b, err = w.value(b, v, 1)
		}
		if err != nil {
			return nil, fmt.Errorf("%s[%s]: %w", field, quoted(k), err)
		}
	}
	return closeCompound(b, opened), nil
}

// inField returns an error with the name of the field that it is about.
func inField(field string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", field, err)
}

// lacksCreationTime reports whether the message would be sent without a
// creation time, and may have one.
func (m *Message) lacksCreationTime() bool {
	if m.Properties == nil {
		return m.Raw == nil && !m.relayed()
	}
	return m.Properties.CreationTime.IsZero()
}
