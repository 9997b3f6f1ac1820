package stream

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/broker"
	"github.com/tidemark-go/tidemark/internal/mark"
	"github.com/tidemark-go/tidemark/streamtest"
)

// A burst that stops in the middle: what the operating system keeps, in order
// to send it with what follows, arrives though nothing does.
func TestStoresOfABurstThatStops(t *testing.T) {
	beside(t)
	const n, stops = 1000, 500
	b, env, stream := faulty(t, n)
	block := make(chan struct{})
	stop, _ := runConsumer(t, env, stream, ConsumerConfig{Name: "c", Store: StorePolicy{Every: 1}}, func(d *Delivery) {
		if d.Offset == stops {
			<-block
		}
	})
	stored := func(want uint64) func() bool {
		return func() bool { got, ok := b.Offset("c", stream); return ok && got == want }
	}
	must(t, b.Await(soon(t), stored(stops-1)))
	close(block)
	must(t, b.Await(soon(t), stored(n-1)))
	_ = stop()
}

// The subscription without credit, for whose sake the broker takes stores
// quickly, is made anew from time to time, and never gets anything.
func TestStorePermitIsRenewed(t *testing.T) {
	const n = 50
	b, env, stream := faulty(t, n)
	reach(t, env, func(o *broker.Options) { o.PermitRenewal = time.Nanosecond })
	var handled atomic.Int64
	stop, _ := runConsumer(t, env, stream, ConsumerConfig{Name: "c", Store: StorePolicy{Every: 1}}, func(*Delivery) { handled.Add(1) })
	must(t, b.Await(soon(t), func() bool { got, ok := b.Offset("c", stream); return ok && got == n-1 }))
	_ = stop()
	if handled.Load() != n {
		t.Errorf("%d messages were handled, want %d", handled.Load(), n)
	}
	if subs, ended := b.Received(streamtest.Subscribe), b.Received(streamtest.Unsubscribe); subs < n || ended < n {
		t.Errorf("%d subscriptions, of which %d were ended, with %d stores", subs, ended, n)
	}
}

// The run goes on when that subscription is refused, as it may be during an
// election: it is for speed only.
func TestStorePermitIsRefused(t *testing.T) {
	const n = 20
	b, env, stream := faulty(t, n/2)
	reach(t, env, func(o *broker.Options) { o.PermitRenewal = time.Nanosecond })
	c := newCollector(t, n)
	stop, _ := runConsumer(t, env, stream, ConsumerConfig{Name: "c", Store: StorePolicy{Every: 1}}, c.handle)
	c.want(0, n/2)
	b.AnswerWith(streamtest.Subscribe, streamtest.StreamNotAvailable, streamtest.Forever)
	publish(t, env, stream, n/2, n)
	c.want(n/2, n)
	must(t, b.Await(soon(t), func() bool { got, ok := b.Offset("c", stream); return ok && got == n-1 }))
	must(t, stop())
}

// A store connection that is lost, with a store on it, while nothing follows:
// the reading back notices, and the session makes another one.
func TestStoreConnectionLostWhenQuiet(t *testing.T) {
	beside(t)
	b, env, stream := faulty(t, 0)
	handled := make(chan uint64, 10)
	stop, _ := runConsumer(t, env, stream, ConsumerConfig{Name: "c", Store: StorePolicy{Every: 1}}, func(d *Delivery) { handled <- d.Offset })
	must(t, b.Await(soon(t), func() bool { return storeConnections(b) == 1 }))
	b.LoseStores(1)
	publish(t, env, stream, 0, 1)
	recv(t, handled, "the message")
	must(t, b.Await(soon(t), func() bool { return b.Received(streamtest.StoreOffset) == 1 }))
	for _, c := range b.Connections() {
		if strings.HasSuffix(c.ClientName, " tidemark-store") {
			b.DropConnection(c.Name, streamtest.CutRST)
		}
	}
	must(t, b.Await(soon(t), func() bool { _, ok := b.Offset("c", stream); return ok }))
	_ = stop()
	if len(handled) > 0 {
		t.Error("the message was handled twice")
	}
}

// Nothing is stored, nor repeated by reading back, once the stream is gone:
// there may be a new one.
func TestStoreLinkOfAStreamThatIsGone(t *testing.T) {
	for name, policy := range map[string]StorePolicy{"apart": {Every: 1}, "on the delivering connection": {}} {
		t.Run(name, func(t *testing.T) {
			b, env, stream := faulty(t, 10)
			ctx := soon(t)
			where, err := env.cluster.Find(ctx, stream)
			must(t, err)
			s, err := env.openSubscription(ctx, where, where.Leader, stream, defaultMaxBuffered)
			must(t, err)
			defer s.release(true)
			must(t, s.lease.Subscribe(ctx, stream, mark.AtOffset(0).Spec, broker.SubscribeOptions{Name: "c"}))
			l, err := env.brokerOffsets(ctx, s, "c", policy)
			must(t, err)
			defer l.release(t.Context(), true)
			must(t, l.store(ctx, 5, false))
			must(t, l.verify(ctx, 5))
			must(t, env.DeleteStream(ctx, stream))
			must(t, env.DeclareStream(ctx, stream, StreamConfig{}))
			eventually(t, "it is known to be gone", patience, s.streamGone)
			wantErr(t, l.store(ctx, 6, false), errMoved)
			wantErr(t, l.verify(ctx, 5), errMoved)
			_, err = env.QueryOffset(ctx, "c", stream)
			wantErr(t, err, ErrNoOffset)
			if got, ok := b.Offset("c", stream); ok {
				t.Errorf("offset %d is stored in the new stream", got)
			}
		})
	}
}

// A run that ends in order says goodbye on both of its connections.
func TestGoodbye(t *testing.T) {
	b, env, stream := faulty(t, 3)
	c := newCollector(t, 3)
	stop, _ := runConsumer(t, env, stream, ConsumerConfig{Name: "c", Store: StorePolicy{Every: 1}}, c.handle)
	c.want(0, 3)
	before := b.Received(streamtest.Close)
	_ = stop()
	must(t, b.Await(soon(t), func() bool { return storeConnections(b)+readConnections(b) == 0 }))
	if n := b.Received(streamtest.Close) - before; n != 2 {
		t.Errorf("%d connections of 2 were closed with a goodbye", n)
	}
}
