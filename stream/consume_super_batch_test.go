package stream

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/streamtest"
)

// TestSuperStreamBatches mix partitions, or not. The marks move with the batches.
func TestSuperStreamBatches(t *testing.T) {
	for _, apart := range []bool{false, true} {
		for name, store := range map[string]StorePolicy{"by time": {}, "each": {Every: 1}, "some": {Every: 1000}} {
			t.Run(fmt.Sprintf("apart %v, %s", apart, name), func(t *testing.T) {
				playParts(t, 4, func(s *partScene) {
					const each = 650
					s.fill(0, each, s.partitions...)
					var sizes []int
					collect := s.handleBatch(&sizes)
					c := s.consumer(ConsumerConfig{Name: "billing", BatchSize: 100, BatchWait: time.Minute, BatchPerPartition: apart, Store: store})
					mixed := false
					r := s.start(func(ctx context.Context) error {
						return c.RunBatch(ctx, func(ctx context.Context, batch []Delivery) error {
							for i := range batch {
								mixed = mixed || batch[i].Stream != batch[0].Stream
							}
							return collect(ctx, batch)
						})
					})
					full := 4 * each / 100 * 100
					if apart {
						full = 4 * (each / 100 * 100)
					}
					begin := time.Now()
					s.want(full)
					if time.Since(begin) > time.Minute/2 {
						s.Errorf("full batches took %v", time.Since(begin))
					}
					s.b.DropConnections(streamtest.CutRST)
					s.want(4 * each)
					if time.Since(begin) > 2*time.Minute {
						s.Errorf("the last batches took %v", time.Since(begin))
					}
					if mixed == apart {
						s.Errorf("a batch had several partitions: %v", mixed)
					}
					if apart { // as for a plain stream, a lost connection ends a batch
						for _, n := range sizes {
							if n != 100 && n != 50 {
								s.Errorf("batches of %d", sizes)
							}
						}
					}
					s.fill(each, each+20, s.partitions[0]) // which nobody waits for
					time.Sleep(time.Second)
					must(s, r.stopped())
					s.want(4 * each)
					for _, p := range s.partitions {
						s.wantStored("billing", p, each-1)
					}
					r = s.start(func(ctx context.Context) error { return c.RunBatch(ctx, collect) })
					s.want(4*each + 20)
					must(s, r.stopped())
				})
			})
		}
	}
}

// TestSuperStreamBatchStoredInDispatch: a store that a partition makes between two
// blocks of a chunk leaves nothing behind. What it left would have the partition
// hand out a batch that is not full, once it waits for a chunk.
func TestSuperStreamBatchStoredInDispatch(t *testing.T) {
	c, err := (&Env{cfg: testConfig()}).NewConsumer("orders-0", ConsumerConfig{Name: "billing", Store: StorePolicy{Every: 1}})
	must(t, err)
	r := newRun(c)
	r.mixed = &mixedBatch{lifetime: lifetime{taking: t.Context(), handling: t.Context()}}
	m := newMixed(t.Context(), r)
	go func() {
		q := <-r.requests
		q.done <- nil
	}()
	m.handled(mixedPart{from: m, n: 1, last: 0})
	must(t, m.storeIfDue())
	select {
	case <-m.flushDue():
		t.Error("a flush is due although the offset is stored")
	default:
	}
	m.handled(mixedPart{from: m, n: 1, last: 1})
	select {
	case <-m.flushDue():
	default:
		t.Error("no flush is due although an offset is to be stored")
	}
}

// TestSuperStreamBatchNotHandled: the mark stays before messages of a batch that no
// handler has handled, whatever the filter leaves out behind them: at the end of a
// run, where the batch was not full, and when the handler has failed.
func TestSuperStreamBatchNotHandled(t *testing.T) {
	for _, fails := range []bool{false, true} {
		t.Run(fmt.Sprint("fails ", fails), func(t *testing.T) {
			for range 10 { // several goroutines are on their way
				playParts(t, 2, func(s *partScene) {
					p, err := s.env.NewProducer(s.ctx, s.partitions[0], ProducerConfig{})
					must(s, err)
					const wait = 10 * time.Second
					c := s.consumer(ConsumerConfig{Name: "billing", BatchSize: 100, BatchWait: wait, Filter: byFirst.Filter("a")})
					r := s.start(func(ctx context.Context) error {
						return c.RunBatch(ctx, func(context.Context, []Delivery) error { return errTest })
					})
					time.Sleep(time.Second)
					must(s, p.Publish(s.ctx, byFirst.Tag(Message{Body: []byte("b 0")})))
					time.Sleep(5 * time.Second) // for the mark to pass it
					must(s, p.Publish(s.ctx, byFirst.Tag(Message{Body: []byte("a 1")})))
					time.Sleep(wait * 99 / 100)
					must(s, p.Publish(s.ctx, byFirst.Tag(Message{Body: []byte("b 2")})))
					if fails {
						if err := r.end(); !errors.Is(err, errTest) {
							s.Errorf("the run ended with %v", err)
						}
					} else {
						must(s, r.stopped())
					}
					s.wantStored("billing", s.partitions[0], 0)
				})
			}
		})
	}
}

