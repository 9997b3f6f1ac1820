package streamtest_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/rabbitmq/rabbitmq-stream-go-client/pkg/amqp"
	"github.com/rabbitmq/rabbitmq-stream-go-client/pkg/message"
	"github.com/rabbitmq/rabbitmq-stream-go-client/pkg/stream"

	"github.com/tidemark-go/tidemark/internal/officialtest"
	"github.com/tidemark-go/tidemark/streamtest"
)

// These tests run the official Go client against the broker.

func officialEnv(t *testing.T, b *streamtest.Broker) *stream.Environment {
	t.Helper()
	env, err := stream.NewEnvironment(stream.NewEnvironmentOptions().SetUri(b.URI()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := env.Close(); err != nil {
			t.Errorf("close environment: %v", err)
		}
	})
	return env
}

// await waits until cond returns true, and fails the test after 10 seconds.
func await(t *testing.T, b *streamtest.Broker, what string, cond func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := b.Await(ctx, cond); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func body(i int) string { return fmt.Sprintf("message %d", i) }

// unnumbered returns a message to which the official client gives its publishing
// id.
func unnumbered(t *testing.T, i int) *amqp.AMQP10 {
	t.Helper()
	officialtest.NeedNumbering(t)
	return amqp.NewMessage([]byte(body(i)))
}

// officialPublish sends n messages in one batch and waits for their confirms.
func officialPublish(t *testing.T, env *stream.Environment, name string, n int, opts *stream.ProducerOptions) {
	t.Helper()
	p, err := env.NewProducer(name, opts)
	if err != nil {
		t.Fatal(err)
	}
	confirms := p.NotifyPublishConfirmation()
	var messages []message.StreamMessage
	for i := range n {
		messages = append(messages, unnumbered(t, i))
	}
	if err := p.BatchSend(messages); err != nil {
		t.Fatal(err)
	}
	timeout := time.After(10 * time.Second)
	for confirmed := 0; confirmed < n; {
		select {
		case list := <-confirms:
			confirmed += len(list)
		case <-timeout:
			t.Fatalf("%d of %d confirmed", confirmed, n)
		}
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
}

// collector collects what a consumer delivers. It closes done at the message
// number want.
type collector struct {
	mu      sync.Mutex
	bodies  []string
	offsets []int64
	want    int
	done    chan struct{}
}

func collect(n int) *collector { return &collector{want: n, done: make(chan struct{})} }

func (c *collector) handle(ctx stream.ConsumerContext, m *amqp.Message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bodies = append(c.bodies, string(m.GetData()))
	c.offsets = append(c.offsets, ctx.Consumer.GetOffset())
	if len(c.bodies) == c.want {
		close(c.done)
	}
}

// wait waits for done and returns the bodies. It fails the test after 10
// seconds.
func (c *collector) wait(t *testing.T) []string {
	t.Helper()
	select {
	case <-c.done:
	case <-time.After(10 * time.Second):
		t.Errorf("timed out")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.bodies)
}

func TestOfficialClient(t *testing.T) {
	t.Parallel()
	b := streamtest.NewBroker(t)
	env := officialEnv(t, b)
	if err := env.DeclareStream("s", stream.NewStreamOptions()); err != nil {
		t.Fatal(err)
	}
	officialPublish(t, env, "s", 100, nil)
	if got := b.Bodies("s"); len(got) != 100 || got[42] != body(42) {
		t.Fatalf("%d messages stored", len(got))
	}
	got := collect(90)
	consumer, err := env.NewConsumer("s", got.handle, stream.NewConsumerOptions().
		SetConsumerName("billing").SetOffset(stream.OffsetSpecification{}.Offset(10)))
	if err != nil {
		t.Fatal(err)
	}
	if bodies := got.wait(t); bodies[0] != body(10) || bodies[89] != body(99) {
		t.Errorf("consumed %q to %q", bodies[0], bodies[len(bodies)-1])
	}
	if err := consumer.StoreCustomOffset(99); err != nil {
		t.Fatal(err)
	}
	await(t, b, "offset 99", func() bool { offset, ok := b.Offset("billing", "s"); return ok && offset == 99 })
	if offset, err := env.QueryOffset("billing", "s"); err != nil || offset != 99 {
		t.Errorf("queried %d, %v", offset, err)
	}
	if err := consumer.Close(); err != nil {
		t.Error(err)
	}
}
