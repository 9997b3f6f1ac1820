package stream

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-go/tidemark/streamtest"
)

// ways are the methods that call a handler, with a handler for single messages
// each.
var ways = map[string]func(context.Context, *Consumer, Handler) error{
	"run": func(ctx context.Context, c *Consumer, h Handler) error { return c.Run(ctx, h) },
	"batch": func(ctx context.Context, c *Consumer, h Handler) error {
		return c.RunBatch(ctx, func(ctx context.Context, batch []Delivery) error {
			for i := range batch {
				if err := h(ctx, &batch[i]); err != nil {
					return err
				}
			}
			return nil
		})
	},
	"workers": func(ctx context.Context, c *Consumer, h Handler) error {
		c.cfg.Workers = 2
		return c.Run(ctx, h)
	},
}

// valueKey is the key of a value in the context of a run.
type valueKey struct{}

// TestAnyEndOfTheContextIsAStop: how the context ends does not matter.
func TestAnyEndOfTheContextIsAStop(t *testing.T) {
	for name, end := range map[string]func(context.Context) (context.Context, func()){
		"cancelled": func(ctx context.Context) (context.Context, func()) { return context.WithCancel(ctx) },
		"deadline": func(ctx context.Context) (context.Context, func()) {
			ctx, cancel := context.WithDeadline(ctx, time.Unix(1, 0))
			return ctx, cancel
		},
		"cause": func(ctx context.Context) (context.Context, func()) {
			ctx, cancel := context.WithCancelCause(ctx)
			return ctx, func() { cancel(errTest) }
		},
		"cause that looks like a failure": func(ctx context.Context) (context.Context, func()) {
			ctx, cancel := context.WithCancelCause(ctx)
			return ctx, func() { cancel(&HandlerError{Err: ErrStreamRecreated}) }
		},
	} {
		for way, run := range ways {
			b, env, stream := inStream(t, 3)
			c, err := env.NewConsumer(stream, ConsumerConfig{Name: "billing", BatchSize: 1})
			must(t, err)
			ctx, cancel := end(context.Background())
			err = run(ctx, c, func(context.Context, *Delivery) error { cancel(); return nil })
			if cancel(); err != nil {
				t.Errorf("%s, %s: %v", name, way, err)
			}
			if got, ok := b.Offset("billing", stream); name != "deadline" && (!ok || way != "workers" && got != 0) {
				t.Errorf("%s, %s: stored %d, %v", name, way, got, ok)
			}
		}
	}
}

// TestAllEndsWithoutAPair when its context ends, and with one when the Env does.
func TestAllEndsWithoutAPair(t *testing.T) {
	_, env, stream := inStream(t, 3)
	c, err := env.NewConsumer(stream, ConsumerConfig{Name: "billing"})
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for d, err := range c.All(ctx) {
		if err != nil || d.Offset > 0 {
			t.Errorf("the loop goes on with %v, %v", d, err)
		}
		cancel()
	}
	var last error
	for _, err := range c.All(t.Context()) {
		if last = err; err == nil {
			go func() { _ = env.Close() }()
			<-env.life.Done()
		}
	}
	wantErr(t, last, ErrClosed)
}

