package official

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rabbitmq/rabbitmq-stream-go-client/pkg/amqp"
	"github.com/rabbitmq/rabbitmq-stream-go-client/pkg/message"
	client "github.com/rabbitmq/rabbitmq-stream-go-client/pkg/stream"
	"go.uber.org/goleak"

	"github.com/tidemark-go/tidemark/internal/check"
	"github.com/tidemark-go/tidemark/internal/realtest"
	"github.com/tidemark-go/tidemark/stream"
	"github.com/tidemark-go/tidemark/streamtest"
)

var (
	errTest = check.ErrTest
	must    = check.Nil
	wantErr = check.Err
)

// realBrokers reports whether a real RabbitMQ takes part in the tests.
func realBrokers() bool { return os.Getenv("TIDEMARK_REAL") == "1" }

// inTime returns a context that ends when waiting any longer is useless. A real
// RabbitMQ is killed and loaded by other tests.
func inTime(t testing.TB) context.Context {
	t.Helper()
	limit := 30 * time.Second
	if realBrokers() {
		limit = 2 * time.Minute
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

// TestMain looks for goroutines that tests have left behind. The official client
// ends its own up to 10 s later, the time-out of its requests.
func TestMain(m *testing.M) {
	code := m.Run()
	var left error
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); {
		left = goleak.Find(goleak.IgnoreAnyFunction("os/exec.(*Cmd).Wait")) // of a broker
		if left == nil {
			break
		}
	}
	if left != nil && code == 0 {
		fmt.Fprintln(os.Stderr, "goroutines are left behind:", left)
		code = 1
	}
	os.Exit(code)
}

// testBroker is what a test needs to know of one.
type testBroker interface{ StreamURL() string }

type inProcess struct{ *streamtest.Broker }

func (b inProcess) StreamURL() string { return b.URI() }

// onBrokers runs a test on the in-process broker, always, and on a real RabbitMQ
// if there is one.
func onBrokers(t *testing.T, test func(*testing.T, testBroker)) {
	t.Run("streamtest", func(t *testing.T) { test(t, inProcess{streamtest.NewBroker(t)}) })
	t.Run("rabbitmq", func(t *testing.T) { test(t, realtest.Broker(t)) })
}

// environment is one that is closed with the test.
func environment(t testing.TB, b testBroker) *client.Environment {
	t.Helper()
	uri, _, _ := strings.Cut(b.StreamURL(), ",")
	env, err := client.NewEnvironment(client.NewEnvironmentOptions().SetUri(uri).SetReadBuffer(-1).SetWriteBuffer(-1))
	must(t, err)
	t.Cleanup(func() { _ = env.Close() })
	return env
}

// newStream declares a stream of the test's own.
func newStream(t testing.TB, env *client.Environment) string {
	t.Helper()
	name := fmt.Sprintf("%s-%d", strings.ReplaceAll(t.Name(), "/", "-"), rand.Uint64())
	must(t, env.DeclareStream(name, nil))
	if realBrokers() { // the in-process one ends with the test
		t.Cleanup(func() { _ = env.DeleteStream(name) })
	}
	return name
}

func number(i int) string { return fmt.Sprint(i) }

// publish publishes the numbers from first up to and without end.
func publish(t testing.TB, env *client.Environment, streamName string, first, end int) {
	t.Helper()
	p, err := NewProducer(inTime(t), env, streamName, nil)
	must(t, err)
	must(t, errors.Join(p.Publish(inTime(t), numbers(first, end)...), p.Close(inTime(t))))
}

func numbers(first, end int) (list []message.StreamMessage) {
	for i := first; i < end; i++ {
		list = append(list, amqp.NewMessage([]byte(number(i))))
	}
	return list
}

// readN returns the next n bodies of a consumer, and their offsets. It stops the
// run with the n-th.
func readN(t testing.TB, env *client.Environment, streamName string, cfg Config, n int) (bodies []string, offsets []uint64) {
	t.Helper()
	c, err := NewConsumer(env, streamName, cfg)
	must(t, err)
	ctx, cancel := context.WithCancel(inTime(t))
	defer cancel()
	err = c.Run(ctx, func(_ context.Context, d *Delivery) error {
		bodies, offsets = append(bodies, string(d.Message.GetData())), append(offsets, d.Offset)
		if len(bodies) == n {
			cancel()
		}
		return nil
	})
	if err != nil || len(bodies) != n {
		t.Fatalf("read %d of %d messages, then: %v", len(bodies), n, err)
	}
	return bodies, offsets
}

// wantNumbers checks that bodies are the numbers from first up to end.
func wantNumbers(t testing.TB, bodies []string, first, end int) {
	t.Helper()
	if len(bodies) != end-first {
		t.Fatalf("got %d messages, want %d", len(bodies), end-first)
	}
	for i, b := range bodies {
		if b != number(first+i) {
			t.Fatalf("message %d is %q, want %d", i, b, first+i)
		}
	}
}

func wantStored(t testing.TB, env *client.Environment, consumer, streamName string, want uint64) {
	t.Helper()
	if got, err := QueryOffset(inTime(t), env, consumer, streamName); err != nil || got != want {
		t.Fatalf("stored offset of %q is %d (%v), want %d", consumer, got, err, want)
	}
}

func wantNothingStored(t testing.TB, env *client.Environment, consumer, streamName string) {
	t.Helper()
	if got, err := QueryOffset(inTime(t), env, consumer, streamName); !errors.Is(err, stream.ErrNoOffset) {
		t.Fatalf("stored offset of %q is %d (%v), want none", consumer, got, err)
	}
}

// running is a consumer that runs in the background.
type running struct {
	t      testing.TB
	stop   context.CancelFunc
	stream string
	done   chan error
}

func start(t testing.TB, env *client.Environment, streamName string, cfg Config, h Handler) *running {
	t.Helper()
	c, err := NewConsumer(env, streamName, cfg)
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	r := &running{t, cancel, streamName, make(chan error, 1)}
	go func() { r.done <- c.Run(ctx, h) }()
	t.Cleanup(cancel)
	return r
}

// end returns how the run ends by itself.
func (r *running) end() error {
	r.t.Helper()
	select {
	case err := <-r.done:
		return err
	case <-inTime(r.t).Done():
		r.t.Fatal("the run does not end")
		return nil
	}
}

func streamtestBroker(t testing.TB, opts ...streamtest.Option) *streamtest.Broker {
	t.Helper()
	return streamtest.NewBroker(t, opts...)
}

// lines are what a logger has got.
type lines struct{ buffer syncBuffer }

func (l *lines) logger() *slog.Logger { return slog.New(slog.NewTextHandler(&l.buffer, nil)) }

func (l *lines) want(t testing.TB, text string) {
	t.Helper()
	if got := l.buffer.String(); !strings.Contains(got, text) {
		t.Errorf("the log has no %q: %s", text, got)
	}
}

type syncBuffer struct {
	mu sync.Mutex
	strings.Builder
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Builder.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Builder.String()
}
