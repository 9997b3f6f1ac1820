package stream

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/streamtest"
)

// TestFilterIdle: the stored offset passes what the broker skips, in front of and
// behind what is handled, while the consumer runs.
func TestFilterIdle(t *testing.T) {
	inBubble(t, func(x *filterBench) {
		x.put("b 0", "b 1")
		stop := x.run(x.consumer(ConsumerConfig{Filter: byFirst.Filter("a")}))
		x.settle(5 * time.Second)
		x.wantStored(1)
		x.put("a 2", "b 3", "a 4", "b 5") // one chunk
		x.settle(time.Second / 2)
		x.wantHandled("a 2", "a 4")
		x.wantStored(5)
		for i := range 100 {
			x.put(fmt.Sprintf("b %d", i+6))
		}
		x.settle(20 * time.Second)
		x.wantHandled()
		x.wantStored(105)
		x.put("- 106")
		x.put("a 107")
		x.settle(time.Second / 2)
		x.wantHandled("a 107")
		x.wantStored(107)
		must(t, stop())
		x.wantHandled()
	})
}

// TestFilterOnFullConnection: the stored offset passes what the broker skips also
// where the connection has no subscription id left.
func TestFilterOnFullConnection(t *testing.T) {
	inBubble(t, func(x *filterBench) {
		cfg := Config{URIs: []string{x.b.URI()}, Dial: x.b.Dial}
		env, err := Connect(x.ctx, cfg)
		must(t, err)
		defer env.Close()
		reach(t, env, readersPerNode(1))
		c, err := env.NewConsumer(x.name, ConsumerConfig{Name: "billing", Filter: byFirst.Filter("a")})
		must(t, err)
		stop := x.run(c)
		x.put("a 0")
		x.settle(time.Second / 2)
		at, err := env.cluster.Find(x.ctx, x.name)
		must(t, err)
		for range 255 {
			other, err := env.openSubscription(x.ctx, at, at.Leader, x.name, 1<<20)
			must(t, err)
			defer other.release(false)
		}
		shares := func() int {
			env.memory.mu.Lock()
			defer env.memory.mu.Unlock()
			return env.memory.shares
		}
		conns, before := len(x.b.Connections()), shares()
		x.put("b 1", "b 2")
		x.settle(20 * time.Second)
		x.wantStored(2)
		if n := len(x.b.Connections()); n != conns {
			t.Errorf("%d connections, and %d before the look", n, conns)
		}
		if n := shares(); n != before {
			t.Errorf("%d subscriptions share the memory, and %d did before the look", n, before)
		}
		x.wantHandled("a 0")
		must(t, stop())
	})
}

// TestFilterIdleStoresNothing: a store is a chunk too, and must not make this
// consumer or another one store again.
func TestFilterIdleStoresNothing(t *testing.T) {
	inBubble(t, func(x *filterBench) {
		x.put("b 0", "b 1")
		stop := x.run(x.consumer(ConsumerConfig{Filter: byFirst.Filter("a")}))
		x.settle(10 * time.Second)
		x.wantStored(1)
		must(t, x.b.SkipOffsets(x.name, 1)) // as a store does on RabbitMQ
		stores := x.b.Received(streamtest.StoreOffset)
		subscribes := x.b.Received(streamtest.Subscribe)
		x.settle(time.Hour / 2)
		if n := x.b.Received(streamtest.StoreOffset) - stores; n > 0 {
			t.Errorf("the idle consumer has stored %d times", n)
		}
		if n := x.b.Received(streamtest.Subscribe) - subscribes; n > 1 {
			t.Errorf("the idle consumer has looked at the last chunk %d times", n)
		}
		must(t, stop())
	})
}

// TestFilterAtEnd: a run stores what it has looked at, however short it was, and
// the next one begins behind that.
func TestFilterAtEnd(t *testing.T) {
	for name, cfg := range map[string]ConsumerConfig{
		"one":     {},
		"every":   {Store: StorePolicy{Every: 2}},
		"workers": {Workers: 4},
		"keys":    {Workers: 4, KeyOf: func(d *Delivery) string { return string(d.Body) }, Store: StorePolicy{Every: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(x *filterBench) {
				cfg.Filter = byFirst.Filter("a")
				x.put("b 0", "a 1", "b 2")
				for i := 3; i < 40; i++ {
					x.put(fmt.Sprintf("b %d", i))
				}
				stop := x.run(x.consumer(cfg))
				x.settle(100 * time.Millisecond)
				must(t, stop())
				x.wantHandled("a 1")
				x.wantStored(39)
				x.put("b 40")
				x.put("a 41", "b 42")
				stop = x.run(x.consumer(cfg))
				x.settle(100 * time.Millisecond)
				must(t, stop())
				x.wantHandled("a 41")
				x.wantStored(42)
			})
		})
	}
}

