package broker

import (
	"context"
	"fmt"
	"strconv"
	"sync/atomic"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// Subscriber takes what arrives for one subscription on a shared connection.
// Goroutines of the connection call its methods, so none of them may block. They
// may be called before Cluster.Lease has returned.
type Subscriber interface {
	// Deliver takes a chunk, and the buffer that holds it, which Buffer has
	// returned or which is new. An error ends the connection for everybody.
	Deliver(d wire.Deliver, buffer []byte) error
	// Flush follows one or more calls of Deliver, once no further whole chunk
	// has been read. An error ends the connection for everybody.
	Flush() error
	// Buffer returns n bytes, whatever they contain, for the next chunk.
	Buffer(n int) []byte
	// Moved takes the name of a stream that was deleted or has moved. It need not
	// be the subscriber's stream.
	Moved(stream string)
	// CreditRefused comes if the broker has not taken a Credit of the
	// subscription. It still has it for CodePreconditionFailed, which is its
	// answer to an inactive consumer, and has no such subscription otherwise.
	CreditRefused(code wire.Code)
	// Update takes the broker's word that a subscription with
	// SubscribeOptions.SingleActive is the active one of its group, or no longer.
	// It reports whether Lease.Answer will follow, for which the broker waits 60 s
	// and then ends the connection. No chunk comes after the word that the
	// subscription is not active, nor after the other one before its answer.
	Update(u Update) (answers bool)
	// Tick comes twice in a heartbeat.
	Tick()
}

// Update is what the broker says of a member of a group. It takes the active
// member's activity away, and gives it to the next one once that is answered.
type Update struct {
	Active      bool
	correlation uint32
}

// Lease is a subscription's place on a connection that others may share. It
// offers what a subscription needs of the connection and nothing else:
//
//	Subscribe, Unsubscribe, Credit   chunks, which go to the Subscriber
//	Answer                           membership of a group
//	Beside                           another place on the connection
//	Stats, Locate, QueryOffset       questions
//	StoreOffset, VerifyOffset        the offset
//	Offsets                          the offset, again and again
//	Reason, Ended                    did the connection end, and why?
//	WatchPeer, SilentPeer            could it have ended?
//	Node, Address, Contact, Version  which node it is
//	Release                          the end
type Lease struct {
	node         Node
	subscriber   Subscriber
	stream       string   // that it reads; empty: none, or not for long
	questions    bool     // it is for questions and stores: see Cluster.LeaseQuestions
	batches      *batches // of the cluster
	conn         *sharedConn
	id           uint8       // of the subscription on conn
	unsubscribed atomic.Bool // the broker has ended the subscription

	publisher *Publisher // whose place it is, on a connection for publishing; else nil
}

// FirstCredit is the number of chunks that Subscribe asks for. It is 1 because
// RabbitMQ waits, once credit has run out, until more than half of the first
// credit is back.
const FirstCredit = 1

// SubscribeOptions are what the broker is told of a subscription beside its
// place. The zero value names nothing.
type SubscribeOptions struct {
	// Name is the consumer's. The broker's management shows it. It may be empty.
	Name string
	// SingleActive makes the subscription a member of the group that Name names:
	// the broker sends chunks to one member at a time. See Subscriber.Update.
	SingleActive bool
	// SuperStream is the super stream whose partition the stream is, for
	// SingleActive: without it the broker lets one member have every partition.
	SuperStream string
	// FilterValues makes the broker send only the chunks in which a message may
	// have one of these filter values; none stands for every chunk.
	FilterValues []string
	// Unfiltered asks for the chunks with a message that has no filter value as
	// well. It needs FilterValues.
	Unfiltered bool
}

// properties returns the properties of the Subscribe frame.
func (o SubscribeOptions) properties() (p wire.Properties) {
	add := func(key, value string) { p = append(p, wire.Property{Key: key, Value: value}) }
	if o.Name != "" {
		add("name", o.Name)
	}
	if o.SingleActive {
		add("single-active-consumer", "true")
		if o.SuperStream != "" {
			add("super-stream", o.SuperStream)
		}
	}
	for i, value := range o.FilterValues {
		add("filter."+strconv.Itoa(i), value)
	}
	if len(o.FilterValues) > 0 {
		add("match-unfiltered", strconv.FormatBool(o.Unfiltered))
	}
	return p
}

// Subscribe asks for the chunks of a stream from a place on.
func (l *Lease) Subscribe(ctx context.Context, stream string, from wire.OffsetSpec, o SubscribeOptions) error {
	f := wire.Subscribe{SubscriptionID: l.id, Stream: stream, Spec: from, Credit: FirstCredit, Properties: o.properties()}
	l.unsubscribed.Store(false)
	code, err := l.conn.subscribe(ctx, f)
	if err != nil {
		return err
	}
	return codeError(code, stream, l.conn.endpoint.User)
}

// Unsubscribe returns when nothing more comes for the subscription.
func (l *Lease) Unsubscribe(ctx context.Context) error {
	err := l.conn.unsubscribe(ctx, l.id)
	if err == nil {
		l.unsubscribed.Store(true)
	}
	return err
}

// Credit asks for n more chunks. It does not wait for the socket, unless the
// connection's queue is full. With an n of 0 the broker sends what it has for
// the credit that is still out.
func (l *Lease) Credit(ctx context.Context, n int) error { return l.conn.credit(ctx, l.id, n) }

// Answer answers what the broker has said of the subscription, on the connection
// that said it. A subscription that is active begins at a place, or without one
// where Subscribe said. What is sent before the answer arrives before it.
func (l *Lease) Answer(ctx context.Context, u Update, from wire.OffsetSpec) error {
	return l.conn.answerUpdate(ctx, u.correlation, from)
}

// Version returns the version of the broker, such as 4.0.5.
func (l *Lease) Version() string { return l.conn.version }

// Stats is [Conn.Stats].
func (l *Lease) Stats(ctx context.Context, stream string) (Extent, error) {
	return l.conn.Stats(ctx, stream)
}

// Filters is [Conn.Filters].
func (l *Lease) Filters(ctx context.Context) (bool, error) { return l.conn.Filters(ctx) }

// Ping is [Conn.Ping].
func (l *Lease) Ping(ctx context.Context) error { return l.conn.Ping(ctx) }

// Beside returns another lease of the same stream on the same connection. The
// caller releases it. It fails if the connection has ended, or has no id left.
func (l *Lease) Beside(s Subscriber) (*Lease, error) {
	beside := &Lease{node: l.node, subscriber: s, stream: l.stream, batches: l.batches}
	return beside, l.conn.admit(beside, l)
}

// LastChunk is [Conn.LastChunk].
func (l *Lease) LastChunk(ctx context.Context, stream string) (last, committed int64, err error) {
	return l.conn.LastChunk(ctx, stream)
}

// Locate is [Conn.Locate].
func (l *Lease) Locate(ctx context.Context, stream string) (Location, error) {
	return l.conn.Locate(ctx, stream)
}

// QueryOffset is [Conn.QueryOffset].
func (l *Lease) QueryOffset(ctx context.Context, reference, stream string) (uint64, error) {
	return l.conn.QueryOffset(ctx, reference, stream)
}

// StoreOffset is [Conn.StoreOffset].
func (l *Lease) StoreOffset(ctx context.Context, reference, stream string, offset uint64) error {
	return l.conn.StoreOffset(ctx, reference, stream, offset)
}

// VerifyOffset is [Conn.VerifyOffset].
func (l *Lease) VerifyOffset(ctx context.Context, reference, stream string, offset uint64) error {
	return l.conn.VerifyOffset(ctx, reference, stream, offset)
}

// Reason returns why the connection ended, and nil while it has not.
func (l *Lease) Reason() error { return l.conn.Reason() }

// Ended returns a channel that is closed when the connection ends.
func (l *Lease) Ended() <-chan struct{} { return l.conn.ended }

// Node returns the node that the connection leads to.
func (l *Lease) Node() Node { return l.node }

// Address returns the address that was dialed.
func (l *Lease) Address() string { return l.conn.endpoint.Address() }

// Contact returns the way by which the connection was made.
func (l *Lease) Contact() Contact { return l.conn.Contact() }

// Release ends the use of the connection. Where others use it, the subscription
// is ended first. The last one to release the connection closes it: polite says
// goodbye to the peer first, which takes a second at most. Only the first call
// counts.
func (l *Lease) Release(polite bool) { l.ReleaseWithin(context.Background(), polite) }

// ReleaseWithin is Release that waits for the peer under ctx.
func (l *Lease) ReleaseWithin(ctx context.Context, polite bool) {
	l.conn.leave(ctx, l, func() error { return l.sayGoodbye(ctx) }, polite)
}

// sayGoodbye unsubscribes if need be, and waits for the answer under ctx, for
// closeTimeout at most.
func (l *Lease) sayGoodbye(ctx context.Context) error {
	if l.unsubscribed.Load() {
		return nil
	}
	ctx, cancel := goodbyeContext(ctx)
	defer cancel()
	return l.Unsubscribe(ctx)
}

// dropChunks stands for a subscription that has ended and whose id is still
// taken.
type dropChunks struct{}

func (dropChunks) Deliver(d wire.Deliver, _ []byte) error {
	_, err := wire.ParseChunk(d.Chunk)
	return err
}
func (dropChunks) Flush() error            { return nil }
func (dropChunks) Buffer(n int) []byte     { return make([]byte, n) }
func (dropChunks) Moved(string)            {}
func (dropChunks) CreditRefused(wire.Code) {}
func (dropChunks) Update(Update) bool      { return false }
func (dropChunks) Tick()                   {}

// movedOnly is the subscriber of an offset writer: no chunk ever comes for it.
type movedOnly struct {
	dropChunks
	moved func(stream string)
}

func (m movedOnly) Moved(stream string) { m.moved(stream) }

var (
	_ Subscriber = dropChunks{}
	_ Subscriber = movedOnly{}
)

// unknownSubscription is how a connection ends on which a chunk comes for nobody.
func unknownSubscription(id uint8) error {
	return fmt.Errorf("%w: a chunk for the subscription %d, which there is not", wire.ErrMalformed, id)
}
