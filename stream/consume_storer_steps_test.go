package stream

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-go/tidemark/internal/mark"
)

// These tests take the storer's steps one at a time.

// idleStorer is a storer whose goroutine does not run.
func idleStorer(p StorePolicy, s *stores) *storer {
	idle := &storer{
		offsets: s, progress: newProgress(p), requests: make(storeRequests), log: func(string, ...any) {},
		startTicker: make(chan struct{}, 1), sending: newTurn(),
	}
	idle.settled.Store(true)
	return idle
}

// TestVerifyWhenQuiet is one look at a time.
func TestVerifyWhenQuiet(t *testing.T) {
	for name, test := range map[string]struct {
		sent, sentBefore int64
		verified         bool
		busy, stopped    bool
		fails            error
		stop             bool
		reads, logs      int
	}{
		"a store has followed":     {sent: 3, sentBefore: 2},
		"quiet":                    {sent: 3, sentBefore: 3, stop: true, reads: 1},
		"quiet, and read back":     {sent: 3, sentBefore: 3, verified: true, stop: true},
		"quiet, and lost":          {sent: 3, sentBefore: 3, fails: errTest, stop: true, reads: 1, logs: 1},
		"quiet, lost, and stopped": {sent: 3, sentBefore: 3, fails: errTest, stopped: true, stop: true, reads: 1},
		"a store is under way":     {sent: 3, sentBefore: 3, busy: true},
		// These take no lock, so that a batch which leaves now takes the mark.
		"a store has followed, and another is under way": {sent: 3, sentBefore: 2, busy: true},
		"read back, and a store is under way":            {sent: 3, sentBefore: 3, verified: true, busy: true, stop: true},
	} {
		reads, logs := 0, 0
		s := idleStorer(StorePolicy{}, &stores{reads: func(offset uint64) error {
			if reads++; offset != 7 {
				t.Errorf("%s: reads back %d", name, offset)
			}
			return test.fails
		}})
		s.log = func(string, ...any) { logs++ }
		s.stores.Store(test.sent)
		s.settled.Store(test.verified)
		s.storesSeen, s.lastOffset = test.sentBefore, 7
		ctx, cancel := context.WithCancel(t.Context())
		if test.stopped {
			cancel()
		}
		if test.busy {
			s.sending.Lock()
		}
		if stop := s.verifyWhenQuiet(ctx); stop != test.stop || reads != test.reads || logs != test.logs {
			t.Errorf("%s: the ticker stops: %v, %d reads, %d lines in the log", name, stop, reads, logs)
		}
		cancel()
		if test.busy {
			s.sending.Unlock()
		}
		if s.storesSeen != test.sent || s.settled.Load() != test.stop {
			t.Errorf("%s: counted %d stores, verified %v", name, s.storesSeen, s.settled.Load())
		}
		if !s.sending.TryLock() {
			t.Errorf("%s: the look has not ended", name)
		}
	}
}

// TestStorerReadsBackEachTime it is quiet, and again after a store that stayed
// lost.
func TestStorerReadsBackEachTime(t *testing.T) {
	for _, fails := range []error{nil, errTest} {
		synctest.Test(t, func(t *testing.T) {
			read := make(chan uint64, 10)
			b := startBench(StorePolicy{}, &stores{reads: func(offset uint64) error { read <- offset; return fails }})
			defer b.storer.stop()
			for i := range uint64(3) {
				b.markNext(i, 1)
				time.Sleep(time.Second - 1)
				if synctest.Wait(); len(read) != 0 {
					t.Errorf("read back %d within a second", <-read)
				}
				time.Sleep(time.Hour)
				if synctest.Wait(); len(read) != 1 {
					t.Fatalf("read back %d times, want once", len(read))
				}
				if got := <-read; got != i {
					t.Errorf("read back %d, want %d", got, i)
				}
			}
		})
	}
}

