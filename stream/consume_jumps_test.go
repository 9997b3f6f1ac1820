package stream

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
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

// sharing runs three consumers of a stream, of which the second and the third
// share a subscription and stand still at offset 5 until proceed is called.
func sharing(t *testing.T, env *Env, changes chan StateChange, stream string, maxBuffered int) (seen [3]chan uint64, proceed func()) {
	t.Helper()
	proceeding := make(chan struct{})
	proceed = sync.OnceFunc(func() { close(proceeding) })
	for i := range seen {
		seen[i] = make(chan uint64, 10_000)
		cfg := ConsumerConfig{Name: string(number(i)), MaxBuffered: maxBuffered}
		stop, _ := runConsumer(t, env, stream, cfg, func(d *Delivery) {
			seen[i] <- d.Offset
			if i > 0 && d.Offset == 5 {
				<-proceeding
			}
		})
		t.Cleanup(func() { proceed(); _ = stop() })
		awaitConsumer(t, changes, StateConnected)
	}
	for i := 1; i < len(seen); i++ {
		for recv(t, seen[i], "a message") != 5 {
		}
	}
	if n := len(env.tees.open); n != 1 {
		t.Fatalf("%d shared subscriptions", n)
	}
	return seen, proceed
}

// TestSharedGapIsNoLoss: offsets that the broker's own entries take are no loss for
// consumers that share a subscription either, though retention comes there before
// they handle what had come.
func TestSharedGapIsNoLoss(t *testing.T) {
	noLeaks(t)
	b := streamtest.NewBroker(t)
	direct := connect(t, b.URI())
	env, changes := watched(t, b.URI())
	name := newStream(t, direct)
	for at := 0; at < 50; at += 10 {
		publish(t, direct, name, at, at+10)
	}
	must(t, b.SkipOffsets(name, 100))
	for at := 50; at < 100; at += 10 {
		publish(t, direct, name, at, at+10)
	}
	seen, proceed := sharing(t, env, changes, name, 0)
	var shared *tee
	for _, list := range env.tees.open {
		shared = list[0]
	}
	eventually(t, "all has come, and the gap is judged", patience, func() bool {
		shared.source.mu.Lock()
		defer shared.source.mu.Unlock()
		return len(shared.ring) == 10 && !shared.source.jumpWatch.asking
	})
	must(t, b.RemoveBefore(name, 180))
	proceed()
	for i := range seen {
		for recv(t, seen[i], "the last message") != 199 {
		}
	}
	for _, list := range env.tees.open {
		for m := range list[0].members {
			m.consumer.jumpWatch.wg.Wait()
		}
	}
	for len(changes) > 0 {
		if c := <-changes; c.State == StateMessagesLost {
			t.Errorf("%s lost %d messages, from %d to %d", c.Name, c.Lost, c.LostFrom, c.LostTo)
		}
	}
}

// TestSharedTooSlowForRetention: each consumer that shares a subscription reports
// what retention takes from it.
func TestSharedTooSlowForRetention(t *testing.T) {
	noLeaks(t)
	b := streamtest.NewBroker(t)
	direct := connect(t, b.URI())
	env, changes := watched(t, b.URI())
	name := newStream(t, direct)
	for at := 0; at < 500; at += 10 {
		publish(t, direct, name, at, at+10)
	}
	seen, proceed := sharing(t, env, changes, name, 1)
	for recv(t, seen[0], "the last message of the first one") != 499 {
	}
	must(t, b.RemoveBefore(name, 300))
	proceed()
	for i, last := 1, uint64(0); i < len(seen); i++ {
		for last = 5; ; last++ {
			next := recv(t, seen[i], "a message")
			if next == last+1 {
				continue
			}
			lost := awaitConsumer(t, changes, StateMessagesLost)
			if next != 300 || lost.LostFrom != last+1 || lost.LostTo != 299 {
				t.Errorf("lost from %d to %d, and %d follows %d", lost.LostFrom, lost.LostTo, next, last)
			}
			break
		}
	}
}

