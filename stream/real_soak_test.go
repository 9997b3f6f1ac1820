package stream

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/faults"
	"github.com/tidemark-go/tidemark/internal/rabbit"
	"go.uber.org/goleak"
)

// The soak: while a named producer publishes numbers to a stream of three
// replicas, and a consumer whose connections go through proxies handles them,
// something breaks again and again, and a watcher with a connection of its own
// compares the stored offset with what is handled. Bystanders read on the same
// connections. The scale is that of
// `make test`; TIDEMARK_SOAK_FAULTS=200 TIDEMARK_SOAK_MESSAGES=10000000 is that
// of `make soak`. TIDEMARK_SOAK_SEED repeats a run's choice of faults.

func soakNumber(t *testing.T, name string, otherwise int) int {
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s is %q; it must be a positive number", name, text)
	}
	return n
}

// soak is what is known of one run. Numbers are published in order, so that
// their offsets ascend.
type soak struct {
	t       *testing.T
	b       *rabbit.Instance
	proxies []*faults.Proxy
	direct  *Env
	env     *Env // through the proxies
	stream  string
	total   int
	faults  int
	rand    *rand.Rand
	start   time.Time
	kinds   map[string]int

	mu      sync.Mutex
	done    []bool
	offsets []uint64
	low     int // every number below it is handled
	keys    map[int]int

	allowed atomic.Int64 // how many may be published
	handled atomic.Int64
	mark    atomic.Uint64 // one above the offset of the last number below low
	checks  atomic.Int64
	stored  atomic.Uint64 // as the watcher saw it last
}

const soakName = "soak"

func newSoak(t *testing.T) *soak {
	needReal(t)
	b, err := cluster()
	must(t, err)
	for _, n := range b.Nodes() {
		must(t, b.Start(t.Context(), n.Name))
	}
	noLeaks(t, goleak.IgnoreAnyFunction("os/exec.(*Cmd).Wait"))
	seed := uint64(soakNumber(t, "TIDEMARK_SOAK_SEED", int(rand.Uint32())+1))
	s := &soak{
		t: t, b: b, start: time.Now(), kinds: map[string]int{}, keys: map[int]int{},
		faults: soakNumber(t, "TIDEMARK_SOAK_FAULTS", 6), total: soakNumber(t, "TIDEMARK_SOAK_MESSAGES", 200_000),
		rand: rand.New(rand.NewPCG(seed, 0)),
	}
	s.done, s.offsets = make([]bool, s.total), make([]uint64, s.total)
	t.Logf("TIDEMARK_SOAK_SEED=%d: %d faults, %d messages", seed, s.faults, s.total)
	s.direct = connect(t, b.StreamURL())
	s.stream = newStream(t, s.direct)
	s.connectThroughProxies()
	return s
}

// connectThroughProxies makes an Env that finds each node behind a proxy.
func (s *soak) connectThroughProxies() {
	ports := map[int]int{}
	for _, n := range s.b.Nodes() {
		p, err := faults.Start(net.JoinHostPort("localhost", strconv.Itoa(n.StreamPort)))
		must(s.t, err)
		p.KeepAddresses()
		s.t.Cleanup(p.Close)
		s.proxies = append(s.proxies, p)
		ports[n.StreamPort] = p.Port()
	}
	env, err := Connect(s.t.Context(), Config{
		URIs:    []string{fmt.Sprintf("rabbitmq-stream://guest:guest@localhost:%d", s.proxies[0].Port()), fmt.Sprintf("rabbitmq-stream://guest:guest@localhost:%d", s.proxies[1].Port())},
		Resolve: func(host string, port int) (string, int) { return host, ports[port] },
		// Silence is to be noticed soon, and nodes that start are slow.
		Heartbeat: time.Second, Backoff: Backoff{Max: time.Second},
		Logger: slog.New(slog.NewTextHandler(s.t.Output(), nil)),
	})
	must(s.t, err)
	s.env = env
	s.t.Cleanup(func() { _ = env.Close() })
}

