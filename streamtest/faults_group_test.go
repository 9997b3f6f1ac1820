package streamtest

import (
	"errors"
	"slices"
	"testing"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// newSuper makes a broker with the super stream "sup" of partitions p0 to p2.
func newSuper(t *testing.T, opts ...Option) *Broker {
	t.Helper()
	b := NewBroker(t, opts...)
	c := openRaw(t, b)
	c.must(&wire.CreateSuperStream{
		Correlation: c.next(), Name: "sup", Partitions: []string{"p0", "p1", "p2"}, BindingKeys: []string{"a", "b", "c"},
	})
	return b
}

// joinPartition subscribes with id as a member of group g on a partition of "sup".
func (c *rawClient) joinPartition(id uint8, partition string) {
	c.t.Helper()
	c.subscribe(id, partition, fromFirst, 10, wire.Property{Key: "name", Value: "g"},
		wire.Property{Key: "single-active-consumer", Value: "true"}, wire.Property{Key: "super-stream", Value: "sup"})
}

// agree answers a ConsumerUpdate without an offset.
func (c *rawClient) agree(correlation uint32) {
	c.t.Helper()
	c.send(&wire.ConsumerUpdateResponse{Correlation: correlation, Code: wire.CodeOK})
}

// tell is update and agree.
func (c *rawClient) tell(id uint8, active bool) {
	c.t.Helper()
	c.agree(c.update(id, active))
}

// second makes two members of p1. The first is active and was told to step down.
func second(t *testing.T, b *Broker) (one, two *rawClient) {
	t.Helper()
	one, two = openRaw(t, b), openRaw(t, b)
	one.joinPartition(1, "p1")
	one.tell(1, true)
	two.joinPartition(1, "p1")
	return one, two
}

// states returns the states of group g on a stream.
func states(b *Broker, stream string) []MemberState {
	var got []MemberState
	for _, m := range b.Members(stream, "g") {
		got = append(got, m.State)
	}
	return got
}

func expectStates(t *testing.T, b *Broker, stream string, want ...MemberState) {
	t.Helper()
	awaitCond(t, b, "states of the members", func() bool { return slices.Equal(states(b, stream), want) })
}

// TestMembers expects that Members says what each member was told and answered.
func TestMembers(t *testing.T) {
	b := newSuper(t)
	one, two := openRaw(t, b), openRaw(t, b)
	if got := b.Members("p1", "g"); got != nil {
		t.Errorf("without members: %v", got)
	}
	one.joinPartition(7, "p1")
	id := one.update(7, true)
	expectStates(t, b, "p1", MemberChosen)
	one.agree(id)
	expectStates(t, b, "p1", MemberActive)
	two.joinPartition(2, "p1")
	expectStates(t, b, "p1", MemberSteppingDown, MemberWaiting)
	one.tell(7, false)
	two.tell(2, true)
	expectStates(t, b, "p1", MemberWaiting, MemberActive)
	m := b.Members("p1", "g")
	if m[0].SubscriptionID != 7 || m[0].ClientName != t.Name() || m[0].Connection == m[1].Connection {
		t.Errorf("members %+v", m)
	}
	if got := b.Members("none", "g"); got != nil {
		t.Errorf("of no stream: %v", got)
	}
}

// TestLoseUpdates expects that a member which was not told counts as told, and
// that the broker ends its connection after a minute.
func TestLoseUpdates(t *testing.T) {
	b := newSuper(t)
	one, two := openRaw(t, b), openRaw(t, b)
	b.LoseUpdates(1)
	one.joinPartition(1, "p0")
	two.joinPartition(1, "p0")
	one.quiet()
	expectStates(t, b, "p0", MemberChosen, MemberWaiting)
	b.AdvanceHeartbeats(replyTimeout / 2)
	one.quiet()
	b.AdvanceHeartbeats(replyTimeout / 2)
	one.expectEnd()
	two.tell(1, true)
	expectStates(t, b, "p0", MemberActive)
}

// TestLoseUpdateAnswers expects that a member whose answers are lost holds its
// group up until the broker ends its connection, that no other connection is
// concerned, and that ClearFaults ends the fault.
func TestLoseUpdateAnswers(t *testing.T) {
	b := newSuper(t)
	one, two := second(t, b)
	id := one.update(1, false)
	var connection string
	for _, m := range b.Members("p1", "g") {
		if m.State == MemberSteppingDown {
			connection = m.Connection
		}
	}
	if n := b.LoseUpdateAnswers(connection, Forever); n != 1 {
		t.Fatalf("%d connections", n)
	}
	one.agree(id)
	one.quiet()
	two.quiet()
	expectStates(t, b, "p1", MemberSteppingDown, MemberWaiting)
	b.AdvanceHeartbeats(replyTimeout)
	one.expectEnd()
	two.tell(1, true)
	expectStates(t, b, "p1", MemberActive)
	if n := b.LoseUpdateAnswers(t.Name(), Forever); n != 2 { // two, and the one that created the super stream
		t.Errorf("%d connections", n)
	}
	b.ClearFaults()
	three := openRaw(t, b)
	three.joinPartition(1, "p0")
	three.tell(1, true)
	expectStates(t, b, "p0", MemberActive)
	if n := b.LoseUpdateAnswers("nobody", 1); n != 0 {
		t.Errorf("%d connections of nobody", n)
	}
}

// TestStepDownBug expects that a member which is chosen again while it steps down
// is told, unless the broker has the bug. Then the group hangs until its members
// change.
func TestStepDownBug(t *testing.T) {
	again := func(t *testing.T, b *Broker) *rawClient {
		one, two := second(t, b)
		id := one.update(1, false)
		two.must(&wire.Unsubscribe{Correlation: two.next(), SubscriptionID: 1})
		one.agree(id)
		return one
	}
	t.Run("without", func(t *testing.T) {
		b := newSuper(t)
		one := again(t, b)
		one.tell(1, true)
		expectStates(t, b, "p1", MemberActive)
	})
	t.Run("with, and a member joins", func(t *testing.T) {
		b := newSuper(t, WithStepDownBug("4.2.0"))
		one := again(t, b)
		one.quiet()
		expectStates(t, b, "p1", MemberForgotten)
		one.send(&wire.Credit{SubscriptionID: 1, Credit: 1})
		one.expect(wire.KeyCredit.Response())
		three := openRaw(t, b)
		three.joinPartition(1, "p1")
		one.tell(1, false)
		three.tell(1, true)
	})
	t.Run("with, and it joins anew", func(t *testing.T) {
		b := newSuper(t, WithStepDownBug("4.2.0"))
		one := again(t, b)
		one.must(&wire.Unsubscribe{Correlation: one.next(), SubscriptionID: 1})
		one.joinPartition(1, "p1")
		one.tell(1, true)
		expectStates(t, b, "p1", MemberActive)
	})
	t.Run("with, and another one is chosen", func(t *testing.T) {
		b := newSuper(t, WithStepDownBug("4.2.0"))
		one, two := second(t, b)
		one.tell(1, false)
		two.tell(1, true)
		expectStates(t, b, "p1", MemberWaiting, MemberActive)
	})
}

// TestHangGroup expects that a group that hangs goes on only when all its members
// have left.
func TestHangGroup(t *testing.T) {
	b := newSuper(t)
	one, two := openRaw(t, b), openRaw(t, b)
	if b.HangGroup("p0", "g") || b.HangGroup("none", "g") {
		t.Error("a group that does not exist hangs")
	}
	one.joinPartition(1, "p0")
	one.tell(1, true)
	expectStates(t, b, "p0", MemberActive)
	if !b.HangGroup("p0", "g") {
		t.Fatal("the group does not hang")
	}
	two.joinPartition(1, "p0")
	one.must(&wire.Unsubscribe{Correlation: one.next(), SubscriptionID: 1})
	one.joinPartition(1, "p0")
	one.quiet()
	two.quiet()
	expectStates(t, b, "p0", MemberWaiting, MemberWaiting)
	one.nc.Close()
	awaitCond(t, b, "one member", func() bool { return len(b.Members("p0", "g")) == 1 })
	two.must(&wire.Unsubscribe{Correlation: two.next(), SubscriptionID: 1})
	two.joinPartition(1, "p0")
	two.tell(1, true)
	expectStates(t, b, "p0", MemberActive)
}

// TestMembersLeavingOneByOne expects that the members of a connection that ends
// leave one after the other, and that others are told of each choice.
func TestMembersLeavingOneByOne(t *testing.T) {
	for _, tt := range []struct {
		name string
		opts []Option
		told bool
	}{
		{"together", nil, false},
		{"one by one", []Option{WithMembersLeavingOneByOne("4.0.5")}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newSuper(t, tt.opts...)
			one, two := second(t, b)
			one.tell(1, false)
			two.tell(1, true)
			one.joinPartition(2, "p1")
			expectStates(t, b, "p1", MemberWaiting, MemberActive, MemberWaiting)
			one.nc.Close()
			awaitCond(t, b, "one member", func() bool { return len(b.Members("p1", "g")) == 1 })
			if tt.told {
				two.tell(1, false)
				two.tell(1, true)
			}
			two.quiet()
			expectStates(t, b, "p1", MemberActive)
		})
	}
}

