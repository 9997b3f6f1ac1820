package stream

import (
	"time"
)

// Message is what a producer publishes: a body and, if they are set, the other
// sections of an AMQP 1.0 message. A producer sends only the fields that are
// set.
//
// A value that does not fit into its field is refused with [ErrInvalidMessage],
// which names the field and the value; nothing wraps around or is cut. Strings
// and the keys of maps are UTF-8. A message, and so each field, has fewer than
// 2^31 bytes, and a frame's worth at most; see [ErrMessageTooLarge].
type Message struct {
	// Body is the message's data section. The producer copies it, so the caller
	// may change it once Publish or PublishAsync has returned. Nil is an empty
	// body.
	Body []byte
	// Value is sent as an AMQP value section in place of Body. Only one of Body,
	// Value and Sequences may be set. Default nil: it is not sent.
	//
	// A value, here and in the maps below, is
	//
	//   - nil, a bool, an integer or float type, string, []byte, or time.Time,
	//     which is kept to the millisecond and has a range of 292 million years
	//     before and after 1970
	//   - [UUID], [Symbol], [Char], [Decimal32], [Decimal64] or [Decimal128]
	//   - []any, whose elements are values
	//   - map[string]any, map[Symbol]any or map[any]any, whose keys are values
	//     other than []byte, for which there is [BinaryKey]; of two keys that
	//     are the same in AMQP, such as int(1) and int64(1), one is refused
	//   - a slice of one of the types of the first two items, for an AMQP array;
	//     [UbyteArray] stands for that of uint8
	//   - [Array] or [Described]
	//
	// A consumer gets the same types back, except that an int comes as an int64
	// and a uint as a uint64. At most 100 values may be nested in each other,
	// the arrays of a section may have 65,536 elements that are nil, and what the
	// sections hold besides Body may have about 16 MiB.
	Value any
	// Sequences are sent as AMQP sequence sections in place of Body, one for
	// each list. Default nil: none.
	Sequences [][]any
	// Raw is the whole message, encoded already, for relays. It is sent as it
	// is, whatever its bytes are: that they are an AMQP 1.0 message is the
	// caller's affair, and other clients may not read anything else. The
	// producer copies it as it copies Body. The fields of sections, which are
	// Body to Footer, must not be set then, or publishing returns
	// [ErrInvalidMessage]; PublishingID and those below it count. For
	// ProducerConfig.CreationTime there is no room. Default nil: the message is
	// made of the fields. An empty Raw is a message of 0 bytes.
	//
	// A relay that reads with this package has [Delivery.Message], which sets
	// Raw and lets the caller replace sections.
	Raw []byte

	Properties *Properties
	// ApplicationProperties are the properties of the application. AMQP 0.9.1
	// consumers get them as headers.
	//
	// RabbitMQ closes the connection of an AMQP 0.9.1 consumer (541,
	// INTERNAL_ERROR) at a message that has a [UUID], a [Char], a decimal or a
	// [Described] among its application properties or annotations, be it in a
	// list, map or array. The consumer meets the message again whenever it
	// comes back. On streams that such consumers read, publish these values as
	// strings; Properties.MessageID and CorrelationID may be UUIDs, and Value
	// may be anything. (RabbitMQ 4.0.5.)
	ApplicationProperties map[string]any
	// Annotations are the message annotations. Their keys are ASCII, as those of
	// DeliveryAnnotations and Footer. AMQP 0.9.1 consumers get them as headers.
	// Each key must then begin with x-, and the values are limited as those of
	// ApplicationProperties; otherwise RabbitMQ closes the connection of such
	// consumers (541).
	Annotations map[string]any
	// DeliveryAnnotations are for the next hop. RabbitMQ closes the connection
	// of AMQP 0.9.1 consumers (541) unless each key begins with x-. They do not
	// get the annotations in either case.
	DeliveryAnnotations map[string]any
	Header              *Header
	// Footer is what follows the body. For AMQP 0.9.1 consumers it is as with
	// DeliveryAnnotations.
	Footer map[string]any

	// PublishingID numbers the message for the broker's deduplication, which
	// needs a producer with a name. If the caller sets it, it is from 1 to 2^63-1,
	// as several tools of RabbitMQ read ids as signed, and grows from message to
	// message; anything else is [ErrInvalidMessage]. Default 0: the producer counts
	// on from the last id that the broker knows, with gaps.
	PublishingID uint64

	// Key says to which partition of a super stream the message goes: see
	// ProducerConfig.Routing. Messages of one key are in order. The key is not sent;
	// who reads needs it in the message too, such as in Properties.Subject. On a
	// plain stream it does nothing.
	Key string
	// FilterValue lets a consumer with a [Filter] skip chunks in which no message
	// has its value; [FilterBy] makes both. It has 255 bytes at most, and
	// does not go with ProducerConfig.SubEntries of 2 or more. Messages with and
	// without a value mix freely. A broker below RabbitMQ 3.13 keeps no values:
	// publishing returns [ErrUnsupported]. Default "": no value.
	FilterValue string

	// origin is the first byte of Raw in a message that was read. As long as Raw
	// is the same, its fields replace sections of Raw, and it gets nothing that
	// its producer did not set.
	origin *byte
}

// Properties are the standard properties of an AMQP 1.0 message (OASIS AMQP
// 1.0, part 3, section 3.2.4). A producer does not send zero values. It refuses
// a value that does not fit; see [Message].
type Properties struct {
	MessageID          any // uint64, [UUID], []byte or string
	UserID             []byte
	To                 string
	Subject            string
	ReplyTo            string
	CorrelationID      any       // uint64, [UUID], []byte or string
	ContentType        string    // ASCII
	ContentEncoding    string    // ASCII
	AbsoluteExpiryTime time.Time // 64 bits of milliseconds
	CreationTime       time.Time // 64 bits of milliseconds
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
	TTL           time.Duration // 1 ms to 2^32-1 ms (49 days), in whole ms; 0: none
	FirstAcquirer bool
	DeliveryCount uint32
}
