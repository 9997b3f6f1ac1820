package stream

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-go/tidemark/internal/mark"
)

// stores is a broker's store of offsets that notes what was sent and when.
type stores struct {
	mu    sync.Mutex
	sent  []uint64
	at    []time.Time
	more  []bool
	tried int                             // how often a store was begun
	took  time.Duration                   // how long a store takes
	fails error                           // what the next stores return
	block func(ctx context.Context) error // stands in the way of each store
	reads func(offset uint64) error       // what reading back returns
	batch batch                           // what the storer joins; nil: it stores by itself
}

func (s *stores) store(ctx context.Context, offset uint64, more bool) error {
	s.mu.Lock()
	s.tried++
	s.mu.Unlock()
	if s.block != nil {
		if err := s.block(ctx); err != nil {
			return err
		}
	}
	time.Sleep(s.took) // virtual: synctest's clock
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fails != nil {
		return s.fails
	}
	s.sent, s.at, s.more = append(s.sent, offset), append(s.at, time.Now()), append(s.more, more)
	return nil
}

func (s *stores) verify(_ context.Context, offset uint64) error {
	if s.reads != nil {
		return s.reads(offset)
	}
	return nil
}

func (s *stores) commit(context.Context, uint64) error { return nil }

func (s *stores) joinBatch(*storer) batch { return s.batch }

func (s *stores) release(context.Context, bool) {}

func (s *stores) list() []uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.sent)
}

// bench is a storer at work within a synctest bubble.
type bench struct {
	*stores
	*progress
	requests storeRequests
	storer   *storer
}

func startBench(p StorePolicy, s *stores) *bench {
	b := &bench{stores: s, progress: newProgress(p), requests: make(storeRequests)}
	b.storer = startStorer(s, b.progress, b.requests, func(string, ...any) {})
	return b
}

func (b *bench) want(t *testing.T, when string, offsets ...uint64) {
	t.Helper()
	synctest.Wait()
	if got := b.list(); !slices.Equal(got, offsets) {
		t.Errorf("%s: stored %v, want %v", when, got, offsets)
	}
}

func TestStorerSlowTrafficStoresAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBench(StorePolicy{}, &stores{})
		defer b.storer.stop()
		b.want(t, "before the first message")
		b.markOne(0)
		b.want(t, "offset 0", 0)
		time.Sleep(time.Second)
		b.want(t, "while nothing comes", 0)
		b.markOne(4)
		b.want(t, "the next one", 0, 4)
	})
}

func TestStorerCoalescesABurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBench(StorePolicy{}, &stores{})
		defer b.storer.stop()
		for i := range uint64(1000) { // 1000 messages in one second
			b.markOne(i)
			time.Sleep(time.Millisecond)
		}
		time.Sleep(mark.AutoInterval)
		synctest.Wait()
		got := b.list()
		if len(got) < 10 || len(got) > 12 || got[len(got)-1] != 999 {
			t.Errorf("a second of traffic was stored as %v", got)
		}
		if !slices.IsSorted(got) {
			t.Errorf("a lower mark followed a higher one: %v", got)
		}
	})
}

// However many messages a burst has, its stores go by the clock.
func TestStorerFastBurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBench(StorePolicy{}, &stores{})
		defer b.storer.stop()
		b.markOne(0)
		synctest.Wait()
		for i := range uint64(100_000) {
			b.markOne(i + 1)
		}
		b.want(t, "with the clock standing still", 0)
		time.Sleep(mark.AutoInterval)
		b.want(t, "a moment later", 0, 100_000)
	})
}

// The last store before a pause is read back, once, and none within a burst.
func TestStorerReadsBackWhenQuiet(t *testing.T) {
	for _, policy := range []StorePolicy{{}, {Every: 1}, {Interval: 10 * time.Millisecond}} {
		synctest.Test(t, func(t *testing.T) {
			var mu sync.Mutex
			var read []uint64
			list := func() []uint64 {
				synctest.Wait()
				mu.Lock()
				defer mu.Unlock()
				return slices.Clone(read)
			}
			b := startBench(policy, &stores{reads: func(offset uint64) error {
				mu.Lock()
				defer mu.Unlock()
				read = append(read, offset)
				return nil
			}})
			defer b.storer.stop()
			for i := range uint64(100) {
				if b.markOne(i) {
					if err := b.storer.storeNow(t.Context(), false); err != nil {
						t.Fatal(err)
					}
				}
				time.Sleep(50 * time.Millisecond)
			}
			if got := list(); len(got) > 0 {
				t.Errorf("%+v: read back %v within the burst", policy, got)
			}
			time.Sleep(time.Hour)
			if got := list(); !slices.Equal(got, []uint64{99}) {
				t.Errorf("%+v: read back %v, want the last one", policy, got)
			}
		})
	}
}

