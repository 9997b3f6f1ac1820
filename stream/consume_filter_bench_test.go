package stream

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-go/tidemark/streamtest"
)

// byFirst is the filter key of the tests: the value is the body's first word, and
// "-" stands for none.
var byFirst = FilterBy(func(c Content) string {
	value, _, _ := strings.Cut(string(c.Body()), " ")
	return strings.TrimPrefix(value, "-")
})

// filterBench is a stream in memory, in virtual time, each of whose chunks is one
// call of put.
type filterBench struct {
	*testing.T
	b    *streamtest.Broker
	env  *Env
	p    *Producer
	name string
	ctx  context.Context

	mu  sync.Mutex
	got []string
}

// inBubble runs a test with a bench in virtual time.
func inBubble(t *testing.T, test func(*filterBench), opts ...streamtest.Option) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		b := streamtest.NewBroker(t, append([]streamtest.Option{streamtest.InMemory(), streamtest.WithSeparateFrames()}, opts...)...)
		x := &filterBench{T: t, b: b, name: "orders", ctx: ctx}
		var err error
		x.env, err = Connect(ctx, Config{URIs: []string{b.URI()}, Dial: b.Dial})
		must(t, err)
		defer x.env.Close()
		must(t, x.env.DeclareStream(ctx, x.name, StreamConfig{}))
		x.p, err = x.env.NewProducer(ctx, x.name, ProducerConfig{})
		must(t, err)
		test(x)
	})
}

// put publishes one chunk.
func (x *filterBench) put(bodies ...string) {
	x.Helper()
	var msgs []Message
	for _, body := range bodies {
		msgs = append(msgs, byFirst.Tag(Message{Body: []byte(body)}))
	}
	must(x, x.p.Publish(x.ctx, msgs...))
}

// consumer returns one under the name billing.
func (x *filterBench) consumer(cfg ConsumerConfig) *Consumer {
	x.Helper()
	cfg.Name = "billing"
	c, err := x.env.NewConsumer(x.name, cfg)
	must(x, err)
	return c
}

func (x *filterBench) handle(_ context.Context, d *Delivery) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.got = append(x.got, string(d.Body))
	return nil
}

// handled returns what was handled since the last call.
func (x *filterBench) handled() []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	got := x.got
	x.got = nil
	return got
}

// run runs a consumer until stop is called, which returns the run's error.
func (x *filterBench) run(c *Consumer) (stop func() error) {
	ctx, cancel := context.WithCancel(x.ctx)
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx, x.handle) }()
	return func() error {
		cancel()
		return <-ended
	}
}

// settle waits until nothing happens any more but what is paced.
func (x *filterBench) settle(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (x *filterBench) wantHandled(want ...string) {
	x.Helper()
	if got := x.handled(); !slices.Equal(got, want) {
		x.Errorf("handled %q, want %q", got, want)
	}
}

// wantStored fails the test unless the stored offset is that.
func (x *filterBench) wantStored(want uint64) {
	x.Helper()
	if got, ok := x.b.Offset("billing", x.name); !ok || got != want {
		x.Errorf("offset %d is stored (%v), want %d", got, ok, want)
	}
}
