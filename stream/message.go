package stream

import (
	"time"
)

// Message is what a producer publishes: a body and, if they are set, the other
// sections of an AMQP 1.0 message. A producer sends only the fields that are
// set.
type Message struct {
	// Body is the message's data section. The producer copies it, so the caller
	// may change it once Publish or PublishAsync has returned. Nil is an empty
	// body.
	Body []byte
	// Value is sent as an AMQP value section in place of Body. Only one of the
	// two may be set. Value is a bool, an integer or float type, string,
	// []byte, time.Time, [UUID], []any, map[string]any or map[any]any. Default
	// nil: Body is sent.
	Value any

	Properties            *Properties
	ApplicationProperties map[string]any
	// Annotations are the message annotations. AMQP 0.9.1 consumers get those
	// whose keys begin with x- as headers.
	Annotations         map[string]any
	DeliveryAnnotations map[string]any
	Header              *Header
	Footer              map[string]any

	// PublishingID numbers the message for the broker's deduplication, which
	// needs a producer with a name. If the caller sets it, it must grow from
	// message to message, and be at least 1. Default 0: the producer counts on
	// from the last id that the broker knows.
	PublishingID uint64

	// Key is for super streams, which producers do not support yet. On a plain
	// stream it does nothing, and is not sent.
	Key string
	// FilterValue lets a consumer that filters skip chunks in which no message
	// has its value (RabbitMQ 3.13 or newer). It has 255 bytes at most, and
	// does not go with ProducerConfig.SubEntries. Between a message with a
	// value and one without, the producer waits until the messages before are
	// confirmed. Consumers of this package do not filter yet. Default "": no
	// value.
	FilterValue string

	raw []byte // the encoded message, in place of all that encode would look at
}

// Properties are the standard properties of an AMQP 1.0 message (OASIS AMQP
// 1.0, part 3, section 3.2.4). A producer does not send zero values.
type Properties struct {
	MessageID          any // uint64, [UUID], []byte or string
	UserID             []byte
	To                 string
	Subject            string
	ReplyTo            string
	CorrelationID      any // uint64, [UUID], []byte or string
	ContentType        string
	ContentEncoding    string
	AbsoluteExpiryTime time.Time // resolution: milliseconds
	CreationTime       time.Time // resolution: milliseconds
	GroupID            string
	GroupSequence      uint32
	ReplyToGroupID     string
}

// Header is the header section of an AMQP 1.0 message (OASIS AMQP 1.0, part 3,
// section 3.2.1). A stream carries it for the message's readers and does not
// act on it. A producer sends all fields of a Header, so Priority 0 is sent
// too; the standard's default is 4.
type Header struct {
	Durable       bool
	Priority      uint8
	TTL           time.Duration // resolution: milliseconds
	FirstAcquirer bool
	DeliveryCount uint32
}

// UUID is an AMQP 1.0 uuid.
type UUID [16]byte
