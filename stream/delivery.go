package stream

import (
	"time"

	"github.com/Azure/go-amqp"
)

// Delivery is a message as a consumer gets it. It may be kept after the handler
// has returned; it then keeps up to 255 others in memory, or those of its
// sub-batch. Changing its Body changes nothing else.
// Its methods decode the message's other sections when they are asked for;
// they are not safe for concurrent use on one Delivery.
type Delivery struct {
	// Stream is the stream it was read from.
	Stream string
	// Offset is its place in the stream. Offsets grow from message to message,
	// not always by 1: the broker's own entries take some.
	Offset uint64
	// Timestamp is when the broker wrote the chunk of which the message is a
	// part, by the broker's clock, in milliseconds and UTC.
	Timestamp time.Time
	// Body is the data of the message, or the bytes of a value that is a
	// string or binary. If the message is not AMQP 1.0, as when rstream
	// publishes bare bytes, Body is the message as it stands, and the methods
	// return [ErrMalformed].
	Body []byte

	// sections has what is not Body. Nil: the message is one section of data in
	// its shortest form, as most are.
	sections *sections
}

// sections are a message as it was published, and what was found in it.
type sections struct {
	raw []byte
	msg *amqp.Message // nil until asked for
	err error
}

var noSections amqp.Message

// decode decodes the message once.
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

// Raw returns the message's bytes as they were published. They must not be
// changed: Body may be a part of them.
func (d *Delivery) Raw() []byte {
	if d.sections == nil {
		return appendData(nil, d.Body)
	}
	return d.sections.raw
}

// Properties returns the standard properties, nil where the message has none.
// A message that is not AMQP 1.0 is [ErrMalformed].
func (d *Delivery) Properties() (*Properties, error) {
	m, err := d.decode()
	if err != nil || m.Properties == nil {
		return nil, err
	}
	return propertiesIn(m.Properties), nil
}

// ApplicationProperties returns the application's properties, nil where the
// message has none. A message that is not AMQP 1.0 is [ErrMalformed].
func (d *Delivery) ApplicationProperties() (map[string]any, error) {
	m, err := d.decode()
	if err != nil || m.ApplicationProperties == nil {
		return nil, err
	}
	return mapMap(m.ApplicationProperties, valueIn), nil
}

// Annotations returns the message annotations, nil where the message has none:
// for one published over AMQP 0.9.1, x-exchange and x-routing-key among them.
// A message that is not AMQP 1.0 is [ErrMalformed].
func (d *Delivery) Annotations() (map[string]any, error) {
	m, err := d.decode()
	if err != nil {
		return nil, err
	}
	return annotationsIn(m.Annotations), nil
}

// DeliveryAnnotations returns the delivery annotations, nil where the message
// has none. A message that is not AMQP 1.0 is [ErrMalformed].
func (d *Delivery) DeliveryAnnotations() (map[string]any, error) {
	m, err := d.decode()
	if err != nil {
		return nil, err
	}
	return annotationsIn(m.DeliveryAnnotations), nil
}

// Footer returns the footer, nil where the message has none. A message that is
// not AMQP 1.0 is [ErrMalformed].
func (d *Delivery) Footer() (map[string]any, error) {
	m, err := d.decode()
	if err != nil {
		return nil, err
	}
	return annotationsIn(m.Footer), nil
}

// Header returns the header, nil where the message has none. A message that is
// not AMQP 1.0 is [ErrMalformed].
func (d *Delivery) Header() (*Header, error) {
	m, err := d.decode()
	if err != nil || m.Header == nil {
		return nil, err
	}
	h := Header(*m.Header)
	return &h, nil
}

// Value returns the content of an AMQP value section, nil where the message
// has a body of data. A message that is not AMQP 1.0 is [ErrMalformed].
func (d *Delivery) Value() (any, error) {
	m, err := d.decode()
	if err != nil {
		return nil, err
	}
	return valueIn(m.Value), nil
}
