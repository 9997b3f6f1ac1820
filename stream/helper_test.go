package stream

import (
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/broker"
	"github.com/tidemark-go/tidemark/internal/check"
	"github.com/tidemark-go/tidemark/internal/script"
)

// The tests of this package call these helpers on nearly every line.
const patience = check.Patience

var (
	errTest    = check.ErrTest
	noon       = script.Noon
	soon       = check.Soon
	wantErr    = check.Err
	must       = check.Nil
	eventually = check.EventuallyWithin
)

func recv[T any](t testing.TB, ch <-chan T, what string) T {
	t.Helper()
	return check.Recv(t, ch, what)
}

// testConfig has no patience with a silent peer.
func testConfig() Config {
	cfg, _, err := Config{DialTimeout: patience, Backoff: Backoff{Min: time.Millisecond, Max: 5 * time.Millisecond}}.withDefaults()
	if err != nil {
		panic(err)
	}
	return cfg
}

// reach replaces the cluster of an Env that has no consumer yet by one with other
// options.
func reach(t testing.TB, env *Env, change func(*broker.Options)) {
	t.Helper()
	_, endpoints, err := env.cfg.withDefaults()
	must(t, err)
	o := env.cfg.brokerOptions()
	change(&o)
	env.cluster.Close()
	env.cluster = broker.NewCluster(o, endpoints)
}

// readersPerNode limits the connections that an Env reads on.
func readersPerNode(n int) func(*broker.Options) {
	return func(o *broker.Options) { o.ReadersPerNode = n }
}
