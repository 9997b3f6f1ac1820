package stream

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/streamtest"
)

// A burst that stops in the middle: what the operating system keeps, in order to
// send it with what follows, arrives though nothing does.
func TestStoresOfABurstThatStops(t *testing.T) {
	const n, stops = 1000, 500
	b, env, stream := faulty(t, n)
	block := make(chan struct{})
	stop, _ := runConsumer(t, env, stream, ConsumerConfig{Name: "c", Store: StorePolicy{Every: 1}}, func(d *Delivery) {
		if d.Offset == stops {
			<-block
		}
	})
	stored := func(want uint64) func() bool {
		return func() bool { got, ok := b.Offset(stream, "c"); return ok && got == want }
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
	env.storeRenewal = time.Nanosecond
	var handled atomic.Int64
	stop, _ := runConsumer(t, env, stream, ConsumerConfig{Name: "c", Store: StorePolicy{Every: 1}}, func(*Delivery) { handled.Add(1) })
	must(t, b.Await(soon(t), func() bool { got, ok := b.Offset(stream, "c"); return ok && got == n-1 }))
	_ = stop()
	if handled.Load() != n {
		t.Errorf("%d messages were handled, want %d", handled.Load(), n)
	}
	if subs, ended := b.Received(streamtest.Subscribe), b.Received(streamtest.Unsubscribe); subs < n || ended < n {
		t.Errorf("%d subscriptions, of which %d were ended, with %d stores", subs, ended, n)
	}
}
