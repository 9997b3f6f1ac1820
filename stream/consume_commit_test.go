package stream

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-go/tidemark/internal/script"
	"github.com/tidemark-go/tidemark/internal/wire"
	"github.com/tidemark-go/tidemark/streamtest"
)

// majority is a broker whose stream's last chunk a majority has, or not.
type majority struct {
	*scripted
	has  atomic.Bool
	cut  atomic.Bool // drop the connection that asks, once
	asks atomic.Int64
}

// withMajority runs a test in virtual time with a broker that sends two messages.
func withMajority(t *testing.T, test func(*testing.T, *majority)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &majority{scripted: pipedScripted(t)}
		b.onCommand = func(p *script.Peer, key wire.Key, fields []byte) bool {
			switch key {
			case wire.KeySubscribe:
				chunkFor(p, fields, script.Chunk(0, "a", "b"))
			case wire.KeyStreamStats:
				b.asks.Add(1)
				if b.cut.CompareAndSwap(true, false) {
					_ = p.Conn.Close()
				}
				id, _ := wire.Correlation(fields)
				committed := map[bool]int64{true: 90, false: 80}[b.has.Load()]
				p.Send(&wire.StreamStatsResponse{Correlation: id, Code: wire.CodeOK, Stats: []wire.Stat{
					{Key: "first_chunk_id"}, {Key: "last_chunk_id", Value: 90}, {Key: "committed_chunk_id", Value: committed},
				}})
			default:
				return false
			}
			return true
		}
		test(t, b)
	})
}

// consume begins a run that hands out what it handles. stop tells it to end.
func (b *majority) consume(t *testing.T, cfg ConsumerConfig, batches bool) (c *Consumer, handled chan uint64, stop context.CancelFunc, ended chan error) {
	t.Helper()
	cfg.Name, cfg.Store.Committed = "billing", true
	c, err := b.env(t).NewConsumer(testStream, cfg)
	must(t, err)
	ctx, stop := context.WithCancel(t.Context())
	handled, ended = make(chan uint64, 10), make(chan error, 1)
	go func() {
		if batches {
			ended <- c.RunBatch(ctx, func(_ context.Context, list []Delivery) error { handled <- list[0].Offset; return nil })
			return
		}
		ended <- c.Run(ctx, func(_ context.Context, d *Delivery) error { handled <- d.Offset; return nil })
	}()
	return c, handled, stop, ended
}

// TestCommittedLastStore: Run returns once a majority has its mark, and with
// ErrNotStored if none has it in CloseTimeout.
func TestCommittedLastStore(t *testing.T) {
	for name, store := range map[string]StorePolicy{"default": {}, "every": {Every: 9}, "interval": {Interval: time.Hour}} {
		t.Run(name, func(t *testing.T) {
			withMajority(t, func(t *testing.T, b *majority) {
				_, handled, stop, ended := b.consume(t, ConsumerConfig{Store: store}, false)
				_, _ = <-handled, <-handled
				stop()
				time.Sleep(CloseTimeout / 2)
				if got, ok := b.storedOffset("billing"); !ok || got != 1 || len(ended) > 0 {
					t.Errorf("stored %d, %v, and %d runs have ended", got, ok, len(ended))
				}
				b.has.Store(true)
				must(t, <-ended)
			})
			withMajority(t, func(t *testing.T, b *majority) {
				_, handled, stop, ended := b.consume(t, ConsumerConfig{Store: store}, false)
				_, _ = <-handled, <-handled
				begun := time.Now()
				stop()
				err := <-ended
				if wantErr(t, err, ErrNotStored); err == nil || !strings.Contains(err.Error(), "no majority") || !strings.Contains(err.Error(), "offset 1 ") {
					t.Errorf("%v does not say why", err)
				}
				if took := time.Since(begun); took > CloseTimeout {
					t.Errorf("took %v", took)
				}
			})
		})
	}
}

