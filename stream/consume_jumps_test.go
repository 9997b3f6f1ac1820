package stream

import (
	"context"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/mark"
	"github.com/tidemark-go/tidemark/internal/script"
	"github.com/tidemark-go/tidemark/internal/wire"
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

// TestJumpPause: a question that has found no loss makes the next one wait, longer
// each time, and one that has found a loss makes it come at once.
func TestJumpPause(t *testing.T) {
	b := startScripted(t)
	s := openOn(t, b, 1<<20)
	s.flow.granted = 100
	var first, next int64 // of the stream, and behind what came
	b.onCommand = func(p *script.Peer, key wire.Key, fields []byte) bool {
		if key != wire.KeyStreamStats {
			return false
		}
		id, _ := wire.Correlation(fields)
		p.Send(&wire.StreamStatsResponse{Correlation: id, Code: wire.CodeOK, Stats: []wire.Stat{
			{Key: "first_chunk_id", Value: first}, {Key: "committed_chunk_id", Value: 1 << 20},
		}})
		return true
	}
	losses := 0
	s.watchJumps(mark.ExpectJumps(0), func(mark.Gap) { losses++ })
	for i, test := range []struct {
		lost bool
		want time.Duration
	}{
		{false, minJumpPause}, {false, 2 * minJumpPause}, {true, 0}, {true, 0}, {false, minJumpPause},
	} {
		first = 0
		if losses = 0; test.lost {
			first = next + 100
		}
		must(t, arriveTogether(t, s, uint64(next+100), "a"))
		next += 101
		s.jumpWatch.wg.Wait()
		if pause := s.jumpWatch.pause; pause != test.want || (losses > 0) != test.lost {
			t.Errorf("question %d: %d losses, then a pause of %v, want %v", i, losses, pause, test.want)
		}
	}
}
