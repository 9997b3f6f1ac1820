package stream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/broker"
	"github.com/tidemark-go/tidemark/internal/wire"
)

// journey is a producer that publishes the numbers from 0 up to total, and a
// consumer that handles them, while a test breaks things.
type journey struct {
	t        *testing.T
	stream   string
	total    int
	producer *Producer
	accepted atomic.Int64
	handled  atomic.Int64 // messages handled, repeats of the producer included
	numbers  []atomic.Int32
	stop     func() error
	done     chan error // the consumer's end
	sent     chan error // the publisher's
}

// startJourney begins the journey. Publishing never runs further ahead of the
// consumer than a window, so that what a test breaks is in use.
func startJourney(t *testing.T, env *Env, name string, total int) *journey {
	t.Helper()
	j := &journey{t: t, stream: newStream(t, env), total: total, numbers: make([]atomic.Int32, total), sent: make(chan error, 1)}
	p, err := env.NewProducer(t.Context(), j.stream, ProducerConfig{Name: name, MaxInFlight: 2000})
	if err != nil {
		t.Fatal(err)
	}
	j.producer = p
	last := int64(-1)
	j.stop, j.done = runConsumer(t, env, j.stream, ConsumerConfig{Name: "journey"}, func(d *Delivery) {
		if int64(d.Offset) <= last {
			t.Errorf("offset %d was handled after %d", d.Offset, last)
		}
		last = int64(d.Offset)
		n, err := strconv.Atoi(string(d.Body))
		if err != nil || n < 0 || n >= total {
			t.Errorf("offset %d has the body %q", d.Offset, d.Body)
			return
		}
		j.numbers[n].Add(1)
		j.handled.Add(1)
	})
	go func() { j.sent <- j.publish(t.Context()) }()
	return j
}

const window = 5000

func (j *journey) publish(ctx context.Context) error {
	var failed atomic.Pointer[error]
	for i := range j.total {
		for int64(i) > j.handled.Load()+window {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			pause(time.Millisecond)
		}
		err := j.producer.PublishAsync(ctx, Message{Body: number(i)}, func(err error) {
			if err != nil {
				failed.CompareAndSwap(nil, &err)
			}
		})
		if err != nil {
			return err
		}
		j.accepted.Add(1)
	}
	if err := j.producer.Close(ctx); err != nil {
		return err
	}
	if err := failed.Load(); err != nil {
		return fmt.Errorf("a callback got: %w", *err)
	}
	return nil
}

// reach waits until that many messages were handled.
func (j *journey) reach(n int) {
	j.t.Helper()
	eventually(j.t, fmt.Sprintf("%d messages are handled", n), time.Minute, func() bool {
		select {
		case err := <-j.sent:
			if j.sent <- err; err != nil {
				j.t.Fatalf("publishing ended at %d: %v", j.accepted.Load(), err)
			}
		case err := <-j.done:
			j.t.Fatalf("consuming ended at %d: %v", j.handled.Load(), err)
		default:
		}
		return j.handled.Load() >= int64(n)
	})
}

// finish waits for both sides and checks what the stream holds and what the
// handler saw. With exactly, no number may be in the stream twice.
func (j *journey) finish(env *Env, exactly bool) {
	j.t.Helper()
	if err := <-j.sent; err != nil {
		j.t.Fatal(err)
	}
	bodies := readAll(j.t, env, j.stream)
	eventually(j.t, "everything is handled", time.Minute, func() bool { return j.handled.Load() >= int64(len(bodies)) })
	if err := j.stop(); err != nil {
		j.t.Fatal(err)
	}
	for i := range j.numbers {
		if j.numbers[i].Load() == 0 {
			j.t.Fatalf("%d was never handled", i)
		}
	}
	if exactly {
		wantNumbers(j.t, bodies, 0, j.total)
	}
	j.t.Logf("%d numbers, %d messages in the stream", j.total, len(bodies))
}

