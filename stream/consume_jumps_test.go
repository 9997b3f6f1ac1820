package stream

import (
	"context"
	"testing"

	"github.com/tidemark-go/tidemark/streamtest"
)

// TestTooSlowForRetention: what retention takes in front of a connected consumer
// is reported with its range, each time. Offsets that the broker's own entries
// take are no loss.
func TestTooSlowForRetention(t *testing.T) {
	b := streamtest.NewBroker(t)
	noLeaks(t)
	direct := connect(t, b.URI())
	env, changes := watched(t, b.URI())
	name := newStream(t, direct)
	at := 0
	more := func() { // in chunks of ten
		for range 20 {
			publish(t, direct, name, at, at+10)
			at += 10
		}
	}
	more() // 0 to 199
	b.SkipOffsets(name, 100)
	more() // 300 to 499
	handled, proceed := make(chan uint64, 10_000), make(chan struct{})
	stop, ended := running1(t, env, name, ConsumerConfig{Name: "billing", MaxBuffered: 1}, func(_ context.Context, d *Delivery) error {
		handled <- d.Offset
		if d.Offset == 5 || d.Offset == 305 {
			<-proceed
		}
		return nil
	})
	next, asked := uint64(0), 0 // when the run begins, and at each jump
	for _, test := range []struct{ at, first uint64 }{{5, 150}, {305, 450}} {
		for next != test.at {
			next = recv(t, handled, "a message")
		}
		// The jump from 199 to 300 is looked at before retention comes there.
		asked++
		must(t, b.Await(soon(t), func() bool { return b.Received(streamtest.StreamStats) == asked }))
		must(t, b.RemoveBefore(name, test.first))
		asked++
		proceed <- struct{}{}
		last := next
		for next == last || next == last+1 {
			last, next = next, recv(t, handled, "a message")
		}
		lost := awaitConsumer(t, changes, StateMessagesLost)
		if lost.LostFrom != last+1 || lost.LostTo != next-1 || lost.Lost != next-last-1 || next != test.first {
			t.Errorf("lost %d, from %d to %d; %d follows %d", lost.Lost, lost.LostFrom, lost.LostTo, next, last)
		}
	}
	for next != 499 {
		next = recv(t, handled, "the last message")
	}
	stop()
	_ = recv(t, ended, "the end")
	for c := recv(t, changes, "the end"); c.State != StateClosed; c = recv(t, changes, "the end") {
		if c.State == StateMessagesLost {
			t.Errorf("another loss is reported, from %d to %d", c.LostFrom, c.LostTo)
		}
	}
}
