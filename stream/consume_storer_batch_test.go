package stream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-go/tidemark/internal/mark"
	"github.com/tidemark-go/tidemark/streamtest"
)

// fakeBatch is a batch that a test sends when it likes.
type fakeBatch struct {
	mu      sync.Mutex
	wanted  int // calls of storeSoon that want a store
	calls   int
	at      time.Time
	leads   bool
	fails   error
	gone    bool // the stream
	yields  int
	settled int
	next    int // calls of storeNext
	onNext  func()
	retired bool
}

func (b *fakeBatch) storeSoon(_ context.Context, wanted bool) (time.Time, bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.calls++; wanted {
		b.wanted++
	}
	return b.at, b.leads, b.fails
}

func (b *fakeBatch) storeNext(ctx context.Context) (time.Time, bool, error) {
	b.mu.Lock()
	b.next++
	onNext := b.onNext
	b.mu.Unlock()
	if onNext != nil {
		onNext()
	}
	return b.storeSoon(ctx, true)
}

func (b *fakeBatch) retire()                { b.retired = true }
func (b *fakeBatch) yield()                 { b.mu.Lock(); b.yields++; b.mu.Unlock() }
func (b *fakeBatch) usable() bool           { return !b.gone }
func (b *fakeBatch) settle(context.Context) { b.settled++ }

// batchedStorer is a storer of a batch, whose goroutine does not run.
func batchedStorer(p StorePolicy) (*storer, *fakeBatch) {
	s, b := idleStorer(p, &stores{}), &fakeBatch{}
	s.batch = b
	return s, b
}

// TestStoreInBatch is one look at a time.
func TestStoreInBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		long := StorePolicy{Interval: time.Second}
		early := time.Second - mark.AutoInterval
		for name, test := range map[string]struct {
			policy  StorePolicy
			nothing bool
			leads   bool // before
			batchAt time.Duration
			leading bool // after
			fails   error
			wanted  int
			calls   int
			at      time.Duration // 0: never
		}{
			"nothing":                   {nothing: true},
			"nothing, but it leads":     {nothing: true, leads: true, calls: 1},
			"still to be sent":          {nothing: true, leads: true, calls: 1, batchAt: 30, leading: true, at: 30},
			"due":                       {wanted: 1, calls: 1},
			"due, and leads":            {wanted: 1, calls: 1, batchAt: 30, leading: true, at: 30},
			"not due yet":               {policy: long, at: early},
			"not due, but leads":        {policy: long, leads: true, calls: 1, batchAt: 30, leading: true, at: 30},
			"not due, leads no more":    {policy: long, leads: true, calls: 1, batchAt: 30, at: early},
			"leads for a time far away": {policy: long, leads: true, calls: 1, batchAt: time.Hour, leading: true, at: early},
			"fails":                     {wanted: 1, calls: 1, fails: errTest, at: storeRetry},
		} {
			s, b := batchedStorer(test.policy)
			if !test.nothing {
				s.progress.markNext(7, 1)
			}
			s.leads = test.leads
			now := time.Now()
			b.at, b.leads, b.fails = now.Add(test.batchAt), test.leading, test.fails
			at := s.storeInBatch(t.Context())
			switch {
			case test.at == 0 && !at.IsZero(), test.at > 0 && !at.Equal(now.Add(test.at)):
				t.Errorf("%s: look again at %v, want %v", name, at.Sub(now), test.at)
			case b.wanted != test.wanted || b.calls != test.calls || s.leads != test.leading:
				t.Errorf("%s: %d calls, %d want a store, leads %v", name, b.calls, b.wanted, s.leads)
			}
		}
	})
}

// TestTake: what a batch gets, and what comes of it.
func TestTake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := batchedStorer(StorePolicy{})
		if _, ok := s.Take(); ok {
			t.Error("taken before anything is handled")
		}
		s.progress.markNext(7, 1)
		if offset, ok := s.Take(); !ok || offset != 7 {
			t.Errorf("taken %d, %v", offset, ok)
		}
		if s.sending.TryLock() {
			t.Error("another store may begin")
		}
		s.progress.markNext(8, 1) // while the batch is sent
		if !s.Taken(nil) {
			t.Error("8 is not to be stored")
		}
		if s.stores.Load() != 1 || s.lastOffset != 7 || s.settled.Load() || len(s.startTicker) != 1 {
			t.Errorf("%d stores, the last of %d, settled %v", s.stores.Load(), s.lastOffset, s.settled.Load())
		}
		if _, ok := s.Take(); !ok {
			t.Error("nothing is taken")
		}
		if !s.Taken(errTest) || s.stores.Load() != 1 {
			t.Errorf("a store that failed counts, or is forgotten: %d stores", s.stores.Load())
		}
		s.Take()
		if s.Taken(nil) || s.stores.Load() != 2 || s.lastOffset != 8 {
			t.Errorf("%d stores, the last of %d", s.stores.Load(), s.lastOffset)
		}
	})
}

// With an Interval the timer has to be set anew after a batch.
func TestTakenWakesForAnInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := batchedStorer(StorePolicy{Interval: time.Second})
		s.progress.markNext(7, 1)
		<-s.progress.wake
		s.Take()
		s.progress.markNext(8, 1)
		if s.Taken(nil) || len(s.progress.wake) != 1 {
			t.Errorf("a mark is due too early, or nobody sets the timer")
		}
	})
}