// TestFilterBatches: the mark passes what the filter leaves out together with the
// batch before it, and never before the batch is handled.
func TestFilterBatches(t *testing.T) {
	inBubble(t, func(x *filterBench) {
		c := x.consumer(ConsumerConfig{Filter: byFirst.Filter("a"), BatchSize: 3, BatchWait: time.Minute})
		fail := errors.New("not now")
		var batches []string
		run := func(d time.Duration, err error) error {
			ctx, cancel := context.WithTimeout(x.ctx, d)
			defer cancel()
			return c.RunBatch(ctx, func(_ context.Context, batch []Delivery) error {
				text := ""
				for _, m := range batch {
					text += string(m.Body) + ","
				}
				batches = append(batches, text)
				return err
			})
		}
		x.put("b 0", "a 1", "a 2", "b 3")
		x.put("b 4")
		must(t, run(30*time.Second, nil)) // the batch is not full
		if got, ok := x.b.Offset("billing", x.name); ok && got >= 1 {
			t.Errorf("offset %d is stored and nothing is handled", got)
		}
		wantErr(t, run(2*time.Minute, fail), fail)
		if got, ok := x.b.Offset("billing", x.name); ok && got >= 1 {
			t.Errorf("offset %d is stored and the batch has failed", got)
		}
		must(t, run(2*time.Minute, nil))
		x.wantStored(4)
		x.put("a 5", "a 6", "a 7", "a 8", "b 9")
		must(t, run(time.Second, nil))
		x.wantStored(7) // behind it waits a batch
		must(t, run(2*time.Minute, nil))
		x.wantStored(9)
		if want := []string{"a 1,a 2,", "a 1,a 2,", "a 5,a 6,a 7,", "a 8,"}; !slices.Equal(batches, want) {
			t.Errorf("batches %q, want %q", batches, want)
		}
	})
}

// TestFilterAll works with All, whose break leaves the last message unhandled.
func TestFilterAll(t *testing.T) {
	inBubble(t, func(x *filterBench) {
		x.put("b 0", "a 1", "b 2")
		x.put("b 3")
		x.put("a 4", "b 5")
		x.put("b 6")
		c := x.consumer(ConsumerConfig{Filter: byFirst.Filter("a")})
		for range 2 { // the second loop gets the second message only
			for d, err := range c.All(x.ctx) {
				must(t, err)
				if _ = x.handle(x.ctx, d); d.Offset == 4 {
					break
				}
			}
			if got, ok := x.b.Offset("billing", x.name); !ok || got < 1 || got >= 4 {
				t.Errorf("offset %d is stored (%v)", got, ok)
			}
		}
		x.wantHandled("a 1", "a 4", "a 4")
	})
}

// TestFilterOther: another filter under the same name begins behind what the first
// one has left out.
func TestFilterOther(t *testing.T) {
	inBubble(t, func(x *filterBench) {
		for i := range 10 {
			x.put(fmt.Sprintf("%s %d", []string{"a", "b"}[i%2], i))
		}
		stop := x.run(x.consumer(ConsumerConfig{Filter: byFirst.Filter("a")}))
		x.settle(time.Second / 2)
		must(t, stop())
		x.wantHandled("a 0", "a 2", "a 4", "a 6", "a 8")
		x.put("a 10")
		x.put("b 11")
		x.put("- 12")
		stop = x.run(x.consumer(ConsumerConfig{Filter: byFirst.Filter("b", "")}))
		x.settle(time.Second / 2)
		must(t, stop())
		x.wantHandled("b 11", "- 12")
		x.wantStored(12)
	})
}

