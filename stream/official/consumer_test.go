package official

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/check"
	"github.com/tidemark-go/tidemark/stream"
)

func TestResumesAtTheNextMessage(t *testing.T) { onBrokers(t, testResumesAtTheNextMessage) }

func testResumesAtTheNextMessage(t *testing.T, b testBroker) {
	env := environment(t, b)
	name := newStream(t, env)
	publish(t, env, name, 100, 300)
	for i, policy := range []stream.StorePolicy{{}, {Every: 1}, {Every: 7}, {Interval: time.Millisecond}} {
		cfg := Config{Name: fmt.Sprint("c", i), Store: policy}
		at := 100
		for _, n := range []int{1, 56, 100, 43} {
			bodies, offsets := readN(t, env, name, cfg, n)
			wantNumbers(t, bodies, at, at+n)
			at += n
			wantStored(t, env, cfg.Name, name, offsets[n-1])
		}
	}
}

func TestOffsetZero(t *testing.T) { onBrokers(t, testOffsetZero) }

func testOffsetZero(t *testing.T, b testBroker) {
	env := environment(t, b)
	name := newStream(t, env)
	publish(t, env, name, 0, 5)
	wantNothingStored(t, env, "c", name)
	readN(t, env, name, Config{Name: "c"}, 1)
	wantStored(t, env, "c", name, 0)
	bodies, offsets := readN(t, env, name, Config{Name: "c"}, 4)
	wantNumbers(t, bodies, 1, 5)
	if offsets[0] != 1 {
		t.Errorf("resumed at offset %d, want 1", offsets[0])
	}
}

func TestStoreOffsetRewinds(t *testing.T) { onBrokers(t, testStoreOffsetRewinds) }

func testStoreOffsetRewinds(t *testing.T, b testBroker) {
	env := environment(t, b)
	name := newStream(t, env)
	publish(t, env, name, 0, 100)
	for _, offset := range []uint64{50, 10, 99, 0, stream.BeforeFirst, 89} {
		must(t, StoreOffset(inTime(t), env, "c", name, offset))
		wantStored(t, env, "c", name, offset)
		if offset != 99 {
			bodies, _ := readN(t, env, name, Config{Name: "c"}, 5)
			wantNumbers(t, bodies, int(offset+1), int(offset+1)+5)
		}
	}
}

// Nothing is received, so nothing is stored: a later run would skip what a First
// has to get.
func TestNothingReceivedNothingStored(t *testing.T) { onBrokers(t, testNothingReceivedNothingStored) }

func testNothingReceivedNothingStored(t *testing.T, b testBroker) {
	env := environment(t, b)
	name := newStream(t, env)
	c, err := NewConsumer(env, name, Config{Name: "c"})
	must(t, err)
	ctx, cancel := context.WithTimeout(inTime(t), 300*time.Millisecond)
	defer cancel()
	must(t, c.Run(ctx, func(context.Context, *Delivery) error { return errors.New("no message was published") }))
	wantNothingStored(t, env, "c", name)
	publish(t, env, name, 0, 3)
	bodies, _ := readN(t, env, name, Config{Name: "c"}, 3)
	wantNumbers(t, bodies, 0, 3)
}

func TestHandlerErrorEndsTheRun(t *testing.T) { onBrokers(t, testHandlerErrorEndsTheRun) }

func testHandlerErrorEndsTheRun(t *testing.T, b testBroker) {
	env := environment(t, b)
	name := newStream(t, env)
	publish(t, env, name, 0, 20)
	for consumer, fail := range map[string]func() error{
		"error": func() error { return errTest },
		"panic": func() error { panic(errTest) },
	} {
		c, err := NewConsumer(env, name, Config{Name: consumer})
		must(t, err)
		calls := 0
		err = c.Run(inTime(t), func(_ context.Context, d *Delivery) error {
			if calls++; d.Offset == 7 {
				return fail()
			}
			return nil
		})
		var failed *stream.HandlerError
		if !errors.As(err, &failed) || failed.Offset != 7 || failed.Stream != name || consumer == "error" && !errors.Is(err, errTest) {
			t.Errorf("%s: %v", consumer, err)
		}
		if calls != 8 {
			t.Errorf("%s: the handler was called %d times", consumer, calls)
		}
		wantStored(t, env, consumer, name, 6)
		bodies, _ := readN(t, env, name, Config{Name: consumer}, 13)
		wantNumbers(t, bodies, 7, 20)
	}
}

