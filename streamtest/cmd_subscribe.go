package streamtest

import (
	"slices"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// This file handles Subscribe, Unsubscribe, Credit and ResolveOffsetSpec.
// sac.go handles ConsumerUpdate.
//
// Not implemented: the property chunk_selector. All chunks hold messages, so
// that a client has nothing to select.

// subscription is a subscription of a connection, with its position in the
// stream.
type subscription struct {
	conn       *conn
	id         uint8
	stream     *stream
	spec       wire.OffsetSpec
	credit     int
	threshold  int // see beginSending
	properties wire.Properties
	filter     *filter // nil: all chunks

	attached bool // position is set and chunks may be sent
	sending  bool // chunks are sent until the credit or the log ends
	// With WithSubscriptionDelay, see turns:
	listening bool      // waits for the next commit
	slept     bool      // the connection slept since it tried the subscription
	notUntil  time.Time // real time before which no chunk is sent; zero: no wait
	position  uint64    // number of the next chunk
	group     *group    // the group of a single active consumer; nil: none
	active    bool      // the active member of group
}

func (c *conn) subscribe(req *wire.Subscribe) {
	s, code := c.newSubscription(req)
	c.reply(wire.KeySubscribe, req.Correlation, code)
	if code != wire.CodeOK || c.gone { // a test may have truncated the answer
		return
	}
	c.subs = append(c.subs, s)
	c.touched[s.stream] = struct{}{}
	s.stream.readers[s] = struct{}{}
	if name, _, single := singleActive(req.Properties); single {
		s.join(name)
		return
	}
	s.notUntil = time.Now().Add(firstChunkAfter)
	s.attach(s.spec)
}

// firstChunkAfter is how long the broker holds the first chunk back after
// Subscribe, so that the chunk does not share a TCP segment with the answer.
// RabbitMQ takes that long to open its log, and programs rely on it: Node.js
// would handle both before the program has the consumer that it asked for.
const firstChunkAfter = time.Millisecond

// untilFirstChunk returns how long the first chunk must still wait, 0 for not
// at all.
func (s *subscription) untilFirstChunk() time.Duration {
	if s.notUntil.IsZero() {
		return 0
	}
	rest := time.Until(s.notUntil)
	if rest <= 0 {
		s.notUntil = time.Time{}
	}
	return rest
}

// newSubscription validates a Subscribe. It returns the subscription, or nil
// and the code that says why it refuses.
func (c *conn) newSubscription(req *wire.Subscribe) (*subscription, wire.Code) {
	name, named, single := singleActive(req.Properties)
	if !c.may(read, req.Stream) {
		return nil, wire.CodeAccessRefused
	}
	if len(name) > maxReference {
		return nil, wire.CodePreconditionFailed
	}
	stream, code := c.find(req.Stream)
	if code != wire.CodeOK {
		return nil, code
	}
	if c.subscription(req.SubscriptionID) != nil {
		return nil, wire.CodeSubscriptionIDExists
	}
	if single {
		if !named {
			return nil, wire.CodePreconditionFailed
		}
		if g := stream.groups[name]; g != nil && g.partition != partitionIndex(stream, req.Properties) {
			return nil, wire.CodePreconditionFailed
		}
	}
	s := &subscription{
		conn: c, id: req.SubscriptionID, stream: stream, spec: req.Spec, credit: int(req.Credit),
		threshold: int(req.Credit) / 2, properties: req.Properties,
	}
	if !c.b.cfg.noFilters {
		s.filter = newFilter(req.Properties)
	}
	return s, wire.CodeOK
}

// subscription returns the connection's subscription with this id, or nil.
func (c *conn) subscription(id uint8) *subscription {
	for _, s := range c.subs {
		if s.id == id {
			return s
		}
	}
	return nil
}

// attach sets the position to where spec points and lets the writer send
// chunks.
func (s *subscription) attach(spec wire.OffsetSpec) {
	s.position = s.stream.log.resolve(spec)
	s.attached = true
	s.beginSending()
}

// beginSending makes the writer send chunks until the credit or the log ends.
// Like RabbitMQ it does so only while the subscription holds more than half of
// the credit that Subscribe gave. It runs when the subscription attaches or gets
// credit, and when its stream has a new chunk; for the latter see turns if
// subscriptions cost time.
func (s *subscription) beginSending() {
	if s.attached && s.credit > s.threshold {
		s.sending = true
		if s.conn.slow {
			s.conn.turns.addInline(s)
		}
		s.conn.signal()
	}
}

func (c *conn) unsubscribe(req *wire.Unsubscribe) {
	s := c.subscription(req.SubscriptionID)
	if s == nil {
		c.reply(wire.KeyUnsubscribe, req.Correlation, wire.CodeSubscriptionIDDoesNotExist)
		return
	}
	c.remove(s)
	c.untouch(s.stream)
	c.reply(wire.KeyUnsubscribe, req.Correlation, wire.CodeOK)
	if s.group != nil {
		c.b.leave([]*subscription{s})
	}
}

// remove deletes a subscription from the connection and from the readers of its
// stream. It leaves the group alone.
func (c *conn) remove(s *subscription) {
	s.attached, s.sending, s.listening = false, false, false
	c.subs = slices.DeleteFunc(c.subs, func(x *subscription) bool { return x == s })
	delete(s.stream.readers, s)
	c.served()
}

// untouch marks a stream as unused by the connection, unless the connection
// still has a publisher or a subscription on it.
func (c *conn) untouch(stream *stream) {
	for _, p := range c.publishers {
		if p.stream == stream {
			return
		}
	}
	for _, s := range c.subs {
		if s.stream == stream {
			return
		}
	}
	delete(c.touched, stream)
}

// forget removes the connection's publishers and subscriptions on a stream. If
// the connection used the stream, it sends the client a MetadataUpdate.
func (c *conn) forget(stream *stream) {
	if _, used := c.touched[stream]; !used {
		return
	}
	delete(c.touched, stream)
	for id, p := range c.publishers {
		if p.stream == stream {
			delete(c.publishers, id)
		}
	}
	for _, s := range slices.Clone(c.subs) {
		if s.stream != stream {
			continue
		}
		c.remove(s)
		if s.group != nil {
			s.group.remove(s)
		}
	}
	c.send(&wire.MetadataUpdate{Code: wire.CodeStreamNotAvailable, Stream: stream.name})
}

func (c *conn) credit(req *wire.Credit) {
	s := c.subscription(req.SubscriptionID)
	if s == nil {
		c.send(&wire.CreditResponse{Code: wire.CodeSubscriptionIDDoesNotExist, SubscriptionID: req.SubscriptionID})
		return
	}
	s.credit += int(req.Credit)
	if s.group != nil && !s.attached {
		c.send(&wire.CreditResponse{Code: wire.CodePreconditionFailed, SubscriptionID: req.SubscriptionID})
		return
	}
	s.beginSending()
	c.credited = s
}

// mustServe reports whether the chunks that the last Credit is for come before
// the next frame of the client is handled. RabbitMQ sends them on the process that
// handles the frames, so an answer to a later request says that they have left.
// With WithSubscriptionDelay, turns sees to that.
func (c *conn) mustServe() bool {
	return c.credited != nil && c.credited.sending && !c.slow && !c.b.faults.stopAnswering
}

// served ends the wait for a Credit once its chunks are sent. The writer calls it.
func (c *conn) served() {
	if c.credited != nil && !c.credited.sending {
		c.credited = nil
		c.room.Broadcast()
	}
}

func (c *conn) resolveOffsetSpec(req *wire.ResolveOffsetSpec) {
	s, code := c.findReadable(req.Stream)
	if code != wire.CodeOK {
		c.fail(wire.KeyResolveOffsetSpec, req.Correlation, code)
		return
	}
	// The properties may contain a filter. It does not matter: the answer
	// says where a reader attaches, not what it is sent.
	c.send(&wire.ResolveOffsetSpecResponse{
		Correlation: req.Correlation, Code: wire.CodeOK, Type: wire.OffsetAt, Offset: s.log.offsetOf(s.log.resolve(req.Spec)),
	})
}
