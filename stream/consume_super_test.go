package stream

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/streamtest"
)

// TestSuperStream: one run reads all partitions, each in order, one message at a
// time, on the goroutine of Run. The next run goes on where it ended.
func TestSuperStream(t *testing.T) {
	for name, store := range map[string]StorePolicy{"by time": {}, "each": {Every: 1}, "some": {Every: 7}} {
		t.Run(name, func(t *testing.T) {
			playParts(t, 3, func(s *partScene) {
				s.fill(0, 500, s.partitions...)
				mine := func() bool {
					pc := make([]uintptr, 100)
					frames := runtime.CallersFrames(pc[:runtime.Callers(0, pc)])
					for {
						f, more := frames.Next()
						if strings.HasSuffix(f.Function, ".(*Consumer).Run") {
							return true
						}
						if !more {
							return false
						}
					}
				}
				for round := range 2 {
					r := s.run(ConsumerConfig{Name: "billing", Store: store}, func(ctx context.Context, d *Delivery) error {
						if !mine() {
							s.Error("the handler is not on the goroutine of Run")
						}
						return s.handle(ctx, d)
					})
					s.want(1500 + round*600)
					s.fill(500+round*200, 600+round*200, s.partitions...)
					s.want(1800 + round*600)
					must(s, r.stopped())
					for _, p := range s.partitions {
						s.wantStored("billing", p, uint64(599+round*200))
						s.until("the partition closes", func() bool { return len(s.changes(p, StateClosed)) == round+1 })
					}
					s.fill(600+round*200, 700+round*200, s.partitions...)
				}
				s.until("the consumer closes", func() bool { return len(s.changes("orders", StateClosed)) == 2 })
				closed := s.changes("orders", StateClosed)
				if closed[0].Err != nil || closed[0].Name != "billing" {
					s.Errorf("closed: %+v", closed)
				}
			})
		})
	}
}

// TestSuperStreamTrouble: a partition without leader holds up nobody else, and is
// named. It goes on where it was.
func TestSuperStreamTrouble(t *testing.T) {
	playParts(t, 3, func(s *partScene) {
		bad, good := s.partitions[1], []string{s.partitions[0], s.partitions[2]}
		s.fill(0, 100, s.partitions...)
		must(s, s.b.SetAvailable(s.partitions[1], false))
		r := s.run(ConsumerConfig{Name: "billing", Store: StorePolicy{Every: 1}}, s.handle)
		s.want(200)
		must(s, s.b.SetAvailable(bad, true))
		s.want(300)
		must(s, s.b.SetAvailable(bad, false))
		s.fill(100, 200, good...)
		s.want(500)
		s.until("trouble is reported", func() bool { return len(s.changes(bad, StateReconnecting)) > 1 })
		for _, p := range good {
			if c := s.changes(p, StateReconnecting); len(c) > 0 {
				s.Errorf("%s: %+v", p, c)
			}
		}
		must(s, s.b.SetAvailable(bad, true))
		s.fill(100, 200, bad)
		s.want(600)
		s.b.DropConnections(streamtest.CutRST)
		s.fill(200, 300, s.partitions...)
		s.want(900)
		must(s, r.stopped())
		for _, p := range s.partitions {
			s.wantStored("billing", p, 299)
		}
	})
}

// TestSuperStreamRetries: a message that pauses between two attempts, and a store
// that waits, hold up their partition and no other.
func TestSuperStreamRetries(t *testing.T) {
	playParts(t, 3, func(s *partScene) {
		s.fill(0, 100, s.partitions...)
		var mended atomic.Bool
		cfg := ConsumerConfig{Name: "billing", OnError: ErrorPolicy{Attempts: RetryForever, Backoff: Backoff{Min: time.Minute, Max: time.Minute}}}
		r := s.run(cfg, func(ctx context.Context, d *Delivery) error {
			if d.Stream == s.partitions[1] && d.Offset == 50 && !mended.Load() {
				return errTest
			}
			return s.handle(ctx, d)
		})
		s.want(250)
		mended.Store(true)
		s.want(300)
		must(s, r.stopped())
	})
}

// TestSuperStreamHandlerFails: that ends the run. Every partition's mark is stored.
func TestSuperStreamHandlerFails(t *testing.T) {
	playParts(t, 5, func(s *partScene) {
		s.fill(0, 100, s.partitions...)
		r := s.run(ConsumerConfig{Name: "billing"}, func(ctx context.Context, d *Delivery) error {
			if d.Stream == s.partitions[3] && d.Offset == 77 {
				return errTest
			}
			return s.handle(ctx, d)
		})
		err := r.end()
		var h *HandlerError
		if !errors.As(err, &h) || h.Stream != s.partitions[3] || !errors.Is(err, errTest) {
			s.Fatalf("the run ended with %v", err)
		}
		s.want(s.count())
		for _, p := range s.partitions {
			if n := s.countOf(p); n > 0 {
				s.wantStored("billing", p, uint64(n-1))
			}
		}
		s.until("it closes", func() bool { return len(s.changes("orders", StateClosed)) == 1 })
		if c := s.changes(s.partitions[0], StateClosed); len(c) != 1 || c[0].Err != nil {
			s.Errorf("another partition closed with %+v", c)
		}
		if c := s.changes("orders", StateClosed); len(c) != 1 || !errors.Is(c[0].Err, errTest) {
			s.Errorf("the consumer closed with %+v", c)
		}
	})
}