// A handler that fails at the first message leaves nothing stored.
func TestFirstMessageFails(t *testing.T) { onBrokers(t, testFirstMessageFails) }

func testFirstMessageFails(t *testing.T, b testBroker) {
	env := environment(t, b)
	name := newStream(t, env)
	publish(t, env, name, 0, 3)
	r := start(t, env, name, Config{Name: "c", Store: stream.StorePolicy{Every: 1}}, func(context.Context, *Delivery) error { return errTest })
	wantErr(t, r.end(), errTest)
	wantNothingStored(t, env, "c", name)
}

// A cancel lets the handler finish: its message counts as handled, and no other
// is handed out.
func TestCancelWaitsForTheHandler(t *testing.T) { onBrokers(t, testCancelWaitsForTheHandler) }

func testCancelWaitsForTheHandler(t *testing.T, b testBroker) {
	env := environment(t, b)
	name := newStream(t, env)
	publish(t, env, name, 0, 20)
	entered, finish := make(chan struct{}), make(chan struct{})
	var calls atomic.Int64
	r := start(t, env, name, Config{Name: "c"}, func(ctx context.Context, d *Delivery) error {
		calls.Add(1)
		if d.Offset < 9 {
			return nil
		}
		close(entered)
		<-finish
		return ctx.Err() // nil: it outlives the run's
	})
	check.Recv(t, entered, "message 9")
	r.stop()
	select {
	case err := <-r.done:
		t.Fatalf("Run returned with a handler at work: %v", err)
	default:
	}
	close(finish)
	must(t, r.end())
	if calls.Load() != 10 {
		t.Errorf("%d calls", calls.Load())
	}
	wantStored(t, env, "c", name, 9)
}

// TestCancelBeforeTheRun: there is nothing to do, and nothing to store.
func TestCancelBeforeTheRun(t *testing.T) { onBrokers(t, testCancelBeforeTheRun) }

func testCancelBeforeTheRun(t *testing.T, b testBroker) {
	env := environment(t, b)
	name := newStream(t, env)
	publish(t, env, name, 0, 3)
	c, err := NewConsumer(env, name, Config{Name: "c"})
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	must(t, c.Run(ctx, func(context.Context, *Delivery) error { return errTest }))
	wantNothingStored(t, env, "c", name)
}

func TestManyConsumers(t *testing.T) { onBrokers(t, testManyConsumers) }

func testManyConsumers(t *testing.T, b testBroker) {
	const consumers, messages = 20, 200
	env := environment(t, b)
	name := newStream(t, env)
	publish(t, env, name, 0, messages)
	var runs [consumers]*running
	var got [consumers]atomic.Int64
	for i := range runs {
		runs[i] = start(t, env, name, Config{Name: fmt.Sprint("c", i)}, func(_ context.Context, d *Delivery) error {
			if body := string(d.Message.GetData()); body != number(int(got[i].Add(1)-1)) {
				return fmt.Errorf("%d. message is %s", got[i].Load(), body)
			}
			return nil
		})
	}
	for i := range runs {
		check.EventuallyWithin(t, "every consumer has everything", time.Minute, func() bool { return got[i].Load() == messages })
	}
	for i, r := range runs {
		r.stop()
		must(t, r.end())
		if stored, err := QueryOffset(inTime(t), env, fmt.Sprint("c", i), name); err != nil || stored < messages-1 {
			t.Errorf("consumer %d has stored %d, %v", i, stored, err)
		}
	}
}

// TestTwoNames each get every message and have an offset of their own. One name
// is not used twice at a time.
func TestTwoNames(t *testing.T) { onBrokers(t, testTwoNames) }

func testTwoNames(t *testing.T, b testBroker) {
	env := environment(t, b)
	name := newStream(t, env)
	publish(t, env, name, 0, 50)
	handled := make(chan uint64, 50)
	handle := func(_ context.Context, d *Delivery) error { handled <- d.Offset; return nil }
	a := start(t, env, name, Config{Name: "a"}, handle)
	check.Recv(t, handled, "the first message")
	bodies, _ := readN(t, env, name, Config{Name: "b"}, 20)
	wantNumbers(t, bodies, 0, 20)
	wantErr(t, start(t, env, name, Config{Name: "a"}, handle).end(), stream.ErrNameInUse)
	for range 49 {
		check.Recv(t, handled, "a message")
	}
	a.stop()
	must(t, a.end())
	wantStored(t, env, "a", name, 49)
	wantStored(t, env, "b", name, 19)
	bodies, _ = readN(t, env, name, Config{Name: "b"}, 30)
	wantNumbers(t, bodies, 20, 50)
}

