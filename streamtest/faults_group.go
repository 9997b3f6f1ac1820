package streamtest

import (
	"fmt"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// LoseUpdates makes the broker not send the next n ConsumerUpdate commands, on
// whatever connection. n may be Forever; 0 ends the fault. The member counts as
// told: the broker waits for its answer, and ends its connection after a minute
// in the time of AdvanceHeartbeats, as RabbitMQ ends that of a client which does
// not answer.
func (b *Broker) LoseUpdates(n int) { b.setFaults(func(f *faults) { f.updates = n }) }

// LoseUpdateAnswers makes the broker ignore the next n answers to ConsumerUpdate
// on each connection whose Connection.Name or Connection.ClientName is name. It
// returns the number of connections. n may be Forever; 0 ends the fault. The
// connection then has members that never answer: no chunk comes, no other member
// takes over, and after a minute, in the time of AdvanceHeartbeats, the broker
// ends the connection as RabbitMQ does. AnswerWith loses answers of all
// connections, and later ones as well.
func (b *Broker) LoseUpdateAnswers(name string, n int) int {
	return b.eachNamed(name, func(c *conn) { c.lostAnswers = n })
}

// HangGroup takes the active member's place from it, without a word, and gives it to
// nobody: a group of single active consumers on a partition of a super stream has no
// active member from then on, whoever joins or leaves, until all members have left.
// A chunk that the member asks for does not come. In RabbitMQ 4.0 a group gets there
// if its active member's connection ends just when another member joins or leaves:
// the broker then waits for the answer of a member that is gone. HangGroup returns
// false if there is no such group, or it is on a stream that is no partition.
func (b *Broker) HangGroup(streamName, name string) (hangs bool) {
	_ = b.withStream("hang a group of", streamName, func(s *stream) {
		g := s.groups[name]
		if hangs = g != nil && g.partition >= 0; !hangs {
			return
		}
		for _, m := range g.members {
			m.active, m.attached, m.sending = false, false, false
		}
		g.active, g.stepping, g.hung = nil, nil, true
	}) // without the stream, there is no group
	return hangs
}

// MemberState says where a single active consumer is between waiting and active.
type MemberState int

const (
	// MemberWaiting is not active and has nothing to do.
	MemberWaiting MemberState = iota
	// MemberChosen was told to become active, and has not answered yet.
	MemberChosen
	// MemberActive is active and has answered. It gets chunks.
	MemberActive
	// MemberSteppingDown was told to stop, and has not answered yet. Nobody is
	// active meanwhile.
	MemberSteppingDown
	// MemberForgotten counts as active and was never told, see
	// WithStepDownBug.
	MemberForgotten
)

// String returns the state in words, such as "stepping down".
func (s MemberState) String() string {
	names := []string{"waiting", "chosen", "active", "stepping down", "forgotten"}
	if s < 0 || int(s) >= len(names) {
		return fmt.Sprintf("MemberState(%d)", int(s))
	}
	return names[s]
}

// Member is a single active consumer, as Members describes it.
type Member struct {
	// Connection is the Connection.Name of the member's connection.
	Connection string
	// ClientName is the Connection.ClientName of the member's connection.
	ClientName string
	// SubscriptionID is the id of the subscription on its connection.
	SubscriptionID uint8
	// State says whether the member is active.
	State MemberState
}

// Members returns the members of a group of single active consumers in the order
// in which they joined: those on a stream with the name. The stream may be a
// partition of a super stream; there the active one of n members is number k mod
// n, where k is the number of the partition. Members returns nil if there is no
// member or no stream.
func (b *Broker) Members(streamName, name string) []Member {
	var list []Member
	b.lookAt(streamName, func(s *stream) {
		g := s.groups[name]
		if g == nil {
			return
		}
		for _, m := range g.members {
			own, _ := m.conn.properties.Get("connection_name")
			list = append(list, Member{m.conn.name, own, m.id, g.state(m)})
		}
	})
	return list
}

// state returns the state of a member of the group.
func (g *group) state(s *subscription) MemberState {
	switch {
	case g.stepping == s:
		return MemberSteppingDown
	case g.active != s:
		return MemberWaiting
	case !s.active:
		return MemberForgotten
	case !s.attached:
		return MemberChosen
	}
	return MemberActive
}

// BindPartition adds a stream to a super stream as the last partition, under a
// routing key, as an operator adds one with AMQP: RabbitMQ's stream protocol has
// no command for it. Partitions and Route name it from then on, and no client is
// told. Groups that already read the stream keep their partition's number.
// BindPartition changes nothing if the same binding exists. It returns a
// *StreamError if the stream or the super stream does not exist.
func (b *Broker) BindPartition(superName, streamName, key string) error {
	return b.withSuper("bind", superName, streamName, func(s *superStream) {
		order := 0
		for _, p := range s.bindings {
			if p.stream == streamName && p.key == key {
				return
			}
			order = max(order, p.order+1)
		}
		s.bindings = append(s.bindings, binding{stream: streamName, key: key, order: order})
	})
}

// UnbindPartition removes a stream from a super stream: all bindings that lead to
// it. The stream stays, with its messages, publishers and subscriptions, and no
// client is told. The numbers of the other partitions stay as they are, so that
// they have a gap. UnbindPartition returns a *StreamError if the stream or the
// super stream does not exist.
func (b *Broker) UnbindPartition(superName, streamName string) error {
	return b.withSuper("unbind", superName, streamName, func(s *superStream) { s.unbind(streamName) })
}

// withSuper calls do, under the mutex, with a super stream of the virtual host
// "/". If that or the stream does not exist, it returns an error with op instead.
func (b *Broker) withSuper(op, superName, streamName string, do func(*superStream)) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	super := b.vhosts[defaultVHost].supers[superName]
	switch {
	case super == nil:
		return &StreamError{op, superName, wire.CodeStreamDoesNotExist}
	case b.stream(streamName) == nil:
		return &StreamError{op, streamName, wire.CodeStreamDoesNotExist}
	}
	do(super)
	b.changed()
	return nil
}