// TestCommittedEvery: the next handler waits for the majority, whoever handles.
func TestCommittedEvery(t *testing.T) {
	for name, cfg := range map[string]ConsumerConfig{"alone": {}, "workers": {Workers: 2, KeyOf: func(*Delivery) string { return "" }}, "batches": {BatchSize: 1}} {
		t.Run(name, func(t *testing.T) {
			withMajority(t, func(t *testing.T, b *majority) {
				cfg.Store.Every = 1
				_, handled, stop, ended := b.consume(t, cfg, cfg.BatchSize == 1)
				if first := <-handled; first != 0 {
					t.Errorf("handled %d first", first)
				}
				time.Sleep(5 * time.Second)
				if got, ok := b.storedOffset("billing"); !ok || got != 0 || len(handled) > 0 {
					t.Errorf("stored %d, %v, and %d more are handled", got, ok, len(handled))
				}
				b.has.Store(true)
				if second := <-handled; second != 1 {
					t.Errorf("handled %d next", second)
				}
				stop()
				must(t, <-ended)
			})
		})
	}
}

// TestCommittedCommit: Commit waits under its own context, and the run goes on.
func TestCommittedCommit(t *testing.T) {
	withMajority(t, func(t *testing.T, b *majority) {
		c, handled, stop, ended := b.consume(t, ConsumerConfig{Store: StorePolicy{Manual: true}}, false)
		_, _ = <-handled, <-handled
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		wantErr(t, c.Commit(ctx), context.DeadlineExceeded)
		time.AfterFunc(5*time.Second, func() { b.has.Store(true) })
		must(t, c.Commit(t.Context()))
		stop()
		must(t, <-ended)
		if n := len(handled); n > 0 {
			t.Errorf("%d messages came again", n)
		}
	})
}

// TestCommittedLeaderLost: the connection on which the run waits is lost. The mark
// is stored again over another one, in the middle of the run and at its end.
func TestCommittedLeaderLost(t *testing.T) {
	for name, every := range map[string]int{"in the middle": 1, "at the end": 0} {
		t.Run(name, func(t *testing.T) {
			withMajority(t, func(t *testing.T, b *majority) {
				_, handled, stop, ended := b.consume(t, ConsumerConfig{Store: StorePolicy{Every: every}}, false)
				<-handled
				if every == 0 {
					<-handled
					stop()
				}
				synctest.Wait()
				asked := b.asks.Load()
				b.cut.Store(true)
				time.Sleep(time.Second)
				if b.cut.Load() || b.asks.Load() == asked {
					t.Error("nobody asked")
				}
				b.has.Store(true)
				if every > 0 {
					if second := <-handled; second != 1 {
						t.Errorf("handled %d next", second)
					}
					stop()
				}
				must(t, <-ended)
				if got, ok := b.storedOffset("billing"); !ok || got != 1 {
					t.Errorf("stored %d, %v", got, ok)
				}
			})
		})
	}
}

// TestCommittedOnOneNode: everything works, and is asked for.
func TestCommittedOnOneNode(t *testing.T) {
	for name, store := range map[string]StorePolicy{"default": {}, "every": {Every: 1}} {
		b, env, stream := faulty(t, 100)
		store.Committed = true
		var done seen
		stop, _ := runConsumer(t, env, stream, ConsumerConfig{Name: "billing", Store: store}, func(d *Delivery) { done.add(d.Offset) })
		eventually(t, "all are handled", patience, func() bool { return done.len() == 100 })
		must(t, stop())
		if got, ok := b.Offset("billing", stream); !ok || got != 99 {
			t.Errorf("%s: stored %d, %v", name, got, ok)
		}
		if n, least := b.Received(streamtest.StreamStats), 1+99*store.Every; n < least {
			t.Errorf("%s: asked %d times, want %d at least", name, n, least)
		}
		must(t, b.Await(soon(t), func() bool { return readConnections(b) == 0 }))
	}
}
