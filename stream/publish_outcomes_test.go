package stream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func quietCalls() *outcomeCalls {
	return newOutcomeCalls(func() {}, func() bool { return false })
}

// unseen is where callbacks return their places in tests that do not look at it.
var unseen returns

// note returns an outcome that appends a number to a list.
func note(list *[]int, n int, to *returns) outcome {
	return outcome{to: to, done: func(error) { *list = append(*list, n) }, size: n}
}

// TestOutcomeCalls: the calls come in order, one after the other, and their places
// count once they have returned.
func TestOutcomeCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := quietCalls()
		if !isClosed(c.caughtUp()) {
			t.Error("nothing was called, and something is waited for")
		}
		must(t, c.drain(t.Context()))

		c = quietCalls()
		var got []int
		var back returns
		release := make(chan struct{})
		c.add(outcome{to: &back, done: func(error) { <-release }, size: 1000})
		c.add(note(&got, 1, &back), note(&got, 2, &back))
		reached := c.caughtUp()
		later := make(chan struct{})
		c.add(outcome{to: &back, done: func(error) { <-later }, size: 10}, note(&got, 3, &back))
		synctest.Wait()
		if n := back.count.Load(); n != 0 || isClosed(reached) {
			t.Errorf("%d have returned", n)
		}
		close(release)
		<-reached
		if len(got) != 2 {
			t.Errorf("caught up with %v", got)
		}
		close(later)
		synctest.Wait()
		if n, bytes := back.count.Load(), back.bytes.Load(); n != 5 || bytes != 1016 || !slices.Equal(got, []int{1, 2, 3}) {
			t.Errorf("%d have returned, of %d bytes: %v", n, bytes, got)
		}
		must(t, c.drain(t.Context()))
		if !isClosed(c.caughtUp()) || !isClosed(c.ended) {
			t.Error("it goes on after drain")
		}
	})
}

// TestOutcomeCallsPassOnErrors: done gets the error of its outcome.
func TestOutcomeCallsPassOnErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := quietCalls()
		var got []error
		for _, err := range []error{nil, errTest} {
			c.add(outcome{to: &unseen, done: func(err error) { got = append(got, err) }, err: err})
		}
		must(t, c.drain(t.Context()))
		if len(got) != 2 || got[0] != nil || got[1] != errTest {
			t.Errorf("%v", got)
		}
	})
}

// TestCaughtUpBesideDrain: a Flush beside a Close returns, whichever comes first.
func TestCaughtUpBesideDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for range 300 {
			c := quietCalls()
			c.add(outcome{to: &unseen, done: func(error) {}})
			var all sync.WaitGroup
			for range 3 {
				all.Go(func() { <-c.caughtUp() })
			}
			all.Go(func() { must(t, c.drain(t.Context())) })
			all.Wait()
		}
	})
}

// TestDrainWithACallThatIsStuck: drain ends with its context, and the calls behind
// are made later. A drain whose context has ended returns nil if there is nothing
// to wait for.
func TestDrainWithACallThatIsStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := quietCalls()
		var got []int
		release := make(chan struct{})
		c.add(outcome{to: &unseen, done: func(error) { <-release }}, note(&got, 1, &unseen))
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errTest)
		wantErr(t, c.drain(ctx), errTest)
		close(release)
		<-c.ended
		if len(got) != 1 {
			t.Errorf("%v were called", got)
		}
		for range 20 {
			must(t, c.drain(ctx))
		}
	})
}

// TestMine: a callback knows itself, and nobody else takes himself for one.
func TestMine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := quietCalls()
		if c.mine() {
			t.Error("mine before any call")
		}
		var inside, beside bool
		c.add(outcome{to: &unseen, done: func(error) {
			inside = c.mine()
			var other sync.WaitGroup
			other.Go(func() { beside = c.mine() })
			other.Wait()
		}})
		must(t, c.drain(t.Context()))
		if !inside || beside || c.mine() {
			t.Errorf("within %v, on a goroutine of the callback %v, after it %v", inside, beside, c.mine())
		}
	})
}

// TestGoroutineID: each goroutine has an id of its own.
func TestGoroutineID(t *testing.T) {
	other := make(chan uint64)
	go func() { other <- goroutineID() }()
	if id := goroutineID(); id == 0 || id != goroutineID() || id == recv(t, other, "an id") {
		t.Errorf("the id is %d", id)
	}
}

// TestReturnedWhileAwaited: who waits for a place learns of it while other calls
// are on their way, and not for each of them.
func TestReturnedWhileAwaited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		returned := 0
		c := newOutcomeCalls(func() { returned++ }, func() bool { return true })
		pause := outcome{to: &unseen, done: func(error) { time.Sleep(returnPause) }}
		quick := outcome{to: &unseen, done: func(error) {}}
		c.add(pause, quick, quick, pause, quick, quick)
		must(t, c.drain(t.Context()))
		if returned != 3 { // the first one, the second pause, the end
			t.Errorf("told %d times, want 3", returned)
		}
	})
}

