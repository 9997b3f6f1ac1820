//go:build unix

package stream

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// keyCounts notes the messages of each key, which have to come in order and once.
type keyCounts struct {
	mu   sync.Mutex
	next map[string]int
	last map[string]uint64 // offset in each partition
	bad  []string
}

func newKeyCounts() *keyCounts { return &keyCounts{next: map[string]int{}, last: map[string]uint64{}} }

func (k *keyCounts) handle(_ context.Context, d *Delivery) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	key, _, _ := strings.Cut(string(d.Body), ":")
	if want := fmt.Sprintf("%s:%d", key, k.next[key]); string(d.Body) != want && len(k.bad) < 5 {
		k.bad = append(k.bad, fmt.Sprintf("%s at offset %d of %s, want %s", d.Body, d.Offset, d.Stream, want))
	}
	k.next[key]++
	k.last[d.Stream] = d.Offset
	return nil
}

// has reports whether so many messages of so many keys have come.
func (k *keyCounts) has(keys, each int) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	n := 0
	for _, count := range k.next {
		n += count
	}
	return len(k.next) == keys && n >= keys*each
}

// startKeys publishes to each key in turn, until stop is called. Then it says how
// many messages each key has got.
func startKeys(ctx context.Context, t *testing.T, p *Producer, keys int, published chan<- int) (stop func()) {
	var stopped atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		each := 0
		for ; !stopped.Load() && ctx.Err() == nil; each++ {
			for k := range keys {
				m := keyed(fmt.Sprint("k", k), each)
				m.FilterValue = fmt.Sprint("k", k)
				err := ErrBlocked
				for errors.Is(err, ErrBlocked) { // while the partition has no leader
					err = p.PublishAsync(ctx, m, func(err error) {
						if err != nil {
							t.Errorf("a message was not confirmed: %v", err)
						}
					})
				}
				if err != nil && ctx.Err() == nil {
					t.Error(err)
				}
			}
			pause(time.Millisecond)
		}
		published <- each
	})
	return func() { stopped.Store(true); wg.Wait() }
}

// TestRealClusterSuperStream: on three nodes, while leaders move and a node dies,
// what a named producer publishes to a super stream comes to a consumer of all, and
// to one with a filter, once in a run and in order for each key. The stored offsets
// are those of the partitions' last messages.
func TestRealClusterSuperStream(t *testing.T) {
	b := runningCluster(t)
	env := connect(t, b.StreamURL())
	name := fmt.Sprintf("orders-%d", rand.Uint64())
	must(t, env.DeclareSuperStream(inTime(t), name, SuperStreamConfig{Partitions: 3}))
	t.Cleanup(func() { _ = env.DeleteSuperStream(soon(t), name) })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	all, some := newKeyCounts(), newKeyCounts()
	ended := make(chan error, 2)
	for consumer, keys := range map[string]*keyCounts{"all": all, "some": some} {
		cfg := ConsumerConfig{Name: consumer, SuperStream: true}
		if keys == some {
			cfg.Filter = Filter{Values: []string{"k1"}, Match: func(d *Delivery) bool { return strings.HasPrefix(string(d.Body), "k1:") }}
		}
		c, err := env.NewConsumer(name, cfg)
		must(t, err)
		go func() { ended <- c.Run(ctx, keys.handle) }()
	}

	const keys = 20
	p, err := env.NewProducer(inTime(t), name, ProducerConfig{SuperStream: true, Name: "shop"})
	must(t, err)
	published := make(chan int, 1)
	stop := startKeys(ctx, t, p, keys, published)
	defer stop()
	for i := range 6 {
		moveLeaders(t, b, fmt.Sprintf("%s-%d", name, i%3), 2, 300*time.Millisecond)
	}
	node := leaderOf(t, env, b, name+"-0")
	must(t, b.Kill(t.Context(), node))
	pause(3 * time.Second)
	must(t, b.Start(t.Context(), node))
	stop()
	each := <-published
	must(t, p.Close(inTime(t)))
	eventually(t, "both have all", time.Minute, func() bool { return all.has(keys, each) && some.has(1, each) })
	cancel()
	must(t, <-ended)
	must(t, <-ended)
	t.Logf("%d messages of each of %d keys", each, keys)
	for who, k := range map[string]*keyCounts{"all": all, "with the filter": some} {
		if len(k.bad) > 0 || !k.has(len(k.next), each) {
			t.Errorf("%s: %v", who, k.bad)
		}
	}
	for partition, last := range all.last {
		stored, err := env.QueryOffset(inTime(t), "all", partition)
		if must(t, err); stored != last {
			t.Errorf("%s: offset %d is stored, and the last message is %d", partition, stored, last)
		}
	}
}
