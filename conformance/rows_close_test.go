package conformance

import (
	"encoding/binary"
	"slices"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

var closeRows = []row{
	{name: "the client's Close is answered, then the end", section: "2.7", run: func(r *run) {
		c := r.open()
		is(r, c.call(&wire.Close{Correlation: c.next(), Code: ok, Reason: "done"}), ok)
		c.ended()
	}},
	{name: "what comes in one packet with Close is ignored", section: "2.7", since: "4.3.0", run: func(r *run) {
		c, name := r.open(), r.name()
		c.send(&wire.Close{Correlation: c.next(), Code: ok}, &wire.Create{Correlation: 99, Stream: name})
		resp := wire.Response{Key: wire.KeyClose}
		c.decode(&resp)
		c.ended()
		is(r, r.admin().delete(name), noStream)
	}},
	{name: "what comes before Close is done", section: "2.7", run: func(r *run) {
		c, name := r.open(), r.name()
		c.send(&wire.Create{Correlation: 99, Stream: name}, &wire.Close{Correlation: c.next(), Code: ok})
		create, end := wire.Response{Key: wire.KeyCreate}, wire.Response{Key: wire.KeyClose}
		c.decode(&create)
		is(r, create.Code, ok)
		c.decode(&end)
		c.ended()
		is(r, r.admin().delete(name), ok)
	}},
	{name: "Close with any code and reason", section: "2.7", run: func(r *run) {
		c := r.open()
		is(r, c.call(&wire.Close{Correlation: c.next(), Code: 4711, Reason: ""}), ok)
		c.ended()
	}},
	{name: "after the broker's Close other frames are ignored", section: "1 Bad input", since: "4.3.0", run: func(r *run) {
		c, name := r.open(), r.name()
		c.write(raw(999, 1))
		c.send(&wire.Create{Correlation: c.next(), Stream: name}, &wire.Heartbeat{})
		c.closed(unknownFrame)
		is(r, r.admin().delete(name), noStream)
	}},
	{name: "publishers and subscriptions end with the connection", section: "13", run: func(r *run) {
		s := r.filled(1)
		for range 2 {
			c := r.open()
			is(r, c.declare(1, "ref", s), ok)
			is(r, c.subscribe(1, s, first, 1), ok)
			c.chunks(1, 1)
			is(r, c.call(&wire.Close{Correlation: c.next(), Code: ok}), ok)
			c.ended()
		}
	}},
}

// subscribeBytes returns a Subscribe with any offset type, valid or not.
func subscribeBytes(offsetType byte) []byte {
	return raw(wire.KeySubscribe, 1, 0, 0, 0, 1, 1, 0, 1, 's', 0, offsetType, 0, 1)
}

var malformedRows = []row{
	{name: "unknown command", section: "1 Bad input", run: malformed(raw(999, 1, 0, 0, 0, 1))},
	{name: "unknown response", section: "1 Bad input", run: malformed(raw(wire.KeyCreate.Response(), 1, 0, 0, 0, 1, 0, 1))},
	{name: "unknown version", section: "1 Bad input", run: malformed(raw(wire.KeyDelete, 2, 0, 0, 0, 1, 0, 1, 'x'))},
	{name: "Publish of version 3", section: "1 Bad input", run: malformed(raw(wire.KeyPublish, 3, 1, 0, 0, 0, 0))},
	{name: "no correlation id", section: "1 Bad input", run: malformed(raw(wire.KeyDelete, 1))},
	{name: "string longer than the frame", section: "1 Bad input", run: malformed(raw(wire.KeyDelete, 1, 0, 0, 0, 1, 0, 9, 'x'))},
	{name: "bytes left over", section: "1 Bad input", run: malformed(raw(wire.KeyDelete, 1, 0, 0, 0, 1, 0, 1, 'x', 'y'))},
	{name: "null string", section: "1", run: malformed(raw(wire.KeyDelete, 1, 0, 0, 0, 1, 0xff, 0xff))},
	{name: "DeclarePublisher without stream", section: "1 Bad input", run: malformed(raw(wire.KeyDeclarePublisher, 1, 0, 0, 0, 1, 1, 0, 0))},
	{name: "Credit without credit", section: "1 Bad input", run: malformed(raw(wire.KeyCredit, 1, 1))},
	{name: "StoreOffset without offset", section: "1 Bad input", run: malformed(raw(wire.KeyStoreOffset, 1, 0, 1, 'r', 0, 1, 's'))},
	{name: "Unsubscribe with bytes left over", section: "1 Bad input", run: malformed(raw(wire.KeyUnsubscribe, 1, 0, 0, 0, 1, 1, 1))},
	{name: "PeerProperties on an open connection", section: "1 Bad input", run: malformed(raw(wire.KeyPeerProperties, 1, 0, 0, 0, 1, 0, 0, 0, 0))},
	{name: "SaslHandshake on an open connection", section: "1 Bad input", run: malformed(raw(wire.KeySaslHandshake, 1, 0, 0, 0, 1))},
	{name: "Tune on an open connection", section: "1 Bad input", run: malformed(raw(wire.KeyTune, 1, 0, 0, 0, 0, 0, 0, 0, 0))},
	{name: "Open on an open connection", section: "1 Bad input", run: malformed(raw(wire.KeyOpen, 1, 0, 0, 0, 1, 0, 1, '/'))},
	{name: "answer to ConsumerUpdate without offset type", section: "1 Bad input",
		run: malformed(raw(wire.KeyConsumerUpdate.Response(), 1, 0, 0, 0, 0, 0, 1))},
	{name: "answer to a ConsumerUpdate that was never sent", section: "4 ConsumerUpdate", run: func(r *run) {
		c := r.open()
		c.send(&wire.ConsumerUpdateResponse{Correlation: 77, Code: ok})
		c.quiet()
	}},
	{name: "heartbeats are never answered", section: "1 Heartbeat", run: func(r *run) {
		c := r.open()
		c.send(&wire.Heartbeat{}, &wire.Heartbeat{})
		c.quiet()
	}},
	{name: "frame of no bytes", section: "1 Bad input", since: "4.3.0",
		run: malformed([]byte{0, 0, 0, 0}), before: crashing([]byte{0, 0, 0, 0})},
	{name: "frame of one byte", section: "1 Bad input", since: "4.3.0",
		run: malformed([]byte{0, 0, 0, 1, 0}), before: crashing([]byte{0, 0, 0, 1, 0})},
	{name: "frame without version", section: "1 Bad input", run: malformed([]byte{0, 0, 0, 2, 0, byte(wire.KeyDelete)})},
	{name: "heartbeat with a body", section: "1 Bad input", run: malformed(raw(wire.KeyHeartbeat, 1, 0))},
	{name: "commands of fixed layout, a byte short or long", section: "1 Bad input", run: func(r *run) {
		for _, f := range fixedLayout {
			short, long := misfit(r, f)
			malformed(short)(r)
			malformed(long)(r)
		}
	}},
	{name: "commands with lists, a byte short or long", section: "1 Bad input", run: func(r *run) {
		for _, f := range withLists {
			short, long := misfit(r, f)
			crashing(short)(r)
			crashing(long)(r)
		}
	}},
	{name: "what comes before a short entry is stored", section: "4 Publish", run: func(r *run) {
		s := r.stream()
		c := r.publisher("ref", s)
		b := wire.AppendPublishEntry(wire.BeginPublish(nil, wire.Version1, 1), 7, []byte("good"))
		c.write(wire.FinishPublish(append(b, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 99, 'x'), 0, 2))
		c.endedAfter(wire.KeyPublishConfirm)
		r.holds(s, "good")
	}},
	{name: "Publish without count", section: "1 Bad input", run: malformed(raw(wire.KeyPublish, 1, 1))},
	{name: "Publish with a short entry", section: "1 Bad input", run: crashingPublish(1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 9, 'x')},
	{name: "Publish of an unknown publisher with a short entry", section: "1 Bad input",
		run: crashingPublish(2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 9, 'x')},
	{name: "the count of a Publish does not matter", section: "4 Publish", run: func(r *run) {
		c := r.publisher("")
		for _, count := range []byte{0, 2} {
			c.write(raw(wire.KeyPublish, 1, 1, 0, 0, 0, count, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 'x'))
			c.confirmed(1, 1)
		}
	}},
	{name: "offset type 0 in Subscribe", section: "1 Bad input", run: crashing(subscribeBytes(0))},
	{name: "offset type 6 in Subscribe", section: "1 Bad input", run: crashing(subscribeBytes(6))},
	{name: "unknown command before Open", section: "1 Bad input", run: early(raw(999, 1))},
	{name: "truncated body before Open", section: "1 Bad input", run: early(raw(wire.KeyPeerProperties, 1, 0, 0))},
	{name: "unknown version before Open", section: "1 Bad input", run: early(raw(wire.KeyPeerProperties, 9, 0, 0, 0, 1, 0, 0, 0, 0))},
	{name: "frame of no bytes before Open", section: "1 Bad input", run: early([]byte{0, 0, 0, 0})},
	{name: "a frame sent byte by byte", section: "1", run: func(r *run) {
		c := r.open()
		for _, b := range encode(r, &wire.Delete{Correlation: c.next(), Stream: "cf-never"}) {
			c.write([]byte{b})
		}
		resp := wire.Response{Key: wire.KeyDelete}
		c.decode(&resp)
		is(r, resp.Code, noStream)
	}},
	{name: "a client that ends inside a frame", section: "1 Bad input", run: func(r *run) {
		c, s := r.open(), r.stream()
		is(r, c.declare(1, "", s), ok)
		c.write([]byte{0, 0, 1, 0, 0, 2})
		is(r, c.nc.Close(), nil)
		is(r, r.admin().delete(s), ok)
	}},
	{name: "frame above the limit", section: "1 Max frame size", since: "4.2.6",
		run: func(r *run) { r.tooLarge(1<<20, 1<<20) },
		before: func(r *run) {
			c := r.publisher("")
			c.publishSize(1, 1<<20)
			c.confirmed(1, 0)
		}},
	{name: "frame above the client's own limit", section: "1 Max frame size", since: "4.2.6",
		run: func(r *run) { r.tooLarge(4096, 4096) },
		before: func(r *run) {
			c, s := r.dial(), r.stream()
			c.login("guest")
			is(r, c.openTuned("/", &wire.Tune{FrameMax: 4096}), ok)
			is(r, c.declare(1, "", s), ok)
			c.publishSize(1, 4096)
			c.confirmed(1, 0)
		}},
	{name: "frame of 9000 bytes before Open", section: "1 Max frame size", since: "4.3.5",
		run: func(r *run) {
			c := r.dial()
			c.write(bigProperties(r))
			c.ended()
		},
		before: func(r *run) {
			c := r.dial()
			c.write(bigProperties(r))
			c.expect(wire.KeyPeerProperties.Response())
		}},
}

// tooLarge agrees on frames of at most limit bytes and publishes a message of n
// bytes, which must exceed that. A message of n-100 bytes must fit. After the
// large frame the broker sends Close and reads nothing more, not even the
// answer. It ends the connection after 10 seconds.
func (r *run) tooLarge(n int, limit uint32) {
	r.Helper()
	r = r.own()
	c, s := r.dial(), r.stream()
	c.login("guest")
	is(r, c.openTuned("/", &wire.Tune{FrameMax: limit}), ok)
	is(r, c.declare(1, "", s), ok)
	c.publishSize(1, n-100)
	c.confirmed(1, 0)
	c.publishSize(1, n)
	c.closing(wire.CodeFrameTooLarge)
	r.wait(10 * time.Second)
	c.ended()
}

func bigProperties(r *run) []byte {
	return encode(r, &wire.PeerProperties{Properties: props("k", string(make([]byte, 9000)))})
}

// publishSize sends one message of n bytes with publishing id 0.
func (c *client) publishSize(publisher uint8, n int) {
	c.t.Helper()
	b := wire.AppendPublishEntry(wire.BeginPublish(nil, wire.Version1, publisher), 0, make([]byte, n))
	c.write(wire.FinishPublish(b, 0, 1))
}

// malformed sends a malformed frame, which the broker must answer with Close.
func malformed(b []byte) func(*run) {
	return func(r *run) {
		c := r.open()
		c.write(b)
		c.closed(unknownFrame)
	}
}

// crashing sends a frame on which the broker must end the connection without
// Close.
func crashing(b []byte) func(*run) {
	return func(r *run) {
		c := r.open()
		c.write(b)
		c.ended()
	}
}

// crashingPublish is crashing with a Publish on a connection with publisher 1.
func crashingPublish(fields ...byte) func(*run) {
	return func(r *run) {
		c := r.publisher("")
		c.write(raw(wire.KeyPublish, 1, fields...))
		c.ended()
	}
}

// early is crashing on a connection before the handshake.
func early(b []byte) func(*run) {
	return func(r *run) {
		c := r.dial()
		c.write(b)
		c.ended()
	}
}

var fixedLayout = []wire.Frame{
	&wire.DeclarePublisher{PublisherID: 1, Reference: "r", Stream: "s"}, &wire.DeletePublisher{PublisherID: 1},
	&wire.QueryPublisherSequence{Reference: "r", Stream: "s"}, &wire.Credit{SubscriptionID: 1, Credit: 1},
	&wire.StoreOffset{Reference: "r", Stream: "s"}, &wire.QueryOffset{Reference: "r", Stream: "s"},
	&wire.Unsubscribe{SubscriptionID: 1}, &wire.Delete{Stream: "s"}, &wire.Route{RoutingKey: "k", SuperStream: "s"},
	&wire.Partitions{SuperStream: "s"}, &wire.StreamStats{Stream: "s"}, &wire.DeleteSuperStream{Name: "s"},
	&wire.Close{Code: ok, Reason: "r"},
}

// withLists holds the commands that end with a list. RabbitMQ reads the list
// item by item and ignores its count.
var withLists = []wire.Frame{
	&wire.Create{Stream: "cf-never", Arguments: props("max-age", "1h")}, &wire.Metadata{Streams: []string{"cf-never"}},
	&wire.CreateSuperStream{Name: "cf-never", Partitions: []string{"cf-never"}, BindingKeys: []string{"b"}, Arguments: props("k", "v")},
	&wire.ExchangeCommandVersions{Commands: []wire.CommandVersion{{Key: wire.KeyPublish, Min: 1, Max: 2}}},
	&wire.Subscribe{Stream: "cf-never", Spec: wire.OffsetSpec{Type: wire.OffsetFirst}, Credit: 1, Properties: props("k", "v")},
}

// misfit returns the frame a byte short and a byte long, with matching sizes.
func misfit(r *run, f wire.Frame) (short, long []byte) {
	r.Helper()
	b := encode(r, f)
	short, long = slices.Clone(b[:len(b)-1]), append(slices.Clone(b), 0)
	binary.BigEndian.PutUint32(short, uint32(len(short)-wire.SizeLen))
	binary.BigEndian.PutUint32(long, uint32(len(long)-wire.SizeLen))
	return short, long
}