// TestOtherContextIsAFailure: a handler's context.Canceled of a context of its own
// ends the run with it, although the run's context has ended too.
func TestOtherContextIsAFailure(t *testing.T) {
	for way, run := range ways {
		_, env, stream := inStream(t, 3)
		c, err := env.NewConsumer(stream, ConsumerConfig{BatchSize: 1})
		must(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		other, end := context.WithCancel(t.Context())
		end()
		err = run(ctx, c, func(_ context.Context, d *Delivery) error {
			if d.Offset > 0 {
				return nil
			}
			cancel()
			return other.Err()
		})
		var h *HandlerError
		if wantErr(t, err, context.Canceled); !errors.As(err, &h) {
			t.Errorf("%s: %v", way, err)
		}
	}
}

func TestNilHandlers(t *testing.T) {
	_, env, stream := inStream(t, 1)
	c, err := env.NewConsumer(stream, ConsumerConfig{})
	must(t, err)
	wantErr(t, c.Run(t.Context(), nil), ErrInvalidConfig)
	wantErr(t, c.RunBatch(t.Context(), nil), ErrInvalidConfig)
}

// TestDrain: the handler at work goes on under a context that lives, whatever
// ends the run, and what it returns counts.
func TestDrain(t *testing.T) {
	for _, closes := range []bool{false, true} {
		for _, fails := range []error{nil, errTest} {
			for way, run := range ways {
				b, env, stream := inStream(t, 5)
				p, err := env.NewProducer(t.Context(), newStream(t, env), ProducerConfig{})
				must(t, err)
				entered, proceed := make(chan context.Context), make(chan struct{})
				stop, ended := start(t, env, stream, ConsumerConfig{Name: "billing", BatchSize: 1}, func(ctx context.Context, c *Consumer) error {
					return run(context.WithValue(ctx, valueKey{}, "value"), c, func(ctx context.Context, d *Delivery) error {
						if d.Offset != 2 {
							return nil
						}
						entered <- ctx
						<-proceed
						if err := p.Publish(ctx, Message{Body: []byte("what follows from it")}); err != nil {
							t.Errorf("%s: %v", way, err)
						}
						return fails
					})
				})
				ctx := recv(t, entered, "the handler")
				closed := make(chan error, 1)
				var want error
				if closes {
					go func() { closed <- env.Close() }()
					<-env.life.Done()
					want = ErrClosed
				} else {
					stop()
					closed <- nil
				}
				if ctx.Err() != nil || ctx.Value(valueKey{}) != "value" {
					t.Errorf("%s: the handler's context has ended: %v", way, ctx.Err())
				}
				close(proceed)
				err = recv(t, ended, "the end")
				var h *HandlerError
				if errors.As(err, &h) != (fails != nil) || fails == nil && !errors.Is(err, want) {
					t.Errorf("%s: %v", way, err)
				}
				must(t, recv(t, closed, "Close"))
				if ctx.Err() == nil {
					t.Errorf("%s: the handler's context lives on", way)
				}
				handled := uint64(1)
				if fails == nil {
					handled = 2
				}
				if got, ok := b.Offset("billing", stream); !ok || got != handled && (way != "workers" || got < handled) {
					t.Errorf("%s: stored %d, %v, want %d", way, got, ok, handled)
				}
			}
		}
	}
}

// TestDrainContext ends a time after the context that it follows, with the same
// cause.
func TestDrainContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stop, cancel := context.WithCancelCause(context.WithValue(t.Context(), valueKey{}, "value"))
		ctx, end := drainContext(stop, time.Minute)
		defer end()
		time.Sleep(time.Hour)
		cancel(errTest)
		time.Sleep(time.Minute - 1)
		if synctest.Wait(); ctx.Err() != nil || ctx.Value(valueKey{}) != "value" {
			t.Errorf("it has ended: %v", context.Cause(ctx))
		}
		time.Sleep(time.Nanosecond)
		if synctest.Wait(); context.Cause(ctx) != errTest {
			t.Errorf("it has not ended: %v", context.Cause(ctx))
		}
		atOnce, end := drainContext(stop, -1)
		if end(); context.Cause(atOnce) != errTest {
			t.Error("with a negative time it lives")
		}
		live, end := drainContext(t.Context(), time.Minute)
		if end(); live.Err() == nil {
			t.Error("it outlives its run")
		}
	})
}

// TestPauseEndsWithTheRun: of one message at a time, the one that waits for its
// next attempt comes again. With workers it gets that attempt at once.
func TestPauseEndsWithTheRun(t *testing.T) {
	for way, run := range ways {
		b, env, stream := inStream(t, 20)
		failed := make(chan struct{}, 1)
		calls, others := 0, make(chan struct{}, 20)
		policy := ErrorPolicy{Attempts: RetryForever, Backoff: Backoff{Min: time.Hour}}
		stop, ended := start(t, env, stream, ConsumerConfig{Name: "billing", OnError: policy, BatchSize: 1}, func(ctx context.Context, c *Consumer) error {
			return run(ctx, c, func(ctx context.Context, d *Delivery) error {
				if d.Offset != 5 {
					others <- struct{}{}
					return nil
				}
				if calls++; calls == 1 {
					failed <- struct{}{}
					return errTest
				}
				return ctx.Err()
			})
		})
		recv(t, failed, "the failure")
		want := uint64(4)
		if way == "workers" {
			want = 19
			for range 19 {
				recv(t, others, "the other messages")
			}
		}
		stop()
		must(t, recv(t, ended, "the end"))
		if got, ok := b.Offset("billing", stream); !ok || got != want {
			t.Errorf("%s: stored %d, %v; want %d", way, got, ok, want)
		}
	}
}