// TestStorerDueAgainAtOnce: what is due again by the time a store ends is
// stored without another message. It needs a clock that moves.
func TestStorerDueAgainAtOnce(t *testing.T) {
	b := startBench(StorePolicy{Interval: time.Nanosecond}, &stores{})
	defer b.storer.stop()
	const last = 300_000
	for i := range uint64(last + 1) {
		b.markOne(i)
	}
	eventually(t, "the last one is stored", patience, func() bool {
		got := b.list()
		return len(got) > 0 && got[len(got)-1] == last
	})
}

// TestStorerCommitIsNotReadBackAgain: what a Commit has read back may be
// rewound from then on.
func TestStorerCommitIsNotReadBackAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		read := 0
		b := startBench(StorePolicy{Manual: true}, &stores{reads: func(uint64) error { read++; return nil }})
		defer b.storer.stop()
		b.markOne(0)
		if err := b.requests.ask(t.Context(), storeRead, nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if read != 1 {
			t.Errorf("read back %d times, want once", read)
		}
	})
}

// TestStorerMissesNoWakeUp: whatever is handled while a store is under way is
// stored by a later one, without another message.
func TestStorerMissesNoWakeUp(t *testing.T) {
	for _, policy := range []StorePolicy{{}, {Interval: 30 * time.Millisecond}, {Every: 1000, Interval: 30 * time.Millisecond}} {
		synctest.Test(t, func(t *testing.T) {
			b := startBench(policy, &stores{took: 40 * time.Millisecond})
			defer b.storer.stop()
			last := uint64(0)
			for i := range uint64(50) {
				b.markOne(i)
				last = i
				time.Sleep(time.Duration(i%17) * time.Millisecond)
				if i%10 == 9 {
					if err := b.requests.ask(t.Context(), storeSent, nil); err != nil {
						t.Fatal(err)
					}
				}
			}
			time.Sleep(time.Second)
			synctest.Wait()
			got := b.list()
			if len(got) == 0 || got[len(got)-1] != last || !slices.IsSorted(got) {
				t.Errorf("%+v: stored %v, want ascending up to %d", policy, got, last)
			}
		})
	}
}

func TestStorerEvery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBench(StorePolicy{Every: 3}, &stores{})
		defer b.storer.stop()
		for i := range uint64(8) {
			wait := b.markOne(i * 2)
			if wait != (i%3 == 2) {
				t.Errorf("message %d waits: %v", i, wait)
			}
			if wait {
				if err := b.requests.ask(t.Context(), storeSent, nil); err != nil {
					t.Fatal(err)
				}
			}
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := slices.Compact(b.list()); !slices.Equal(got, []uint64{4, 10}) {
			t.Errorf("stored %v, want 4 and 10", got)
		}
	})
}

// The interval begins with the first message that is not stored, whether the
// policy counts messages too or not.
func TestStorerInterval(t *testing.T) {
	testStorerInterval(t, StorePolicy{Interval: time.Minute})
	testStorerInterval(t, StorePolicy{Every: 1000, Interval: time.Minute})
}

func testStorerInterval(t *testing.T, policy StorePolicy) {
	synctest.Test(t, func(t *testing.T) {
		b := startBench(policy, &stores{})
		defer b.storer.stop()
		b.markOne(0)
		time.Sleep(30 * time.Second)
		b.markOne(1)
		b.want(t, "early")
		time.Sleep(29 * time.Second)
		b.want(t, "a second before")
		time.Sleep(time.Second)
		b.want(t, "after a minute", 1)
		time.Sleep(time.Hour)
		b.want(t, "while nothing comes", 1)
	})
}

