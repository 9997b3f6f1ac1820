package official

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/check"
	"github.com/tidemark-go/tidemark/stream"
	"github.com/tidemark-go/tidemark/streamtest"
)

// midway is a consumer that has handled the offsets up to 4 of 10, with their
// mark stored, and waits for more.
func midway(t *testing.T, b *streamtest.Broker) (r *running, again func() uint64) {
	t.Helper()
	env := environment(t, inProcess{b})
	name := newStream(t, env)
	publish(t, env, name, 0, 5)
	cfg := Config{Name: "c"}
	r = start(t, env, name, cfg, func(context.Context, *Delivery) error { return nil })
	check.Eventually(t, "the mark is stored", func() bool { offset, ok := b.Offset("c", name); return ok && offset == 4 })
	return r, func() uint64 {
		env := environment(t, inProcess{b})
		publish(t, env, name, 5, 10)
		_, offsets := readN(t, env, name, cfg, 5)
		return offsets[0]
	}
}

// TestLostConnection ends the run, and the next one goes on.
func TestLostConnection(t *testing.T) {
	b := streamtestBroker(t)
	r, again := midway(t, b)
	b.DropConnections(streamtest.CutRST)
	wantErr(t, r.end(), stream.ErrUnreachable)
	if at := again(); at != 5 {
		t.Errorf("went on at %d", at)
	}
}

// TestLostConnectionSameEnvironment: Run may be called again on the same
// Environment and consumer, which the official client takes its time for.
func TestLostConnectionSameEnvironment(t *testing.T) {
	b := streamtestBroker(t)
	env := environment(t, inProcess{b})
	name := newStream(t, env)
	publish(t, env, name, 0, 10)
	c, err := NewConsumer(env, name, Config{Name: "c", Store: stream.StorePolicy{Every: 1}})
	must(t, err)
	var next uint64
	for drops := 0; next < 10; {
		ctx, cancel := context.WithCancel(inTime(t))
		err := c.Run(ctx, func(_ context.Context, d *Delivery) error {
			if d.Offset != next {
				t.Errorf("got %d, want %d", d.Offset, next)
			}
			switch next++; {
			case next == 10:
				cancel()
			case next%4 == 0 && drops < 2:
				drops++
				b.DropConnections(streamtest.CutFIN)
				<-time.After(20 * time.Millisecond) // so that it is noticed before the next message
			}
			return nil
		})
		if cancel(); err != nil && !errors.Is(err, stream.ErrUnreachable) {
			t.Fatal(err)
		}
	}
	wantStored(t, env, "c", name, 9)
}

// TestDeletedStream is told from a lost connection.
func TestDeletedStream(t *testing.T) { onBrokers(t, testDeletedStream) }

func testDeletedStream(t *testing.T, b testBroker) {
	env := environment(t, b)
	name := newStream(t, env)
	publish(t, env, name, 0, 5)
	handled := make(chan uint64, 5)
	r := start(t, env, name, Config{Name: "c"}, func(_ context.Context, d *Delivery) error { handled <- d.Offset; return nil })
	for range 5 {
		check.Recv(t, handled, "a message")
	}
	must(t, env.DeleteStream(name))
	err := r.end()
	wantErr(t, err, stream.ErrStreamDeleted)
	if errors.Is(err, stream.ErrUnreachable) || errors.Is(err, stream.ErrNotStored) {
		t.Error(err)
	}
	must(t, env.DeclareStream(name, nil)) // it is deleted with the test
}

// TestMovedStream is lost for this package, and nothing is with it.
func TestMovedStream(t *testing.T) {
	b := streamtestBroker(t)
	r, again := midway(t, b)
	must(t, b.MoveLeader(r.stream))
	wantErr(t, r.end(), stream.ErrUnreachable)
	if at := again(); at != 5 {
		t.Errorf("went on at %d", at)
	}
}

// TestRecreatedStream: the old mark is not stored in the new stream, whose
// messages would be skipped.
func TestRecreatedStream(t *testing.T) { onBrokers(t, testRecreatedStream) }

func testRecreatedStream(t *testing.T, b testBroker) {
	env := environment(t, b)
	name := newStream(t, env)
	publish(t, env, name, 0, 5)
	recreated := make(chan struct{})
	r := start(t, env, name, Config{Name: "c", Store: stream.StorePolicy{Every: 2}}, func(ctx context.Context, d *Delivery) error {
		if d.Offset == 4 {
			check.Eventually(t, "no store is on its way", func() bool {
				offset, err := QueryOffset(ctx, env, "c", name)
				return err == nil && offset == 3
			})
			must(t, errors.Join(env.DeleteStream(name), env.DeclareStream(name, nil)))
			close(recreated)
		}
		return nil
	})
	check.Recv(t, recreated, "the new stream")
	err := r.end()
	wantErr(t, err, stream.ErrUnreachable, stream.ErrNotStored, stream.ErrStreamRecreated)
	wantNothingStored(t, env, "c", name)
	publish(t, env, name, 0, 3)
	bodies, _ := readN(t, env, name, Config{Name: "c"}, 3)
	wantNumbers(t, bodies, 0, 3)
}

// TestLostStore is sent again: the broker never answers a store.
func TestLostStore(t *testing.T) {
	b := streamtestBroker(t)
	env := environment(t, inProcess{b})
	name := newStream(t, env)
	publish(t, env, name, 0, 5)
	b.LoseStores(1)
	r := start(t, env, name, Config{Name: "c"}, func(context.Context, *Delivery) error { return nil })
	check.Eventually(t, "the lost store has been made again", func() bool { offset, ok := b.Offset("c", name); return ok && offset == 4 })
	b.LoseStores(1)
	r.stop()
	must(t, r.end())
	b.LoseStores(1000)
	wantErr(t, StoreOffset(inTime(t), env, "c", name, 2), stream.ErrNotStored)
	r = start(t, env, name, Config{Name: "c", Start: stream.First()}, func(_ context.Context, d *Delivery) error {
		if d.Offset == 1 {
			return errTest
		}
		return nil
	})
	wantErr(t, r.end(), errTest, stream.ErrNotStored)
	b.ClearFaults()
}