// TestMembersLeaveInOrder expects that the groups of a connection that ends go on
// in the order of its subscriptions, so that a test runs the same each time.
func TestMembersLeaveInOrder(t *testing.T) {
	b := newSuper(t)
	one, two := openRaw(t, b), openRaw(t, b)
	join := func(c *rawClient, id uint8) {
		c.subscribe(id, "p0", fromFirst, 1, wire.Property{Key: "name", Value: string(rune('a' + id))},
			wire.Property{Key: "single-active-consumer", Value: "true"})
	}
	for id := range uint8(10) {
		join(one, id)
		one.tell(id, true)
		join(two, id)
	}
	one.nc.Close()
	for id := range uint8(10) {
		two.tell(id, true)
	}
}

// TestVersionOfFaults expects that the options that make the broker behave like an
// older RabbitMQ also make it report that version.
func TestVersionOfFaults(t *testing.T) {
	for _, tt := range []struct {
		opt  Option
		want string
	}{{WithStepDownBug("4.2.3"), "4.2.3"}, {WithMembersLeavingOneByOne("4.0.5"), "4.0.5"}} {
		c := dialRaw(t, NewBroker(t, tt.opt))
		c.send(&wire.PeerProperties{Correlation: c.next()})
		var resp wire.PeerPropertiesResponse
		c.decode(&resp)
		if got, _ := resp.Properties.Get("version"); got != tt.want {
			t.Errorf("version %q, want %q", got, tt.want)
		}
	}
}

