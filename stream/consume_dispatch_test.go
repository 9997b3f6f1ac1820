package stream

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/streamtest"
)

// inStream is an in-process broker with a stream of the numbers up to n.
func inStream(t testing.TB, n int) (b *streamtest.Broker, env *Env, name string) {
	t.Helper()
	b = streamtest.NewBroker(t)
	noLeaks(t)
	env = connect(t, b.URI())
	name = newStream(t, env)
	publish(t, env, name, 0, n)
	return b, env, name
}

// start runs a consumer until stop.
func start(t testing.TB, env *Env, name string, cfg ConsumerConfig, run func(context.Context, *Consumer) error) (stop context.CancelFunc, done chan error) {
	t.Helper()
	c, err := env.NewConsumer(name, cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	t.Cleanup(stop)
	done = make(chan error, 1)
	go func() { done <- run(ctx, c) }()
	return stop, done
}

// running1 runs a consumer with a handler for single messages.
func running1(t testing.TB, env *Env, name string, cfg ConsumerConfig, h Handler) (stop context.CancelFunc, done chan error) {
	t.Helper()
	return start(t, env, name, cfg, func(ctx context.Context, c *Consumer) error { return c.Run(ctx, h) })
}

// seen counts what was handled.
type seen struct {
	mu    sync.Mutex
	times map[uint64]int
}

func (s *seen) add(offset uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.times == nil {
		s.times = map[uint64]int{}
	}
	s.times[offset]++
}

func (s *seen) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.times)
}

// once fails the test unless exactly these offsets were handled, once each.
func (s *seen) once(t testing.TB, first, end uint64) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for offset, n := range s.times {
		if n != 1 || offset < first || offset >= end {
			t.Errorf("offset %d was handled %d times", offset, n)
		}
	}
	if uint64(len(s.times)) != end-first {
		t.Errorf("%d messages were handled, want %d", len(s.times), end-first)
	}
}

func TestWorkersMarkWaitsForTheSlowest(t *testing.T) {
	b, env, name := inStream(t, 100)
	var done seen
	release := make(chan struct{})
	stop, ended := running1(t, env, name, ConsumerConfig{Name: "billing", Workers: 4}, func(_ context.Context, d *Delivery) error {
		if d.Offset == 10 {
			<-release
		}
		done.add(d.Offset)
		return nil
	})
	eventually(t, "all but one are handled", patience, func() bool { return done.len() == 99 })
	eventually(t, "the mark is before it", patience, func() bool { got, ok := b.Offset("billing", name); return ok && got == 9 })
	close(release)
	eventually(t, "the mark is at the end", patience, func() bool { got, _ := b.Offset("billing", name); return got == 99 })
	stop()
	must(t, recv(t, ended, "the end"))
	done.once(t, 0, 100)
}

// TestWorkersInParallel needs as many handlers at work as there are workers.
func TestWorkersInParallel(t *testing.T) {
	_, env, name := inStream(t, 64)
	var meet sync.WaitGroup
	meet.Add(8)
	var n atomic.Int64
	stop, ended := running1(t, env, name, ConsumerConfig{Workers: 8}, func(_ context.Context, d *Delivery) error {
		if d.Offset < 8 {
			meet.Done()
			meet.Wait()
		}
		n.Add(1)
		return nil
	})
	eventually(t, "all are handled", patience, func() bool { return n.Load() == 64 })
	stop()
	must(t, recv(t, ended, "the end"))
}

func TestWorkersKeepTheOrderOfAKey(t *testing.T) {
	const keys = 7
	_, env, name := inStream(t, 2000)
	var last [keys]atomic.Int64
	var busy [keys]atomic.Bool
	var n atomic.Int64
	key := func(d *Delivery) string { return strconv.Itoa(int(d.Offset % keys)) }
	stop, ended := running1(t, env, name, ConsumerConfig{Workers: 4, KeyOf: key}, func(_ context.Context, d *Delivery) error {
		k := d.Offset % keys
		if !busy[k].CompareAndSwap(false, true) {
			t.Errorf("two messages of the key %d at a time", k)
		}
		for range rand.IntN(20) {
			runtime.Gosched()
		}
		if was := last[k].Swap(int64(d.Offset)); was > int64(d.Offset) {
			t.Errorf("offset %d after %d", d.Offset, was)
		}
		busy[k].Store(false)
		n.Add(1)
		return nil
	})
	eventually(t, "all are handled", patience, func() bool { return n.Load() == 2000 })
	stop()
	must(t, recv(t, ended, "the end"))
}

