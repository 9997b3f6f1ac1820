package stream

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/tidemark-go/tidemark/internal/broker"
)

// TestRealManyReadersByVersion: many consumers of one stream in one Env, each with a
// subscription of its own, read everything, and each mark is stored when they end
// together, whatever a subscription costs its neighbours in the broker's version.
// CI runs it on two of them.
func TestRealManyReadersByVersion(t *testing.T) {
	b := realBroker(t)
	const consumers, messages = 100, 2000
	env, outside := connect(t, b.StreamURL()), connect(t, b.StreamURL())
	stream := newStream(t, env)
	publish(t, outside, stream, 0, messages)

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var handled atomic.Int64
	errs := make([]error, consumers)
	var runs sync.WaitGroup
	for i := range consumers {
		c, err := env.NewConsumer(stream, ConsumerConfig{Name: fmt.Sprint("c", i), OwnSubscription: true})
		must(t, err)
		runs.Go(func() {
			errs[i] = c.Run(ctx, func(context.Context, *Delivery) error { handled.Add(1); return nil })
		})
	}
	eventually(t, "all are handled", timeLimit(), func() bool { return handled.Load() == consumers*messages })
	version, want := env.cluster.Version(), max(runtime.GOMAXPROCS(0), (consumers+15)/16)
	t.Logf("on RabbitMQ %s", version)
	if broker.SleepsPerSubscription(version) {
		want = consumers
	}
	if got := env.cluster.SharedConns(); got != want {
		t.Errorf("RabbitMQ %s: %d connections for %d consumers, want %d", version, got, consumers, want)
	}
	stop()
	runs.Wait()
	for i, err := range errs {
		if errors.Is(err, ErrNotStored) {
			t.Errorf("RabbitMQ %s: c%d: %v", version, i, err)
		}
		wantStored(t, outside, fmt.Sprint("c", i), stream, messages-1)
	}
}