// TestSetLeader expects that a stream without leader can be read and not written.
func TestSetLeader(t *testing.T) {
	b := newSuper(t)
	c := openRaw(t, b)
	if err := b.Publish("p1", "one"); err != nil {
		t.Fatal(err)
	}
	c.declare(1, "", "p1")
	if err := b.SetLeader("p1", false); err != nil {
		t.Fatal(err)
	}
	var update wire.MetadataUpdate
	if c.decode(&update); update.Stream != "p1" {
		t.Errorf("%+v", update)
	}
	c.send(&wire.Metadata{Correlation: c.next(), Streams: []string{"p1"}})
	var m wire.MetadataResponse
	c.decode(&m)
	if s := m.Streams[0]; s.Code != wire.CodeOK || s.Leader != wire.NoLeader || !slices.Equal(s.Replicas, []uint16{0}) || len(m.Brokers) != 1 {
		t.Errorf("metadata %+v", m)
	}
	if code := c.call(&wire.DeclarePublisher{Correlation: c.next(), PublisherID: 1, Stream: "p1"}); code != wire.CodeStreamNotAvailable {
		t.Errorf("declare: %v", code)
	}
	c.send(&wire.StoreOffset{Reference: "g", Stream: "p1", Offset: 0}, &wire.QueryOffset{Correlation: c.next(), Reference: "g", Stream: "p1"})
	var offset wire.QueryOffsetResponse
	if c.decode(&offset); offset.Code != wire.CodeStreamNotAvailable {
		t.Errorf("query: %v", offset.Code)
	}
	if err := b.Publish("p1", "two"); !errors.As(err, new(*StreamError)) {
		t.Errorf("publish: %v", err)
	}
	c.subscribe(1, "p1", fromFirst, 1)
	c.chunk()
	if err := b.SetLeader("p1", true); err != nil {
		t.Fatal(err)
	}
	c.declare(1, "", "p1")
	if _, stored := b.Offset("g", "p1"); stored {
		t.Error("a store without leader was kept")
	}
	if err := b.SetLeader("none", false); err == nil {
		t.Error("no error for a stream that does not exist")
	}
}

// TestBindPartition expects errors for what does not exist; the conformance rows
// hold the rest.
func TestBindPartition(t *testing.T) {
	b := newSuper(t)
	if err := b.CreateStream("p3"); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		b.BindPartition("none", "p3", "d"), b.BindPartition("sup", "none", "d"),
		b.UnbindPartition("none", "p0"), b.UnbindPartition("sup", "none"),
	} {
		var e *StreamError
		if !errors.As(err, &e) || e.Code != StreamDoesNotExist || e.Stream != "none" {
			t.Errorf("got %v", err)
		}
	}
	for range 2 { // the second time changes nothing
		if err := b.BindPartition("sup", "p3", "d"); err != nil {
			t.Fatal(err)
		}
	}
	c := openRaw(t, b)
	c.send(&wire.Partitions{Correlation: c.next(), SuperStream: "sup"})
	resp := wire.StreamsResponse{Key: wire.KeyPartitions}
	if c.decode(&resp); !slices.Equal(resp.Streams, []string{"p0", "p1", "p2", "p3"}) {
		t.Errorf("partitions %q", resp.Streams)
	}
}

// TestMemberStateString expects words for every state.
func TestMemberStateString(t *testing.T) {
	if got := MemberForgotten.String(); got != "forgotten" {
		t.Error(got)
	}
	if got := MemberState(9).String(); got != "MemberState(9)" {
		t.Error(got)
	}
}