func TestStorerManual(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBench(StorePolicy{Manual: true}, &stores{})
		defer b.storer.stop()
		for i := range uint64(20_000) {
			b.markOne(i)
		}
		time.Sleep(time.Hour)
		b.want(t, "without a request")
		if err := b.requests.ask(t.Context(), storeRead, nil); err != nil {
			t.Fatal(err)
		}
		b.want(t, "after a request", 19_999)
	})
}

func TestStorerRequestBeforeTheFirstMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBench(StorePolicy{}, &stores{})
		defer b.storer.stop()
		if err := b.requests.ask(t.Context(), storeRead, nil); err != nil {
			t.Fatal(err)
		}
		b.want(t, "nothing handled")
	})
}

// TestStorerNextSessionStoresAgain: what was sent on a lost connection may be
// lost, and so it is sent again on the next, without another message.
func TestStorerNextSessionStoresAgain(t *testing.T) {
	for _, policy := range []StorePolicy{{}, {Interval: time.Second}, {Every: 1}, {Every: 3}} {
		synctest.Test(t, func(t *testing.T) {
			b := startBench(policy, &stores{})
			for i := range uint64(max(policy.Every, 1)) {
				if b.markOne(i + 8 - uint64(max(policy.Every, 1))) {
					if err := b.storer.storeNow(t.Context(), false); err != nil {
						t.Fatal(err)
					}
				}
			}
			time.Sleep(time.Minute)
			b.want(t, "first session", 7)
			b.storer.stop()
			next := startStorer(b.stores, b.progress, b.requests, func(string, ...any) {})
			defer next.stop()
			time.Sleep(time.Minute)
			b.want(t, "second session", 7, 7)
		})
	}
}

func TestStorerFailureIsNotStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lost := errors.New("lost")
		b := startBench(StorePolicy{}, &stores{fails: lost})
		b.markOne(3)
		synctest.Wait()
		if err := b.requests.ask(t.Context(), storeSent, nil); !errors.Is(err, lost) {
			t.Errorf("a request got %v", err)
		}
		b.storer.stop()
		b.stores.mu.Lock()
		b.fails = nil
		b.stores.mu.Unlock()
		next := startStorer(b.stores, b.progress, b.requests, func(string, ...any) {})
		defer next.stop()
		time.Sleep(time.Second)
		b.want(t, "on the next connection", 3)
	})
}

func TestStorerVerifies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBench(StorePolicy{Manual: true}, &stores{reads: func(uint64) error { return ErrNotStored }})
		defer b.storer.stop()
		b.markOne(3)
		if err := b.requests.ask(t.Context(), storeRead, nil); !errors.Is(err, ErrNotStored) {
			t.Errorf("reading back failed, and the request got %v", err)
		}
		if n := b.tracker.Unstored(); n != 1 {
			t.Errorf("%d unstored after a store that could not be read back", n)
		}
	})
}

// TestStorerClosesWhileStuck: the end of a session does not wait for a store
// that never comes through, whoever asked for it.
func TestStorerClosesWhileStuck(t *testing.T) {
	stuck := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	t.Run("its own", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := startBench(StorePolicy{}, &stores{block: stuck})
			b.markOne(1)
			synctest.Wait()
			b.storer.stop()
		})
	})
	t.Run("a caller's", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := startBench(StorePolicy{Manual: true}, &stores{block: stuck})
			b.markOne(1)
			got := make(chan error, 1)
			go func() { got <- b.requests.ask(context.Background(), storeRead, nil) }()
			synctest.Wait()
			b.storer.stop()
			if err := <-got; err == nil {
				t.Error("the caller was told that it is stored")
			}
		})
	})
}

func TestRequestEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		why := errors.New("why")
		ctx, cancel := context.WithCancelCause(t.Context())
		got := make(chan error, 2)
		go func() { got <- make(storeRequests).ask(ctx, storeSent, nil) }() // nobody serves it
		taken := make(storeRequests, 1)
		go func() { got <- taken.ask(ctx, storeSent, nil) }() // taken and not answered
		synctest.Wait()
		cancel(why)
		for range 2 {
			if err := <-got; !errors.Is(err, why) {
				t.Errorf("a cancelled request got %v", err)
			}
		}
		ended := make(chan struct{})
		close(ended)
		if err := make(storeRequests).ask(t.Context(), storeSent, ended); !errors.Is(err, ErrNotRunning) {
			t.Errorf("after the run: %v", err)
		}
	})
}
