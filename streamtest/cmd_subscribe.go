package streamtest

import (
	"slices"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// Subscribe, Unsubscribe, Credit, ResolveOffsetSpec. ConsumerUpdate is in sac.go.
//
// Not implemented: chunk_selector, since there are no chunks but those of messages. Unlike in RabbitMQ,
// which waits for half of the initial credit to come back, chunks are sent as soon as there is any credit.

// subscription is a consumer's place in a stream.
type subscription struct {
	conn       *conn
	id         uint8
	stream     *stream
	spec       wire.OffsetSpec
	credit     int
	properties wire.Properties
	filter     *filter // nil: everything

	attached bool      // chunks are sent
	notUntil time.Time // the first chunk; zero once that time is over
	position uint64    // number of the next chunk
	group    *group    // of a single active consumer; nil: an ordinary one
	active   bool      // in its group
}

func (c *conn) subscribe(req *wire.Subscribe) {
	s, code := c.newSubscription(req)
	c.reply(wire.KeySubscribe, req.Correlation, code)
	if code != wire.CodeOK {
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

// firstChunkAfter keeps the first chunk out of the TCP segment of the answer to Subscribe. RabbitMQ needs
// that long to open its log, and programs rely on it: in Node.js both would be handled before the program
// has the consumer that it asked for.
const firstChunkAfter = time.Millisecond

// rest returns how long nothing is sent yet.
func (s *subscription) rest() time.Duration {
	if s.notUntil.IsZero() {
		return 0
	}
	rest := time.Until(s.notUntil)
	if rest <= 0 {
		s.notUntil = time.Time{}
	}
	return rest
}

// newSubscription validates a Subscribe.
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
	return &subscription{
		conn: c, id: req.SubscriptionID, stream: stream, spec: req.Spec, credit: int(req.Credit),
		properties: req.Properties, filter: newFilter(req.Properties),
	}, wire.CodeOK
}

// subscription returns the one with this id, or nil.
func (c *conn) subscription(id uint8) *subscription {
	for _, s := range c.subs {
		if s.id == id {
			return s
		}
	}
	return nil
}

// attach makes the subscription read from where the spec points.
func (s *subscription) attach(spec wire.OffsetSpec) {
	s.position = s.stream.log.resolve(spec)
	s.attached = true
	s.conn.signal()
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
		s.group.remove(s)
		s.group.rebalance()
	}
}

// remove takes a subscription off the connection and its stream.
func (c *conn) remove(s *subscription) {
	s.attached = false
	c.subs = slices.DeleteFunc(c.subs, func(x *subscription) bool { return x == s })
	delete(s.stream.readers, s)
}

// untouch forgets that the connection used a stream once nothing of it is left there.
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

// forget removes all that the connection has on a stream, and tells the client if there was anything.
func (c *conn) forget(stream *stream) {
	if _, used := c.touched[stream]; !used {
		return
	}
	delete(c.touched, stream)
	for id, p := range c.publishers {
		if p.stream == stream {
			delete(c.publishers, id)
			c.dropHeld(id)
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
	if s.group != nil && !s.active {
		c.send(&wire.CreditResponse{Code: wire.CodePreconditionFailed, SubscriptionID: req.SubscriptionID})
		return
	}
	c.signal()
}

func (c *conn) resolveOffsetSpec(req *wire.ResolveOffsetSpec) {
	s, code := c.findReadable(req.Stream)
	if code != wire.CodeOK {
		c.fail(wire.KeyResolveOffsetSpec, req.Correlation, code)
		return
	}
	// A filter in the properties makes no difference: it is where a reader attaches, not what it is sent.
	c.send(&wire.ResolveOffsetSpecResponse{
		Correlation: req.Correlation, Code: wire.CodeOK, Type: wire.OffsetAt, Offset: s.log.offsetOf(s.log.resolve(req.Spec)),
	})
}
