package stream

import (
	"time"
)

// Message is what a producer publishes: a body and, where wanted, the other
// sections of an AMQP 1.0 message. Only the fields that are set are sent.
type Message struct {
	// Body is the message's data section. It is copied: it may be changed once
	// the call that published it has returned. Nil is an empty body.
	Body []byte
	// Value is sent as an AMQP value section in place of Body: nil, bool, an
	// integer or float type, string, []byte, time.Time, [UUID], []any,
	// map[string]any or map[any]any.
	Value any

	Properties            *Properties
	ApplicationProperties map[string]any
	// Annotations are the message annotations. Keys that begin with x- are
	// kept by AMQP 0.9.1 consumers as headers.
	Annotations         map[string]any
	DeliveryAnnotations map[string]any
	Header              *Header
	Footer              map[string]any

	// PublishingID numbers the message for the broker's deduplication, which
	// needs a producer with a name. 0, the default, lets the producer count on
	// from the last id that the broker knows. Ids of one's own must grow, and
	// start at 1.
	PublishingID uint64

	// Key is what a super stream's producer chooses the partition by. On a plain
	// stream it does nothing, and is not sent.
	Key string
	// FilterValue lets consumers that ask for it skip chunks without it
	// (RabbitMQ 3.13 or newer), 255 bytes at most. Default "": none. Where messages
	// with one follow messages without, or the other way round, the producer waits
	// for the confirmation of those before. Not with ProducerConfig.SubEntries.
	FilterValue string

	raw []byte // the message as it is sent, in place of all but PublishingID
}

// Properties are the standard properties of an AMQP 1.0 message (OASIS AMQP
// 1.0, part 3, section 3.2.4). Zero values are not sent.
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

// Header is the header section of an AMQP 1.0 message. Streams do not act on
// it; it is carried for the message's readers. A Header that is sent has all
// its fields: the standard's default priority is 4.
type Header struct {
	Durable       bool
	Priority      uint8
	TTL           time.Duration // resolution: milliseconds
	FirstAcquirer bool
	DeliveryCount uint32
}

// UUID is an AMQP 1.0 uuid.
type UUID [16]byte