// TestCorruptChunk: a chunk that does not match its checksum ends the run before
// any of its messages is handled, and the next run gets them.
func TestCorruptChunk(t *testing.T) {
	b := streamtestBroker(t)
	env := environment(t, inProcess{b})
	name := newStream(t, env)
	publish(t, env, name, 0, 5)
	must(t, b.CorruptChunks(name, 1))
	r := start(t, env, name, Config{Name: "c"}, func(_ context.Context, d *Delivery) error {
		t.Errorf("message %d was handled", d.Offset)
		return nil
	})
	wantErr(t, r.end(), stream.ErrUnreachable)
	wantNothingStored(t, env, "c", name)
	bodies, _ := readN(t, environment(t, inProcess{b}), name, Config{Name: "c"}, 5)
	wantNumbers(t, bodies, 0, 5)
}

// TestClosedEnvironment ends the run without a call to it: the official client
// would connect again for that.
func TestClosedEnvironment(t *testing.T) {
	b := streamtestBroker(t)
	env := environment(t, inProcess{b})
	name := newStream(t, env)
	publish(t, env, name, 0, 5)
	handled := make(chan struct{}, 5)
	r := start(t, env, name, Config{Name: "c", Store: stream.StorePolicy{Every: 100}}, func(context.Context, *Delivery) error {
		handled <- struct{}{}
		return nil
	})
	for range 5 {
		check.Recv(t, handled, "a message")
	}
	must(t, env.Close())
	wantErr(t, r.end(), stream.ErrClosed, stream.ErrNotStored)
	check.Eventually(t, "no connection is left", func() bool { return len(b.Connections()) == 0 })
}

// TestBrokerThatDoesNotAnswer: every call obeys its context, however long the
// official client is stuck, and what follows waits for it.
func TestBrokerThatDoesNotAnswer(t *testing.T) {
	t.Parallel() // the official client waits for 10 s
	b := streamtestBroker(t)
	env := environment(t, inProcess{b})
	name := newStream(t, env)
	b.StopAnswering()
	short := func() context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		t.Cleanup(cancel)
		return ctx
	}
	for range 3 {
		_, err := QueryOffset(short(), env, "c", name)
		wantErr(t, err, context.DeadlineExceeded)
		wantErr(t, StoreOffset(short(), env, "c", name, 1), context.DeadlineExceeded)
		_, err = NewProducer(short(), env, name, nil)
		wantErr(t, err, context.DeadlineExceeded)
		c, err := NewConsumer(env, name, Config{Name: "c"})
		must(t, err)
		must(t, c.Run(short(), func(context.Context, *Delivery) error { return nil }))
	}
	b.ResumeAnswering()
	must(t, StoreOffset(inTime(t), env, "c", name, 3))
	wantStored(t, env, "c", name, 3)
	check.Eventually(t, "the gate is forgotten", func() bool {
		gates.mu.Lock()
		defer gates.mu.Unlock()
		return gates.of[env] == nil
	})
}

// TestStrandedStoreComesFirst: a store that was given up while the broker was
// away does not overwrite a later one.
func TestStrandedStoreComesFirst(t *testing.T) {
	t.Parallel() // the official client pauses for seconds
	b := streamtestBroker(t)
	env := environment(t, inProcess{b})
	name := newStream(t, env)
	must(t, StoreOffset(inTime(t), env, "c", name, 1))
	b.RefuseConnections(true)
	b.DropConnections(streamtest.CutFIN)
	check.Eventually(t, "the store is stranded", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		err := StoreOffset(ctx, env, "c", name, 50)
		return errors.Is(err, context.DeadlineExceeded)
	})
	b.RefuseConnections(false)
	must(t, StoreOffset(inTime(t), env, "c", name, 10))
	wantStored(t, env, "c", name, 10)
}

// TestEveryStoresBeforeTheNextMessage, and a store that fails ends the run.
func TestEveryStoresBeforeTheNextMessage(t *testing.T) {
	b := streamtestBroker(t)
	env := environment(t, inProcess{b})
	name := newStream(t, env)
	publish(t, env, name, 0, 50)
	var calls atomic.Int64
	r := start(t, env, name, Config{Name: "c", Store: stream.StorePolicy{Every: 1}}, func(_ context.Context, d *Delivery) error {
		stored := uint64(calls.Add(1) - 2)
		if d.Offset > 0 {
			check.Eventually(t, "the message before is stored", func() bool { offset, ok := b.Offset("c", name); return ok && offset == stored })
		}
		if d.Offset == 49 {
			return errTest
		}
		return nil
	})
	wantErr(t, r.end(), errTest)
	wantStored(t, env, "c", name, 48)
}

// TestOneNameOnTwoStreams: two runs of different streams share a name.
func TestOneNameOnTwoStreams(t *testing.T) {
	b := streamtestBroker(t)
	env := environment(t, inProcess{b})
	one, two := newStream(t, env), newStream(t, env)
	publish(t, env, one, 0, 1)
	publish(t, env, two, 0, 1)
	entered := make(chan struct{})
	r := start(t, env, one, Config{Name: "c"}, func(context.Context, *Delivery) error { close(entered); return nil })
	check.Recv(t, entered, "the message")
	readN(t, env, two, Config{Name: "c"}, 1)
	r.stop()
	must(t, r.end())
}