// TestFilterReconnects: after a lost connection the run goes on behind what it has
// looked at, and stores; a stream that was created again is recognised although
// the filter would skip the chunk that shows it.
func TestFilterReconnects(t *testing.T) {
	inBubble(t, func(x *filterBench) {
		x.put("a 0")
		stop := x.run(x.consumer(ConsumerConfig{Filter: byFirst.Filter("a")}))
		x.settle(time.Second)
		for i := range 5 {
			x.put(fmt.Sprintf("b %d", i+1))
		}
		x.settle(10 * time.Second)
		x.wantStored(5)
		must(t, x.p.Close(x.ctx))
		x.b.DropConnections(streamtest.CutRST)
		x.settle(time.Second)
		p, err := x.env.NewProducer(x.ctx, x.name, ProducerConfig{})
		must(t, err)
		x.p = p
		x.put("b 6", "a 7")
		x.settle(time.Second)
		x.wantHandled("a 0", "a 7")
		x.wantStored(7)
		must(t, x.p.Close(x.ctx))
		must(t, x.env.DeleteStream(x.ctx, x.name))
		must(t, x.env.DeclareStream(x.ctx, x.name, StreamConfig{}))
		x.p, err = x.env.NewProducer(x.ctx, x.name, ProducerConfig{})
		must(t, err)
		for i := range 10 {
			x.put(fmt.Sprintf("b %d", i))
		}
		x.put("a 10")
		x.settle(30 * time.Second)
		x.wantHandled("a 10")
		x.wantStored(10)
		must(t, stop())
	})
}

// TestFilterUnsupported: a broker before 3.13 would send everything, and take
// nothing with a filter value.
func TestFilterUnsupported(t *testing.T) {
	inBubble(t, func(x *filterBench) {
		wantErr(t, x.p.Publish(x.ctx, Message{FilterValue: "a"}), ErrUnsupported)
		must(t, x.p.Publish(x.ctx, Message{Body: []byte("a")}))
		wantErr(t, x.consumer(ConsumerConfig{Filter: byFirst.Filter("a")}).Run(x.ctx, x.handle), ErrUnsupported)
		stop := x.run(x.consumer(ConsumerConfig{Filter: Filter{Match: byFirst.Filter("a").Match}}))
		x.settle(time.Second)
		must(t, stop())
		x.wantHandled("a")
	}, streamtest.WithoutFilters())
}

// TestFilterChecked: what cannot work is refused before anything is asked for.
func TestFilterChecked(t *testing.T) {
	all := func(*Delivery) bool { return true }
	long := strings.Repeat("x", maxName+1)
	var many []string
	for i := range maxFilterValues + 1 {
		many = append(many, fmt.Sprint(i))
	}
	for name, f := range map[string]Filter{
		"no match":   {Values: []string{"a"}},
		"no values":  {Unfiltered: true, Match: all},
		"empty":      {Values: []string{"a", ""}, Match: all},
		"twice":      {Values: []string{"a", "b", "a"}, Match: all},
		"long":       {Values: []string{long}, Match: all},
		"many":       {Values: many, Match: all},
		"only empty": byFirst.Filter(""),
	} {
		if _, err := (ConsumerConfig{Filter: f}).withDefaults("s"); !errors.Is(err, ErrInvalidConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
	values := []string{"a"}
	c, err := ConsumerConfig{Filter: Filter{Values: values, Match: all}}.withDefaults("s")
	must(t, err)
	if values[0] = "b"; c.Filter.Values[0] != "a" {
		t.Error("the caller can change the filter of a consumer")
	}
}

// TestFilterRandom: whatever comes when, however slow the handler is, and wherever
// a run or a connection ends, each wanted message is handled, in order, and the
// mark is never ahead of it.
func TestFilterRandom(t *testing.T) {
	rounds := 30
	if testing.Short() {
		rounds = 5
	}
	for seed := range uint64(rounds) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			inBubble(t, func(x *filterBench) { filterRandomly(x, rand.New(rand.NewPCG(seed, 1))) })
		})
	}
}