// TestStorerTriesAgain storeRetry after a store that failed, for as long as it
// takes.
func TestStorerTriesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stores{fails: errTest}
		b := startBench(StorePolicy{}, s)
		defer b.storer.stop()
		tried := func() int { synctest.Wait(); s.mu.Lock(); defer s.mu.Unlock(); return s.tried }
		synctest.Wait() // for its first look
		b.markNext(7, 1)
		for want := 1; want <= 3; want++ {
			if n := tried(); n != want {
				t.Errorf("tried %d times, want %d", n, want)
			}
			if time.Sleep(storeRetry - 1); tried() != want {
				t.Errorf("tried %d times within a second", tried())
			}
			if want == 3 {
				s.mu.Lock()
				s.fails = nil
				s.mu.Unlock()
			}
			time.Sleep(time.Nanosecond)
		}
		b.want(t, "after three that failed", 7)
		time.Sleep(time.Hour)
		b.want(t, "while nothing comes", 7)
	})
}

// TestStoreDue is when to look again.
func TestStoreDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, test := range map[string]struct {
			policy StorePolicy
			fails  error
			more   bool          // another message is handled while the store is under way
			want   time.Duration // from the store's end; -1: never
		}{
			"failed":           {fails: errTest, want: storeRetry},
			"failed, and due":  {policy: StorePolicy{Every: 1}, fails: errTest, want: storeRetry},
			"stored":           {want: -1},
			"more":             {more: true, want: mark.AutoInterval},
			"more by interval": {policy: StorePolicy{Interval: time.Second}, more: true, want: time.Second},
			"more, and due":    {policy: StorePolicy{Every: 1}, more: true, want: 0},
		} {
			to := &stores{fails: test.fails, took: time.Minute}
			s := idleStorer(test.policy, to)
			s.progress.markNext(7, 1)
			to.block = func(context.Context) error {
				if test.more {
					s.progress.markNext(8, 1)
				}
				return nil
			}
			at := s.storeDue(t.Context())
			if test.want < 0 && !at.IsZero() || test.want >= 0 && time.Until(at) != test.want {
				t.Errorf("%s: the next look is %v from now, want %v", name, time.Until(at), test.want)
			}
		}
	})
}

// TestStoreIfDue stores what is due, sets the timer for what will be, and leaves
// it alone otherwise.
func TestStoreIfDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := &stores{}
		s := idleStorer(StorePolicy{Interval: time.Minute}, to)
		timer := time.NewTimer(time.Hour)
		begun := time.Now()
		fires := func(want time.Duration) {
			t.Helper()
			<-timer.C
			if got := time.Since(begun); got != want {
				t.Errorf("the timer fires after %v, want %v", got, want)
			}
		}
		s.storeIfDue(t.Context(), timer)
		fires(time.Hour)
		s.progress.markNext(7, 1)
		begun = time.Now()
		s.storeIfDue(t.Context(), timer)
		fires(time.Minute)
		if len(to.list()) > 0 {
			t.Errorf("stored %v early", to.list())
		}
		timer.Reset(time.Hour)
		begun = time.Now()
		s.storeIfDue(t.Context(), timer)
		if got := to.list(); !slices.Equal(got, []uint64{7}) {
			t.Errorf("stored %v, want 7", got)
		}
		fires(time.Hour)
		if !s.sending.TryLock() {
			t.Error("it still sends")
		}
	})
}

// TestSend: what is sent is to be read back, once, unless it failed.
func TestSend(t *testing.T) {
	to := &stores{fails: errTest}
	s := idleStorer(StorePolicy{}, to)
	wantErr(t, s.send(t.Context(), 3, false), errTest)
	if s.stores.Load() != 0 || !s.settled.Load() || s.lastOffset != 0 || len(s.startTicker) != 0 {
		t.Errorf("after a store that failed: %d sent, verified %v", s.stores.Load(), s.settled.Load())
	}
	to.fails = nil
	for i, more := range []bool{true, false} {
		must(t, s.send(t.Context(), uint64(3+i), more))
		if s.stores.Load() != int64(i+1) || s.settled.Load() || s.lastOffset != uint64(3+i) || to.more[i] != more {
			t.Errorf("%d sent, the last of them %d, verified %v, more %v", s.stores.Load(), s.lastOffset, s.settled.Load(), to.more)
		}
		if n := len(s.startTicker); n != 1-i {
			t.Errorf("%d items say that %d is to be read back", n, s.lastOffset)
		}
		if i == 0 {
			<-s.startTicker
		}
	}
}