// TestSuperStreamBatchLastLook: at the end of a run the mark passes what the filter
// has left out, on each partition.
func TestSuperStreamBatchLastLook(t *testing.T) {
	for range 10 { // several goroutines are on their way
		playParts(t, 2, func(s *partScene) {
			c := s.consumer(ConsumerConfig{Name: "billing", Filter: byFirst.Filter("a")})
			r := s.start(func(ctx context.Context) error {
				return c.RunBatch(ctx, func(context.Context, []Delivery) error { return errTest })
			})
			time.Sleep(time.Second)
			for _, partition := range s.partitions {
				p, err := s.env.NewProducer(s.ctx, partition, ProducerConfig{})
				must(s, err)
				must(s, p.Publish(s.ctx, byFirst.Tag(Message{Body: []byte("b 0")})))
			}
			must(s, r.stopped())
			for _, partition := range s.partitions {
				s.wantStored("billing", partition, 0)
			}
		})
	}
}

// TestSuperStreamBatchStoresByPolicy: a batch that was handled is no reason for a
// store, unless the policy wants one.
func TestSuperStreamBatchStoresByPolicy(t *testing.T) {
	for _, test := range []struct {
		cfg ConsumerConfig
		due bool
	}{
		{ConsumerConfig{Name: "billing", Store: StorePolicy{Every: 2}}, true},
		{ConsumerConfig{Name: "billing", Store: StorePolicy{Every: 3}}, false},
	} {
		c, err := (&Env{cfg: testConfig()}).NewConsumer("orders-0", test.cfg)
		must(t, err)
		r := newRun(c)
		r.mixed = &mixedBatch{lifetime: lifetime{taking: t.Context(), handling: t.Context()}}
		m := newMixed(t.Context(), r)
		m.handled(mixedPart{from: m, n: 2, last: 1})
		if due := m.takeStore(); due != test.due {
			t.Errorf("%+v: a store is due: %v", test.cfg, due)
		}
	}
}

// TestSuperStreamBatchFails: that ends the run, and no message of the batch counts
// as handled. One that is tried again succeeds as a whole.
func TestSuperStreamBatchFails(t *testing.T) {
	for _, apart := range []bool{false, true} {
		playParts(t, 4, func(s *partScene) {
			s.fill(0, 100, s.partitions...)
			var sizes []int
			collect := s.handleBatch(&sizes)
			cfg := ConsumerConfig{Name: "billing", BatchSize: 30, BatchWait: time.Second, BatchPerPartition: apart}
			fails := func(ctx context.Context, batch []Delivery) error {
				if s.count() >= 120 {
					return errTest
				}
				return collect(ctx, batch)
			}
			c := s.consumer(cfg)
			err := c.RunBatch(s.ctx, fails)
			if !errors.Is(err, errTest) {
				s.Fatalf("the run ended with %v", err)
			}
			for _, p := range s.partitions {
				if n := s.countOf(p); n > 0 {
					s.wantStored("billing", p, uint64(n-1))
				}
			}
			cfg.OnError = ErrorPolicy{Attempts: 3}
			c = s.consumer(cfg)
			r := s.start(func(ctx context.Context) error {
				return c.RunBatch(ctx, func(ctx context.Context, batch []Delivery) error {
					if batch[0].Attempt() < 3 {
						return errTest
					}
					return collect(ctx, batch)
				})
			})
			s.want(400)
			must(s, r.stopped())
		})
	}
	_, err := (&Env{cfg: testConfig()}).NewConsumer("orders", ConsumerConfig{BatchPerPartition: true})
	wantErr(t, err, ErrInvalidConfig)
}
