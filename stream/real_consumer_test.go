package stream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestOffsetZeroIsStored(t *testing.T) { onBrokers(t, testOffsetZeroIsStored) }

func testOffsetZeroIsStored(t *testing.T, b testBroker) {
	env := connect(t, b.StreamURL())
	stream := newStream(t, env)
	publish(t, env, stream, 0, 5)
	if _, err := env.QueryOffset(t.Context(), "c", stream); !errors.Is(err, ErrNoOffset) {
		t.Fatalf("nothing stored: got %v, want ErrNoOffset", err)
	}
	if err := env.StoreOffset(t.Context(), "c", stream, 0); err != nil {
		t.Fatal(err)
	}
	wantStored(t, env, "c", stream, 0)
	bodies, first := readN(t, env, stream, ConsumerConfig{Name: "c"}, 4)
	wantNumbers(t, bodies, 1, 5)
	if first != 1 {
		t.Errorf("resumed at offset %d, want 1", first)
	}
}

func TestStoreOffsetRewinds(t *testing.T) { onBrokers(t, testStoreOffsetRewinds) }

func testStoreOffsetRewinds(t *testing.T, b testBroker) {
	env := connect(t, b.StreamURL())
	stream := newStream(t, env)
	publish(t, env, stream, 0, 100)
	for _, offset := range []uint64{50, 10, 99} {
		if err := env.StoreOffset(t.Context(), "c", stream, offset); err != nil {
			t.Fatal(err)
		}
		wantStored(t, env, "c", stream, offset)
	}
}

func TestDefaultStartApplies(t *testing.T) { onBrokers(t, testDefaultStartApplies) }

func testDefaultStartApplies(t *testing.T, b testBroker) {
	env := connect(t, b.StreamURL())
	stream := newStream(t, env)
	publish(t, env, stream, 0, 20)
	for name, test := range map[string]struct {
		start Start
		first int
	}{
		"zero":   {Start{}, 0},
		"first":  {Stored(First()), 0},
		"offset": {Stored(At(7)), 7},
	} {
		bodies, _ := readN(t, env, stream, ConsumerConfig{Name: name, Start: test.start}, 20-test.first)
		wantNumbers(t, bodies, test.first, 20)
		wantStored(t, env, name, stream, 19)
	}
}

func TestNothingReceivedNothingStored(t *testing.T) {
	beside(t)
	onBrokers(t, testNothingReceivedNothingStored)
}