// TestSuperStreamAll: the loop's body runs on the loop's goroutine. A break leaves
// the message in hand for the next run; a panic is the loop's.
func TestSuperStreamAll(t *testing.T) {
	playParts(t, 3, func(s *partScene) {
		s.fill(0, 100, s.partitions...)
		c := s.consumer(ConsumerConfig{Name: "billing"})
		for d, err := range c.All(s.ctx) {
			must(s, err)
			if s.count() == 150 {
				break
			}
			must(s, s.handle(s.ctx, d))
		}
		s.want(150)
		func() {
			defer func() {
				if v := recover(); v != "the body" {
					s.Errorf("recovered %v", v)
				}
			}()
			for d, err := range c.All(s.ctx) {
				must(s, err)
				if s.count() == 200 {
					panic("the body")
				}
				must(s, s.handle(s.ctx, d))
			}
		}()
		s.want(200)
		ctx, cancel := context.WithCancel(s.ctx)
		defer cancel()
		for d, err := range c.All(ctx) {
			must(s, err)
			if must(s, s.handle(ctx, d)); s.count() == 300 {
				cancel()
			}
		}
		s.want(300)
	})
}

// TestSuperStreamGoexit: a handler that ends its goroutine ends the run in order.
func TestSuperStreamGoexit(t *testing.T) {
	playParts(t, 3, func(s *partScene) {
		s.fill(0, 100, s.partitions...)
		c, gone := s.consumer(ConsumerConfig{Name: "billing"}), make(chan struct{})
		go func() {
			defer close(gone)
			_ = c.Run(s.ctx, func(ctx context.Context, d *Delivery) error {
				if s.count() == 100 {
					runtime.Goexit()
				}
				return s.handle(ctx, d)
			})
			s.Error("Run has returned")
		}()
		<-gone
		wantErr(s, c.Commit(s.ctx), ErrNotRunning)
		r := s.run(ConsumerConfig{Name: "billing"}, s.handle)
		s.want(300)
		must(s, r.stopped())
	})
}

// TestSuperStreamBatchGoexit: so does a handler of batches, though the partitions
// wait for their turn to take back what is in the batch.
func TestSuperStreamBatchGoexit(t *testing.T) {
	playParts(t, 3, func(s *partScene) {
		s.fill(0, 10, s.partitions...)
		c, gone := s.consumer(ConsumerConfig{Name: "billing", BatchSize: 10, BatchWait: time.Second}), make(chan struct{})
		go func() {
			defer close(gone)
			_ = c.RunBatch(s.ctx, func(context.Context, []Delivery) error { runtime.Goexit(); return nil })
			s.Error("RunBatch has returned")
		}()
		<-gone
		r := s.run(ConsumerConfig{Name: "billing"}, s.handle)
		s.want(30)
		must(s, r.stopped())
	})
}

// TestSuperStreamCommitOfNone: a run that knows no partition yet has nothing to
// store, and a Commit says so of no member.
func TestSuperStreamCommitOfNone(t *testing.T) {
	s := &superRun{consumer: &Consumer{stream: "orders"}}
	must(t, s.commit(t.Context()))
}

// TestSuperStreamCommit stores every partition's mark, whatever the policy.
func TestSuperStreamCommit(t *testing.T) {
	playParts(t, 3, func(s *partScene) {
		s.fill(0, 100, s.partitions...)
		c := s.consumer(ConsumerConfig{Name: "billing", Store: StorePolicy{Manual: true}})
		wantErr(s, c.Commit(s.ctx), ErrNotRunning)
		r := s.start(func(ctx context.Context) error { return c.Run(ctx, s.handle) })
		s.want(300)
		wantErr(s, c.Run(s.ctx, s.handle), ErrRunning)
		must(s, c.Commit(s.ctx))
		for _, p := range s.partitions {
			s.wantStored("billing", p, 99)
		}
		must(s, s.b.SetAvailable(s.partitions[1], false))
		s.fill(100, 200, s.partitions[0], s.partitions[2])
		s.want(500)
		ctx, cancel := context.WithTimeout(s.ctx, time.Minute)
		defer cancel()
		err := c.Commit(ctx)
		if wantErr(s, err, context.DeadlineExceeded); !strings.Contains(err.Error(), s.partitions[1]) {
			s.Errorf("the error is %v", err)
		}
		s.wantStored("billing", s.partitions[0], 199)
		s.wantStored("billing", s.partitions[2], 199)
		must(s, s.b.SetAvailable(s.partitions[1], true))
		must(s, r.stopped())
	})
}