// TestWorkersHandleNothingTwice drops the connection while the messages above
// an unfinished one are handled and another one waits behind it.
func TestWorkersHandleNothingTwice(t *testing.T) {
	b, env, name := inStream(t, 100)
	var done seen
	entered, release := make(chan struct{}), make(chan struct{})
	key := func(d *Delivery) string {
		if d.Offset < 2 {
			return "slow"
		}
		return string(d.Body)
	}
	stop, ended := running1(t, env, name, ConsumerConfig{Name: "billing", Workers: 3, KeyOf: key}, func(_ context.Context, d *Delivery) error {
		if d.Offset == 0 {
			close(entered)
			<-release
		}
		done.add(d.Offset)
		return nil
	})
	<-entered
	eventually(t, "all that may be are handled", patience, func() bool { return done.len() == 98 })
	subscribed := b.Received(streamtest.Subscribe)
	b.DropConnections(streamtest.CutRST)
	eventually(t, "the drop is noticed", patience, func() bool { return len(b.Connections()) == 0 })
	if b.Received(streamtest.Subscribe) != subscribed {
		t.Error("it connected again while the old dispatch had a handler at work")
	}
	close(release)
	eventually(t, "the rest is handled", patience, func() bool { return done.len() == 100 })
	eventually(t, "the mark is at the end", patience, func() bool { got, _ := b.Offset("billing", name); return got == 99 })
	stop()
	must(t, recv(t, ended, "the end"))
	done.once(t, 0, 100)
}

// TestWorkersInHandIsBounded: behind an unfinished message the others stop with
// the chunk that fills a quarter of MaxBuffered.
func TestWorkersInHandIsBounded(t *testing.T) {
	beside(t)
	_, env, name := inStream(t, 1)
	for i := 1; i < 60; i++ {
		publish(t, env, name, i, i+1) // a chunk each
	}
	const limit = 300
	var done seen
	var bytes atomic.Int64 // of the chunks of what was handled, and of the first
	release := make(chan struct{})
	stop, ended := running1(t, env, name, ConsumerConfig{Workers: 3, MaxBuffered: 4 * limit}, func(_ context.Context, d *Delivery) error {
		bytes.Add(int64(len(d.Raw()) + 4))
		if d.Offset == 0 {
			<-release
		}
		done.add(d.Offset)
		return nil
	})
	eventually(t, "those that may be are handled", patience, func() bool { return bytes.Load() >= limit })
	for range 1000 {
		runtime.Gosched()
	}
	if n := bytes.Load(); n > limit+limit/4 || done.len() < 5 {
		t.Errorf("%d messages with %d bytes were handled behind an unfinished one; the limit is %d", done.len(), n, limit)
	}
	close(release)
	eventually(t, "all are handled", patience, func() bool { return done.len() == 60 })
	stop()
	must(t, recv(t, ended, "the end"))
	done.once(t, 0, 60)
}

// TestWorkersFailure: one failure ends the run, once the handlers at work have
// returned; what they handled counts.
func TestWorkersFailure(t *testing.T) {
	for _, test := range []struct {
		name string
		fail func() error
	}{
		{"error", func() error { return errTest }},
		{"panic", func() error { panic(errTest) }},
		{"goexit", func() error { runtime.Goexit(); return nil }},
	} {
		t.Run(test.name, func(t *testing.T) {
			b, env, name := inStream(t, 100)
			other := make(chan struct{})
			var atWork atomic.Int64
			_, ended := running1(t, env, name, ConsumerConfig{Name: "billing", Workers: 2}, func(ctx context.Context, d *Delivery) error {
				atWork.Add(1)
				defer atWork.Add(-1)
				if d.Offset == 0 {
					close(other)
					<-ctx.Done() // the other one's failure ends it
					return nil
				}
				<-other
				return test.fail()
			})
			err := recv(t, ended, "the end")
			var h *HandlerError
			if !errors.As(err, &h) || h.Offset != 1 || h.Attempts != 1 {
				t.Errorf("the run ended with %v, want a HandlerError at offset 1", err)
			}
			if atWork.Load() != 0 {
				t.Error("a handler is at work after Run has returned")
			}
			if got, ok := b.Offset("billing", name); !ok || got != 0 {
				t.Errorf("stored %d, %v; want 0", got, ok)
			}
		})
	}
}