func testNothingReceivedNothingStored(t *testing.T, b testBroker) {
	env := connect(t, b.StreamURL())
	stream := newStream(t, env)
	c, err := env.NewConsumer(stream, ConsumerConfig{Name: "c"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	err = c.Run(ctx, func(context.Context, *Delivery) error { return errors.New("no message was published") })
	if err != nil {
		t.Fatal(err)
	}
	if offset, err := env.QueryOffset(t.Context(), "c", stream); !errors.Is(err, ErrNoOffset) {
		t.Fatalf("stored %d (%v), want nothing", offset, err)
	}
}

func TestStarts(t *testing.T) { onBrokers(t, testStarts) }

func testStarts(t *testing.T, b testBroker) {
	env := connect(t, b.StreamURL())
	stream := newStream(t, env)
	publish(t, env, stream, 0, 50)
	eventually(t, "a millisecond passes", time.Second, laterThan(time.Now().Add(5*time.Millisecond)))
	middle := time.Now()
	eventually(t, "a millisecond passes", time.Second, laterThan(time.Now().Add(5*time.Millisecond)))
	publish(t, env, stream, 50, 100)
	for name, test := range map[string]struct {
		start Start
		first int
	}{
		"first": {First(), 0}, "at 0": {At(0), 0}, "at 42": {At(42), 42}, "at 99": {At(99), 99},
		"since": {Since(middle), 50}, "since the beginning": {Since(middle.Add(-time.Hour)), 0},
		"ago": {Ago(time.Hour), 0},
	} {
		t.Run(name, func(t *testing.T) {
			bodies, _ := readN(t, env, stream, ConsumerConfig{Start: test.start}, 100-test.first)
			wantNumbers(t, bodies, test.first, 100)
		})
	}
	t.Run("last", func(t *testing.T) {
		bodies, first := readN(t, env, stream, ConsumerConfig{Start: Last()}, 1)
		if stats, err := env.Stats(t.Context(), stream); err != nil || first != stats.CommittedChunk || bodies[0] != fmt.Sprint(first) {
			t.Fatalf("last begins at %d, the last chunk is at %d (%v)", first, stats.CommittedChunk, err)
		}
	})
	t.Run("next", func(t *testing.T) { readNext(t, env, stream) })
}

func laterThan(at time.Time) func() bool {
	return func() bool { return time.Now().After(at) }
}

// readNext starts a consumer at Next and publishes once it is subscribed.
func readNext(t *testing.T, env *Env, stream string) {
	got := make(chan string, 10)
	stop, _ := runConsumer(t, env, stream, ConsumerConfig{Start: Next()}, func(d *Delivery) { got <- string(d.Body) })
	defer stop()
	// Whatever arrives first, it must be one of these.
	for i := range 1000 {
		publish(t, env, stream, 1000+i, 1001+i)
		select {
		case first := <-got:
			if !strings.HasPrefix(first, "1") || len(first) != 4 {
				t.Fatalf("Next delivered the old message %s", first)
			}
			return
		default:
			pause(10 * time.Millisecond)
		}
	}
	t.Fatal("Next delivered nothing")
}

// runConsumer runs a consumer in the background until stop, which waits for it
// and returns how it ended; done has that as soon as it ends by itself.
func runConsumer(t testing.TB, env *Env, stream string, cfg ConsumerConfig, handle func(*Delivery)) (stop func() error, done chan error) {
	t.Helper()
	c, err := env.NewConsumer(stream, cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	done = make(chan error, 1)
	go func() {
		done <- c.Run(ctx, func(_ context.Context, d *Delivery) error { handle(d); return nil })
	}()
	return func() error {
		cancel()
		select {
		case err := <-done:
			done <- err
			return err
		case <-time.After(timeLimit()):
			t.Error("the run does not end")
			return errTest
		}
	}, done
}

func TestFanOut(t *testing.T) { onBrokers(t, testFanOut) }

func testFanOut(t *testing.T, b testBroker) {
	env := connect(t, b.StreamURL())
	stream := newStream(t, env)
	var counts [4]atomic.Int64
	for i := range counts {
		stop, _ := runConsumer(t, env, stream, ConsumerConfig{Name: fmt.Sprint("c", i)}, func(*Delivery) { counts[i].Add(1) })
		defer func() { _ = stop() }()
	}
	publish(t, env, stream, 0, 500)
	for i := range counts {
		eventually(t, "each consumer gets everything", patience, func() bool { return counts[i].Load() == 500 })
	}
}

func TestHandlerErrorEndsTheRun(t *testing.T) { onBrokers(t, testHandlerErrorEndsTheRun) }

func testHandlerErrorEndsTheRun(t *testing.T, b testBroker) {
	env := connect(t, b.StreamURL())
	stream := newStream(t, env)
	publish(t, env, stream, 0, 20)
	boom := errors.New("boom")
	for name, fail := range map[string]func() error{
		"error": func() error { return boom },
		"panic": func() error { panic(boom) },
	} {
		t.Run(name, func(t *testing.T) {
			c, err := env.NewConsumer(stream, ConsumerConfig{Name: name})
			if err != nil {
				t.Fatal(err)
			}
			err = c.Run(t.Context(), func(_ context.Context, d *Delivery) error {
				if d.Offset == 7 {
					return fail()
				}
				return nil
			})
			var h *HandlerError
			if !errors.As(err, &h) || h.Offset != 7 || h.Stream != stream || !strings.Contains(err.Error(), "boom") {
				t.Fatalf("got %v, want a HandlerError at offset 7", err)
			}
			wantStored(t, env, name, stream, 6)
			bodies, _ := readN(t, env, stream, ConsumerConfig{Name: name}, 13)
			wantNumbers(t, bodies, 7, 20)
		})
	}
}

func TestFirstMessageFails(t *testing.T) { onBrokers(t, testFirstMessageFails) }

func testFirstMessageFails(t *testing.T, b testBroker) {
	env := connect(t, b.StreamURL())
	stream := newStream(t, env)
	publish(t, env, stream, 0, 3)
	c, _ := env.NewConsumer(stream, ConsumerConfig{Name: "c"})
	var h *HandlerError
	err := c.Run(t.Context(), func(context.Context, *Delivery) error { return errors.New("no") })
	if !errors.As(err, &h) || h.Offset != 0 {
		t.Fatal(err)
	}
	if _, err := env.QueryOffset(t.Context(), "c", stream); !errors.Is(err, ErrNoOffset) {
		t.Fatalf("got %v, want ErrNoOffset: no message was handled", err)
	}
}

func TestCancelWaitsForTheHandler(t *testing.T) { onBrokers(t, testCancelWaitsForTheHandler) }

func testCancelWaitsForTheHandler(t *testing.T, b testBroker) {
	env := connect(t, b.StreamURL())
	stream := newStream(t, env)
	publish(t, env, stream, 0, 20)
	c, _ := env.NewConsumer(stream, ConsumerConfig{Name: "c"})
	ctx, cancel := context.WithCancel(t.Context())
	var finished, returned atomic.Bool
	var calls, late atomic.Int64
	err := c.Run(ctx, func(ctx context.Context, d *Delivery) error {
		calls.Add(1)
		if returned.Load() {
			late.Add(1)
		}
		if d.Offset == 4 {
			cancel()
			<-ctx.Done()
			_, _ = env.Stats(t.Context(), stream) // still at work when Run could have returned
			finished.Store(true)
		}
		return nil
	})
	returned.Store(true)
	if !finished.Load() {
		t.Error("Run returned before the handler")
	}
	if err != nil {
		t.Fatal(err)
	}
	if calls.Load() != 5 || late.Load() != 0 {
		t.Fatalf("%d calls, %d of them after Run had returned; want 5 and 0", calls.Load(), late.Load())
	}
	wantStored(t, env, "c", stream, 4)
}

func TestStorePolicies(t *testing.T) {
	beside(t)
	onBrokers(t, testStorePolicies)
}

func testStorePolicies(t *testing.T, b testBroker) {
	env := connect(t, b.StreamURL())
	stream := newStream(t, env)
	publish(t, env, stream, 0, 10)
	handled := func(t *testing.T, cfg ConsumerConfig, n uint64, then func(*Consumer)) {
		c, err := env.NewConsumer(stream, cfg)
		if err != nil {
			t.Fatal(err)
		}
		stop := errors.New("stop")
		err = c.Run(t.Context(), func(_ context.Context, d *Delivery) error {
			if d.Offset < n {
				return nil
			}
			then(c)
			return stop
		})
		if !errors.Is(err, stop) {
			t.Fatal(err)
		}
	}
	stored := func(name string, want uint64) func() bool {
		return func() bool {
			got, err := env.QueryOffset(t.Context(), name, stream)
			return err == nil && got == want
		}
	}
	t.Run("default stores while the next handler runs", func(t *testing.T) {
		handled(t, ConsumerConfig{Name: "auto"}, 5, func(*Consumer) {
			eventually(t, "offset 4 is stored", patience, stored("auto", 4))
		})
	})
	t.Run("every 1", func(t *testing.T) {
		handled(t, ConsumerConfig{Name: "each", Store: StorePolicy{Every: 1}}, 5, func(*Consumer) {
			eventually(t, "offset 4 is stored", patience, stored("each", 4))
		})
	})
	t.Run("every 3", func(t *testing.T) {
		handled(t, ConsumerConfig{Name: "third", Store: StorePolicy{Every: 3}}, 5, func(*Consumer) {
			eventually(t, "offset 2 is stored", patience, stored("third", 2))
		})
		wantStored(t, env, "third", stream, 4) // the rest, at the end
	})
	t.Run("interval", func(t *testing.T) {
		handled(t, ConsumerConfig{Name: "time", Store: StorePolicy{Interval: 20 * time.Millisecond}}, 5, func(*Consumer) {
			eventually(t, "offset 4 is stored", patience, stored("time", 4))
		})
	})
	t.Run("manual", func(t *testing.T) {
		handled(t, ConsumerConfig{Name: "manual", Store: StorePolicy{Manual: true}}, 5, func(c *Consumer) {
			if _, err := env.QueryOffset(t.Context(), "manual", stream); !errors.Is(err, ErrNoOffset) {
				t.Errorf("before Commit: %v, want ErrNoOffset", err)
			}
			if err := c.Commit(t.Context()); err != nil {
				t.Error(err)
			}
			wantStored(t, env, "manual", stream, 4)
		})
		wantStored(t, env, "manual", stream, 4)
	})
}

func TestAll(t *testing.T) { onBrokers(t, testAll) }

func testAll(t *testing.T, b testBroker) {
	env := connect(t, b.StreamURL())
	stream := newStream(t, env)
	publish(t, env, stream, 0, 10)
	c, _ := env.NewConsumer(stream, ConsumerConfig{Name: "c"})
	var seen []uint64
	for d, err := range c.All(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if seen = append(seen, d.Offset); d.Offset == 4 {
			break // not handled
		}
	}
	wantStored(t, env, "c", stream, 3)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for d, err := range c.All(ctx) {
		if err != nil {
			t.Fatalf("the end of the context is an error: %v", err)
		}
		if seen = append(seen, d.Offset); d.Offset == 9 {
			cancel()
		}
	}
	wantStored(t, env, "c", stream, 9)
	if want := []uint64{0, 1, 2, 3, 4, 4, 5, 6, 7, 8, 9}; !slices.Equal(seen, want) {
		t.Errorf("saw %v, want %v", seen, want)
	}
}

func TestRunsOnceAtATime(t *testing.T) { onBrokers(t, testRunsOnceAtATime) }

func testRunsOnceAtATime(t *testing.T, b testBroker) {
	env := connect(t, b.StreamURL())
	stream := newStream(t, env)
	publish(t, env, stream, 0, 1)
	c, _ := env.NewConsumer(stream, ConsumerConfig{Name: "c"})
	if err := c.Commit(t.Context()); !errors.Is(err, ErrNotRunning) {
		t.Errorf("Commit before Run: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_ = c.Run(ctx, func(ctx context.Context, _ *Delivery) error {
		if err := c.Run(ctx, func(context.Context, *Delivery) error { return nil }); !errors.Is(err, ErrRunning) {
			t.Errorf("Run within Run: %v", err)
		}
		cancel()
		return nil
	})
}

// An offset that another client has stored is found, and the other way round.
func TestOffsetsAreShared(t *testing.T) { onBrokers(t, testOffsetsAreShared) }

func testOffsetsAreShared(t *testing.T, b testBroker) {
	env := connect(t, b.StreamURL())
	stream := newStream(t, env)
	publish(t, env, stream, 0, 10)
	other := officialEnvironment(t, b.StreamURL())
	if err := other.StoreOffset("theirs", stream, 3); err != nil {
		t.Fatal(err)
	}
	eventually(t, "our query finds the official client's offset", patience, func() bool {
		got, err := env.QueryOffset(t.Context(), "theirs", stream)
		return err == nil && got == 3
	})
	bodies, _ := readN(t, env, stream, ConsumerConfig{Name: "theirs"}, 6)
	wantNumbers(t, bodies, 4, 10)
	if got, err := other.QueryOffset("theirs", stream); err != nil || got != 9 {
		t.Errorf("the official client finds %d (%v), want 9", got, err)
	}
}