// TestDetachedTooSlowForRetention: a consumer for which the others did not wait
// reads on by itself, and reports what retention took meanwhile.
func TestDetachedTooSlowForRetention(t *testing.T) {
	const n, kept = 20_000, 15_000
	b, direct, stream := faulty(t, n)
	env, changes := watched(t, b.URI())
	held := make(chan struct{})
	release := sync.OnceFunc(func() { close(held) })
	var seen [3]atomic.Uint64
	got := make(chan uint64, n)
	for i := range seen {
		stop, _ := runConsumer(t, env, stream, ConsumerConfig{Name: string(number(i)), MaxBuffered: 64 << 10}, func(d *Delivery) {
			if i == 1 {
				got <- d.Offset
				if d.Offset == 10 {
					<-held
				}
			}
			seen[i].Store(d.Offset)
		})
		t.Cleanup(func() { release(); _ = stop() })
		awaitConsumer(t, changes, StateConnected)
	}
	for _, i := range []int{0, 2} {
		eventually(t, "the others have all", patience, func() bool { return seen[i].Load() == n-1 })
	}
	must(t, b.RemoveBefore(stream, kept))
	first, err := direct.Stats(inTime(t), stream)
	must(t, err)
	release()
	last := recv(t, got, "a message")
	for next := last; next < first.FirstOffset; next = recv(t, got, "a message") {
		last = next
	}
	lost := awaitConsumer(t, changes, StateMessagesLost)
	if lost.Name != string(number(1)) || lost.LostFrom != last+1 || lost.LostTo != first.FirstOffset-1 {
		t.Errorf("%s lost %d to %d; the last one before was %d, and the stream begins with %d", lost.Name, lost.LostFrom, lost.LostTo, last, first.FirstOffset)
	}
	eventually(t, "it has the rest", patience, func() bool { return seen[1].Load() == n-1 })
	for len(changes) > 0 {
		if c := <-changes; c.State == StateMessagesLost {
			t.Errorf("%s lost %d to %d too", c.Name, c.LostFrom, c.LostTo)
		}
	}
}

// TestTeeTellsWhatIsLost: a member waits until the tee has an answer for its gap,
// and for no longer. It asks itself about what lies before the tee.
func TestTeeTellsWhatIsLost(t *testing.T) {
	b := startScripted(t)
	b.onCommand = func(p *script.Peer, key wire.Key, fields []byte) bool {
		if key != wire.KeyStreamStats {
			return false
		}
		id, _ := wire.Correlation(fields)
		p.Send(&wire.StreamStatsResponse{Correlation: id, Code: wire.CodeOK, Stats: []wire.Stat{
			{Key: "first_chunk_id", Value: 1000}, {Key: "committed_chunk_id", Value: 1 << 20},
		}})
		return true
	}
	s, source := openOn(t, b, 1<<20), openOn(t, b, 1<<20)
	shared := &tee{source: source, from: 100, lost: []mark.Gap{{From: 150, To: 250}}}
	s.inTee.Store(&teeMember{tee: shared, consumer: s})
	defer s.inTee.Store(nil)
	lost := func(from, to uint64) []mark.Gap {
		t.Helper()
		list, err := s.lostOf(soon(t), []mark.Gap{{From: from, To: to}})
		must(t, err)
		return list
	}
	want := func(got []mark.Gap, gaps ...mark.Gap) {
		t.Helper()
		if !slices.Equal(got, gaps) {
			t.Errorf("lost %v, want %v", got, gaps)
		}
	}
	want(lost(99, 120), mark.Gap{From: 99, To: 120})
	want(lost(100, 120))
	want(lost(200, 300), mark.Gap{From: 200, To: 250})

	source.jumpWatch.judging = []mark.Gap{{From: 300, To: 350}}
	want(lost(200, 299), mark.Gap{From: 200, To: 250})
	answer := make(chan []mark.Gap)
	go func() { answer <- lost(320, 330) }()
	eventually(t, "it waits", patience, func() bool {
		source.mu.Lock()
		defer source.mu.Unlock()
		return source.jumpWatch.judged != nil
	})
	shared.noteLost(mark.Gap{From: 300, To: 325})
	source.noteJudged()
	want(recv(t, answer, "what is lost"), mark.Gap{From: 320, To: 325})

	source.jumpWatch.judging = []mark.Gap{{From: 400, To: 450}}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.lostOf(ended, []mark.Gap{{From: 400, To: 400}})
	wantErr(t, err, context.Canceled)
	for i := range maxLost {
		shared.noteLost(mark.Gap{From: uint64(1000 + i), To: uint64(1000 + i)})
	}
	if n := len(shared.lost); n != maxLost || shared.lost[0].From != 1000 {
		t.Errorf("%d losses are known, from %v on", n, shared.lost[0])
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
