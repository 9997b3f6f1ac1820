package stream

import (
	"fmt"
	"time"
)

// Delivery is a message as a consumer gets it. The handler may keep it, unless
// ConsumerConfig.ReuseDelivery is set. A Delivery that is kept also keeps the
// memory that it shares with its neighbours: its batch, its sub-batch, or a block
// of up to 256 messages. These are of one chunk, or of several small ones that
// came together and have up to 28 KiB of data in all; small chunks lie in memory
// that up to 16 KiB of them share.
//
// The handler may change a Delivery and what it returns. That changes no other
// message, and not what a further attempt or a dead letter of the same message
// gets: with an [ErrorPolicy] that provides for these, the consumer keeps a copy
// of each message, or batch, until it is handled.
//
// The methods decode one section of the message each, every time they are
// called. What is wrong with a section does not concern the others. The values
// have the types that Message.Value lists, with times in UTC. At most 100
// values may be nested in each other, and the keys of a map must not be lists,
// maps or arrays; otherwise a method returns [ErrMalformed].
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
	// binary. If the message has several sections of data, Body has one behind
	// the other, with nothing between them. Any other value is in Value, and a
	// body of sequences is in Sequences; Body is then empty. If the message is
	// not AMQP 1.0, as when rstream publishes bare bytes, Body is the whole
	// message, and the methods return [ErrMalformed].
	Body []byte

	// sections is nil for the first attempt at a message that is one section of
	// data in its shortest form, as most are. Body then says everything.
	sections *sections
}

// sections are what a Delivery has besides its fields.
type sections struct {
	raw     []byte // the message as it was published
	attempt int    // 0 stands for the first
}

// Attempt returns how often the handler was called for the message in this run,
// this call included: 1 at first, and more only with ErrorPolicy.Attempts. All
// messages of a batch have the batch's number.
func (d *Delivery) Attempt() int {
	if d.sections == nil {
		return 1
	}
	return max(d.sections.attempt, 1)
}

// Raw returns the message as it was published, in AMQP 1.0 or whatever its
// producer sent. Body may be a part of it, and a change of one then changes the
// other.
func (d *Delivery) Raw() []byte {
	if d.sections == nil {
		return appendData(nil, d.Body)
	}
	return d.sections.raw
}

// Message returns a message that publishes the delivery elsewhere: every
// section, byte for byte. It does so for messages that are not AMQP 1.0, too.
//
// Of the fields only Body is set, and Raw unless the message is nothing but a
// body. What else it has is to be read with the methods of the Delivery. A field
// that the caller sets, or a Body that it changes, replaces its section and
// leaves the others as they are; Value and Sequences replace the body. Nil leaves
// a section as it is, and an empty Body or map empties it. A message that is not
// AMQP 1.0 becomes the body of a new message once a field is set.
// ProducerConfig.CreationTime applies only if Properties is set. The filter value
// is not a part of the message, and does not come with it. Raw is not to be
// replaced: other bytes go into a new [Message].
//
// Until it is published, the message shares memory with the Delivery.
func (d *Delivery) Message() Message {
	if d.sections == nil {
		return Message{Body: d.Body, origin: firstByte(nil)}
	}
	return messageOver(d.sections.raw)
}

// messageOver returns a message that is published as raw.
func messageOver(raw []byte) Message {
	if raw == nil {
		raw = []byte{} // because nil stands for a new message
	}
	body, _ := bodyOf(raw)
	return Message{Body: body, Raw: raw, origin: firstByte(raw)}
}

// section returns the value of a section, or nil if the message has none.
func (d *Delivery) section(code byte) ([]byte, error) {
	if d.sections == nil {
		return nil, nil
	}
	value, ok := findSection(d.sections.raw, code)
	if !ok {
		return nil, fmt.Errorf("%w: it is not AMQP 1.0", ErrMalformed)
	}
	return value, nil
}

// decodeSection returns what read makes of a section, or nothing if the message has
// none.
func decodeSection[T any](d *Delivery, code byte, name string, read func([]byte) (T, error)) (v T, err error) {
	value, err := d.section(code)
	if value == nil {
		return v, err
	}
	if v, err = read(value); err != nil {
		return *new(T), fmt.Errorf("%w: %s: %v", ErrMalformed, name, err)
	}
	return v, nil
}

// Properties returns the standard properties, or nil if the message has none.
// If they cannot be decoded, or the message is not AMQP 1.0, it returns
// [ErrMalformed].
func (d *Delivery) Properties() (*Properties, error) {
	return decodeSection(d, sectionProperties, "properties", readProperties)
}

// ApplicationProperties returns the properties that the application has set, or
// nil if the message has none. If they cannot be decoded, or the message is not
// AMQP 1.0, it returns [ErrMalformed].
func (d *Delivery) ApplicationProperties() (map[string]any, error) {
	return decodeSection(d, sectionApplicationProperties, "application properties", readMap)
}

// Annotations returns the message annotations, or nil if the message has none.
// A message that was published over AMQP 0.9.1 has x-exchange and x-routing-key
// among them. A key that is a number becomes its text. If the annotations
// cannot be decoded, or the message is not AMQP 1.0, it returns [ErrMalformed].
func (d *Delivery) Annotations() (map[string]any, error) {
	return decodeSection(d, sectionAnnotations, "annotations", readMap)
}

// DeliveryAnnotations returns the delivery annotations, or nil if the message
// has none. Keys and errors are those of Annotations.
func (d *Delivery) DeliveryAnnotations() (map[string]any, error) {
	return decodeSection(d, sectionDeliveryAnnotations, "delivery annotations", readMap)
}

// Footer returns the footer, or nil if the message has none. Keys and errors
// are those of Annotations.
func (d *Delivery) Footer() (map[string]any, error) {
	return decodeSection(d, sectionFooter, "footer", readMap)
}

// Header returns the header, or nil if the message has none. If it cannot be
// decoded, or the message is not AMQP 1.0, it returns [ErrMalformed].
func (d *Delivery) Header() (*Header, error) {
	return decodeSection(d, sectionHeader, "header", readHeader)
}

// Value returns the content of an AMQP value section. It returns nil if the
// body is data or sequences, and if the value is null. If the value cannot be
// decoded, or the message is not AMQP 1.0, it returns [ErrMalformed].
func (d *Delivery) Value() (any, error) {
	return decodeSection(d, sectionValue, "value", readValue)
}

// Sequences returns the AMQP sequence sections of the body, in their order, or
// nil if the body is data or a value. Most messages with a sequence have one
// section. If one cannot be decoded, or the message is not AMQP 1.0, it returns
// [ErrMalformed].
func (d *Delivery) Sequences() ([][]any, error) {
	if d.sections == nil {
		return nil, nil
	}
	var lists [][]any
	for raw := d.sections.raw; ; {
		s, rest, ok := cutSection(raw)
		switch {
		case !ok:
			return nil, fmt.Errorf("%w: it is not AMQP 1.0", ErrMalformed)
		case s.code == sectionSequence:
			v, err := readValue(s.value)
			list, isList := v.([]any)
			if err == nil && !isList {
				err = fmt.Errorf("it is a %T and not a list", v)
			}
			if err != nil {
				return nil, fmt.Errorf("%w: sequence %d: %v", ErrMalformed, len(lists), err)
			}
			lists = append(lists, list)
		}
		if raw = rest; len(raw) == 0 {
			return lists, nil
		}
	}
}