func TestWorkersEvery(t *testing.T) {
	b, env, name := inStream(t, 50)
	var n atomic.Int64
	stop, ended := running1(t, env, name, ConsumerConfig{Name: "billing", Workers: 4, Store: StorePolicy{Every: 1}}, func(context.Context, *Delivery) error {
		n.Add(1)
		return nil
	})
	eventually(t, "all are stored", patience, func() bool { got, ok := b.Offset("billing", name); return ok && got == 49 })
	stop()
	must(t, recv(t, ended, "the end"))
	if n.Load() != 50 {
		t.Errorf("%d messages were handled", n.Load())
	}
}

func TestKeyOfPanics(t *testing.T) {
	_, env, name := inStream(t, 5)
	_, ended := running1(t, env, name, ConsumerConfig{Workers: 2, KeyOf: func(*Delivery) string { panic(errTest) }}, func(context.Context, *Delivery) error { return nil })
	var h *HandlerError
	if err := recv(t, ended, "the end"); !errors.As(err, &h) || h.Offset != 0 {
		t.Errorf("the run ended with %v", err)
	}
}

func TestDispatchConfig(t *testing.T) {
	_, env, name := inStream(t, 1)
	for _, cfg := range []ConsumerConfig{
		{Workers: -1}, {Workers: maxWorkers + 1}, {KeyOf: func(*Delivery) string { return "" }},
		{MaxAhead: -1}, {Workers: 4, MaxAhead: 3}, {BatchSize: -1}, {BatchSize: maxBatchSize + 1}, {BatchWait: -1},
	} {
		_, err := env.NewConsumer(name, cfg)
		wantErr(t, err, ErrInvalidConfig)
	}
	c, err := env.NewConsumer(name, ConsumerConfig{Workers: 2})
	if err != nil {
		t.Fatal(err)
	}
	wantErr(t, c.RunBatch(t.Context(), func(context.Context, []Delivery) error { return nil }), ErrInvalidConfig)
	for _, err := range c.All(t.Context()) {
		wantErr(t, err, ErrInvalidConfig)
	}
}

func TestWorkersAcrossDrops(t *testing.T) {
	beside(t)
	onBrokers(t, testWorkersAcrossDrops)
}

// testWorkersAcrossDrops cuts the connection again and again under 8 workers
// with handlers of random length, while another connection watches the offset.
func testWorkersAcrossDrops(t *testing.T, b testBroker) {
	const total = 20_000
	direct := connect(t, b.StreamURL())
	name := newStream(t, direct)
	publish(t, direct, name, 0, total)
	proxy, uri := throughProxy(t, b)
	env := connect(t, uri)
	var handled [total]atomic.Int32 // by number
	var offsets sync.Map            // offset -> number, of what is handled
	var n atomic.Int64
	stop, ended := running1(t, env, name, ConsumerConfig{Name: "billing", Workers: 8}, func(_ context.Context, d *Delivery) error {
		for range rand.IntN(50) {
			runtime.Gosched()
		}
		i, _ := strconv.Atoi(string(d.Body))
		handled[i].Add(1)
		offsets.Store(d.Offset, i)
		n.Add(1)
		return nil
	})
	for i := int64(1); n.Load() < total; {
		if n.Load() >= i*total/10 {
			i++
			proxy.Drop()
		}
		markIsHandled(t, direct, name, handled[:], &offsets)
		select {
		case err := <-ended:
			t.Fatal(err)
		default:
		}
	}
	stop()
	err := recv(t, ended, "the end")
	if err != nil {
		t.Error(err)
	}
	for i := range handled {
		if times := handled[i].Load(); times != 1 {
			t.Errorf("%d was handled %d times", i, times)
		}
	}
}

