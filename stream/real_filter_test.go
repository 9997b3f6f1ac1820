package stream

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// counted connects to a broker and counts the bytes that it reads.
func counted(t *testing.T, uri string) (*Env, *atomic.Int64) {
	t.Helper()
	var n atomic.Int64
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		return countedConn{conn, &n}, err
	}
	return connectWith(t, uri, Config{Dial: dial}), &n
}

type countedConn struct {
	net.Conn
	n *atomic.Int64
}

func (c countedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// fruit is a stream of 100 values, sorted by value: each comes in calls of Publish
// of its own.
type fruit struct {
	*testing.T
	env    *Env
	stream string
	p      *Producer
}

const (
	fruitValues = 100
	fruitEach   = 400
)

func newFruit(t *testing.T, b testBroker) *fruit {
	t.Helper()
	x := &fruit{T: t, env: connect(t, b.StreamURL())}
	x.stream = newStream(t, x.env)
	var err error
	x.p, err = x.env.NewProducer(inTime(t), x.stream, ProducerConfig{})
	must(t, err)
	t.Cleanup(func() { _ = x.p.Close(context.Background()) })
	for v := range fruitValues {
		x.put(fmt.Sprintf("v%02d", v), fruitEach)
	}
	return x
}

// put publishes messages of one value.
func (x *fruit) put(value string, n int) {
	x.Helper()
	var msgs []Message
	for i := range n {
		msgs = append(msgs, byFirst.Tag(Message{Body: fmt.Appendf(nil, "%s %d %s", value, i, strings.Repeat("x", 200))}))
	}
	must(x, x.p.Publish(inTime(x), msgs...))
}

// read runs a consumer until n messages have come, and returns their bodies.
func (x *fruit) read(env *Env, cfg ConsumerConfig, n int) (bodies []string) {
	x.Helper()
	c, err := env.NewConsumer(x.stream, cfg)
	must(x, err)
	ctx, cancel := context.WithCancel(inTime(x))
	defer cancel()
	must(x, c.RunBatch(ctx, func(_ context.Context, batch []Delivery) error {
		for i := range batch {
			bodies = append(bodies, string(batch[i].Body))
		}
		if len(bodies) >= n {
			cancel()
		}
		return nil
	}))
	return bodies
}

// TestFilterOnBrokers: the result is what filtering by hand gives, for a twentieth
// of the bytes at most; the offset after a run is at least the last chunk's first;
// the next run goes on there, with this filter or another one.
func TestFilterOnBrokers(t *testing.T) {
	onBrokers(t, func(t *testing.T, b testBroker) {
		x := newFruit(t, b)
		all, allBytes := counted(t, b.StreamURL())
		var want []string
		for _, body := range x.read(all, ConsumerConfig{}, fruitValues*fruitEach) {
			if strings.HasPrefix(body, "v42 ") {
				want = append(want, body)
			}
		}
		end, err := x.env.Stats(inTime(t), x.stream)
		must(t, err)
		some, bytes := counted(t, b.StreamURL())
		cfg := ConsumerConfig{Name: "billing", Filter: byFirst.Filter("v42")}
		if got := x.read(some, cfg, fruitEach); !slices.Equal(got, want) {
			t.Errorf("%d messages came, want %d as filtered by hand", len(got), len(want))
		}
		t.Logf("read %d bytes without the filter and %d with it: 1/%d", allBytes.Load(), bytes.Load(), allBytes.Load()/bytes.Load())
		if allBytes.Load() < 20*bytes.Load() {
			t.Error("the filter does not save enough")
		}
		stored, err := x.env.QueryOffset(inTime(t), "billing", x.stream)
		if must(t, err); stored < end.CommittedChunk {
			t.Errorf("offset %d is stored; the last chunk begins at %d", stored, end.CommittedChunk)
		}
		x.put("v07", 3)
		x.put("v42", 3)
		if got := x.read(some, cfg, 3); len(got) != 3 || !slices.Equal(got, want[:3]) {
			t.Errorf("the next run has got %d messages", len(got))
		}
		x.put("v42", 3)
		x.put("v07", 2)
		cfg.Filter = byFirst.Filter("v07")
		if got := x.read(some, cfg, 2); len(got) != 2 {
			t.Errorf("the run with another filter has got %d messages", len(got))
		}
	})
}

// TestFilterKindsOnBrokers: workers, one at a time and loops get the same, and the
// offset moves while a consumer is idle.
func TestFilterKindsOnBrokers(t *testing.T) {
	onBrokers(t, func(t *testing.T, b testBroker) {
		x := newFruit(t, b)
		var wg sync.WaitGroup
		for name, run := range map[string]func(*Consumer, context.Context, Handler) error{
			"run": (*Consumer).Run, "workers": (*Consumer).Run, "all": runLoop,
		} {
			cfg := ConsumerConfig{Name: name, Filter: byFirst.Filter("v10", "v20")}
			if name == "workers" {
				cfg.Workers = 4
			}
			c, err := x.env.NewConsumer(x.stream, cfg)
			must(t, err)
			wg.Go(func() { x.idle(name, func(ctx context.Context, h Handler) error { return run(c, ctx, h) }) })
		}
		wg.Wait()
	})
}

// idle runs a consumer until its offset is at the end of the stream.
func (x *fruit) idle(name string, run func(context.Context, Handler) error) {
	ctx, cancel := context.WithCancel(inTime(x))
	defer cancel()
	var got atomic.Int64
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, func(context.Context, *Delivery) error {
			got.Add(1)
			return nil
		})
	}()
	end, err := x.env.Stats(ctx, x.stream)
	for err == nil {
		stored, queryErr := x.env.QueryOffset(ctx, name, x.stream)
		if queryErr == nil && stored >= end.CommittedChunk {
			break
		}
		err = sleep(ctx, 20*time.Millisecond)
	}
	cancel()
	if err = errors.Join(err, <-ended); err != nil || got.Load() != 2*fruitEach {
		x.Errorf("%s: %d messages, want %d, then %v", name, got.Load(), 2*fruitEach, err)
	}
}

