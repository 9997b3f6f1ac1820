package stream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/faults"
	"github.com/tidemark-go/tidemark/internal/rabbit"
	"github.com/tidemark-go/tidemark/streamtest"
	"go.uber.org/goleak"
)

// The tests in real_*_test.go are about a whole broker. Those that say
// onBrokers run on the in-process one and, like the rest, on a real RabbitMQ.
// This file brings it up and holds what they share.

// needReal skips a test unless TIDEMARK_REAL is set, as `make test` does.
func needReal(t testing.TB) {
	t.Helper()
	if !realBrokers() {
		t.Skip("needs a real RabbitMQ: run `make test`, or set TIDEMARK_REAL=1")
	}
}

// shared is the broker of the tests that leave it alone; own is the one of
// those that kill it.
var (
	shared = sync.OnceValues(func() (*rabbit.Instance, error) { return up("test", 1) })
	own    = sync.OnceValues(func() (*rabbit.Instance, error) { return settled(up("test-kill", 1)) })
)

// settled makes a new broker one that survives SIGKILL. RabbitMQ 4.0.5 writes
// the name of its stream coordinator to disk only minutes after the first
// stream was declared; killed before that, it comes back with streams that
// never get a leader again.
func settled(b *rabbit.Instance, err error) (*rabbit.Instance, error) {
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, n := range b.Nodes() {
		if err := b.Start(ctx, n.Name); err != nil {
			return nil, err
		}
	}
	env, err := Connect(ctx, Config{URIs: []string{b.StreamURL()}})
	if err != nil {
		return nil, err
	}
	defer env.Close()
	if err := env.DeclareStream(ctx, "settled", StreamConfig{}); err != nil {
		return nil, err
	}
	for _, n := range b.Nodes() {
		if _, err := b.Ctl(ctx, n.Name, "eval", "[dets:sync(T) || T <- dets:all()]."); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func up(name string, nodes int) (*rabbit.Instance, error) {
	_, file, _, _ := runtime.Caller(0)
	dir := filepath.Join(filepath.Dir(file), "..", ".rabbitmq", name)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	return rabbit.Up(ctx, dir, nodes, os.Stderr)
}

// realBroker returns the broker that all real tests share. No goroutine may be
// left by the test but those that ignore names.
func realBroker(t testing.TB, ignore ...goleak.Option) *rabbit.Instance {
	t.Helper()
	needReal(t)
	b, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	noLeaks(t, ignore...) // once everything the test has cleaned up is gone
	return b
}

// testBroker is what a test needs to know of one.
type testBroker interface{ StreamURL() string }

// inProcess is the in-process broker as the tests see it.
type inProcess struct{ *streamtest.Broker }

func (b inProcess) StreamURL() string { return b.URI() }

// onBrokers runs a test on the in-process broker, always, and on the real one.
func onBrokers(t *testing.T, test func(*testing.T, testBroker), ignore ...goleak.Option) {
	t.Run("streamtest", func(t *testing.T) {
		noLeaks(t, ignore...)
		b := streamtest.NewBroker(t)
		test(t, inProcess{b})
	})
	t.Run("rabbitmq", func(t *testing.T) { test(t, realBroker(t, ignore...)) })
}

// mortalBroker returns the broker that may be killed, running.
func mortalBroker(t testing.TB) *rabbit.Instance {
	t.Helper()
	needReal(t)
	b, err := own()
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Start(t.Context(), "n1"); err != nil {
		t.Fatal(err)
	}
	// Whoever starts a node waits for its process.
	noLeaks(t, goleak.IgnoreAnyFunction("os/exec.(*Cmd).Wait"))
	return b
}

// restart kills a node and starts it again, at the end of a test too.
func restart(b *rabbit.Instance, node string) error {
	if err := b.Kill(context.Background(), node); err != nil {
		return err
	}
	return b.Start(context.Background(), node)
}

// connect returns an Env that is closed with the test.
func connect(t testing.TB, uris string) *Env {
	t.Helper()
	return connectWith(t, uris, Config{Heartbeat: 3 * time.Second})
}

// connectWith is connect with settings of the test's own.
func connectWith(t testing.TB, uris string, cfg Config) *Env {
	t.Helper()
	cfg.URIs, cfg.Logger = []string{uris}, slog.New(slog.NewTextHandler(t.Output(), nil))
	env, err := Connect(t.Context(), cfg)
	must(t, err)
	t.Cleanup(func() { _ = env.Close() })
	return env
}

// throughProxy returns a proxy before the broker and its URI.
func throughProxy(t testing.TB, b testBroker) (*faults.Proxy, string) {
	t.Helper()
	u, err := url.Parse(strings.Split(b.StreamURL(), ",")[0])
	if err != nil {
		t.Fatal(err)
	}
	p, err := faults.Start(u.Host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	_, port, _ := net.SplitHostPort(p.Addr())
	u.Host = net.JoinHostPort("localhost", port)
	return p, u.String()
}

// newStream declares a stream of the test's own.
func newStream(t testing.TB, env *Env) string {
	t.Helper()
	name := fmt.Sprintf("%s-%d", strings.ReplaceAll(t.Name(), "/", "-"), rand.Uint64())
	if err := env.DeclareStream(inTime(t), name, StreamConfig{}); err != nil {
		t.Fatal(err)
	}
	return name
}

// number is the body of the i-th message.
func number(i int) []byte { return fmt.Appendf(nil, "%d", i) }

// publish publishes the numbers from first up to and without end.
func publish(t testing.TB, env *Env, stream string, first, end int) {
	t.Helper()
	p, err := env.NewProducer(inTime(t), stream, ProducerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	msgs := make([]Message, 0, end-first)
	for i := first; i < end; i++ {
		msgs = append(msgs, Message{Body: number(i)})
	}
	if err := errors.Join(p.Publish(inTime(t), msgs...), p.Close(inTime(t))); err != nil {
		t.Fatal(err)
	}
}

// readN returns the next n bodies of a consumer, and the offset of the first.
func readN(t testing.TB, env *Env, stream string, cfg ConsumerConfig, n int) (bodies []string, first uint64) {
	t.Helper()
	c, err := env.NewConsumer(stream, cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	err = c.Run(ctx, func(_ context.Context, d *Delivery) error {
		if len(bodies) == 0 {
			first = d.Offset
		}
		if bodies = append(bodies, string(d.Body)); len(bodies) == n {
			cancel()
		}
		return nil
	})
	if err != nil || len(bodies) != n {
		t.Fatalf("read %d of %d messages, then: %v", len(bodies), n, err)
	}
	return bodies, first
}

// wantNumbers checks that bodies are the numbers from first up to end.
func wantNumbers(t testing.TB, bodies []string, first, end int) {
	t.Helper()
	if len(bodies) != end-first {
		t.Fatalf("got %d messages, want %d", len(bodies), end-first)
	}
	for i, b := range bodies {
		if b != string(number(first+i)) {
			t.Fatalf("message %d is %q, want %d", i, b, first+i)
		}
	}
}

// wantStored checks the offset stored on the broker, as another connection
// sees it.
func wantStored(t testing.TB, env *Env, consumer, stream string, want uint64) {
	t.Helper()
	got, err := env.QueryOffset(t.Context(), consumer, stream)
	if err != nil || got != want {
		t.Fatalf("stored offset is %d (%v), want %d", got, err, want)
	}
}

// pause yields the processor between two looks at a condition.
func pause(d time.Duration) { <-time.After(d) }
