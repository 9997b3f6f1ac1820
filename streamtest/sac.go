package streamtest

import (
	"slices"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// This file handles single active consumers and ConsumerUpdate. faults_group.go
// has their faults.
//
// Not implemented: members that are presumed down, which only a cluster has.
// Where the member that is stepping down leaves, the broker chooses among those
// who stay; RabbitMQ counts the leaver too, and may choose twice.

// group is the consumers of a stream that share a name. Only one of them is
// active. In a super stream the active consumers spread over the partitions:
// with n members, member k mod n becomes active on partition k.
type group struct {
	stream    *stream
	name      string
	partition int             // index in the super stream; -1: not a partition
	members   []*subscription // in the order in which they joined
	active    *subscription   // nil: none, for now
	stepping  *subscription   // was told to stop and has not answered yet; or nil
	hung      bool            // waits for an answer that cannot come, see HangGroup
}

// singleActive returns the name of the group that a Subscribe asks to join.
// named says that it has a name, which may be empty; single says that it asks
// to join at all.
func singleActive(props wire.Properties) (name string, named, single bool) {
	name, named = props.Get("name")
	v, _ := props.Get("single-active-consumer")
	return name, named, v == "true"
}

// partitionIndex returns the index of the stream among the partitions of the
// super stream that the properties name. It returns -1 if they name none or the
// stream is not a partition of it.
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

// join makes the subscription a member of its group. The broker sends it no
// chunk before it is active and has answered a ConsumerUpdate.
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

// leave removes members that end from their groups. RabbitMQ since 4.1.2 removes
// all of them before it chooses again. RabbitMQ 4.0 chooses after each, which may
// be one that ends next.
func (b *Broker) leave(members []*subscription) {
	var groups []*group // each once, in the order of the members
	for _, s := range members {
		s.group.remove(s)
		if b.cfg.oneByOne {
			s.group.rebalance()
		}
		if !b.cfg.oneByOne && !slices.Contains(groups, s.group) {
			groups = append(groups, s.group)
		}
	}
	for _, g := range groups {
		g.rebalance()
	}
}

// remove removes a member from the group. It does not make another one active.
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

// wanted returns the member that should be active. Outside of super streams the
// active member stays active, and the first member follows it.
func (g *group) wanted() *subscription {
	switch {
	case g.partition >= 0:
		return g.members[g.partition%len(g.members)]
	case g.active != nil:
		return g.active
	}
	return g.members[0]
}

// rebalance makes the wanted member active. If another member is active,
// rebalance tells it to stop, and makes the wanted one active only after its
// answer. Until then each call that wants another one tells it again, as RabbitMQ
// does since 4.1.2.
func (g *group) rebalance() {
	if len(g.members) == 0 || g.hung {
		return
	}
	want := g.wanted()
	switch {
	case g.stepping != nil:
		if want != g.stepping && !g.stream.vhost.b.cfg.oneByOne {
			g.stepping.update(false)
		}
	case want == g.active:
	case g.active == nil:
		g.active = want
		want.active = true
		want.update(true)
	default:
		g.stepping, g.active = g.active, nil
		g.stepping.active, g.stepping.attached, g.stepping.sending = false, false, false
		g.stepping.update(false)
	}
}

// steppedDown takes the stepping member's answer and makes the wanted member
// active. If that is the same one, RabbitMQ 4.1.2 to 4.3.3 take it for active
// and never tell it, see WithStepDownBug.
func (g *group) steppedDown() {
	former := g.stepping
	g.stepping = nil
	if g.stream.vhost.b.cfg.stepDownBug && g.wanted() == former {
		g.active = former
		return
	}
	g.rebalance()
}

// update is a ConsumerUpdate that the client has not answered yet.
type update struct {
	member *subscription
	active bool
}

// update sends a ConsumerUpdate and records that the answer belongs to s.
func (s *subscription) update(active bool) {
	c := s.conn
	if c.gone {
		return
	}
	id := c.nextUpdate
	c.nextUpdate++
	c.updates[id] = update{s, active}
	if c.timers.reply.IsZero() {
		c.timers.reply = c.b.protocolNow().Add(replyTimeout)
		c.signal() // the writer sleeps and must learn of the new time
	}
	if spend(&c.b.faults.updates) {
		return
	}
	c.send(&wire.ConsumerUpdate{Correlation: id, SubscriptionID: s.id, Active: active})
}

// consumerUpdated handles the answer to a ConsumerUpdate. It ignores the code.
// It also ignores the offset if the member was told to stop.
func (c *conn) consumerUpdated(req *wire.ConsumerUpdateResponse) {
	u, sent := c.updates[req.Correlation]
	if !sent || spend(&c.lostAnswers) {
		return
	}
	delete(c.updates, req.Correlation)
	c.timers.reply = c.b.protocolNow().Add(replyTimeout)
	if len(c.updates) == 0 {
		c.timers.reply = time.Time{}
	}
	s := u.member
	switch {
	case c.subscription(s.id) != s: // the subscription ended meanwhile
	case s.active: // whichever update this answers
		spec := req.Spec
		if spec.Type == wire.OffsetNone {
			spec = s.spec
		}
		s.attach(spec)
	case s.group.stepping == s && !u.active:
		s.group.steppedDown()
	}
}
