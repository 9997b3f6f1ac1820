package conformance

import (
	"strings"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// join subscribes as a member of group "g", from the first offset.
func (c *client) join(id uint8, stream string, credit uint16, properties ...string) {
	c.t.Helper()
	is(c.t, c.joining(id, stream, "g", credit, properties...), ok)
}

func (c *client) joining(id uint8, stream, name string, credit uint16, properties ...string) wire.Code {
	c.t.Helper()
	return c.subscribe(id, stream, first, credit, append([]string{"name", name, activeConsumer, "true"}, properties...)...)
}

// update expects a ConsumerUpdate and returns its correlation id.
func (c *client) update(id uint8, active bool) uint32 {
	c.t.Helper()
	var u wire.ConsumerUpdate
	c.decode(&u)
	is(c.t, u, wire.ConsumerUpdate{Correlation: u.Correlation, SubscriptionID: id, Active: active})
	return u.Correlation
}

func (c *client) answer(correlation uint32, spec wire.OffsetSpec) {
	c.t.Helper()
	c.send(&wire.ConsumerUpdateResponse{Correlation: correlation, Code: ok, Spec: spec})
}

// activated expects a ConsumerUpdate that makes the subscription active, and
// answers it without an offset.
func (c *client) activated(id uint8) {
	c.t.Helper()
	c.answer(c.update(id, true), none)
}

// leave closes the connection with a Close.
func (c *client) leave() {
	c.t.Helper()
	is(c.t, c.call(&wire.Close{Correlation: c.next(), Code: ok}), ok)
	c.ended()
}

// members opens n connections that join the group one after the other, each
// with subscription 1. It makes the first one active.
func (r *run) members(n int, stream string, credit uint16, properties ...string) []*client {
	r.Helper()
	var all []*client
	for i := range n {
		c := r.open()
		c.join(1, stream, credit, properties...)
		if i == 0 {
			c.activated(1)
		}
		all = append(all, c)
	}
	return all
}

var singleRows = []row{
	{name: "nothing comes before the answer", section: "14", run: func(r *run) {
		c, s := r.open(), r.filled(2)
		c.join(1, s, 10)
		id := c.update(1, true)
		c.quiet()
		c.answer(id, none)
		is(r, c.chunks(1, 2), []uint64{0, 1})
	}},
	{name: "updates are numbered from 0", section: "1", run: func(r *run) {
		c := r.open()
		for i := range uint8(3) {
			c.join(i, r.stream(), 10)
			is(r, c.update(i, true), uint32(i))
		}
	}},
	{name: "the answer says first", section: "14", run: answered(first, 0)},
	{name: "the answer says last", section: "14", run: answered(last, 4)},
	{name: "the answer says an offset", section: "14", run: answered(at(3), 3)},
	{name: "the answer says an early time", section: "14", run: answered(from(1), 0)},
	{name: "the answer says next", section: "14", run: func(r *run) {
		c, s := r.open(), r.filled(2)
		c.join(1, s, 10)
		c.answer(c.update(1, true), next)
		c.quiet()
		r.append(s, 2, 1)
		is(r, c.chunks(1, 1), []uint64{2})
	}},
	{name: "the answer's code does not matter", section: "4 ConsumerUpdate", run: func(r *run) {
		c, s := r.open(), r.filled(2)
		c.join(1, s, 10)
		c.send(&wire.ConsumerUpdateResponse{Correlation: c.update(1, true), Code: wire.CodeInternalError, Spec: at(1)})
		is(r, c.chunks(1, 1), []uint64{1})
	}},
	{name: "those who wait get nothing", section: "14", run: func(r *run) {
		m := r.members(3, r.filled(1), 10)
		is(r, m[0].chunks(1, 1), []uint64{0})
		m[1].quiet()
		m[2].quiet()
	}},
	{name: "the next follows who unsubscribes", section: "14", run: func(r *run) {
		m := r.members(3, r.filled(1), 10)
		is(r, m[0].chunks(1, 1), []uint64{0})
		is(r, m[0].unsubscribe(1), ok)
		m[1].activated(1)
		is(r, m[1].chunks(1, 1), []uint64{0})
		m[2].quiet()
		m[0].quiet()
	}},
	{name: "the next follows who closes", section: "14", run: func(r *run) {
		m := r.members(3, r.stream(), 10)
		m[0].leave()
		m[1].activated(1)
		m[1].leave()
		m[2].activated(1)
	}},
	{name: "the next follows who vanishes", section: "14", run: func(r *run) {
		m := r.members(2, r.stream(), 10)
		is(r, m[0].nc.Close(), nil)
		m[1].activated(1)
	}},
	{name: "the next follows who never answered", section: "14", run: func(r *run) {
		a, b, s := r.open(), r.open(), r.stream()
		a.join(1, s, 10)
		a.update(1, true)
		b.join(1, s, 10)
		b.quiet()
		is(r, a.unsubscribe(1), ok)
		b.activated(1)
	}},
	{name: "who waits may leave", section: "14", run: func(r *run) {
		m := r.members(3, r.stream(), 10)
		is(r, m[1].unsubscribe(1), ok)
		m[0].quiet()
		m[2].quiet()
		is(r, m[0].unsubscribe(1), ok)
		m[2].activated(1)
		m[1].quiet()
	}},
	{name: "who comes back waits at the end", section: "14", run: func(r *run) {
		s := r.stream()
		m := r.members(3, s, 10)
		is(r, m[0].unsubscribe(1), ok)
		m[1].activated(1)
		m[0].join(1, s, 10)
		m[0].quiet()
		is(r, m[1].unsubscribe(1), ok)
		m[2].activated(1)
		m[0].quiet()
		is(r, m[2].unsubscribe(1), ok)
		m[0].activated(1)
	}},
	{name: "who comes back starts at the spec it came with", section: "14", run: func(r *run) {
		c, s := r.open(), r.filled(3)
		c.join(1, s, 1)
		c.answer(c.update(1, true), at(2))
		is(r, c.chunks(1, 1), []uint64{2})
		is(r, c.unsubscribe(1), ok)
		c.join(1, s, 1)
		c.activated(1)
		is(r, c.chunks(1, 1), []uint64{0})
	}},
	{name: "who waits keeps its credit", section: "4 Credit", run: func(r *run) {
		m := r.members(2, r.filled(4), 0)
		m[1].credit(1, 2)
		m[1].creditRefused(1, precondition)
		m[1].credit(1, 1)
		m[1].creditRefused(1, precondition)
		is(r, m[0].unsubscribe(1), ok)
		m[1].activated(1)
		is(r, m[1].chunks(1, 3), []uint64{0, 1, 2})
		m[1].quiet()
	}},
	{name: "two members of one connection", section: "14", run: func(r *run) {
		c, s := r.open(), r.filled(1)
		c.join(1, s, 10)
		c.activated(1)
		is(r, c.chunks(1, 1), []uint64{0})
		c.join(2, s, 10)
		c.quiet()
		is(r, c.unsubscribe(1), ok)
		c.activated(2)
		is(r, c.chunks(2, 1), []uint64{0})
	}},
	{name: "groups of another name are apart", section: "14", run: func(r *run) {
		c, d, s := r.open(), r.open(), r.filled(1)
		is(r, c.joining(1, s, "g", 10), ok)
		c.activated(1)
		is(r, d.joining(1, s, "h", 10), ok)
		d.activated(1)
		is(r, c.chunks(1, 1), []uint64{0})
		is(r, d.chunks(1, 1), []uint64{0})
	}},
	{name: "groups on another stream are apart", section: "14", run: func(r *run) {
		c := r.open()
		for id := range uint8(2) {
			c.join(id, r.stream(), 10)
			c.activated(id)
		}
	}},
	{name: "ordinary consumers are not concerned", section: "14", run: func(r *run) {
		c, s := r.open(), r.filled(1)
		r.members(1, s, 10)
		is(r, c.subscribe(1, s, first, 10, "name", "g"), ok)
		is(r, c.chunks(1, 1), []uint64{0})
	}},
	{name: "without a name", section: "4 Subscribe", run: func(r *run) {
		c := r.open()
		is(r, c.subscribe(1, r.stream(), first, 10, activeConsumer, "true"), precondition)
		is(r, c.unsubscribe(1), noSubscription)
	}},
	{name: "an empty name is a name", section: "4 Subscribe", run: func(r *run) {
		c, s := r.open(), r.filled(1)
		is(r, c.joining(1, s, "", 1), ok)
		c.activated(1)
		is(r, c.chunks(1, 1), []uint64{0})
	}},
	{name: "a name of 256 bytes", section: "4 Subscribe", run: func(r *run) {
		is(r, r.open().joining(1, r.stream(), strings.Repeat("n", 256), 1), precondition)
	}},
	{name: "the same id again while it waits", section: "4 Subscribe", run: func(r *run) {
		s := r.stream()
		m := r.members(2, s, 1)
		is(r, m[1].joining(1, s, "g", 1), subscribed)
	}},
	{name: "only true makes a member", section: "4 Subscribe", run: func(r *run) {
		c, s := r.open(), r.filled(1)
		for id, value := range []string{"false", "TRUE", "1", ""} {
			is(r, c.subscribe(uint8(id), s, first, 1, "name", "g", activeConsumer, value), ok)
			is(r, c.chunks(uint8(id), 1), []uint64{0})
		}
	}},
	{name: "the id is looked at first", section: "4 Subscribe", run: func(r *run) {
		c, s := r.open(), r.stream()
		is(r, c.subscribe(1, s, first, 10), ok)
		is(r, c.subscribe(1, s, first, 10, activeConsumer, "true"), subscribed)
	}},
	{name: "the stream is deleted", section: "14", run: func(r *run) {
		s := r.stream()
		m := r.members(2, s, 10)
		is(r, r.admin().delete(s), ok)
		for _, c := range m {
			c.gone(s)
			is(r, c.unsubscribe(1), noSubscription)
		}
		is(r, r.admin().create(s), ok)
		m[1].join(1, s, 10)
		m[1].activated(1)
	}},
}

// answered answers the ConsumerUpdate with spec and expects the chunk at want,
// although the Subscribe asked for the next message.
func answered(spec wire.OffsetSpec, want uint64) func(*run) {
	return func(r *run) {
		c, s := r.open(), r.filled(5)
		is(r, c.subscribe(1, s, next, 1, "name", "g", activeConsumer, "true"), ok)
		c.answer(c.update(1, true), spec)
		is(r, c.chunks(1, 1), []uint64{want})
	}
}

// singleSuperRows mostly test the second partition of a super stream, which the
// second member should read.
var singleSuperRows = []row{
	{name: "the only member reads all partitions", section: "14", run: func(r *run) {
		name, partitions := r.super("a", "b", "c")
		c := r.open()
		for i, p := range partitions {
			c.join(uint8(i), p, 10, superStreamProp, name)
			c.activated(uint8(i))
		}
		r.append(partitions[2], 0, 1)
		is(r, c.chunks(2, 1), []uint64{0})
	}},
	{name: "the second member takes the second partition over", section: "14", run: func(r *run) {
		m, p := r.second(2)
		id := m[0].update(1, false)
		m[1].quiet()
		m[0].answer(id, none)
		m[1].activated(1)
		r.append(p, 0, 1)
		is(r, m[1].chunks(1, 1), []uint64{0})
		m[0].quiet()
	}},
	{name: "who steps down gets nothing more", section: "14", run: func(r *run) {
		m, p := r.second(2)
		id := m[0].update(1, false)
		r.append(p, 0, 1)
		m[0].quiet()
		m[1].quiet()
		m[0].answer(id, at(0)) // the broker ignores the offset
		m[1].activated(1)
		is(r, m[1].chunks(1, 1), []uint64{0})
	}},
	{name: "the first partition stays with the first member", section: "14", run: func(r *run) {
		name, partitions := r.super("a", "b")
		m := r.members(3, partitions[0], 10, superStreamProp, name)
		for _, c := range m {
			c.quiet()
		}
	}},
	{name: "the third member takes the third partition over", section: "14", run: func(r *run) {
		name, partitions := r.super("a", "b", "c")
		m := r.members(2, partitions[2], 10, superStreamProp, name)
		m[0].quiet() // partition 2 wants member 2 mod 2, which is active
		m[1].quiet()
		c := r.open()
		c.join(1, partitions[2], 10, superStreamProp, name)
		m[0].answer(m[0].update(1, false), none)
		c.activated(1)
	}},
	{name: "the partition goes back", section: "14", run: func(r *run) {
		m, p := r.second(2)
		m[0].answer(m[0].update(1, false), none)
		m[1].activated(1)
		is(r, m[1].unsubscribe(1), ok)
		m[0].activated(1)
		r.append(p, 0, 1)
		is(r, m[0].chunks(1, 1), []uint64{0})
	}},
	{name: "the partition goes back from who vanishes", section: "14", run: func(r *run) {
		m, _ := r.second(2)
		m[0].answer(m[0].update(1, false), none)
		m[1].activated(1)
		is(r, m[1].nc.Close(), nil)
		m[0].activated(1)
	}},
	{name: "who is to step down unsubscribes instead", section: "14", run: func(r *run) {
		m, _ := r.second(2)
		m[0].update(1, false)
		is(r, m[0].unsubscribe(1), ok)
		m[1].activated(1)
		m[0].quiet()
	}},
	{name: "who is to step down vanishes instead", section: "14", run: func(r *run) {
		m, _ := r.second(2)
		m[0].update(1, false)
		is(r, m[0].nc.Close(), nil)
		m[1].activated(1)
	}},
	{name: "who steps down is chosen again", section: "14", run: func(r *run) {
		m, p := r.second(2)
		id := m[0].update(1, false)
		is(r, m[1].unsubscribe(1), ok)
		m[0].quiet()
		m[0].answer(id, none)
		m[0].activated(1)
		r.append(p, 0, 1)
		is(r, m[0].chunks(1, 1), []uint64{0})
	}},
	{name: "a third member changes nothing on the second partition", section: "14", run: func(r *run) {
		name, partitions := r.super("a", "b")
		m := r.members(2, partitions[1], 10, superStreamProp, name)
		m[0].answer(m[0].update(1, false), none)
		m[1].activated(1)
		third := r.open()
		third.join(1, partitions[1], 10, superStreamProp, name)
		for _, c := range append(m, third) {
			c.quiet()
		}
	}},
	{name: "a super stream that does not exist", section: "14", run: func(r *run) {
		m := r.members(3, r.stream(), 10, superStreamProp, "cf-never")
		for _, c := range m {
			c.quiet()
		}
		is(r, m[0].unsubscribe(1), ok)
		m[1].activated(1)
	}},
	{name: "a group of the partition without the super stream", section: "4 Subscribe", since: "4.1.2", run: func(r *run) {
		name, partitions := r.super("a", "b")
		r.members(1, partitions[1], 10, superStreamProp, name)
		c := r.open()
		is(r, c.joining(1, partitions[1], "g", 10), precondition)
		is(r, c.unsubscribe(1), noSubscription)
	}},
}

// second makes n members join on the second of two partitions. The first member
// is active. The broker tells it to step down as soon as the second member
// joins.
func (r *run) second(n int) (members []*client, partition string) {
	r.Helper()
	name, partitions := r.super("a", "b")
	return r.members(n, partitions[1], 10, superStreamProp, name), partitions[1]
}