// readAll returns what a stream holds: up to a message published now.
func readAll(t *testing.T, env *Env, stream string) []string {
	t.Helper()
	var p *Producer
	eventually(t, "the stream has a leader", time.Minute, func() (ok bool) {
		var err error
		if p, err = env.NewProducer(t.Context(), stream, ProducerConfig{}); err != nil && !SafeToRetry(err) {
			t.Fatal(err)
		}
		return err == nil
	})
	// "0" keeps a running journey's handler content.
	if err := errors.Join(p.Publish(t.Context(), Message{Body: []byte("0"), Footer: map[string]any{"end": true}}), p.Close(t.Context())); err != nil {
		t.Fatal(err)
	}
	c, _ := env.NewConsumer(stream, ConsumerConfig{Start: First()})
	var bodies []string
	for d, err := range c.All(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if len(d.Raw()) > len(d.Body)+5 {
			if footer, err := d.Footer(); err == nil && footer != nil {
				break
			}
		}
		bodies = append(bodies, string(d.Body))
	}
	return bodies
}

func TestTwentyKills(t *testing.T) {
	beside(t)
	onBrokers(t, testTwentyKills)
}

func testTwentyKills(t *testing.T, b testBroker) {
	for name, producer := range map[string]string{"unnamed": "", "named": "numbers"} {
		t.Run(name, func(t *testing.T) {
			besideSubtest(t)
			proxy, uri := throughProxy(t, b)
			env := connect(t, uri)
			total, kills := 100_000, 20
			if _, ok := b.(inProcess); ok {
				total = 40_000
			}
			j := startJourney(t, env, producer, total)
			for i := range kills {
				j.reach((i + 1) * total / (kills + 1))
				eventually(t, "there is a connection to kill", patience, func() bool { return proxy.Drop() > 0 })
			}
			j.finish(env, producer != "")
		})
	}
}

// From a killed connection to the next handled message. The publisher is not
// behind the proxy, so that there always is a next message.
func TestReconnectTime(t *testing.T) { onBrokers(t, testReconnectTime) }

func testReconnectTime(t *testing.T, b testBroker) {
	proxy, uri := throughProxy(t, b)
	direct, env := connect(t, b.StreamURL()), connect(t, uri)
	stream := newStream(t, direct)
	p, err := direct.NewProducer(t.Context(), stream, ProducerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	var handled atomic.Int64
	stop, _ := runConsumer(t, env, stream, ConsumerConfig{Name: "c"}, func(*Delivery) { handled.Add(1) })
	next := func() time.Duration {
		begin, before := time.Now(), handled.Load()
		for handled.Load() == before {
			if time.Since(begin) > 10*time.Second {
				t.Fatal("nothing was handled within 10 s")
			}
			if err := p.Publish(t.Context(), Message{}); err != nil {
				t.Fatal(err)
			}
		}
		return time.Since(begin)
	}
	next()
	var times []time.Duration
	for range 20 {
		proxy.Drop()
		times = append(times, next())
	}
	slices.Sort(times)
	t.Logf("from kill to the next handled message, %d kills: median %v, worst %v", len(times), times[len(times)/2], times[len(times)-1])
	if err := stop(); errors.Is(err, ErrNotStored) {
		t.Error(err)
	}
}

// Next must not skip what is published while the connection is down before the
// first message has come.
func TestNextSurvivesADrop(t *testing.T) { onBrokers(t, testNextSurvivesADrop) }

func testNextSurvivesADrop(t *testing.T, b testBroker) {
	proxy, uri := throughProxy(t, b)
	direct, env := connect(t, b.StreamURL()), connect(t, uri)
	for name, old := range map[string]int{"empty": 0, "1000 old messages": 1000} {
		t.Run(name, func(t *testing.T) {
			stream := newStream(t, direct)
			if old > 0 {
				publish(t, direct, stream, 0, old)
			}
			got, before := make(chan string, 100), proxy.Seen(subscribed)
			stop, _ := runConsumer(t, env, stream, ConsumerConfig{Start: Next()}, func(d *Delivery) { got <- string(d.Body) })
			eventually(t, "the consumer is subscribed", patience, func() bool { return proxy.Seen(subscribed) > before })
			proxy.Refuse(true)
			proxy.Drop()
			publish(t, direct, stream, old, old+20)
			proxy.Refuse(false)
			var bodies []string
			for range 20 {
				bodies = append(bodies, <-got)
			}
			wantNumbers(t, bodies, old, old+20)
			_ = stop()
		})
	}
}

// A peer that is connected and silent is noticed, and left for another one.
func TestSilentPeer(t *testing.T) {
	beside(t)
	onBrokers(t, testSilentPeer)
}

func testSilentPeer(t *testing.T, b testBroker) {
	proxy, uri := throughProxy(t, b)
	env := connect(t, uri)
	j := startJourney(t, env, "numbers", 20_000)
	j.reach(5000)
	var admin *broker.Conn
	must(t, env.cluster.Ask(t.Context(), func(_ context.Context, c *broker.Conn) error { admin = c; return nil }))
	proxy.Silence(true)
	begin := time.Now()
	eventually(t, "the silent connections are given up", patience, func() bool { return !admin.Alive() })
	t.Logf("noticed after %v with a heartbeat of 3 s", time.Since(begin))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	begin = time.Now()
	if _, err := env.Stats(ctx, j.stream); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) > time.Second {
		t.Errorf("a call with a deadline of 50 ms: %v after %v", err, time.Since(begin))
	}
	proxy.Drop()
	proxy.Silence(false)
	j.finish(env, true)
}