func TestRunning(t *testing.T) {
	b := inProcess{streamtestBroker(t)}
	env := environment(t, b)
	name := newStream(t, env)
	publish(t, env, name, 0, 1)
	c, err := NewConsumer(env, name, Config{})
	must(t, err)
	wantErr(t, c.Run(t.Context(), nil), stream.ErrInvalidConfig)
	ctx, cancel := context.WithCancel(t.Context())
	must(t, c.Run(ctx, func(context.Context, *Delivery) error {
		wantErr(t, c.Run(t.Context(), func(context.Context, *Delivery) error { return nil }), stream.ErrRunning)
		wantErr(t, c.Commit(t.Context()), stream.ErrNoName)
		cancel()
		return nil
	}))
}

// TestManual stores on Commit only.
func TestManual(t *testing.T) { onBrokers(t, testManual) }

func testManual(t *testing.T, b testBroker) {
	env := environment(t, b)
	name := newStream(t, env)
	publish(t, env, name, 0, 10)
	c, err := NewConsumer(env, name, Config{Name: "c", Store: stream.StorePolicy{Manual: true}})
	must(t, err)
	wantErr(t, c.Commit(t.Context()), stream.ErrNotRunning)
	for round := range 2 {
		ctx, cancel := context.WithCancel(inTime(t))
		var first, last uint64 = 99, 0
		must(t, c.Run(ctx, func(ctx context.Context, d *Delivery) error {
			first, last = min(first, d.Offset), d.Offset
			if d.Offset == 4 {
				must(t, c.Commit(ctx))
			}
			if d.Offset == 8 {
				cancel()
			}
			return nil
		}))
		if want := uint64(4 * round); first != want || last != 8 {
			t.Errorf("round %d read from %d to %d, want from %d to 8", round, first, last, want)
		}
		wantStored(t, env, "c", name, 3)
	}
}

func TestMissingStream(t *testing.T) { onBrokers(t, testMissingStream) }

func testMissingStream(t *testing.T, b testBroker) {
	env := environment(t, b)
	c, err := NewConsumer(env, "no-such-stream", Config{Name: "c"})
	must(t, err)
	wantErr(t, c.Run(inTime(t), func(context.Context, *Delivery) error { return nil }), stream.ErrStreamNotFound)
	_, err = NewProducer(inTime(t), env, "no-such-stream", nil)
	wantErr(t, err, stream.ErrStreamNotFound)
	_, err = QueryOffset(inTime(t), env, "c", "no-such-stream")
	wantErr(t, err, stream.ErrStreamNotFound)
}

func TestConfig(t *testing.T) {
	env := environment(t, inProcess{streamtestBroker(t)})
	for _, cfg := range []Config{
		{Store: stream.StorePolicy{Every: 1}},
		{Name: "c", Store: stream.StorePolicy{Every: -1}},
		{Name: "c", Store: stream.StorePolicy{Manual: true, Every: 1}},
		{Name: "c", Store: stream.StorePolicy{Committed: true}},
		{Name: "tidemark-started:c"},
		{Name: "  "},
		{Start: stream.At(1 << 63)},
		{Start: stream.Ago(-1)},
		{Start: stream.Stored(stream.Since(time.Time{}))},
	} {
		_, err := NewConsumer(env, "s", cfg)
		wantErr(t, err, stream.ErrInvalidConfig)
	}
	_, err := NewConsumer(env, "", Config{})
	wantErr(t, err, stream.ErrInvalidConfig)
	_, err = NewConsumer(nil, "s", Config{})
	wantErr(t, err, stream.ErrInvalidConfig)
	wantErr(t, StoreOffset(t.Context(), env, "c", "s", 1<<63), stream.ErrInvalidConfig)
	wantErr(t, StoreOffset(t.Context(), env, "", "s", 1), stream.ErrInvalidConfig)
	must(t, env.Close())
	_, err = NewConsumer(env, "s", Config{})
	wantErr(t, err, stream.ErrClosed)
}