// TestSuperStreamNames: two consumers of one name exclude each other, on the super
// stream and on a partition.
func TestSuperStreamNames(t *testing.T) {
	playParts(t, 2, func(s *partScene) {
		s.fill(0, 1, s.partitions...)
		r := s.run(ConsumerConfig{Name: "billing"}, s.handle)
		s.want(2)
		wantErr(s, s.consumer(ConsumerConfig{Name: "billing"}).Run(s.ctx, s.handle), ErrNameInUse)
		plain, err := s.env.NewConsumer(s.partitions[0], ConsumerConfig{Name: "billing"})
		must(s, err)
		wantErr(s, plain.Run(s.ctx, s.handle), ErrNameInUse)
		must(s, r.stopped())
		other := s.start(func(ctx context.Context) error { return plain.Run(ctx, s.handle) })
		s.until("it runs", func() bool { return len(s.changes(s.partitions[0], StateConnected)) == 2 })
		wantErr(s, s.consumer(ConsumerConfig{Name: "billing"}).Run(s.ctx, s.handle), ErrNameInUse)
		must(s, other.stopped())
	})
}

// TestSuperStreamDeadLetters go to one stream, over one producer.
func TestSuperStreamDeadLetters(t *testing.T) {
	playParts(t, 3, func(s *partScene) {
		s.fill(0, 100, s.partitions...)
		cfg := ConsumerConfig{Name: "billing", OnError: ErrorPolicy{DeadLetter: "s"}}
		r := s.run(cfg, func(ctx context.Context, d *Delivery) error {
			if d.Offset == 50 {
				return errTest
			}
			s.note(d)
			return nil
		})
		s.until("the others", func() bool { return s.count() == 297 })
		must(s, r.stopped())
		if got := s.bodies("s"); !slices.Equal(got, []string{"50", "50", "50"}) {
			s.Errorf("the dead letters are %q", got)
		}
		if n := s.b.Received(streamtest.DeclarePublisher); n != 1 {
			s.Errorf("%d producers", n)
		}
		cfg.OnError.DeadLetter = "nowhere"
		wantErr(s, s.consumer(cfg).Run(s.ctx, s.handle), ErrStreamNotFound)
		cfg.OnError.DeadLetter = s.partitions[1]
		wantErr(s, s.consumer(cfg).Run(s.ctx, s.handle), ErrInvalidConfig)
	})
}

// TestSuperStreamDeadLettersUnseen: a broker that cannot be asked for the dead-letter
// stream when the run begins, or a run that is told to end meanwhile, is no error.
func TestSuperStreamDeadLettersUnseen(t *testing.T) {
	playParts(t, 1, func(s *partScene) {
		r := newSuperRun(s.consumer(ConsumerConfig{OnError: ErrorPolicy{DeadLetter: "s"}}), nil)
		r.taking = s.ctx
		s.b.RefuseConnections(true)
		s.b.DropConnections(streamtest.CutRST)
		time.Sleep(time.Second)
		must(s, r.checkLetters())
		ended, cancel := context.WithCancel(s.ctx)
		cancel()
		r.taking = ended
		must(s, r.checkLetters())
	})
}

// TestSuperStreamClose: the end of the Env ends the run.
func TestSuperStreamClose(t *testing.T) {
	playParts(t, 3, func(s *partScene) {
		s.fill(0, 100, s.partitions...)
		r := s.run(ConsumerConfig{Name: "billing"}, s.handle)
		s.want(300)
		must(s, s.env.Close())
		wantErr(s, r.end(), ErrClosed)
		for _, p := range s.partitions {
			s.wantStored("billing", p, 99)
		}
	})
}

// TestSuperStreamNotStored: what cannot be stored is said of each partition, within
// CloseTimeout for all together.
func TestSuperStreamNotStored(t *testing.T) {
	playParts(t, 10, func(s *partScene) {
		s.fill(0, 100, s.partitions...)
		r := s.run(ConsumerConfig{Name: "billing", Store: StorePolicy{Interval: time.Hour}}, s.handle)
		s.want(1000)
		for _, p := range s.partitions[:5] {
			must(s, s.b.SetAvailable(p, false))
		}
		begin := time.Now()
		err := r.stopped()
		if took := time.Since(begin); took > CloseTimeout {
			s.Errorf("the end took %v", took)
		}
		wantErr(s, err, ErrNotStored)
		for i, p := range s.partitions {
			if named := strings.Contains(err.Error(), strconv.Quote(p)); named != (i < 5) {
				s.Errorf("%s is named: %v, by %v", p, named, err)
			}
			if i >= 5 {
				s.wantStored("billing", p, 99)
			}
		}
	})
}
