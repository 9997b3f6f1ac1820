package streamtest

import (
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// slow returns a broker whose subscriptions cost their connection a
// millisecond, with a stream "s" and a client that has n subscriptions of it,
// each with credit for 100 chunks.
func slow(t *testing.T, n int) (*Broker, *rawClient) {
	t.Helper()
	b := NewBroker(t, WithSubscriptionDelay(time.Millisecond))
	c := openRaw(t, b)
	c.create("s")
	for id := range n {
		c.subscribe(uint8(id), "s", fromFirst, 100)
	}
	return b, c
}

// setDelay changes the delay per subscription.
func (b *Broker) setDelay(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cfg.subscriptionDelay = d
}

// TestSubscriptionDelayBlocksTheConnection expects that a commit makes the
// connection of a subscription sleep, that its commands wait meanwhile, and
// that no other connection notices.
func TestSubscriptionDelayBlocksTheConnection(t *testing.T) {
	commits := map[string]func(other *rawClient){
		"publish": func(other *rawClient) { other.publish(1, 1); other.confirmed() },
		"store":   func(other *rawClient) { other.send(&wire.StoreOffset{Reference: "c", Stream: "s"}) },
	}
	for name, commit := range commits {
		t.Run(name, func(t *testing.T) {
			b, c := slow(t, 2)
			c.quiet() // both subscriptions are at the end of the log
			other := openRaw(t, b)
			other.declare(1, "", "s")
			b.setDelay(time.Hour)
			commit(other)
			state := func(want func(*conn) bool) func() bool {
				return func() bool {
					b.mu.Lock()
					defer b.mu.Unlock()
					for x := range b.conns {
						if len(x.subs) > 0 && want(x) {
							return true
						}
					}
					return false
				}
			}
			awaitCond(t, b, "the connection sleeps", state(func(x *conn) bool { return x.turns.serving && x.turns.queued-x.turns.served == 2 }))
			c.send(&wire.QueryOffset{Reference: "c", Stream: "s"})
			awaitCond(t, b, "the query waits", state(func(x *conn) bool { return x.waiting }))
			other.quiet()
			if b.Received(QueryOffset) != 0 {
				t.Error("the query was handled while the connection slept")
			}
		})
	}
}

// TestSubscriptionDelayDeliversEverything expects that many subscriptions of
// one connection get all chunks, and that commands between them are answered.
func TestSubscriptionDelayDeliversEverything(t *testing.T) {
	const subscriptions, chunks = 40, 5
	b, c := slow(t, subscriptions)
	other := openRaw(t, b)
	other.declare(1, "", "s")
	for i := range uint64(chunks) {
		other.publish(1, i)
		other.confirmed()
	}
	for id := range uint8(subscriptions) {
		c.send(&wire.Credit{SubscriptionID: id, Credit: 1})
	}
	c.send(&wire.StoreOffset{Reference: "c", Stream: "s", Offset: 3}, &wire.QueryOffset{Reference: "c", Stream: "s"})
	got, answered := make(map[uint8]int), false
	for n := 0; n < subscriptions*chunks || !answered; {
		f, err := c.read()
		if err != nil {
			t.Fatal(err)
		}
		switch f.key {
		case wire.KeyDeliver:
			d, err := wire.DecodeDeliver(f.version, f.fields)
			if err != nil {
				t.Fatal(err)
			}
			got[d.SubscriptionID]++
			n++
		case wire.KeyQueryOffset.Response():
			answered = true
		default:
			t.Fatalf("unexpected %v", f.key)
		}
	}
	for id, n := range got {
		if n != chunks {
			t.Errorf("subscription %d got %d chunks, want %d", id, n, chunks)
		}
	}
	if offset, _ := b.Offset("c", "s"); offset != 3 {
		t.Errorf("stored %d", offset)
	}
}

// TestSubscriptionDelayIsSquare expects that a commit makes the connection try
// all subscriptions once for each of them.
func TestSubscriptionDelayIsSquare(t *testing.T) {
	const subscriptions = 10
	b, c := slow(t, subscriptions)
	c.quiet()
	served := func() (n uint64) {
		b.mu.Lock()
		defer b.mu.Unlock()
		for x := range b.conns {
			n += x.turns.served
		}
		return n
	}
	before := served()
	openRaw(t, b).send(&wire.StoreOffset{Reference: "c", Stream: "s"})
	awaitCond(t, b, "stored", func() bool { _, ok := b.Offset("c", "s"); return ok })
	c.quiet() // comes after the events of the commit
	if n := served() - before; n != subscriptions {
		t.Errorf("%d events of a commit, want %d", n, subscriptions)
	}
}
