package stream

import (
	"context"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-go/tidemark/internal/broker"
)

// A detached consumer joins nobody at its end. Its connection serves for the last
// store.
func TestDetachedAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newTeeModel(t)
		m.join()
		slow := m.readers[0].m
		s := slow.consumer
		slow.detached = true
		s.inTee.Store(slow)
		other := newTeeModel(t) // which somebody else is about to open
		other.join()
		m.env.tees.open[teeKey{"s", broker.Node{}, m.key.maxBuffered}] = []*tee{other.tee}

		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if s.takeShared(ended) || s.endReason() != nil {
			t.Errorf("at the end of the run the subscription has ended: %v", s.endReason())
		}
		s.end(errMoved)
		soon, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if s.takeShared(soon) || soon.Err() != nil {
			t.Error("it waits for another subscription, though its own has ended")
		}
	})
}

// A detached consumer finds out that the stream was created again, though only the
// subscription that it read from was told.
func TestDetachedStreamRecreated(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(8)) // so many connections
	inBubble(t, func(x *filterBench) {
		body := strings.Repeat("y", 64<<10)
		var wg sync.WaitGroup
		defer wg.Wait()
		ctx, cancel := context.WithCancel(x.ctx)
		defer cancel()
		held := make(chan struct{})
		release := sync.OnceFunc(func() { close(held) })
		defer release()
		slow := make(chan string, 20)
		for i := range 3 {
			c, err := x.env.NewConsumer(x.name, ConsumerConfig{MaxBuffered: len(body)})
			must(t, err)
			wg.Go(func() {
				_ = c.Run(ctx, func(ctx context.Context, d *Delivery) error {
					if i == 2 {
						slow <- fmt.Sprint(d.Offset, string(d.Body[:3]))
						<-held
					}
					return nil
				})
			})
			x.settle(time.Second)
		}
		for range 3 {
			must(t, x.b.Publish(x.name, "old"+body))
		}
		x.settle(time.Minute)
		must(t, x.b.DeleteStream(x.name))
		must(t, x.b.CreateStream(x.name))
		x.settle(time.Minute)
		for range 10 {
			must(t, x.b.Publish(x.name, "new"+body))
		}
		x.settle(time.Minute)
		release()
		x.settle(time.Minute)
		cancel()
		wg.Wait()
		close(slow)
		var got []string
		for s := range slow {
			got = append(got, s)
		}
		if len(got) < 11 || got[len(got)-10] != "0new" {
			t.Errorf("the slow consumer got %q, want all new ones", got)
		}
	})
}

// A consumer whose stores have failed with their connection begins another session,
// although there are always further chunks for it: it could not store their offsets.
// So it is with a subscription of its own and with one that it shares.
func TestStoreConnectionLostInABurst(t *testing.T) {
	for _, shared := range []bool{false, true} {
		t.Run(fmt.Sprint("shared ", shared), func(t *testing.T) {
			inBubble(t, func(x *filterBench) {
				const n = 1000
				for i := range n {
					must(t, x.b.Publish(x.name, strconv.Itoa(i)))
				}
				if shared {
					_, _, stopFirst := x.reader(0)
					defer stopFirst()
					x.settle(time.Second)
				}
				c, seen, stop := x.reader(100 * time.Millisecond)
				defer stop()
				x.settle(time.Second)
				old := c.run.reading
				if got := old.inTee.Load() != nil; got != shared {
					t.Fatalf("it shares a subscription: %v", got)
				}
				old.end(errTest) // as a store does that fails with its connection
				x.settle(20 * time.Second)
				if c.run.reading == old {
					t.Error("20 s later the consumer goes on as if nothing had happened")
				}
				x.settle(2 * time.Minute)
				if got := seen.Load(); got != n {
					t.Errorf("it has got %d messages, want %d", got, n)
				}
			})
		})
	}
}

// reader runs a consumer whose handler takes a while, and which gets each message
// once and in order. seen is how many it has got.
func (x *filterBench) reader(pause time.Duration) (c *Consumer, seen *atomic.Uint64, stop func()) {
	x.Helper()
	c, err := x.env.NewConsumer(x.name, ConsumerConfig{})
	must(x, err)
	ctx, cancel := context.WithCancel(x.ctx)
	seen = new(atomic.Uint64)
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = c.Run(ctx, func(ctx context.Context, d *Delivery) error {
			if got := seen.Load(); got != d.Offset {
				x.Errorf("got %d, want %d", d.Offset, got)
			}
			_ = sleep(ctx, pause)
			seen.Store(d.Offset + 1)
			return nil
		})
	})
	return c, seen, func() { cancel(); wg.Wait() }
}
