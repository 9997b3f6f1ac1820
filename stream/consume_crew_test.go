package stream

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-go/tidemark/internal/mark"
)

// TestCrewCounts: a crew counts what its members have in hand now, and nothing of
// one that has left.
func TestCrewCounts(t *testing.T) {
	c := &crew{}
	a, b := &workers{inCrew: inCrew{crew: c}}, &workers{inCrew: inCrew{crew: c}}
	c.join(a)
	c.join(b)
	for _, test := range []struct {
		w         *workers
		now, want inHand
	}{{a, inHand{3, 300}, inHand{3, 300}}, {b, inHand{5, 50}, inHand{8, 350}}, {a, inHand{1, 10}, inHand{6, 60}}, {a, inHand{2, 30}, inHand{7, 80}}} {
		test.w.count(test.now)
		if got := (inHand{int(c.messages.Load()), int(c.bytes.Load())}); got != test.want {
			t.Errorf("%+v in hand, want %+v", got, test.want)
		}
	}
	c.leave(a)
	c.leave(b)
	if messages, bytes := c.messages.Load(), c.bytes.Load(); messages != 0 || bytes != 0 || len(c.all()) > 0 {
		t.Errorf("all have left: %d messages, %d bytes, %d members", messages, bytes, len(c.all()))
	}
}

// TestCrewCountsWhatIsQueued: a partition's messages count for the others as soon as
// they are queued, though no chunk follows.
func TestCrewCountsWhatIsQueued(t *testing.T) {
	playParts(t, 2, func(s *partScene) {
		must(s, s.b.Publish(s.partitions[0], make([]string, 40)...))
		c, release := s.consumer(ConsumerConfig{Workers: 2, MaxAhead: 200}), make(chan struct{})
		r := s.start(func(ctx context.Context) error {
			return c.Run(ctx, func(context.Context, *Delivery) error {
				s.inside.Add(1)
				<-release
				return nil
			})
		})
		s.until("both workers are at work", func() bool { return s.inside.Load() == 2 })
		synctest.Wait()
		c.mu.Lock()
		crew := c.super.shared.crew
		c.mu.Unlock()
		if n := crew.messages.Load(); n != 40 {
			s.Errorf("%d messages count", n)
		}
		close(release)
		must(s, r.stopped())
	})
}

// TestCrewWaitsForStores: a crew that has closed has no goroutine left, not even one
// that was waiting for a store and has no more to do than to wake others.
func TestCrewWaitsForStores(t *testing.T) {
	r := aloneRun(t, ConsumerConfig{Name: "n", Workers: 2, Store: StorePolicy{Every: 1}})
	r.handler = func(context.Context, *Delivery) error { return nil }
	r.crew = startCrew(r.consumer.cfg)
	w, other := startWorkers(t.Context(), r), startWorkers(t.Context(), r)
	other.mu.Lock() // whoever wakes the others has to wait
	r.crew.waiting.Store(1)
	jobs := r.progress.takeInHand(mark.ChunkID{}, 1, 0, []Delivery{{Offset: 1}}, nil)
	w.mu.Lock()
	w.queue.push(jobs[0])
	w.list()
	w.mu.Unlock()
	request := <-r.requests
	request.done <- nil
	w.waitIdle()
	closed := make(chan struct{})
	go func() { r.crew.close(); close(closed) }()
	select {
	case <-closed:
		t.Error("a goroutine of the crew is at work")
	case <-time.After(20 * time.Millisecond): // it waits, or has not begun to
	}
	other.mu.Unlock()
	<-closed
	must(t, w.abandon())
	must(t, other.abandon())
}

// TestCrewShares: a partition may have in hand half of what the others leave, and
// always something.
func TestCrewShares(t *testing.T) {
	for _, test := range []struct {
		others, own, places, enough int
	}{
		{0, 0, 256, 1}, {0, 400, 100, 63}, {0, 500, 0, 63}, {600, 0, 200, 1}, {600, 150, 50, 26},
		{999, 0, 1, 1}, {5000, 0, 1, 1}, {5000, 1, -1, 1},
	} {
		c := &crew{size: 4, maxAhead: 1000, quarter: 100}
		c.messages.Store(int64(test.others + test.own))
		places, enough := c.places(inHand{messages: test.own})
		if places != test.places || enough != test.enough {
			t.Errorf("%d in hand, %d of others: %d places, %d are enough; want %d, %d", test.own, test.others, places, enough, test.places, test.enough)
		}
	}
	for _, test := range []struct {
		all, own inHand
		room     bool
	}{
		{inHand{100, 1000}, inHand{0, 0}, true}, {inHand{100, 60}, inHand{10, 19}, true}, {inHand{100, 60}, inHand{10, 30}, true},
		{inHand{100, 70}, inHand{10, 30}, false}, {inHand{100, 70}, inHand{10, 31}, false}, {inHand{100, 140}, inHand{10, 40}, false},
		{inHand{7, 140}, inHand{2, 40}, true}, {inHand{8, 140}, inHand{2, 40}, false}, {inHand{7, 100 + maxOpened}, inHand{2, 40}, false},
	} {
		c := &crew{size: 4, maxAhead: 1000, quarter: 100}
		c.messages.Store(int64(test.all.messages))
		c.bytes.Store(int64(test.all.bytes))
		if c.hasRoom(test.own) != test.room {
			t.Errorf("of %+v %+v in hand: want room %v", test.all, test.own, test.room)
		}
	}
}