// TestStoreMark: the mark counts as stored once it is, and if asked for once it is
// read back.
func TestStoreMark(t *testing.T) {
	for name, test := range map[string]struct {
		kind          storeKind
		fails, reads  error
		stored, again bool // it counts as stored; it is to be read back later
	}{
		"stored":             {stored: true, again: true},
		"failed":             {fails: errTest},
		"verified":           {kind: storeRead, stored: true},
		"the last one":       {kind: storeLast, stored: true},
		"failed to be sent":  {kind: storeRead, fails: errTest},
		"failed to be found": {kind: storeRead, reads: errTest, again: true},
	} {
		reads := 0
		to := &stores{fails: test.fails, reads: func(uint64) error { reads++; return test.reads }}
		s := idleStorer(StorePolicy{Every: 1}, to)
		store := func() error { return s.serve(t.Context(), storeRequest{ctx: t.Context(), kind: test.kind}) }
		must(t, store()) // nothing is handled
		if to.tried != 0 || reads != 0 {
			t.Errorf("%s: %d stores and %d reads without a mark", name, to.tried, reads)
		}
		s.progress.markNext(7, 1)
		err := store()
		if (err == nil) != test.stored || err != nil && !errors.Is(err, errTest) {
			t.Errorf("%s: %v", name, err)
		}
		if stored := s.progress.tracker.Unstored() == 0; stored != test.stored || s.settled.Load() == test.again {
			t.Errorf("%s: stored %v, verified %v", name, stored, s.settled.Load())
		}
		if want := test.kind != storeSent && test.fails == nil; (reads == 1) != want {
			t.Errorf("%s: %d reads", name, reads)
		}
		if slices.Contains(to.more, true) {
			t.Errorf("%s: a request is followed by no other store", name)
		}
	}
}

// TestStoreNow passes on that another store follows. If a store is under way it
// waits, and its context ends the wait.
func TestStoreNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		free := make(chan struct{})
		to := &stores{}
		s := idleStorer(StorePolicy{Every: 1}, to)
		s.progress.markNext(7, 1)
		must(t, s.storeNow(t.Context(), true))
		must(t, s.storeNow(t.Context(), false))
		if !slices.Equal(to.more, []bool{true, false}) {
			t.Errorf("passed on %v", to.more)
		}
		to.block = func(context.Context) error { <-free; return nil }
		first := make(chan error, 1)
		go func() { first <- s.storeNow(t.Context(), false) }()
		synctest.Wait()
		ctx, cancel := context.WithCancelCause(t.Context())
		second := make(chan error, 1)
		go func() { second <- s.storeNow(ctx, false) }()
		if synctest.Wait(); to.tried != 3 || len(first)+len(second) > 0 {
			t.Errorf("%d stores were begun, and %d have ended", to.tried, len(first)+len(second))
		}
		cancel(errTest)
		wantErr(t, <-second, errTest)
		close(free)
		must(t, <-first)
		must(t, s.storeNow(t.Context(), false))
	})
}

// TestStopEndsARequest with an error that says that trying again may help.
func TestStopEndsARequest(t *testing.T) {
	for _, kind := range []storeKind{storeSent, storeRead, storeLast} {
		synctest.Test(t, func(t *testing.T) {
			b := startBench(StorePolicy{Manual: true}, &stores{block: func(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) }})
			b.markNext(1, 1)
			got := make(chan error, 1)
			go func() { got <- b.requests.ask(context.Background(), kind, nil) }()
			synctest.Wait()
			b.storer.stop()
			wantErr(t, <-got, ErrUnreachable)
			wantMark(t, b.progress, 1, 1)
		})
	}
}

// TestRequestsWaitWhileHeld: they are served after the release, also of a storer
// that never stores by itself.
func TestRequestsWaitWhileHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bench{stores: &stores{}, progress: newProgress(StorePolicy{Manual: true}), requests: make(storeRequests)}
		b.progress.markNext(3, 1)
		b.progress.pauseStores()
		b.storer = startStorer(b.stores, b.progress, b.requests, func(string, ...any) {})
		defer b.storer.stop()
		got := make(chan error, 1)
		go func() { got <- b.requests.ask(t.Context(), storeRead, nil) }()
		time.Sleep(time.Hour)
		if b.want(t, "while held"); len(got) > 0 {
			t.Errorf("while held a request got %v", <-got)
		}
		b.progress.resumeStores()
		must(t, <-got)
		b.want(t, "after the release", 3)
	})
}
