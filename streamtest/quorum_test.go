package streamtest

import (
	"fmt"
	"slices"
	"testing"

	"github.com/tidemark-go/tidemark/internal/wire"
)

func (c *rawClient) sequence(reference, stream string) uint64 {
	c.t.Helper()
	c.send(&wire.QueryPublisherSequence{Correlation: c.next(), Reference: reference, Stream: stream})
	var resp wire.QueryPublisherSequenceResponse
	if c.decode(&resp); resp.Code != wire.CodeOK {
		c.t.Fatalf("the sequence of %q: %v", reference, resp.Code)
	}
	return resp.Sequence
}

func texts(b *Broker, stream string) (list []string) {
	for _, m := range b.Messages(stream) {
		list = append(list, string(m.Raw))
	}
	return list
}

// TestNoQuorum: what is not committed is neither read nor confirmed, but counts
// in the sequence. A repeat of it is confirmed together with it, and a repeat of
// what is committed at once only while nothing newer of its name waits.
func TestNoQuorum(t *testing.T) {
	b, c := published(t) // publisher 1 has the name ref
	c.create("other")
	c.declare(2, "", "s")
	c.declare(3, "ref", "other")
	c.publish(1, 1, 2)
	c.confirmed()
	if err := b.SetQuorum("s", false); err != nil {
		t.Fatal(err)
	}
	c.publish(1, 2) // nothing of ref waits
	if got := c.confirmed(); !slices.Equal(got, []uint64{2}) {
		t.Errorf("confirmed %d", got)
	}
	c.publish(1, 3)
	c.publish(2, 7)
	c.publish(1, 3, 1)
	c.quiet()
	if n := c.sequence("ref", "s"); n != 3 {
		t.Errorf("the sequence is %d", n)
	}
	c.publish(3, 9) // another stream
	if got := c.confirmed(); !slices.Equal(got, []uint64{9}) {
		t.Errorf("confirmed %d", got)
	}
	if got := texts(b, "s"); !slices.Equal(got, []string{"m1", "m2"}) {
		t.Errorf("the stream has %q", got)
	}
	if err := b.SetQuorum("s", true); err != nil {
		t.Fatal(err)
	}
	var all []uint64
	for len(all) < 4 {
		all = append(all, c.confirmed()...)
	}
	if !slices.Equal(all, []uint64{3, 7, 3, 1}) {
		t.Errorf("confirmed %d", all)
	}
	if got := texts(b, "s"); !slices.Equal(got, []string{"m1", "m2", "m3", "m7"}) {
		t.Errorf("the stream has %q", got)
	}
	c.quiet()
}