// TestWorkersDrain: a key is slower than the others when the run ends. What waits
// before the last message that is handled is still handled, what is behind it is
// not, and nothing comes again.
func TestWorkersDrain(t *testing.T) {
	const n = 200
	for _, lost := range []bool{false, true} {
		b, env, stream := inStream(t, n)
		cfg := ConsumerConfig{Name: "billing", Workers: 3, KeyOf: func(d *Delivery) string { return fmt.Sprint(d.Offset%4 == 0) }}
		var done seen
		slow, release := make(chan struct{}), make(chan struct{})
		stop, ended := running1(t, env, stream, cfg, func(_ context.Context, d *Delivery) error {
			switch {
			case d.Offset == 0:
				close(slow)
				<-release
			case d.Offset == 102:
				<-release // those behind it wait
			}
			done.add(d.Offset)
			return nil
		})
		recv(t, slow, "the slow message")
		eventually(t, "the fast key is ahead", patience, func() bool { return done.len() == 76 })
		if lost {
			subscribed := b.Received(streamtest.Subscribe)
			b.DropConnections(streamtest.CutRST)
			must(t, b.Await(soon(t), func() bool { return b.Received(streamtest.Subscribe) > subscribed }))
		}
		stop()
		close(release)
		must(t, recv(t, ended, "the end"))
		done.once(t, 0, 103)
		if got, ok := b.Offset("billing", stream); !ok || got != 102 {
			t.Errorf("stored %d, %v, want 102", got, ok)
		}
		runUntil(t, b, env, stream, n-1, ConsumerConfig{Workers: 3}, func(_ context.Context, d *Delivery) error {
			done.add(d.Offset)
			return nil
		})
		done.once(t, 0, n)
	}
}

// TestWorkersDrainTooShort: what is handled behind a message whose handler was
// interrupted comes again, and the log says how much.
func TestWorkersDrainTooShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := aloneRun(t, ConsumerConfig{Name: "n", Workers: 2})
		var lines []string
		r.log = func(msg string, args ...any) { lines = append(lines, fmt.Sprint(append([]any{msg}, args...)...)) }
		ctx, stop := context.WithCancel(t.Context())
		handling, end := drainContext(ctx, time.Second)
		defer end()
		r.handling = handling
		r.handler = func(ctx context.Context, d *Delivery) error {
			if d.Offset == 2 {
				<-ctx.Done()
				return errTest
			}
			return nil
		}
		w := startWorkers(ctx, r)
		must(t, give(w, plainChunk(0, 10)))
		synctest.Wait()
		stop()
		if err := w.end(errStopped); err != errStopped || w.end(errStopped) != errStopped {
			t.Error(err)
		}
		wantMark(t, r.progress, 1, 2)
		if len(lines) != 2 || lines[1] != "messages that were handled come again in the next run, because one before them was notmessages7" {
			t.Errorf("the log says %q", lines)
		}
	})
}

// TestStopBesideALoss: whatever the moment at which a run is told to end, just
// before or after its connection is lost, what is handled is stored, and nothing
// above that is handled.
func TestStopBesideALoss(t *testing.T) {
	for name, cfg := range map[string]ConsumerConfig{
		"one at a time": {},
		"each stored":   {Store: StorePolicy{Every: 1}},
		"workers":       {Workers: 50},
		"keys":          {Workers: 50, KeyOf: func(d *Delivery) string { return string(d.Body) }},
		"keys, stored":  {Workers: 50, KeyOf: func(d *Delivery) string { return string(d.Body) }, Store: StorePolicy{Every: 10}},
	} {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(20) {
				synctest.Test(t, func(t *testing.T) { stopBesideALoss(t, cfg, rand.New(rand.NewPCG(seed, 0))) })
			}
		})
	}
}

func stopBesideALoss(t *testing.T, cfg ConsumerConfig, random *rand.Rand) {
	const chunks, inChunk = 80, 50
	b := streamtest.NewBroker(t, streamtest.InMemory())
	must(t, b.CreateStream("s"))
	for range chunks {
		bodies := make([]string, inChunk)
		for i := range bodies {
			bodies[i] = fmt.Sprint(random.IntN(60)) // the key
		}
		must(t, b.Publish("s", bodies...))
	}
	env, err := Connect(t.Context(), Config{URIs: []string{b.URI()}, Dial: b.Dial})
	must(t, err)
	defer env.Close()
	cfg.Name = "billing"
	c, err := env.NewConsumer("s", cfg)
	must(t, err)
	ctx, stop := context.WithCancel(t.Context())
	var done seen
	ended := make(chan error, 1)
	go func() {
		ended <- c.Run(ctx, func(_ context.Context, d *Delivery) error {
			time.Sleep(time.Duration(d.Offset%7) * 100 * time.Microsecond)
			done.add(d.Offset)
			return nil
		})
	}()
	time.Sleep(time.Duration(random.IntN(100)) * time.Millisecond)
	loss := func() { b.DropConnections(streamtest.CutRST) }
	for _, act := range [][]func(){{loss, stop}, {stop, loss}, {loss, stop, loss}}[random.IntN(3)] {
		act()
		time.Sleep(time.Duration(random.IntN(5000)) * time.Microsecond)
	}
	must(t, <-ended)
	stored, ok := b.Offset("billing", "s")
	if !ok {
		stored = BeforeFirst
	}
	done.once(t, 0, stored+1)
}

