package streamtest

import (
	"slices"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// Single active consumers and ConsumerUpdate.
//
// Not implemented: what only a cluster has (members that are presumed down).

// group is the consumers of a stream that share a name, one of which is active. In a super stream the
// active ones spread over the partitions: partition k wants member k mod n.
type group struct {
	stream    *stream
	name      string
	partition int // -1: not a partition, the first member is wanted
	members   []*subscription
	active    *subscription
	stepping  *subscription // was active, has been told to stop, and owes an answer
}

// singleActive returns the name of the group a Subscribe wants to join. It may be empty, but must be given.
func singleActive(props wire.Properties) (name string, named, single bool) {
	name, named = props.Get("name")
	v, _ := props.Get("single-active-consumer")
	return name, named, v == "true"
}

// partitionIndex is the stream's place in the super stream that the properties name, or -1.
func partitionIndex(s *stream, props wire.Properties) int {
	name, given := props.Get("super-stream")
	if !given {
		return -1
	}
	super := s.vhost.supers[name]
	if super == nil {
		return -1
	}
	for _, p := range super.bindings {
		if p.stream == s.name {
			return p.order
		}
	}
	return -1
}

// join makes the subscription a member; it is sent nothing before it has answered a ConsumerUpdate.
func (s *subscription) join(name string) {
	g := s.stream.groups[name]
	if g == nil {
		g = &group{stream: s.stream, name: name, partition: partitionIndex(s.stream, s.properties)}
		s.stream.groups[name] = g
	}
	s.group = g
	g.members = append(g.members, s)
	g.rebalance()
}

// remove takes a member out, without choosing the next.
func (g *group) remove(s *subscription) {
	g.members = slices.DeleteFunc(g.members, func(x *subscription) bool { return x == s })
	if g.active == s {
		g.active = nil
	}
	if g.stepping == s {
		g.stepping = nil
	}
	if len(g.members) == 0 && g.stream.groups[g.name] == g {
		delete(g.stream.groups, g.name)
	}
}

// wanted is the member that should be active.
func (g *group) wanted() *subscription {
	switch {
	case g.partition >= 0:
		return g.members[g.partition%len(g.members)]
	case g.active != nil:
		return g.active
	}
	return g.members[0]
}

// rebalance makes the right member active: at once where nobody is, otherwise after the active one has
// answered that it stopped.
func (g *group) rebalance() {
	if len(g.members) == 0 || g.stepping != nil {
		return
	}
	want := g.wanted()
	if want == g.active {
		return
	}
	if g.active == nil {
		g.active = want
		want.active = true
		want.update(true)
		return
	}
	g.stepping, g.active = g.active, nil
	g.stepping.active, g.stepping.attached = false, false
	g.stepping.update(false)
}

// update sends a ConsumerUpdate and remembers to whom the answer belongs.
func (s *subscription) update(active bool) {
	c := s.conn
	if c.gone {
		return
	}
	id := c.nextUpdate
	c.nextUpdate++
	c.updates[id] = s
	if c.timers.reply.IsZero() {
		c.timers.reply = c.b.beat().Add(replyTimeout)
	}
	c.send(&wire.ConsumerUpdate{Correlation: id, SubscriptionID: s.id, Active: active})
}

// consumerUpdated handles the client's answer. Its code does not matter, and neither does its offset when
// the member was told to stop.
func (c *conn) consumerUpdated(req *wire.ConsumerUpdateResponse) {
	s := c.updates[req.Correlation]
	if s == nil {
		return
	}
	delete(c.updates, req.Correlation)
	c.timers.reply = c.b.beat().Add(replyTimeout)
	if len(c.updates) == 0 {
		c.timers.reply = time.Time{}
	}
	switch {
	case c.subscription(s.id) != s: // left meanwhile
	case s.active:
		spec := req.Spec
		if spec.Type == wire.OffsetNone {
			spec = s.spec
		}
		s.attach(spec)
	case s.group.stepping == s && !c.awaits(s):
		s.group.stepping = nil
		s.group.rebalance()
	}
}

// awaits reports whether the client still owes an answer for s: the one to a stop comes last.
func (c *conn) awaits(s *subscription) bool {
	for _, x := range c.updates {
		if x == s {
			return true
		}
	}
	return false
}
