// Package realtest brings up the real RabbitMQ that the tests outside of package
// stream share, and what they need on it.
package realtest

import (
	"context"
	"crypto/rand"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/rabbit"
	"github.com/tidemark-go/tidemark/stream"
)

// upTimeout leaves room for the download of a broker.
const upTimeout = 10 * time.Minute

// shared is the instance that all packages' tests use, and leave alone. It is
// the one that package stream's tests share as well; make test ends it.
var shared = sync.OnceValues(func() (*rabbit.Instance, error) {
	ctx, cancel := context.WithTimeout(context.Background(), upTimeout)
	defer cancel()
	return rabbit.Up(ctx, filepath.Join(Root(), ".rabbitmq", "test"), 1, os.Stderr)
})

// enabled reports whether the tests may have a real RabbitMQ.
func enabled() bool { return os.Getenv("TIDEMARK_REAL") == "1" }

// Broker returns the shared broker, running. It skips the test unless
// TIDEMARK_REAL is 1, as it is in make test.
func Broker(t testing.TB) *rabbit.Instance {
	t.Helper()
	if !enabled() {
		t.Skip("needs a real RabbitMQ: run make test, or set TIDEMARK_REAL=1 (the first run downloads one)")
	}
	b, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Env returns an environment on the broker that ends with the test.
func Env(t testing.TB, b *rabbit.Instance) *stream.Env {
	t.Helper()
	env, err := stream.Connect(t.Context(), stream.Config{URIs: strings.Split(b.StreamURL(), ",")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := env.Close(); err != nil {
			t.Error(err)
		}
	})
	return env
}

// StreamName returns a name that no other test uses. A stream of that name is
// deleted with the test, before env is closed.
func StreamName(t testing.TB, env *stream.Env) string {
	t.Helper()
	name := strings.ReplaceAll(t.Name(), "/", "-") + "-" + rand.Text()[:8]
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), stream.CloseTimeout)
		defer cancel()
		_ = env.DeleteStream(ctx, name) // it may never have been made
	})
	return name
}

// Root is the module's root directory.
func Root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..")
}