// markIsHandled checks that nothing up to the stored offset is unhandled.
func markIsHandled(t testing.TB, env *Env, name string, handled []atomic.Int32, offsets *sync.Map) {
	t.Helper()
	offset, err := env.QueryOffset(t.Context(), "billing", name)
	if errors.Is(err, ErrNoOffset) {
		return
	}
	last, ok := offsets.Load(offset)
	if err != nil || !ok {
		t.Fatalf("offset %d is stored (%v), and its message is not handled", offset, err)
	}
	for i := range last.(int) {
		if handled[i].Load() == 0 {
			t.Fatalf("offset %d, of message %d, is stored, and message %d is not handled", offset, last, i)
		}
	}
}

func TestRunBatchSizes(t *testing.T) {
	b, env, name := inStream(t, 25)
	batches := make(chan []Delivery, 10)
	stop, ended := start(t, env, name, ConsumerConfig{Name: "billing", BatchSize: 10, BatchWait: time.Millisecond}, func(ctx context.Context, c *Consumer) error {
		return c.RunBatch(ctx, func(_ context.Context, batch []Delivery) error { batches <- slices.Clone(batch); return nil })
	})
	at := 0
	for at < 25 {
		batch := recv(t, batches, "a batch")
		if len(batch) == 0 || len(batch) > 10 {
			t.Fatalf("a batch of %d", len(batch))
		}
		for _, d := range batch {
			if string(d.Body) != fmt.Sprint(at) {
				t.Fatalf("%q at %d", d.Body, at)
			}
			at++
		}
	}
	eventually(t, "the mark is at the end", patience, func() bool { got, _ := b.Offset("billing", name); return got == 24 })
	stop()
	must(t, recv(t, ended, "the end"))
}

// TestRunBatchAcrossChunks fills a batch from many chunks; its rest does not
// wait once the connection is lost.
func TestRunBatchAcrossChunks(t *testing.T) {
	beside(t)
	b, env, name := inStream(t, 1)
	for i := 1; i < 15; i++ {
		publish(t, env, name, i, i+1)
	}
	batches := make(chan []Delivery, 10)
	cfg := ConsumerConfig{Name: "billing", BatchSize: 10, BatchWait: time.Hour, MaxBuffered: 1} // credit for each chunk that is taken
	stop, ended := start(t, env, name, cfg, func(ctx context.Context, c *Consumer) error {
		return c.RunBatch(ctx, func(_ context.Context, batch []Delivery) error { batches <- batch; return nil })
	})
	if n := len(recv(t, batches, "the first batch")); n != 10 {
		t.Errorf("the first batch has %d messages, want 10", n)
	}
	eventually(t, "the others are there", patience, func() bool { return b.Received(streamtest.Credit) == 15 })
	b.DropConnections(streamtest.CutFIN)
	rest := recv(t, batches, "the rest")
	publish(t, env, name, 15, 35) // a whole batch, whatever the rest was
	if first := recv(t, batches, "the next"); first[0].Offset != rest[len(rest)-1].Offset+1 {
		t.Errorf("offset %d comes after %d", first[0].Offset, rest[len(rest)-1].Offset)
	}
	stop()
	must(t, recv(t, ended, "the end"))
}

// TestRunBatchFails: nothing of a failed batch counts as handled.
func TestRunBatchFails(t *testing.T) {
	for _, fail := range []func() error{func() error { return errTest }, func() error { panic(errTest) }} {
		b, env, name := inStream(t, 25)
		_, ended := start(t, env, name, ConsumerConfig{Name: "billing", BatchSize: 10}, func(ctx context.Context, c *Consumer) error {
			return c.RunBatch(ctx, func(_ context.Context, batch []Delivery) error {
				if batch[0].Offset == 10 {
					return fail()
				}
				return nil
			})
		})
		var h *HandlerError
		if err := recv(t, ended, "the end"); !errors.As(err, &h) || h.Offset != 10 {
			t.Errorf("the run ended with %v", err)
		}
		if got, ok := b.Offset("billing", name); !ok || got != 9 {
			t.Errorf("stored %d, %v; want 9", got, ok)
		}
	}
}
