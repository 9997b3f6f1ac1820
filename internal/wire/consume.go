package wire

import "fmt"

// OffsetType says what an OffsetSpec means.
type OffsetType uint16

// The offset types. Only a ConsumerUpdateResponse may have OffsetNone.
const (
	OffsetNone      OffsetType = 0
	OffsetFirst     OffsetType = 1
	OffsetLast      OffsetType = 2
	OffsetNext      OffsetType = 3
	OffsetAt        OffsetType = 4
	OffsetTimestamp OffsetType = 5
)

// OffsetSpec says where to start reading. With OffsetAt, Value is an offset.
// With OffsetTimestamp, its 64 bits are an int64: milliseconds since the Unix
// epoch. With the other types there is no Value on the wire.
type OffsetSpec struct {
	Type  OffsetType
	Value uint64
}

// ErrOffsetType says that a frame has an offset type that does not exist. It
// wraps ErrMalformed.
var ErrOffsetType = fmt.Errorf("%w: unknown offset type", ErrMalformed)

// spec fails with ErrOffsetType on an unknown type, and on OffsetNone unless
// allowNone is set.
func (c *codec) spec(v *OffsetSpec, allowNone bool) {
	c.u16((*uint16)(&v.Type))
	switch v.Type {
	case OffsetAt, OffsetTimestamp:
		c.u64(&v.Value)
	case OffsetFirst, OffsetLast, OffsetNext:
	default:
		if c.err == nil && (v.Type != OffsetNone || !allowNone) {
			c.err, c.buf = ErrOffsetType, nil
		}
	}
}

// Subscribe asks for the chunks of a stream. Empty Properties are not written,
// and missing ones are read as nil.
type Subscribe struct {
	Correlation    uint32
	SubscriptionID uint8
	Stream         string
	Spec           OffsetSpec
	Credit         uint16
	Properties     Properties
}

// Unsubscribe ends a subscription.
type Unsubscribe struct {
	Correlation    uint32
	SubscriptionID uint8
}

// Credit allows the broker to send that many more chunks; a negative one takes
// some back. The broker answers only if it fails.
type Credit struct {
	SubscriptionID uint8
	Credit         int16
}

// CreditResponse says why a Credit failed. It has no correlation id.
type CreditResponse struct {
	Code           Code
	SubscriptionID uint8
}

// StoreOffset stores the offset of a consumer. The broker never answers it.
type StoreOffset struct {
	Reference string
	Stream    string
	Offset    uint64
}

// QueryOffset asks for the offset that a consumer has stored.
type QueryOffset struct {
	Correlation uint32
	Reference   string
	Stream      string
}

// QueryOffsetResponse answers QueryOffset. Offset is 0 with any code but
// CodeOK.
type QueryOffsetResponse struct {
	Correlation uint32
	Code        Code
	Offset      uint64
}

// ConsumerUpdate is what the broker sends to a member of a group with a single
// active consumer. It tells the member whether it is the active one.
type ConsumerUpdate struct {
	Correlation    uint32
	SubscriptionID uint8
	Active         bool
}

// ConsumerUpdateResponse is the client's answer to ConsumerUpdate. With
// OffsetNone the broker starts at the spec of the client's Subscribe.
type ConsumerUpdateResponse struct {
	Correlation uint32
	Code        Code
	Spec        OffsetSpec
}

// ResolveOffsetSpec asks for the offset at which a subscription with this spec
// would start. Its Properties are optional, like those of Subscribe.
type ResolveOffsetSpec struct {
	Correlation uint32
	Stream      string
	Spec        OffsetSpec
	Properties  Properties
}

// ResolveOffsetSpecResponse answers ResolveOffsetSpec. Type is always OffsetAt,
// and Offset is 0 with any code but CodeOK. Unlike the Value of an OffsetSpec,
// Offset is on the wire whatever the type.
type ResolveOffsetSpecResponse struct {
	Correlation uint32
	Code        Code
	Type        OffsetType
	Offset      uint64
}

func (*Subscribe) Head() (Key, uint16) { return KeySubscribe, 1 }
func (f *Subscribe) fields(c *codec) {
	c.u32(&f.Correlation)
	c.u8(&f.SubscriptionID)
	c.str(&f.Stream)
	c.spec(&f.Spec, false)
	c.u16(&f.Credit)
	c.optionalProps(&f.Properties)
}

func (*Unsubscribe) Head() (Key, uint16) { return KeyUnsubscribe, 1 }
func (f *Unsubscribe) fields(c *codec) {
	c.u32(&f.Correlation)
	c.u8(&f.SubscriptionID)
}

func (*Credit) Head() (Key, uint16) { return KeyCredit, 1 }
func (f *Credit) fields(c *codec) {
	n := uint16(f.Credit)
	c.u8(&f.SubscriptionID)
	c.u16(&n)
	f.Credit = int16(n)
}

func (*CreditResponse) Head() (Key, uint16) { return KeyCredit.Response(), 1 }
func (f *CreditResponse) fields(c *codec) {
	c.code(&f.Code)
	c.u8(&f.SubscriptionID)
}

func (*StoreOffset) Head() (Key, uint16) { return KeyStoreOffset, 1 }
func (f *StoreOffset) fields(c *codec) {
	c.str(&f.Reference)
	c.str(&f.Stream)
	c.u64(&f.Offset)
}

func (*QueryOffset) Head() (Key, uint16) { return KeyQueryOffset, 1 }
func (f *QueryOffset) fields(c *codec) {
	c.u32(&f.Correlation)
	c.str(&f.Reference)
	c.str(&f.Stream)
}

func (*QueryOffsetResponse) Head() (Key, uint16) { return KeyQueryOffset.Response(), 1 }
func (f *QueryOffsetResponse) fields(c *codec) {
	c.u32(&f.Correlation)
	c.code(&f.Code)
	c.u64(&f.Offset)
}

func (*ConsumerUpdate) Head() (Key, uint16) { return KeyConsumerUpdate, 1 }
func (f *ConsumerUpdate) fields(c *codec) {
	c.u32(&f.Correlation)
	c.u8(&f.SubscriptionID)
	c.boolean(&f.Active)
}

func (*ConsumerUpdateResponse) Head() (Key, uint16) { return KeyConsumerUpdate.Response(), 1 }
func (f *ConsumerUpdateResponse) fields(c *codec) {
	c.u32(&f.Correlation)
	c.code(&f.Code)
	c.spec(&f.Spec, true)
	if c.decoding {
		// The rstream client sends an offset with every type, and RabbitMQ
		// ignores it.
		c.buf = nil
	}
}

func (*ResolveOffsetSpec) Head() (Key, uint16) { return KeyResolveOffsetSpec, 1 }
func (f *ResolveOffsetSpec) fields(c *codec) {
	c.u32(&f.Correlation)
	c.str(&f.Stream)
	c.spec(&f.Spec, false)
	c.optionalProps(&f.Properties)
}

func (*ResolveOffsetSpecResponse) Head() (Key, uint16) { return KeyResolveOffsetSpec.Response(), 1 }
func (f *ResolveOffsetSpecResponse) fields(c *codec) {
	c.u32(&f.Correlation)
	c.code(&f.Code)
	c.u16((*uint16)(&f.Type))
	c.u64(&f.Offset)
}