// The broker is killed, at once started again, killed again and away for a while
// (in "make soak" a minute), all in the middle of the same journey.
func TestRealBrokerKilledAndAway(t *testing.T) {
	b := mortalBroker(t)
	env := connect(t, b.StreamURL())
	j := startJourney(t, env, "numbers", 100_000)
	j.reach(20_000)
	must(t, b.Kill(t.Context(), "n1"))
	must(t, b.Start(t.Context(), "n1"))
	other, err := env.NewProducer(t.Context(), newStream(t, env), ProducerConfig{})
	must(t, err)
	j.reach(50_000)
	must(t, b.Kill(t.Context(), "n1"))
	away := time.Now()
	checkCallsWhileAway(t, env, j, other)
	while := time.Duration(soakNumber(t, "TIDEMARK_AWAY_SECONDS", 20)) * time.Second
	eventually(t, "that while passes", while+time.Minute, laterThan(away.Add(while)))
	checkCallsWhileAway(t, env, j, other)
	must(t, b.Start(t.Context(), "n1"))
	back, before := time.Now(), j.handled.Load()
	j.reach(int(before) + 1)
	t.Logf("the next message was handled %v after the broker answered", time.Since(back))
	j.finish(env, true)
}

// checkCallsWhileAway checks that nothing waits longer than its context.
func checkCallsWhileAway(t *testing.T, env *Env, j *journey, other *Producer) {
	t.Helper()
	c, _ := env.NewConsumer(j.stream, ConsumerConfig{Name: "other"})
	handler := func(context.Context, *Delivery) error { return errTest }
	for name, call := range map[string]func(context.Context) error{
		"Publish": func(ctx context.Context) error { return other.Publish(ctx, Message{}) },
		"Flush":   func(ctx context.Context) error { return j.producer.Flush(ctx) },
		// The end of its context is an ordinary stop of a run.
		"Run": func(ctx context.Context) error { return errors.Join(c.Run(ctx, handler), ctx.Err()) },
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		begin := time.Now()
		err := call(ctx)
		if took := time.Since(begin); !errors.Is(err, context.DeadlineExceeded) || isFatal(err) || took > 500*time.Millisecond {
			t.Errorf("%s while the broker is away: %v after %v", name, err, took)
		}
		cancel()
	}
	begin := time.Now()
	if _, err := env.QueryOffset(t.Context(), "c", j.stream); !errors.Is(err, ErrUnreachable) || !SafeToRetry(err) || time.Since(begin) > time.Second {
		t.Errorf("QueryOffset while the broker is away: %v after %v", err, time.Since(begin))
	}
}

// subscribed is the broker's answer to a subscription.
const subscribed = wire.KeySubscribe | wire.ResponseBit