// TestCloseTimeoutBeginsAfterTheDrain: a handler that takes nearly all of Drain
// leaves CloseTimeout to the last store.
func TestCloseTimeoutBeginsAfterTheDrain(t *testing.T) {
	for _, workers := range []int{0, 2} {
		for _, answers := range []bool{true, false} {
			synctest.Test(t, func(t *testing.T) {
				b := streamtest.NewBroker(t, streamtest.InMemory())
				must(t, b.CreateStream("s"))
				must(t, b.Publish("s", "0", "1"))
				env, err := Connect(t.Context(), Config{URIs: []string{b.URI()}, Dial: b.Dial})
				must(t, err)
				defer env.Close()
				c, err := env.NewConsumer("s", ConsumerConfig{Name: "billing", Workers: workers, Drain: 10 * time.Second})
				must(t, err)
				ctx, stop := context.WithCancel(t.Context())
				defer stop()
				var returned time.Time
				err = c.Run(ctx, func(_ context.Context, d *Delivery) error {
					if d.Offset == 1 {
						stop()
						time.Sleep(8 * time.Second)
						b.StopReading()
						returned = time.Now()
						if answers {
							time.AfterFunc(CloseTimeout-time.Second, b.ResumeReading)
						}
					}
					return nil
				})
				got, ok := b.Offset("billing", "s")
				took := time.Since(returned)
				switch {
				case answers && (err != nil || !ok || got != 1 || took < CloseTimeout-time.Second):
					t.Errorf("%d workers: %v after %v, stored %d, %v", workers, err, took, got, ok)
				case !answers && (!errors.Is(err, ErrNotStored) || took > CloseTimeout || took < CloseTimeout-time.Second):
					t.Errorf("%d workers: %v after %v", workers, err, took)
				}
				b.ResumeReading()
			})
		}
	}
}

// TestInterruptedIsNoFailure: a handler that fails once its context has ended, in
// whatever words, was interrupted. Run returns nil, no policy settles the message,
// and it is the first one of the next run.
func TestInterruptedIsNoFailure(t *testing.T) {
	for way, run := range ways {
		for _, drain := range []time.Duration{-1, time.Second} {
			for name, policy := range map[string]ErrorPolicy{
				"": {}, "skip": {Skip: true}, "letters": {DeadLetter: "letters"}, "retry": {Attempts: RetryForever}, "last attempt": {Attempts: 1, Skip: true},
			} {
				for _, fails := range []error{errors.New("driver: bad connection"), Permanent(errTest), context.Canceled} {
					synctest.Test(t, func(t *testing.T) {
						b := streamtest.NewBroker(t, streamtest.InMemory())
						must(t, errors.Join(b.CreateStream("s"), b.CreateStream("letters"), b.Publish("s", "0", "1", "2")))
						env, err := Connect(t.Context(), Config{URIs: []string{b.URI()}, Dial: b.Dial})
						must(t, err)
						defer env.Close()
						c, err := env.NewConsumer("s", ConsumerConfig{Name: "billing", BatchSize: 1, Drain: drain, OnError: policy})
						must(t, err)
						ctx, stop := context.WithCancel(t.Context())
						defer stop()
						calls := 0
						err = run(ctx, c, func(ctx context.Context, d *Delivery) error {
							if d.Offset != 1 {
								return nil
							}
							calls++
							time.Sleep(time.Second) // a worker may have the next one in hand
							stop()
							<-ctx.Done()
							return fails
						})
						if err != nil || calls != 1 || len(b.Messages("letters")) > 0 {
							t.Errorf("%s, %s, %v: %v after %d calls", way, name, fails, err, calls)
						}
						if got, ok := b.Offset("billing", "s"); !ok || got != 0 {
							t.Errorf("%s, %s, %v: stored %d, %v", way, name, fails, got, ok)
						}
					})
				}
			}
		}
	}
}