// TestReturnedAtTheEnd: places are given back when a list is through, though
// nobody waits: their bytes are the Env's.
func TestReturnedAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := unconnected()
		p := offlineOf(e, ProducerConfig{})
		for range 10 {
			must(t, p.PublishAsync(t.Context(), text("x"), func(error) {}))
		}
		if e.publishing.used.Load() == 0 {
			t.Fatal("the Env counts nothing")
		}
		confirm(p, nil, numbers(1, 10)...)
		synctest.Wait()
		if n := e.publishing.used.Load(); n != 0 || p.admission.used.n != 0 {
			t.Errorf("%d bytes and %d messages count after the last callback", n, p.admission.used.n)
		}
		endOffline(t, p)
	})
}

// TestCallbacksThatPublish: each outcome publishes the next message, from within
// its callback, with as little room as there may be.
func TestCallbacksThatPublish(t *testing.T) {
	for _, cfg := range []ProducerConfig{{MaxInFlight: 1}, {MaxInFlight: 3}, {MaxInFlightBytes: 1}, {MaxInFlight: 2, SubEntries: 2}} {
		t.Run(fmt.Sprintf("%+v", cfg), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := offlineOf(unconnected(), cfg)
				const total = 50
				called := 0
				var next func(error)
				next = func(err error) {
					must(t, err)
					if called++; called < total {
						must(t, p.PublishAsync(t.Context(), text("x"), next))
						if called == total/2 {
							must(t, p.Publish(t.Context(), text("waits")))
						}
					}
				}
				must(t, p.PublishAsync(t.Context(), text("x"), next))
				for range 10 * total {
					synctest.Wait()
					confirmAll(p)
				}
				if called != total {
					t.Errorf("%d callbacks, want %d", called, total)
				}
				endOffline(t, p)
			})
		})
	}
}

// TestCallbackWaitsForBytes: a callback that publishes keeps to MaxInFlightBytes,
// by what has no outcome yet.
func TestCallbackWaitsForBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := offlineOf(unconnected(), ProducerConfig{MaxInFlightBytes: 100})
		published := 0
		must(t, p.PublishAsync(t.Context(), text("first"), func(error) {
			for range 5 {
				must(t, p.PublishAsync(t.Context(), Message{Raw: make([]byte, 40)}, nil))
				published++
			}
		}))
		confirm(p, nil, 1)
		synctest.Wait()
		if published != 2 {
			t.Errorf("%d messages of 40 bytes went into 100", published)
		}
		for range 5 {
			confirmAll(p)
			synctest.Wait()
		}
		if published != 5 {
			t.Errorf("%d of 5 went", published)
		}
		endOffline(t, p)
	})
}

// TestCallbackThatWaitsEnds: with its context, and with the producer.
func TestCallbackThatWaitsEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := offlineOf(unconnected(), ProducerConfig{MaxInFlight: 1})
		ctx, cancel := context.WithCancelCause(t.Context())
		var got []error
		must(t, p.PublishAsync(t.Context(), text("1"), func(error) {
			must(t, p.PublishAsync(t.Context(), text("2"), nil))
			got = append(got, p.PublishAsync(ctx, text("3"), nil))
			got = append(got, p.PublishAsync(t.Context(), text("4"), nil))
		}))
		confirm(p, nil, 1)
		synctest.Wait()
		cancel(errTest)
		synctest.Wait()
		p.fail(ErrStreamDeleted)
		synctest.Wait()
		if len(got) != 2 || !errors.Is(got[0], errTest) || !errors.Is(got[1], ErrStreamDeleted) {
			t.Errorf("%v", got)
		}
		endOffline(t, p)
	})
}

// TestFailedProducerLeavesNothing: a producer that has failed needs no Close. Its
// callbacks end, and the Env counts none of its bytes, those of a place included
// that was free when it failed, and went to one who waited.
func TestFailedProducerLeavesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := unconnected()
		p := offlineOf(e, ProducerConfig{MaxInFlight: 2})
		called := 0
		must(t, p.PublishAsync(t.Context(), text("x"), nil))
		must(t, p.PublishAsync(t.Context(), text("y"), func(error) { called++ }))
		var waits sync.WaitGroup
		for range 3 {
			waits.Go(func() { wantErr(t, p.PublishAsync(t.Context(), text("z"), nil), ErrStreamDeleted) })
		}
		synctest.Wait()
		p.mu.Lock()
		settleLocked(p, nil, 1)
		p.refusal = ErrStreamDeleted
		close(p.refused)
		p.mu.Unlock()
		p.fail(ErrStreamDeleted)
		waits.Wait()
		<-p.calls.ended
		if n := e.publishing.used.Load(); n != 0 || called != 1 || p.admission.used.n != 0 {
			t.Errorf("%d callbacks; %d bytes and %d messages count", called, n, p.admission.used.n)
		}
		must(t, p.Flush(t.Context()))
		endOffline(t, p)
	})
}