func TestTakeRefused(t *testing.T) {
	for name, refuse := range map[string]func(*storer, *fakeBatch){
		"paused":            func(s *storer, _ *fakeBatch) { s.progress.pauseStores() },
		"stream gone":       func(_ *storer, b *fakeBatch) { b.gone = true },
		"a store under way": func(s *storer, _ *fakeBatch) { s.sending.Lock() },
	} {
		s, b := batchedStorer(StorePolicy{})
		s.progress.markFast(8)
		<-s.progress.wake
		refuse(s, b)
		if _, ok := s.Take(); ok {
			t.Errorf("%s: taken", name)
		}
		if got, want := len(s.progress.wake), map[bool]int{true: 1}[name == "a store under way"]; got != want {
			t.Errorf("%s: %d looks follow, want %d", name, got, want)
		}
	}
}

// TestTakenAfterStop: a session that has ended takes no notice of a batch, so
// that the next session stores the mark again.
func TestTakenAfterStop(t *testing.T) {
	s, _ := batchedStorer(StorePolicy{})
	s.cancel = func() {}
	s.progress.markNext(7, 1)
	s.Take()
	s.stop()
	if s.Taken(nil) || s.stores.Load() != 0 {
		t.Error("a batch counts after the end")
	}
	if due, _ := s.progress.due(true); !due {
		t.Error("the mark counts as stored")
	}
	s.Take()
	s.stopped = false
	s.Taken(nil)
	s.Doubt()
	if due, _ := s.progress.due(true); !due || len(s.progress.wake) != 1 {
		t.Error("a store in doubt is not repeated")
	}
	s.Take()
	s.Taken(nil)
	s.stopped = true
	s.Doubt()
	if due, _ := s.progress.due(true); due {
		t.Error("a storer that has ended doubts")
	}
}

// A storer that is asked for a store waits for the broker, so it hands over the
// batch first, and waits for what a batch has sent before.
func TestStorerYieldsItsBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &fakeBatch{leads: true, at: time.Now().Add(time.Hour)}
		s := &stores{batch: b}
		bench := startBench(StorePolicy{}, s)
		defer bench.storer.stop()
		bench.markNext(7, 1)
		synctest.Wait()
		if err := bench.requests.ask(t.Context(), storeRead, nil); err != nil || b.yields != 1 || b.settled != 1 {
			t.Errorf("%v, %d times handed over, %d times settled", err, b.yields, b.settled)
		}
		bench.want(t, "on request", 7)
	})
}

// TestStoresLeaveTogether: while consumers of a stream read, one connection
// carries the stores of all, though each has a connection of its own.
func TestStoresLeaveTogether(t *testing.T) {
	beside(t)
	const consumers, messages = 20, 50
	b := streamtest.NewBroker(t, streamtest.WithVersion("4.0.5"))
	env := connect(t, b.URI())
	stream := newStream(t, env)
	ctx, stop := context.WithCancel(t.Context())
	var runs sync.WaitGroup
	for i := range consumers {
		c, err := env.NewConsumer(stream, ConsumerConfig{Name: fmt.Sprint("c", i), OwnSubscription: true})
		must(t, err)
		runs.Go(func() {
			if err := c.Run(ctx, func(context.Context, *Delivery) error { return nil }); errors.Is(err, ErrNotStored) {
				t.Errorf("c%d: %v", i, err)
			}
		})
	}
	publish(t, env, stream, 0, messages)
	for i := range consumers {
		must(t, b.Await(soon(t), func() bool {
			got, ok := b.Offset(fmt.Sprint("c", i), stream)
			return ok && got == messages-1
		}))
	}
	carriers := map[string]int{}
	for _, c := range b.Commands() {
		if c.Command == streamtest.StoreOffset {
			carriers[c.Connection]++
		}
	}
	if len(carriers) != 1 {
		t.Errorf("stores went over %d connections: %v", len(carriers), carriers)
	}
	if got := env.cluster.SharedConns(); got != consumers {
		t.Errorf("%d connections for %d consumers", got, consumers)
	}
	stop()
	runs.Wait()
}

// TestMarksAreYoung: however many consumers of a stream store together, no stored
// offset is older than 100 ms, what a crash repeats of a busy stream.
func TestMarksAreYoung(t *testing.T) {
	const every, limit = 5 * time.Millisecond, 100 * time.Millisecond
	for _, consumers := range []int{1, 2, 30} {
		for _, own := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				b := streamtest.NewBroker(t, streamtest.InMemory(), streamtest.WithVersion("4.0.5"))
				must(t, b.CreateStream("s"))
				env, err := Connect(t.Context(), Config{URIs: []string{b.URI()}, Dial: b.Dial})
				must(t, err)
				defer env.Close()
				for i := range consumers {
					stop, _ := runConsumer(t, env, "s", ConsumerConfig{Name: fmt.Sprint("c", i), OwnSubscription: own}, func(*Delivery) {})
					defer func() { _ = stop() }()
				}
				synctest.Wait()
				for n := range 400 {
					must(t, b.Publish("s", "m"))
					time.Sleep(every)
					synctest.Wait()
					for i := range consumers {
						got, ok := b.Offset(fmt.Sprint("c", i), "s")
						if old := n - int(limit/every); old >= 0 && (!ok || got < uint64(old)) {
							t.Fatalf("%d consumers, own %v: %d is stored, %v, where %d was handled %v ago", consumers, own, got, ok, old, limit)
						}
					}
				}
				sent := 0
				for _, c := range b.Commands() {
					if c.Command == streamtest.StoreOffset {
						sent++
					}
				}
				if most := consumers * 21; sent > most {
					t.Errorf("%d consumers, own %v: %d stores in two seconds, want %d at most", consumers, own, sent, most)
				}
			})
		}
	}
}
