package conformance

import (
	"slices"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// These rows are about super streams whose partitions change, and about groups
// whose members change while one of them steps down.

// bound binds a new stream to a super stream and returns the stream's name.
func (r *run) bound(super, key string) string {
	r.Helper()
	s := r.stream()
	is(r, r.bind(super, s, key), nil)
	return s
}

var superChangeRows = []row{
	{name: "a stream that is bound later is the last partition", section: "4 Partitions", run: func(r *run) {
		name, partitions := r.super("a", "b")
		c := r.open()
		added := r.bound(name, "c")
		is(r, c.partitions(name), names{ok, append(slices.Clone(partitions), added)})
		is(r, c.route("c", name), names{ok, []string{added}})
		is(r, c.route("a", name), names{ok, partitions[:1]})
	}},
	{name: "bound under the key of another", section: "4 Route", run: func(r *run) {
		name, partitions := r.super("a", "b")
		got, added := names{}, r.bound(name, "a")
		got = r.open().route("a", name)
		slices.Sort(got.streams)
		is(r, got, names{ok, slices.Sorted(slices.Values([]string{partitions[0], added}))})
	}},
	{name: "bound twice it is listed twice", section: "4 Partitions", run: func(r *run) {
		name, partitions := r.super("a", "b")
		is(r, r.bind(name, partitions[0], "c"), nil)
		c := r.open()
		is(r, c.partitions(name), names{ok, append(slices.Clone(partitions), partitions[0])})
		is(r, c.route("c", name), names{ok, partitions[:1]})
	}},
	{name: "a stream that is unbound is no partition", section: "4 Partitions", run: func(r *run) {
		name, partitions := r.super("a", "b", "c")
		is(r, r.unbind(name, partitions[1]), nil)
		c := r.open()
		is(r, c.partitions(name), names{ok, []string{partitions[0], partitions[2]}})
		is(r, c.route("b", name), names{ok, nil})
		is(r, c.deleteSuper(name), ok)
		is(r, c.metadata(partitions...).Streams, []wire.StreamMetadata{missing(partitions[0]), live(partitions[1]), missing(partitions[2])})
	}},
	{name: "bound again it is the last one", section: "4 Partitions", run: func(r *run) {
		name, partitions := r.super("a", "b")
		is(r, r.unbind(name, partitions[0]), nil)
		is(r, r.bind(name, partitions[0], "a"), nil)
		is(r, r.open().partitions(name), names{ok, []string{partitions[1], partitions[0]}})
	}},
	{name: "a partition that is created again is none", section: "4 Partitions", run: func(r *run) {
		name, partitions := r.super("a", "b")
		c := r.open()
		is(r, c.delete(partitions[0]), ok)
		is(r, c.create(partitions[0]), ok)
		is(r, c.partitions(name), names{ok, partitions[1:]})
		is(r, c.deleteSuper(name), ok)
		is(r, c.delete(partitions[0]), ok)
	}},
	{name: "nobody is told", section: "4 Partitions", run: func(r *run) {
		name, partitions := r.super("a", "b")
		c := r.open()
		is(r, c.declare(1, "", partitions[0]), ok)
		is(r, c.subscribe(1, partitions[0], first, 1), ok)
		r.bound(name, "c")
		is(r, r.unbind(name, partitions[0]), nil)
		c.quiet()
		c.publish(1, 0)
		c.confirmed(1, 0)
		is(r, c.chunks(1, 1), []uint64{0})
	}},
	{name: "deleting deletes what was bound later", section: "4 DeleteSuperStream", run: func(r *run) {
		name, _ := r.super("a")
		added := r.bound(name, "c")
		c := r.open()
		is(r, c.deleteSuper(name), ok)
		is(r, c.metadata(added).Streams, []wire.StreamMetadata{missing(added)})
	}},
	{name: "more than a thousand partitions", section: "4 CreateSuperStream", since: "4.3.3", run: func(r *run) {
		c, name := r.open(), r.name()
		tooMany := make([]string, 1001)
		for i := range tooMany {
			tooMany[i] = name + "-" + string(rune('a'+i/100)) + string(rune('a'+i/10%10)) + string(rune('a'+i%10))
		}
		is(r, c.createSuper(name, tooMany, tooMany), precondition)
		is(r, c.partitions(name), names{noStream, nil})
	}},
}

var singleChangeRows = []row{
	{name: "the members spread over the partitions and move", section: "14", run: func(r *run) {
		name, partitions := r.super("a", "b", "c")
		joined := func() *client {
			c := r.open()
			for i, p := range partitions {
				c.join(uint8(i), p, 10, superStreamProp, name)
				c.told(map[uint8]bool{})
			}
			return c
		}
		one := r.open()
		for i, p := range partitions {
			one.join(uint8(i), p, 10, superStreamProp, name)
			one.activated(uint8(i))
		}
		two := joined()
		one.stepDown(1)
		two.activated(1)
		three := joined()
		one.stepDown(2)
		three.activated(2)
		two.quiet()
		one.leave()
		two.told(map[uint8]bool{0: true, 1: false})
		three.told(map[uint8]bool{2: false})
		three.activated(1)
		two.activated(2)
		r.append(partitions[2], 0, 1)
		is(r, two.chunks(2, 1), []uint64{0})
	}},
	{name: "a third member joins while the first steps down", section: "14", since: "4.1.2", run: func(r *run) {
		m, third, _ := r.joinedMeanwhile()
		again := m[0].update(1, false)
		m[0].answer(again-1, none)
		m[1].activated(1)
		m[0].answer(again, none)
		for _, c := range append(m, third) {
			c.quiet()
		}
	}, before: func(r *run) {
		m, third, _ := r.joinedMeanwhile()
		m[0].quiet()
		m[0].answer(1, none)
		m[1].activated(1)
		for _, c := range append(m, third) {
			c.quiet()
		}
	}},
	{name: "one who waits leaves while the first steps down", section: "14", since: "4.1.2", run: func(r *run) {
		m, third, _ := r.joinedMeanwhile()
		m[0].update(1, false)
		is(r, m[1].unsubscribe(1), ok)
		last := m[0].update(1, false)
		m[0].answer(last, none)
		third.activated(1)
	}, before: func(r *run) {
		m, third, _ := r.joinedMeanwhile()
		is(r, m[1].unsubscribe(1), ok)
		m[0].quiet()
		m[0].answer(1, none)
		third.activated(1)
	}},
	{name: "a late answer to a stop counts for who is chosen again", section: "14", since: "4.3.4", run: func(r *run) {
		m, third, p := r.joinedMeanwhile()
		m[0].update(1, false)
		is(r, third.unsubscribe(1), ok)
		last := m[0].update(1, false)
		is(r, m[1].unsubscribe(1), ok)
		m[0].answer(last-2, none)
		id := m[0].update(1, true)
		m[0].answer(last, next)
		r.append(p, 0, 2)
		is(r, m[0].chunks(1, 2), []uint64{0, 1})
		m[0].answer(id, at(1))
		is(r, m[0].chunks(1, 1), []uint64{1})
	}},
	{name: "a second member of a connection that closes", section: "14", since: "4.1.2", run: func(r *run) {
		both, other := r.between()
		both.leave()
		other.quiet()
	}, before: func(r *run) {
		both, other := r.between()
		both.leave()
		other.stepDown(1)
		other.activated(1)
	}},
	{name: "credit while it steps down", section: "4 Credit", run: func(r *run) {
		name, partitions := r.super("a", "b")
		m := r.members(2, partitions[1], 0, superStreamProp, name)
		id := m[0].update(1, false)
		m[0].credit(1, 2)
		m[0].creditRefused(1, precondition)
		is(r, m[1].unsubscribe(1), ok)
		m[0].answer(id, none)
		m[0].activated(1)
		r.append(partitions[1], 0, 2)
		is(r, m[0].chunks(1, 2), []uint64{0, 1})
	}},
	{name: "credit before the answer", section: "4 Credit", run: func(r *run) {
		c, s := r.open(), r.filled(3)
		c.join(1, s, 0)
		id := c.update(1, true)
		c.credit(1, 2)
		c.creditRefused(1, precondition)
		c.answer(id, none)
		is(r, c.chunks(1, 2), []uint64{0, 1})
		c.quiet()
	}},
	{name: "the active one keeps its credit over a step-down", section: "9", run: func(r *run) {
		name, partitions := r.super("a", "b")
		m := r.members(2, partitions[1], 3, superStreamProp, name)
		m[0].stepDown(1)
		id := m[1].update(1, true)
		r.append(partitions[1], 0, 4)
		m[1].answer(id, next)
		is(r, m[1].unsubscribe(1), ok)
		m[0].activated(1)
		is(r, m[0].chunks(1, 3), []uint64{0, 1, 2})
		m[0].quiet()
	}},
	{name: "the new one begins where it says", section: "14", run: func(r *run) {
		m, p := r.second(2)
		m[0].stepDown(1)
		r.append(p, 0, 4)
		m[1].answer(m[1].update(1, true), at(3))
		is(r, m[1].chunks(1, 1), []uint64{3})
	}},
	{name: "a member of a partition that was bound later", section: "14", run: func(r *run) {
		name, _ := r.super("a", "b")
		added := r.bound(name, "c")
		m := r.members(2, added, 10, superStreamProp, name)
		m[0].quiet() // partition 2 wants member 2 mod 2
		third := r.open()
		third.join(1, added, 10, superStreamProp, name)
		m[0].stepDown(1)
		third.activated(1)
	}},
	{name: "a group goes on when its partition is unbound", section: "14", run: func(r *run) {
		name, partitions := r.super("a", "b")
		m := r.members(2, partitions[1], 10, superStreamProp, name)
		m[0].stepDown(1)
		m[1].activated(1)
		is(r, r.unbind(name, partitions[1]), nil)
		is(r, m[1].unsubscribe(1), ok)
		m[0].activated(1)
		r.append(partitions[1], 0, 1)
		is(r, m[0].chunks(1, 1), []uint64{0})
	}},
	{name: "the super stream alone makes no member", section: "4 Subscribe", run: func(r *run) {
		name, partitions := r.super("a")
		c := r.open()
		is(r, c.subscribe(1, partitions[0], first, 1, superStreamProp, name), ok)
		r.append(partitions[0], 0, 1)
		is(r, c.chunks(1, 1), []uint64{0})
	}},
}

// stepDown expects a ConsumerUpdate that tells the subscription to stop, and
// answers it.
func (c *client) stepDown(id uint8) {
	c.t.Helper()
	c.answer(c.update(id, false), none)
}

// told expects a ConsumerUpdate for each subscription in want, in any order, and
// answers each. want says which ones become active.
func (c *client) told(want map[uint8]bool) {
	c.t.Helper()
	got := make(map[uint8]bool)
	for range want {
		var u wire.ConsumerUpdate
		c.decode(&u)
		got[u.SubscriptionID] = u.Active
		c.answer(u.Correlation, none)
	}
	is(c.t, got, want)
}

// joinedMeanwhile returns two members on the second of two partitions, the first
// of which has been told to step down, and one that joined after that.
func (r *run) joinedMeanwhile() (members []*client, third *client, partition string) {
	r.Helper()
	name, partitions := r.super("a", "b")
	m := r.members(2, partitions[1], 10, superStreamProp, name)
	m[0].update(1, false)
	third = r.open()
	third.join(1, partitions[1], 10, superStreamProp, name)
	return m, third, partitions[1]
}

// between returns a connection with the first and the third member on the second
// of two partitions, and one with the second member, which is active.
func (r *run) between() (both, other *client) {
	r.Helper()
	name, partitions := r.super("a", "b")
	m := r.members(2, partitions[1], 10, superStreamProp, name)
	m[0].stepDown(1)
	m[1].activated(1)
	m[0].join(2, partitions[1], 10, superStreamProp, name)
	m[0].quiet()
	m[1].quiet()
	return m[0], m[1]
}