// body is 100 bytes that begin with the number.
func soakBody(n int) []byte {
	b := make([]byte, 100)
	binary.BigEndian.PutUint64(b, uint64(n))
	return b
}

func soakNumberOf(d *Delivery) int { return int(binary.BigEndian.Uint64(d.Body)) }

const soakKeys = 64

// begun checks what is known when a message comes: its number is the next one
// of its key.
func (s *soak) begun(d *Delivery, key int) int {
	n := soakNumberOf(d)
	if !bytes.Equal(d.Body, soakBody(n)) {
		s.t.Errorf("offset %d has a damaged body: %x", d.Offset, d.Body)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if n < 0 || n >= s.total || s.done[n] {
		s.t.Errorf("offset %d: the number %d is handled twice, or was never published", d.Offset, n)
		return -1
	}
	if last, ok := s.keys[key]; ok && n <= last {
		s.t.Errorf("of the key %d, %d comes after %d", key, n, last)
	}
	s.keys[key], s.offsets[n] = n, d.Offset
	return n
}

// ended marks a number as handled.
func (s *soak) ended(n int) {
	if n < 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done[n] = true
	for s.low < s.total && s.done[s.low] {
		s.low++
		s.mark.Store(s.offsets[s.low-1] + 1)
	}
	s.handled.Add(1)
}

// publish publishes the numbers, as far as the faults have come, so that there
// is something to break, with a producer that does not go through the proxies.
func (s *soak) publish(ctx context.Context) error {
	return publishNumbers(ctx, s.direct, s.stream, s.total, soakBody, func(n int) {
		for ctx.Err() == nil && int64(n) >= s.allowed.Load() {
			pause(time.Millisecond)
		}
	})
}

// publishNumbers publishes the bodies of the numbers below total to a stream, and
// returns when all are confirmed. It calls hold before each number. hold returns
// when the number may be published, or ctx has ended.
func publishNumbers(ctx context.Context, env *Env, stream string, total int, body func(n int) []byte, hold func(n int)) error {
	p, err := env.NewProducer(ctx, stream, ProducerConfig{Name: "numbers"})
	if err != nil {
		return err
	}
	var failed atomic.Pointer[error]
	for n := range total {
		if hold(n); ctx.Err() != nil {
			return ctx.Err()
		}
		err := p.PublishAsync(ctx, Message{Body: body(n)}, func(err error) {
			if err != nil {
				failed.CompareAndSwap(nil, &err)
			}
		})
		if err != nil {
			return err
		}
	}
	if err := p.Close(ctx); err != nil {
		return err
	}
	if err := failed.Load(); err != nil {
		return *err
	}
	return nil
}

// watch compares the stored offset with the mark until ctx ends. The mark is
// read after the offset, so that it can only be further.
func (s *soak) watch(ctx context.Context) {
	for ctx.Err() == nil {
		call, cancel := context.WithTimeout(ctx, 5*time.Second)
		stored, err := s.direct.QueryOffset(call, soakName, s.stream)
		cancel()
		if err != nil { // nothing stored, or no leader now
			pause(10 * time.Millisecond)
			continue
		}
		if mark := s.mark.Load(); stored+1 > mark {
			s.t.Errorf("offset %d is stored, and only what is below %d is handled", stored, mark)
			return
		}
		s.stored.Store(stored)
		s.checks.Add(1)
		pause(time.Millisecond)
	}
}

// bystanders is how many there are: with the consumer, more than there are
// connections to a node.
const bystanders = 3

// standBy reads the stream beside the consumer, and checks that the numbers come
// one after the other.
func (s *soak) standBy(ctx context.Context) error {
	c, err := s.env.NewConsumer(s.stream, ConsumerConfig{})
	if err != nil {
		return err
	}
	ctx, enough := context.WithCancelCause(ctx)
	defer enough(nil)
	all := errors.New("all of them came")
	next := 0
	err = c.Run(ctx, func(_ context.Context, d *Delivery) error {
		if n := soakNumberOf(d); n != next {
			return fmt.Errorf("a bystander got %d, and %d was to come", n, next)
		}
		if next++; next == s.total {
			enough(all)
		}
		return nil
	})
	if errors.Is(err, all) {
		return nil
	}
	return err
}

// run runs consume, which handles messages until ctx ends, and breaks things
// meanwhile.
func (s *soak) run(consume func(ctx context.Context) error) {
	t := s.t
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	consumed, published := make(chan error, 1), make(chan error, 1)
	wg.Go(func() { consumed <- consume(ctx) })
	wg.Go(func() { published <- s.publish(ctx) })
	wg.Go(func() { s.watch(ctx) })
	stood, standing := make(chan error, bystanders), bystanders
	for range bystanders {
		wg.Go(func() { stood <- s.standBy(ctx) })
	}
	reach := func(n int) {
		eventually(t, fmt.Sprintf("%d messages are handled", n), 3*time.Minute, func() bool {
			select {
			case err := <-consumed:
				cancel()
				t.Fatalf("consuming ended at %d: %v", s.handled.Load(), err)
			case err := <-stood:
				if err != nil {
					cancel()
					t.Fatal(err)
				}
				standing--
			default:
			}
			return s.handled.Load() >= int64(n) || t.Failed()
		})
	}
	for i := range s.faults {
		s.allowed.Store(int64(s.total / s.faults * (i + 1)))
		reach(s.total/s.faults*i + min(1000, s.total/s.faults/2)) // in the middle of it
		if t.Failed() {
			break
		}
		s.breakSomething()
		if (i+1)%10 == 0 {
			s.progress(i + 1)
		}
	}
	s.calm()
	s.allowed.Store(int64(s.total))
	reach(s.total)
	for ; standing > 0; standing-- {
		select {
		case err := <-stood:
			must(t, err)
		case <-time.After(3 * time.Minute):
			t.Fatal("a bystander has not come to the end")
		}
	}
	cancel()
	wg.Wait()
	if err := <-consumed; err != nil {
		t.Errorf("consuming: %v", err)
	}
	if err := <-published; err != nil {
		t.Errorf("publishing: %v", err)
	}
	s.finish()
}

func (s *soak) progress(n int) {
	s.t.Logf("%4.0f s: %d faults %v, %d messages, stored %d, checked %d times from outside",
		time.Since(s.start).Seconds(), n, s.kinds, s.handled.Load(), s.stored.Load(), s.checks.Load())
}

// finish checks that everything was handled, once, and that the last offset is
// stored.
func (s *soak) finish() {
	s.mu.Lock()
	low, last := s.low, uint64(0)
	if low > 0 {
		last = s.offsets[low-1]
	}
	s.mu.Unlock()
	if low != s.total || s.handled.Load() != int64(s.total) {
		s.t.Fatalf("%d is the first number that was not handled; %d were", low, s.handled.Load())
	}
	wantStored(s.t, s.direct, soakName, s.stream, last)
	if s.checks.Load() == 0 {
		s.t.Error("the stored offset was never seen from outside")
	}
	s.progress(s.faults)
}

type fault struct {
	name string
	do   func()
}

// breakSomething breaks what the seed says, and returns when the broker is whole
// again; the consumer may not be yet.
func (s *soak) breakSomething() {
	s.oneOf([]fault{
		{"drop", func() { s.each(func(p *faults.Proxy) { p.Drop() }) }},
		{"drop", func() { s.each(func(p *faults.Proxy) { p.Drop() }) }},
		{"silence", s.silence},
		{"corrupt chunk", func() { s.each(func(p *faults.Proxy) { p.CorruptChunks(1) }) }},
		{"lost stores", func() { s.each(func(p *faults.Proxy) { p.LoseStores(1 + s.rand.IntN(5)) }) }},
		{"leader killed", func() { s.restart(s.b.Kill, true) }},
		{"node killed", func() { s.restart(s.b.Kill, false) }},
		{"leader restarted", func() { s.restart(s.b.Stop, true) }},
		{"leader moved", s.moveLeader},
	})
}

func (s *soak) oneOf(kinds []fault) {
	k := kinds[s.rand.IntN(len(kinds))]
	s.kinds[k.name]++
	k.do()
}

func (s *soak) each(do func(*faults.Proxy)) {
	for _, p := range s.proxies {
		do(p)
	}
}

// silence holds everything up until the consumer has noticed, and goes on where
// it stopped.
func (s *soak) silence() {
	s.each(func(p *faults.Proxy) { p.Silence(true) })
	pause(2500 * time.Millisecond) // of a heartbeat of 1 s
	s.each(func(p *faults.Proxy) { p.Silence(false) })
}

func (s *soak) restart(stop func(context.Context, string) error, leader bool) {
	name := leaderOf(s.t, s.direct, s.b, s.stream)
	for _, n := range s.b.Nodes() {
		if !leader && n.Name != name {
			name = n.Name
			break
		}
	}
	must(s.t, stop(s.t.Context(), name))
	s.startAgain(name)
}

// startAgain starts a node. RabbitMQ gives up now and then when the others have
// just been restarted themselves and are not ready for it.
func (s *soak) startAgain(name string) {
	err := s.b.Start(s.t.Context(), name)
	for try := 1; err != nil && try < 5; try++ {
		s.t.Logf("starting %s again: %.200v", name, err)
		pause(2 * time.Second)
		err = s.b.Start(s.t.Context(), name)
	}
	must(s.t, err)
}

func (s *soak) moveLeader() {
	name := leaderOf(s.t, s.direct, s.b, s.stream)
	if _, err := s.b.Streams(s.t.Context(), name, "restart_stream", s.stream); err != nil {
		s.t.Logf("restart_stream: %v", err) // not while a replica is away
	}
}

// calm ends the faults that wait for something to come by.
func (s *soak) calm() {
	s.each(func(p *faults.Proxy) { p.CorruptChunks(0); p.LoseStores(0) })
}

func TestRealSoak(t *testing.T) {
	s := newSoak(t)
	c, err := s.env.NewConsumer(s.stream, ConsumerConfig{Name: soakName})
	must(t, err)
	s.run(func(ctx context.Context) error {
		return c.Run(ctx, func(_ context.Context, d *Delivery) error {
			s.ended(s.begun(d, 0))
			return nil
		})
	})
}

func TestRealSoakStoreEach(t *testing.T) {
	s := newSoak(t)
	c, err := s.env.NewConsumer(s.stream, ConsumerConfig{Name: soakName, Store: StorePolicy{Every: 1}})
	must(t, err)
	s.run(func(ctx context.Context) error {
		return c.Run(ctx, func(_ context.Context, d *Delivery) error {
			s.ended(s.begun(d, 0))
			return nil
		})
	})
}

// Eight workers, with handlers that take no time, some, or much.
func TestRealSoakWorkers(t *testing.T) {
	s := newSoak(t)
	keyOf := func(d *Delivery) string { return strconv.Itoa(soakNumberOf(d) % soakKeys) }
	c, err := s.env.NewConsumer(s.stream, ConsumerConfig{Name: soakName, Workers: 8, KeyOf: keyOf})
	must(t, err)
	s.run(func(ctx context.Context) error {
		return c.Run(ctx, func(_ context.Context, d *Delivery) error {
			n := s.begun(d, soakNumberOf(d)%soakKeys)
			switch k := rand.IntN(100_000); {
			case k == 0:
				pause(50 * time.Millisecond)
			case k < 50:
				pause(time.Millisecond)
			}
			s.ended(n)
			return nil
		})
	})
}

func TestRealSoakBatches(t *testing.T) {
	s := newSoak(t)
	c, err := s.env.NewConsumer(s.stream, ConsumerConfig{Name: soakName, BatchSize: 500, BatchWait: 10 * time.Millisecond})
	must(t, err)
	s.run(func(ctx context.Context) error {
		return c.RunBatch(ctx, func(_ context.Context, batch []Delivery) error {
			for i := range batch {
				s.ended(s.begun(&batch[i], 0))
			}
			return nil
		})
	})
}
