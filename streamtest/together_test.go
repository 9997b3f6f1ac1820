package streamtest

import (
	"testing"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// together sends n frames of one message each in one write, with the filter
// values a and b in turn. Message i goes to publisher i mod len(publishers).
func (c *rawClient) together(n int, publishers ...uint8) {
	c.t.Helper()
	var all []byte
	for i := range n {
		start, value := len(all), []byte{"ab"[i%2]}
		all = wire.BeginPublish(all, wire.Version2, publishers[i%len(publishers)])
		all = wire.FinishPublish(wire.AppendPublishFiltered(all, uint64(i), value, value), start, 1)
	}
	c.write(all)
	for got := 0; got < n; got += len(c.confirmed()) {
	}
}

// records returns the numbers of messages of the chunks that a subscription
// gets, up to a total of n.
func (c *rawClient) records(id uint8, spec wire.OffsetSpec, n int, properties ...wire.Property) []int {
	c.t.Helper()
	c.subscribe(id, "s", spec, 1000, properties...)
	var list []int
	for n > 0 {
		_, chunk := c.chunk()
		list = append(list, int(chunk.Records))
		n -= int(chunk.Records)
	}
	return list
}

func TestFramesThatComeTogetherShareChunks(t *testing.T) {
	b := NewBroker(t)
	c := openRaw(t, b)
	c.create("s")
	c.declare(1, "", "s")
	c.together(100, 1)
	onlyA := wire.Property{Key: "filter.0", Value: "a"}
	equal(t, "all", c.records(1, fromFirst, 100), []int{32, 64, 4})
	equal(t, "those with an a", c.records(2, fromFirst, 100, onlyA), []int{32, 64, 4})
	equal(t, "the last", c.records(3, wire.OffsetSpec{Type: wire.OffsetLast}, 4), []int{4})
}

func TestSeparateFrames(t *testing.T) {
	b := NewBroker(t, WithSeparateFrames())
	c := openRaw(t, b)
	c.create("s")
	c.declare(1, "", "s")
	c.together(10, 1)
	equal(t, "all", c.records(1, fromFirst, 10), []int{1, 1, 1, 1, 1, 1, 1, 1, 1, 1})
	equal(t, "those with an a", c.records(2, fromFirst, 5, wire.Property{Key: "filter.0", Value: "a"}), []int{1, 1, 1, 1, 1})
	equal(t, "the last", c.records(3, wire.OffsetSpec{Type: wire.OffsetLast}, 1), []int{1})
}

// TestTogetherOfSeveralPublishers expects that the publishers of a stream share
// chunks, that those of another stream do not, and that each message has its
// confirm and its place in deduplication.
func TestTogetherOfSeveralPublishers(t *testing.T) {
	b := NewBroker(t)
	c := openRaw(t, b)
	c.create("s")
	c.create("other")
	c.declare(1, "one", "s")
	c.declare(2, "two", "s")
	c.declare(3, "one", "other")
	c.together(12, 1, 2, 3)
	equal(t, "chunks", c.records(1, fromFirst, 8), []int{8})
	equal(t, "other stream", b.Bodies("other"), []string{"a", "b", "a", "b"})
	one, _ := b.Sequence("one", "s")
	two, _ := b.Sequence("two", "s")
	if one != 9 || two != 10 {
		t.Errorf("highest ids %d and %d, want 9 and 10", one, two)
	}
	c.unsubscribe(1)
	c.together(12, 1, 2, 3) // all of it again
	if n := len(b.Messages("s")) + len(b.Messages("other")); n != 12 {
		t.Errorf("%d messages after a repetition, want 12", n)
	}
}

// TestAnotherCommandSeesWhatCameBefore expects that a command that comes in one
// write with what was published before it sees the messages.
func TestAnotherCommandSeesWhatCameBefore(t *testing.T) {
	b := NewBroker(t)
	c := openRaw(t, b)
	c.create("s")
	c.declare(1, "ref", "s")
	c.write(append(publishOne(1, 7), encode(&wire.StreamStats{Stream: "s"})...))
	c.confirmed()
	var stats wire.StreamStatsResponse
	if c.decode(&stats); len(stats.Stats) == 0 || stats.Stats[0].Value != 0 {
		t.Errorf("%+v", stats)
	}
}

// equal fails the test unless got equals want.
func equal[T comparable](t *testing.T, what string, got, want []T) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %v, want %v", what, got, want)
	}
	for i := range got {
		if got[i] != want[i] {
			t.Fatalf("%s: %v, want %v", what, got, want)
		}
	}
}

func (c *rawClient) unsubscribe(id uint8) {
	c.t.Helper()
	c.must(&wire.Unsubscribe{Correlation: c.next(), SubscriptionID: id})
}

// TestWhatEndsAConnectionComesAfterWhatWasPublished expects that messages are
// confirmed although a frame that is too large, or malformed, follows at once.
func TestWhatEndsAConnectionComesAfterWhatWasPublished(t *testing.T) {
	for name, bad := range map[string][]byte{"too large": {0x7f, 0, 0, 0}, "unknown": {0, 0, 0, 4, 0x7f, 0, 0, 1}} {
		t.Run(name, func(t *testing.T) {
			b := NewBroker(t)
			c := openRaw(t, b)
			c.create("s")
			c.declare(1, "", "s")
			c.write(append(publishOne(1, 7), bad...))
			equal(t, "confirmed", c.confirmed(), []uint64{7})
			c.expect(wire.KeyClose)
			equal(t, "stored", b.Bodies("s"), []string{"m"})
		})
	}
}