func filterRandomly(x *filterBench, r *rand.Rand) {
	cfg := ConsumerConfig{Filter: byFirst.Filter("a"), MaxBuffered: 1 << (6 + r.IntN(16)), Workers: []int{0, 0, 3}[r.IntN(3)]}
	if r.IntN(3) == 0 {
		cfg.Store.Every = 1 + r.IntN(5)
	}
	slow := time.Duration(r.IntN(2)*r.IntN(3000)) * time.Millisecond
	var seen []uint64
	var mu sync.Mutex
	handler := func(_ context.Context, d *Delivery) error {
		if slow > 0 {
			time.Sleep(slow / 2)
		}
		if got, ok := x.b.Offset("billing", x.name); ok && got != BeforeFirst && got >= d.Offset {
			x.Errorf("offset %d is in hand, and %d is stored", d.Offset, got)
		}
		mu.Lock()
		defer mu.Unlock()
		if !slices.Contains(seen, d.Offset) {
			seen = append(seen, d.Offset)
		}
		return nil
	}
	run := func() func() error {
		ctx, cancel := context.WithCancel(x.ctx)
		ended := make(chan error, 1)
		c := x.consumer(cfg)
		go func() { ended <- c.Run(ctx, handler) }()
		return func() error {
			cancel()
			return <-ended
		}
	}
	stop := run()
	var want []uint64
	next := uint64(0)
	for range 60 {
		for range 1 + r.IntN(10) {
			var chunk []string
			for range 1 + r.IntN(4) {
				body := []string{"a", "b", "c", "-"}[min(r.IntN(12), 3)]
				if body == "a" {
					want = append(want, next)
				}
				next++
				chunk = append(chunk, body)
			}
			x.put(chunk...)
		}
		time.Sleep(time.Duration(r.IntN(10)*r.IntN(800)) * time.Millisecond)
		switch r.IntN(12) {
		case 0:
			must(x, stop())
			stop = run()
		case 1:
			x.b.DropConnections(streamtest.CutRST)
		}
	}
	time.Sleep(slow * time.Duration(len(want)+1))
	x.settle(30 * time.Second)
	x.wantStored(next - 1)
	must(x, stop())
	x.wantStored(next - 1)
	if slices.Sort(seen); !slices.Equal(seen, want) {
		x.Errorf("handled %v, want %v", seen, want)
	}
}

// TestFilterRetention: what retention takes is no loss if the broker had skipped
// it before.
func TestFilterRetention(t *testing.T) {
	inBubble(t, func(x *filterBench) {
		changes := make(chan StateChange, 100)
		env, err := Connect(x.ctx, Config{URIs: []string{x.b.URI()}, Dial: x.b.Dial, OnState: func(c StateChange) { changes <- c }})
		must(t, err)
		defer env.Close()
		must(t, x.env.Close())
		x.env = env
		x.p, err = env.NewProducer(x.ctx, x.name, ProducerConfig{})
		must(t, err)
		x.put("a 0")
		stop := x.run(x.consumer(ConsumerConfig{Filter: byFirst.Filter("a")}))
		x.settle(time.Second)
		for i := range 100 {
			x.put(fmt.Sprintf("b %d", i+1))
		}
		x.settle(time.Minute)
		must(t, x.b.RemoveBefore(x.name, 90))
		x.put("a 101")
		x.settle(time.Minute)
		x.wantHandled("a 0", "a 101")
		must(t, stop())
		must(t, env.Close())
		for len(changes) > 0 {
			if c := <-changes; c.State == StateMessagesLost {
				t.Errorf("a loss of %d to %d is reported", c.LostFrom, c.LostTo)
			}
		}
	})
}

// TestFilterOffsetStore: the offset in a store of the service's own passes what is
// skipped as well, and Manual leaves it to Commit.
func TestFilterOffsetStore(t *testing.T) {
	inBubble(t, func(x *filterBench) {
		saved := &memoryStore{}
		cfg := ConsumerConfig{OffsetStore: saved, Filter: byFirst.Filter("a"), Store: StorePolicy{Manual: true}}
		x.put("a 0")
		x.put("b 1", "b 2")
		c := x.consumer(cfg)
		stop := x.run(c)
		x.settle(10 * time.Second)
		if got, ok, err := saved.Load(x.ctx, "billing", x.name); ok || err != nil {
			t.Errorf("nobody has called Commit, and offset %d is saved (%v)", got, err)
		}
		must(t, c.Commit(x.ctx))
		if got, ok, err := saved.Load(x.ctx, "billing", x.name); got != 2 || !ok || err != nil {
			t.Errorf("offset %d is saved (%v, %v), want 2", got, ok, err)
		}
		must(t, stop())
	})
}
