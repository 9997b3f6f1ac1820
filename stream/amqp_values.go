package stream

// The types of AMQP 1.0 values that Go has no type for (OASIS AMQP 1.0, part 1,
// section 1.6). Messages are published with them, and come back with them. Each
// other value has a Go type; see Message.Value.
type (
	// UUID is an AMQP 1.0 uuid.
	UUID [16]byte
	// Symbol is an AMQP 1.0 symbol, a name from some vocabulary. Publishing one
	// that is not ASCII returns [ErrInvalidMessage].
	Symbol string
	// Char is an AMQP 1.0 char, one Unicode character. Publishing a number that
	// is none, such as a surrogate, returns [ErrInvalidMessage].
	Char rune
	// Decimal32 has the bytes of an AMQP 1.0 decimal32 (IEEE 754-2008, binary
	// integer encoding, the sign first). Go has no arithmetic for it.
	Decimal32 [4]byte
	// Decimal64 has the bytes of an AMQP 1.0 decimal64, as Decimal32 has its
	// own.
	Decimal64 [8]byte
	// Decimal128 has the bytes of an AMQP 1.0 decimal128, as Decimal32 has its
	// own.
	Decimal128 [16]byte
	// UbyteArray is an AMQP 1.0 array of ubyte. A []byte is a binary.
	UbyteArray []byte
	// BinaryKey is a binary as the key of a map, because Go does not allow
	// []byte there.
	BinaryKey string
)

// Array is an AMQP 1.0 array whose elements have no Go slice: all are lists
// ([]any), all are maps, all are arrays, all are nil, or all are [Described]
// with one descriptor. The last kind is read, and not published. A []any is a
// list, whose elements may differ.
type Array []any

// Described is a value with a descriptor that says what it means, an AMQP 1.0
// described type. The descriptor is a [Symbol] or a uint64 by convention.
type Described struct {
	Descriptor any
	Value      any
}