// runLoop is a run by All.
func runLoop(c *Consumer, ctx context.Context, h Handler) error {
	for d, err := range c.All(ctx) {
		if err == nil {
			err = h(ctx, d)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// TestLookoutOnBrokers: when a look says that everything up to a place has come
// that the filter lets through, it has, while others publish as fast as they can.
func TestLookoutOnBrokers(t *testing.T) {
	onBrokers(t, func(t *testing.T, b testBroker) {
		env := connect(t, b.StreamURL())
		name := newStream(t, env)
		p, err := env.NewProducer(inTime(t), name, ProducerConfig{})
		must(t, err)
		const messages = 3000
		wanted := make([]bool, messages) // by offset: nobody stores here
		for i := range wanted {
			wanted[i] = rand.IntN(3) == 0
		}
		published := make(chan error, 1)
		go func() {
			var err error
			for i := 0; i < messages && err == nil; i++ {
				value := "b"
				if wanted[i] {
					value = "a"
				}
				err = p.Publish(t.Context(), Message{Body: number(i), FilterValue: value})
			}
			published <- errors.Join(err, p.Close(context.Background()))
		}()
		location, err := env.cluster.Find(inTime(t), name)
		must(t, err)
		s, err := env.openSubscription(inTime(t), location, location.Leader, name, 1<<20)
		must(t, err)
		defer s.release(true)
		c, err := env.NewConsumer(name, ConsumerConfig{Filter: Filter{Values: []string{"a"}, Match: func(*Delivery) bool { return true }}})
		must(t, err)
		must(t, s.lease.Subscribe(inTime(t), name, wire.OffsetSpec{Type: wire.OffsetFirst}, newRun(c).subscribeOptions()))
		came, looks := make([]bool, messages), 0
		l := &lookout{s: s}
		for end := uint64(0); end < messages; {
			chunk, err := l.look(inTime(t))
			must(t, err)
			for s.take(inTime(t)) {
				received := s.taken.pop()
				for i := range received.Records {
					came[received.FirstOffset+uint64(i)] = true
				}
				s.giveBack(inTime(t), received)
			}
			switch {
			case chunk != nil:
				looks++
				end = chunk.FirstOffset + uint64(chunk.Records)
				for i := range end {
					if wanted[i] && !came[i] {
						t.Fatalf("the look says %d, and the message at %d has not come", end, i)
					}
				}
			case came[messages-1]:
				end = messages // there is nothing behind what came
			}
		}
		must(t, recv(t, published, "the publisher's end"))
		if t.Logf("%d looks", looks); looks < 5 {
			t.Errorf("%d looks have found something; too few to say anything", looks)
		}
	})
}
