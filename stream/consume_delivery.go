package stream

import (
	"time"

	"github.com/Azure/go-amqp"
)

// Delivery is a message as a consumer gets it. The handler may keep it. A
// Delivery that is kept also keeps the memory that it shares with its
// neighbours: a block of up to 256 messages, its batch, or its sub-batch. A
// change of Body may change Raw and a dead letter of the same message, and
// changes no other message.
//
// The methods decode the message's other sections when they are called. They
// are not safe for concurrent use on one Delivery.
type Delivery struct {
	// Stream is the stream that the message was read from.
	Stream string
	// Offset is the message's place in the stream. Offsets grow from message to
	// message, not always by 1, because the broker's own entries take some.
	Offset uint64
	// Timestamp is when the broker wrote the message's chunk, by the broker's
	// clock: in UTC, with a resolution of milliseconds.
	Timestamp time.Time
	// Body is the message's data, or the bytes of a value that is a string or
	// binary. If the message is not AMQP 1.0, as when rstream publishes bare
	// bytes, Body is the whole message, and the methods return [ErrMalformed].
	Body []byte

	// sections is nil for a message that is one section of data in its shortest
	// form, as most are. Body then says everything.
	sections *sections
}

// sections are a message as it was published, and what decoding found in it.
type sections struct {
	raw []byte
	msg *amqp.Message // nil until decoded
	err error         // why it cannot be decoded
}

// noSections is what a message without sections decodes to.
var noSections amqp.Message

// decode returns the decoded message. It decodes on the first call and returns
// the same after that.
func (d *Delivery) decode() (*amqp.Message, error) {
	s := d.sections
	if s == nil {
		return &noSections, nil
	}
	if s.msg == nil && s.err == nil {
		s.msg, s.err = unmarshal(s.raw)
	}
	return s.msg, s.err
}

// Raw returns the message as it was published, in AMQP 1.0 or whatever its
// producer sent. The caller must not change it, because Body may be a part of
// it.
func (d *Delivery) Raw() []byte {
	if d.sections == nil {
		return appendData(nil, d.Body)
	}
	return d.sections.raw
}

// Properties returns the standard properties, or nil if the message has none.
// For a message that is not AMQP 1.0 it returns [ErrMalformed].
func (d *Delivery) Properties() (*Properties, error) {
	m, err := d.decode()
	if err != nil || m.Properties == nil {
		return nil, err
	}
	return propertiesIn(m.Properties), nil
}

// ApplicationProperties returns the properties that the application has set, or
// nil if the message has none. For a message that is not AMQP 1.0 it returns
// [ErrMalformed].
func (d *Delivery) ApplicationProperties() (map[string]any, error) {
	m, err := d.decode()
	if err != nil || m.ApplicationProperties == nil {
		return nil, err
	}
	return mapMap(m.ApplicationProperties, valueIn), nil
}

// Annotations returns the message annotations, or nil if the message has none.
// A message that was published over AMQP 0.9.1 has x-exchange and x-routing-key
// among them. For a message that is not AMQP 1.0 it returns [ErrMalformed].
func (d *Delivery) Annotations() (map[string]any, error) {
	m, err := d.decode()
	if err != nil {
		return nil, err
	}
	return annotationsIn(m.Annotations), nil
}

// DeliveryAnnotations returns the delivery annotations, or nil if the message
// has none. For a message that is not AMQP 1.0 it returns [ErrMalformed].
func (d *Delivery) DeliveryAnnotations() (map[string]any, error) {
	m, err := d.decode()
	if err != nil {
		return nil, err
	}
	return annotationsIn(m.DeliveryAnnotations), nil
}

// Footer returns the footer, or nil if the message has none. For a message that
// is not AMQP 1.0 it returns [ErrMalformed].
func (d *Delivery) Footer() (map[string]any, error) {
	m, err := d.decode()
	if err != nil {
		return nil, err
	}
	return annotationsIn(m.Footer), nil
}

// Header returns the header, or nil if the message has none. For a message that
// is not AMQP 1.0 it returns [ErrMalformed].
func (d *Delivery) Header() (*Header, error) {
	m, err := d.decode()
	if err != nil || m.Header == nil {
		return nil, err
	}
	h := Header(*m.Header)
	return &h, nil
}

// Value returns the content of an AMQP value section, or nil if the body is
// data. For a message that is not AMQP 1.0 it returns [ErrMalformed].
func (d *Delivery) Value() (any, error) {
	m, err := d.decode()
	if err != nil {
		return nil, err
	}
	return valueIn(m.Value), nil
}
