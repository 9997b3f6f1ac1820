package stream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/streamtest"
)

// storeConnections counts the connections that carry nothing but stores.
func storeConnections(b *streamtest.Broker) (n int) {
	for _, c := range b.Connections() {
		if c.ClientName == "tidemark-store" {
			n++
		}
	}
	return n
}

// Thirty consumers that store each offset do it on one connection. When it
// drops they share the next one; each that ends leaves it to the others, and the
// last one closes it. No message is handled twice, and every offset is stored.
func TestStoresShareAConnection(t *testing.T) {
	const consumers, half = 30, 20
	b, env, stream := faulty(t, half)
	writer := connect(t, b.URI())
	var all sync.WaitGroup
	stops := make([]func() error, consumers)
	seen := make([]*collector, consumers)
	for i := range consumers {
		seen[i] = newCollector(t, 2*half)
		all.Go(func() {
			cfg := ConsumerConfig{Name: fmt.Sprintf("c%d", i), Store: StorePolicy{Every: 1}}
			stops[i], _ = runConsumer(t, env, stream, cfg, seen[i].handle)
		})
	}
	all.Wait()
	for _, c := range seen {
		c.want(0, half)
	}
	if n := storeConnections(b); n != 1 {
		t.Errorf("%d connections for stores, want 1", n)
	}
	b.DropConnections(streamtest.CutRST)
	publish(t, writer, stream, half, 2*half)
	for _, c := range seen {
		c.want(half, 2*half)
	}
	for i, stop := range stops {
		if i == consumers-1 {
			must(t, b.Await(soon(t), func() bool { return storeConnections(b) == 1 }))
		}
		_ = stop()
		if got, ok := b.Offset(stream, fmt.Sprintf("c%d", i)); !ok || got != 2*half-1 {
			t.Errorf("consumer %d stored %d, %v; want %d", i, got, ok, 2*half-1)
		}
	}
	must(t, b.Await(soon(t), func() bool { return storeConnections(b) == 0 }))
}

// A session whose dialing is cancelled leaves it to one that waits for it.
func TestStoreConnectionDialledByAnother(t *testing.T) {
	var p storeConns
	first, second := newTestSession(), newTestSession()
	ctx, cancel := context.WithCancel(t.Context())
	dialing := make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		_, err := p.join(ctx, first, func(hooks) (*conn, error) {
			close(dialing)
			<-ctx.Done()
			return nil, ctx.Err()
		})
		ended <- err
	}()
	<-dialing
	got := make(chan error, 1)
	boom := errors.New("boom")
	go func() {
		_, err := p.join(t.Context(), second, func(hooks) (*conn, error) { return nil, boom })
		got <- err
	}()
	eventually(t, "the second waits", 10*time.Second, func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.open[first.endpoint].users) == 2
	})
	cancel()
	wantErr(t, recv(t, ended, "the first"), context.Canceled)
	wantErr(t, recv(t, got, "the second"), boom)
	if len(p.open) != 0 {
		t.Errorf("%d connections are left", len(p.open))
	}
}

func newTestSession() *subscription { return &subscription{conn: &conn{}} }