// TestLeaderLost: MoveLeader keeps what is not committed and confirms none of it;
// LoseLeader loses it, and the sequences fall back.
func TestLeaderLost(t *testing.T) {
	for _, lost := range []bool{false, true} {
		b, c := published(t)
		c.publish(1, 1)
		c.confirmed()
		b.SetQuorum("s", false)
		c.publish(1, 5)
		c.declare(2, "new", "s")
		c.publish(2, 8)
		c.quiet()
		move, want := b.MoveLeader, []string{"m1", "m5", "m8"}
		sequence, of := uint64(5), uint64(8)
		if lost {
			move, want, sequence, of = b.LoseLeader, want[:1], 1, 0
		}
		if err := move("s"); err != nil {
			t.Fatal(err)
		}
		c.expect(wire.KeyMetadataUpdate)
		c.quiet()
		if got := texts(b, "s"); !slices.Equal(got, want) {
			t.Errorf("lost %v: the stream has %q", lost, got)
		}
		if a, b := c.sequence("ref", "s"), c.sequence("new", "s"); a != sequence || b != of {
			t.Errorf("lost %v: the sequences are %d and %d", lost, a, b)
		}
		c.declare(1, "ref", "s")
		c.publish(1, 5)
		if got := c.confirmed(); !slices.Equal(got, []uint64{5}) { // the new leader has its quorum
			t.Errorf("confirmed %d", got)
		}
	}
	b := NewBroker(t)
	for name, err := range map[string]error{"set quorum of": b.SetQuorum("x", false), "lose leader of": b.LoseLeader("x")} {
		if want := fmt.Sprintf("%s stream %q: stream does not exist", name, "x"); err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// TestNoQuorumEnds: with ClearFaults, and with the stream.
func TestNoQuorumEnds(t *testing.T) {
	b, c := published(t)
	b.SetQuorum("s", false)
	c.publish(1, 1)
	c.quiet()
	b.ClearFaults()
	c.confirmed()
	b.SetQuorum("s", false)
	before := storedBy(b)
	c.publish(1, 2)
	c.quiet()
	if storedBy(b) <= before {
		t.Error("what is not committed takes no memory")
	}
	b.DeleteStream("s")
	c.expect(wire.KeyMetadataUpdate)
	c.create("s")
	if n, stored := len(b.Messages("s")), storedBy(b); n != 0 || stored != streamCost {
		t.Errorf("the new stream has %d messages, the broker %d bytes", n, stored)
	}
}

// storedBy returns how many bytes a broker keeps.
func storedBy(b *Broker) int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return int64(b.stored)
}

// TestPublishCredit: 50,000 entries may be unconfirmed on a connection, of all
// its publishers; reading goes on above 12,500; what a leader had not confirmed
// when it was lost is never given back.
func TestPublishCredit(t *testing.T) {
	b, c := published(t)
	for _, s := range []string{"other", "third"} {
		if err := b.CreateStream(s); err != nil {
			t.Fatal(err)
		}
	}
	c.declare(2, "", "other")
	c.declare(3, "", "third")
	for _, s := range []string{"s", "other"} {
		b.SetQuorum(s, false)
	}
	ids := func(n int) []uint64 {
		list := make([]uint64, n)
		for i := range list {
			list[i] = uint64(i + 1)
		}
		return list
	}
	c.publish(1, ids(38_000)...)
	c.publish(2, ids(11_999)...)
	c.publish(3, 1) // the last one
	if got := c.confirmed(); len(got) != 1 {
		t.Errorf("confirmed %d", got)
	}
	c.publish(3, 2)
	c.expectSilence()
	b.SetQuorum("other", true) // 12,000 with the last one: not enough
	if n := len(c.confirmed()); n != 11_999 {
		t.Fatalf("%d confirmed", n)
	}
	c.expectSilence()
	b.SetQuorum("s", true)
	if n := len(c.confirmed()); n != 38_000 {
		t.Fatalf("%d confirmed", n)
	}
	if got := c.confirmed(); !slices.Equal(got, []uint64{2}) {
		t.Errorf("confirmed %d", got)
	}
	b.SetQuorum("s", false)
	c.publish(1, ids(88_000)[38_000:87_998]...)
	c.quiet()
	b.MoveLeader("s") // two are left for ever
	c.expect(wire.KeyMetadataUpdate)
	c.publish(3, 3)
	c.confirmed()
	c.publish(3, 4, 5)
	c.confirmed() // the credit was used up and came back, but is not above 12,500
	c.publish(3, 6)
	c.expectSilence()
}

// TestDiskAlarm: the broker reads one packet more of who publishes, and refuses
// new publishers; nothing else changes.
func TestDiskAlarm(t *testing.T) {
	b, c := published(t, WithUser(User{Name: "guest", Password: "guest"}),
		WithUser(User{Name: "nobody", Password: "n", Permissions: map[string]Permission{"/": {}}}))
	d, e := openRaw(t, b), dialRaw(t, b)
	e.login("nobody", "n")
	e.open("/")
	b.SetDiskAlarm(true)
	for i, x := range []*rawClient{d, e} {
		if code := x.call(&wire.DeclarePublisher{Correlation: x.next(), PublisherID: 9, Stream: "s"}); code != wire.CodePreconditionFailed {
			t.Errorf("client %d: %v", i, code)
		}
	}
	d.subscribe(1, "s", fromFirst, 10)
	c.publish(1, 1)
	c.confirmed()
	d.chunk()
	c.publish(1, 2)
	c.expectSilence()
	d.create("new")
	b.SetDiskAlarm(false)
	if got := c.confirmed(); !slices.Equal(got, []uint64{2}) {
		t.Errorf("confirmed %d", got)
	}
	d.chunk()
	d.declare(9, "", "new")
	b.SetDiskAlarm(true)
	b.ClearFaults()
	d.declare(10, "", "new")
}

// TestRenewalDuringAlarm: RabbitMQ has no place for it and closes the connection.
func TestRenewalDuringAlarm(t *testing.T) {
	b := NewBroker(t)
	c := openRaw(t, b)
	b.SetDiskAlarm(true)
	c.send(&wire.SaslAuthenticate{Correlation: c.next(), Mechanism: "PLAIN", Data: []byte("\x00guest\x00guest")})
	var req wire.Close
	if c.decode(&req); req.Code != wire.CodeUnknownFrame {
		t.Errorf("closed with %v", req.Code)
	}
}

// TestStopReadingFrom stops one connection only.
func TestStopReadingFrom(t *testing.T) {
	b, c := published(t)
	d := dialRaw(t, b)
	d.login("guest", "guest")
	d.open("/")
	if n := b.StopReadingFrom(c.nc.LocalAddr().String() + " -> " + b.Addr()); n != 1 {
		t.Fatalf("stopped %d connections", n)
	}
	c.publish(1, 1)
	c.expectSilence()
	d.quiet()
	if n := b.StopReadingFrom(t.Name()); n != 2 { // both have that name
		t.Errorf("stopped %d connections", n)
	}
	d.publish(1, 1)
	d.expectSilence()
	if n := b.ResumeReadingFrom(t.Name()); n != 2 {
		t.Errorf("resumed %d connections", n)
	}
	c.confirmed()
	d.expect(wire.KeyPublishError)
	if n := b.StopReadingFrom("x"); n != 0 {
		t.Errorf("stopped %d connections", n)
	}
}

// TestWritersForgotten: a stream that begins a segment keeps the 255 references
// that wrote last.
func TestWritersForgotten(t *testing.T) {
	b, c := published(t)
	c.create("small", "stream-max-segment-size-bytes", "1000")
	for i := range 260 {
		c.declare(5, fmt.Sprint("p", i), "small")
		c.publish(5, 7)
		c.confirmed()
		c.must(&wire.DeletePublisher{Correlation: c.next(), PublisherID: 5})
	}
	c.declare(5, "", "small")
	for range 50 { // more than a segment
		c.publish(5, 1)
		c.confirmed()
	}
	for i, want := range map[int]bool{0: false, 4: false, 5: true, 259: true} {
		if _, ok := b.Sequence(fmt.Sprint("p", i), "small"); ok != want {
			t.Errorf("the sequence of p%d is there: %v", i, ok)
		}
	}
	if n := c.sequence("p0", "small"); n != 0 {
		t.Errorf("the sequence of p0 is %d", n)
	}
}

// TestSequenceWithoutLeader: RabbitMQ's connection crashes.
func TestSequenceWithoutLeader(t *testing.T) {
	b, c := published(t)
	b.SetAvailable("s", false)
	c.expect(wire.KeyMetadataUpdate)
	c.send(&wire.QueryPublisherSequence{Correlation: c.next(), Reference: "ref", Stream: "s"})
	c.expectEnd()
}
