package stream

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/streamtest"
)

// partScene is a scene with a super stream "orders", and what a consumer of it
// has handled.
type partScene struct {
	*scene
	partitions []string

	mu      sync.Mutex
	handled map[string][]string // bodies, by partition
	total   int
	inside  atomic.Int32 // handlers at work
}

// playParts is play with a super stream of n partitions.
func playParts(t *testing.T, n int, act func(*partScene), opts ...streamtest.Option) {
	t.Helper()
	play(t, Config{Backoff: Backoff{Min: 100 * time.Millisecond, Max: time.Second}}, func(s *scene) {
		must(t, s.env.DeclareSuperStream(s.ctx, "orders", SuperStreamConfig{Partitions: n}))
		partitions, err := s.env.Partitions(s.ctx, "orders")
		must(t, err)
		act(&partScene{scene: s, partitions: partitions, handled: map[string][]string{}})
	}, opts...)
}

// fill publishes the numbers from first up to end to some partitions, in chunks of
// one, ten or a hundred messages, by turns.
func (s *partScene) fill(first, end int, partitions ...string) {
	s.Helper()
	for _, p := range partitions {
		for i, size := first, 1; i < end; size = size * 10 % 999 {
			var bodies []string
			for ; i < end && len(bodies) < size; i++ {
				bodies = append(bodies, strconv.Itoa(i))
			}
			must(s, s.b.Publish(p, bodies...))
		}
	}
}

// handle notes a message, and that handlers run one at a time.
func (s *partScene) handle(_ context.Context, d *Delivery) error {
	if s.inside.Add(1) > 1 {
		s.Error("two handlers are at work")
	}
	defer s.inside.Add(-1)
	s.note(d)
	return nil
}

func (s *partScene) note(d *Delivery) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handled[d.Stream] = append(s.handled[d.Stream], string(d.Body))
	s.total++
}

// count returns how many messages were handled.
func (s *partScene) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.total
}

func (s *partScene) countOf(partition string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.handled[partition])
}

// want waits until n messages were handled, and expects that those of each
// partition are the numbers from 0 on, in order.
func (s *partScene) want(n int) {
	s.Helper()
	s.until(fmt.Sprintf("%d messages", n), func() bool { return s.count() >= n })
	s.mu.Lock()
	defer s.mu.Unlock()
	for p, bodies := range s.handled {
		for i, body := range bodies {
			if body != strconv.Itoa(i) {
				s.Fatalf("message %d of %s is %s", i, p, body)
			}
		}
	}
	if s.total != n {
		s.Fatalf("%d messages were handled, want %d", s.total, n)
	}
}

// wantStored expects an offset stored for a partition.
func (s *partScene) wantStored(name, partition string, offset uint64) {
	s.Helper()
	if got, ok := s.b.Offset(name, partition); !ok || got != offset {
		s.Errorf("stored for %s: %d, %v; want %d", partition, got, ok, offset)
	}
}

// states returns the changes of consumers of a stream to a state.
func (s *partScene) changes(stream string, state State) (list []StateChange) {
	s.scene.mu.Lock()
	defer s.scene.mu.Unlock()
	for _, c := range s.consuming {
		if c.Stream == stream && c.State == state {
			list = append(list, c)
		}
	}
	return list
}

// superRunning is a run that a test ends.
type superRunning struct {
	s     *partScene
	stop  context.CancelFunc
	ended chan error
	over  bool
}

func (s *partScene) consumer(cfg ConsumerConfig) *Consumer {
	s.Helper()
	cfg.SuperStream = true
	c, err := s.env.NewConsumer("orders", cfg)
	must(s, err)
	return c
}

// start calls run on a goroutine of its own.
func (s *partScene) start(run func(context.Context) error) *superRunning {
	ctx, cancel := context.WithCancel(s.ctx)
	r := &superRunning{s: s, stop: cancel, ended: make(chan error, 1)}
	go func() { r.ended <- run(ctx) }()
	s.Cleanup(func() {
		if cancel(); !r.over {
			<-r.ended
		}
	})
	return r
}

func (s *partScene) run(cfg ConsumerConfig, h Handler) *superRunning {
	s.Helper()
	c := s.consumer(cfg)
	return s.start(func(ctx context.Context) error { return c.Run(ctx, h) })
}

// end waits for the end of the run.
func (r *superRunning) end() error {
	r.s.Helper()
	select {
	case err := <-r.ended:
		r.over = true
		return err
	case <-r.s.ctx.Done():
		r.s.Fatal("the run does not end")
		return nil
	}
}

func (r *superRunning) stopped() error {
	r.s.Helper()
	r.stop()
	return r.end()
}

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

// TestSuperStreamManyPartitions: a hundred are read over few connections, none is
// left out, and none comes much later than the others.
func TestSuperStreamManyPartitions(t *testing.T) {
	playParts(t, 100, func(s *partScene) {
		s.fill(0, 20, s.partitions...)
		r := s.run(ConsumerConfig{Name: "billing"}, s.handle)
		s.want(2000)
		if n := readConnections(s.b); n > runtime.GOMAXPROCS(0) {
			s.Errorf("%d connections", n)
		}
		if n := s.b.Received(streamtest.Partitions); n > 3 {
			s.Errorf("the partitions were asked for %d times", n)
		}
		begin := time.Now()
		must(s, r.stopped())
		if took := time.Since(begin); took > time.Second {
			s.Errorf("the end took %v", took)
		}
		for _, p := range s.partitions {
			s.wantStored("billing", p, 19)
		}
	})
}

// TestSuperStreamGone: a super stream that does not exist, or no longer, ends the
// run, and a partition that was deleted ends alone.
func TestSuperStreamGone(t *testing.T) {
	playParts(t, 3, func(s *partScene) {
		for _, name := range []string{"nowhere", s.partitions[0]} {
			c, err := s.env.NewConsumer(name, ConsumerConfig{SuperStream: true})
			must(s, err)
			wantErr(s, c.Run(s.ctx, s.handle), ErrStreamNotFound)
		}
		s.fill(0, 100, s.partitions...)
		r := s.run(ConsumerConfig{Name: "billing"}, s.handle)
		s.want(300)
		must(s, s.env.DeleteStream(s.ctx, s.partitions[1]))
		s.until("the partition has ended", func() bool { return len(s.changes(s.partitions[1], StateClosed)) == 1 })
		wantErr(s, s.changes(s.partitions[1], StateClosed)[0].Err, ErrStreamDeleted)
		s.fill(100, 200, s.partitions[0], s.partitions[2])
		s.want(500)
		must(s, s.env.DeleteSuperStream(s.ctx, "orders"))
		wantErr(s, r.end(), ErrStreamDeleted)
	})
}

// TestSuperStreamAway: while nobody answers at the beginning, the consumer says so
// and tries again.
func TestSuperStreamAway(t *testing.T) {
	playParts(t, 3, func(s *partScene) {
		s.fill(0, 100, s.partitions...)
		s.b.AnswerWith(streamtest.Partitions, streamtest.StreamNotAvailable, 3)
		r := s.run(ConsumerConfig{}, s.handle)
		s.want(300)
		reported := s.changes("orders", StateReconnecting)
		if len(reported) != 3 || reported[2].Attempt != 4 {
			s.Errorf("reported %+v", reported)
		}
		must(s, r.stopped())
	})
}

// TestSuperStreamStart: At is refused, because an offset is a place in one stream.
func TestSuperStreamStart(t *testing.T) {
	env := &Env{cfg: testConfig()}
	for _, start := range []Start{At(5), Stored(At(5))} {
		_, err := env.NewConsumer("orders", ConsumerConfig{SuperStream: true, Start: start})
		wantErr(t, err, ErrInvalidConfig)
	}
	playParts(t, 3, func(s *partScene) {
		s.fill(0, 100, s.partitions...)
		r := s.run(ConsumerConfig{Start: Next()}, s.handle)
		s.until("all are connected", func() bool {
			return !slices.ContainsFunc(s.partitions, func(p string) bool { return len(s.changes(p, StateConnected)) == 0 })
		})
		for _, p := range s.partitions {
			must(s, s.b.Publish(p, "0"))
		}
		s.want(3)
		must(s, r.stopped())
	})
}

// TestSuperStreamPartitionAdded: one that is added during the run is read from its
// first message, whatever Start says, within the time that is promised. One that is
// unbound ends in order, and goes on where it was when it is bound again. One that
// was deleted begins anew.
func TestSuperStreamPartitionAdded(t *testing.T) {
	for name, start := range map[string]Start{"first": {}, "next": Stored(Next()), "since": Since(time.Now().Add(100 * 365 * 24 * time.Hour))} {
		t.Run(name, func(t *testing.T) {
			playParts(t, 2, func(s *partScene) {
				const added, most = "orders-added", superLook + superLook/5
				r := s.run(ConsumerConfig{Name: "billing", Start: start}, s.handle)
				s.until("all are connected", func() bool {
					return !slices.ContainsFunc(s.partitions, func(p string) bool { return len(s.changes(p, StateConnected)) == 0 })
				})
				s.create(added)
				s.fill(0, 100, added)
				must(s, s.b.BindPartition("orders", added, "2"))
				bound := time.Now()
				s.want(100)
				if took := time.Since(bound); took > most {
					s.Errorf("the partition was found after %v", took)
				}
				s.fill(100, 200, added)
				s.want(200)

				must(s, s.b.UnbindPartition("orders", added))
				s.until("it has ended", func() bool { return len(s.changes(added, StateClosed)) == 1 })
				if err := s.changes(added, StateClosed)[0].Err; err != nil {
					s.Errorf("it ended with %v", err)
				}
				s.wantStored("billing", added, 199)
				s.fill(200, 300, added)
				must(s, s.b.BindPartition("orders", added, "2"))
				bound = time.Now()
				s.want(300)
				if took := time.Since(bound); took > most {
					s.Errorf("the partition was found again after %v", took)
				}

				must(s, s.b.DeleteStream(added))
				s.until("it has ended again", func() bool { return len(s.changes(added, StateClosed)) == 2 })
				before := s.count()
				s.create(added)
				must(s, s.b.Publish(added, "anew"))
				must(s, s.b.BindPartition("orders", added, "2"))
				s.until("the new one", func() bool { return s.count() == before+1 })
				must(s, r.stopped())
			})
		})
	}
}

// TestSuperStreamLooksTogether: the consumers of an Env ask for the partitions
// together, and nobody asks once they have ended.
func TestSuperStreamLooksTogether(t *testing.T) {
	playParts(t, 2, func(s *partScene) {
		asked := s.b.Received(streamtest.Partitions)
		one, two := s.run(ConsumerConfig{}, s.handle), s.run(ConsumerConfig{}, s.handle)
		time.Sleep(10 * time.Minute)
		if n := s.b.Received(streamtest.Partitions) - asked; n < 100 || n > 152 {
			s.Errorf("asked %d times in ten minutes", n)
		}
		must(s, one.stopped())
		must(s, two.stopped())
		asked = s.b.Received(streamtest.Partitions)
		time.Sleep(10 * time.Minute)
		if n := s.b.Received(streamtest.Partitions) - asked; n > 0 {
			s.Errorf("asked %d times after the end", n)
		}
	})
}

// handleBatch notes the messages of a batch, and its size.
func (s *partScene) handleBatch(sizes *[]int) BatchHandler {
	return func(ctx context.Context, batch []Delivery) error {
		if s.inside.Add(1) > 1 {
			s.Error("two handlers are at work")
		}
		defer s.inside.Add(-1)
		s.mu.Lock()
		*sizes = append(*sizes, len(batch))
		s.mu.Unlock()
		for i := range batch {
			s.note(&batch[i])
		}
		return nil
	}
}

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

// TestSuperStreamWorkers handle the messages of all partitions, as many at a time
// as there are workers, those of a key in order.
func TestSuperStreamWorkers(t *testing.T) {
	for name, store := range map[string]StorePolicy{"by time": {}, "each": {Every: 1}} {
		for _, keyed := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, keyed %v", name, keyed), func(t *testing.T) {
				playParts(t, 5, func(s *partScene) {
					const workers, each = 4, 300
					s.fill(0, each, s.partitions...)
					cfg := ConsumerConfig{Name: "billing", Workers: workers, MaxAhead: 64, Store: store}
					if keyed {
						cfg.KeyOf = func(d *Delivery) string { return strconv.Itoa(int(d.Offset % 3)) }
					}
					var most atomic.Int32
					last := map[string]uint64{}
					r := s.run(cfg, func(ctx context.Context, d *Delivery) error {
						for n := s.inside.Add(1); n > most.Load(); {
							most.Store(n)
						}
						defer s.inside.Add(-1)
						time.Sleep(time.Millisecond)
						s.note(d)
						s.mu.Lock()
						defer s.mu.Unlock()
						lane := fmt.Sprint(d.Stream, d.Offset%3)
						if before, seen := last[lane]; keyed && seen && d.Offset != before+3 {
							s.Errorf("%s: %d follows %d", lane, d.Offset, before)
						}
						last[lane] = d.Offset
						return nil
					})
					begin := time.Now()
					s.until("all", func() bool { return s.count() == 5*each })
					if took := time.Since(begin); took > 600*time.Millisecond {
						s.Errorf("it took %v", took)
					}
					if n := most.Load(); n != workers {
						s.Errorf("up to %d handlers at a time", n)
					}
					must(s, r.stopped())
					for _, p := range s.partitions {
						s.wantStored("billing", p, each-1)
					}
					if s.count() != 5*each {
						s.Errorf("%d messages", s.count())
					}
				})
			})
		}
	}
}

// TestSuperStreamWorkersTrouble: neither a partition without leader, whose stores
// wait, nor a message that takes an hour keeps the workers from other partitions.
func TestSuperStreamWorkersTrouble(t *testing.T) {
	playParts(t, 5, func(s *partScene) {
		bad, slow := s.partitions[1], s.partitions[3]
		s.fill(0, 300, s.partitions...)
		release := make(chan struct{})
		r := s.run(ConsumerConfig{Name: "billing", Workers: 3, MaxAhead: 50, Store: StorePolicy{Every: 1}}, func(_ context.Context, d *Delivery) error {
			switch {
			case d.Stream == bad && d.Offset == 100:
				must(s, s.b.SetAvailable(bad, false))
			case d.Stream == slow && d.Offset == 100:
				<-release
			}
			s.note(d)
			return nil
		})
		s.until("the others", func() bool {
			for _, p := range s.partitions {
				if p != bad && p != slow && s.countOf(p) < 300 {
					return false
				}
			}
			return s.countOf(bad) > 100 // it is in trouble
		})
		if n := s.countOf(slow); n > 150 {
			s.Errorf("%d messages of the slow partition", n)
		}
		must(s, s.b.SetAvailable(bad, true))
		s.until("the bad one", func() bool { return s.countOf(bad) == 300 })
		close(release)
		s.until("all", func() bool { return s.count() == 1500 })
		must(s, r.stopped())
		for _, p := range s.partitions {
			s.wantStored("billing", p, 299)
		}
	})
}

// TestSuperStreamWorkersFail: a handler's failure ends the others' contexts and the
// run. What lies before it is stored, of every partition.
func TestSuperStreamWorkersFail(t *testing.T) {
	for name, fail := range map[string]func() error{"error": func() error { return errTest }, "panic": func() error { panic(errTest) }, "goexit": func() error { runtime.Goexit(); return nil }} {
		playParts(t, 5, func(s *partScene) {
			s.fill(0, 100, s.partitions...)
			bad, waits := s.partitions[2], atomic.Bool{}
			r := s.run(ConsumerConfig{Name: "billing", Workers: 3}, func(ctx context.Context, d *Delivery) error {
				switch {
				case d.Stream == bad && d.Offset == 50:
					time.Sleep(time.Second)
					return fail()
				case d.Offset == 99 && d.Stream != bad && !waits.Swap(true):
					<-ctx.Done()
					return ctx.Err()
				}
				s.note(d)
				return nil
			})
			err := r.end()
			var h *HandlerError
			if !errors.As(err, &h) || h.Stream != bad || h.Offset != 50 {
				s.Fatalf("%s: the run ended with %v", name, err)
			}
			s.wantStored("billing", bad, 49)
			for _, p := range s.partitions {
				if n := s.countOf(p); p != bad && n > 0 {
					if got, ok := s.b.Offset("billing", p); !ok || got > uint64(n) {
						s.Errorf("%s: stored for %s: %d, %v", name, p, got, ok)
					}
				}
			}
		})
	}
}

// TestSuperStreamWorkersDrain: the end of the context lets what is begun finish, for
// Drain, and loses nothing.
func TestSuperStreamWorkersDrain(t *testing.T) {
	playParts(t, 5, func(s *partScene) {
		s.fill(0, 200, s.partitions...)
		handled := map[string]int{}
		for round := 1; s.count() < 1000; round++ {
			r := s.run(ConsumerConfig{Name: "billing", Workers: 8}, func(_ context.Context, d *Delivery) error {
				time.Sleep(time.Duration(d.Offset%7) * 10 * time.Millisecond)
				s.mu.Lock()
				defer s.mu.Unlock()
				if key := d.Stream + string(d.Body); handled[key] > 0 {
					s.Errorf("%s at %d is handled again", d.Stream, d.Offset)
				} else {
					handled[key]++
					s.total++
				}
				return nil
			})
			time.Sleep(200 * time.Millisecond)
			begin := time.Now()
			must(s, r.stopped())
			if took := time.Since(begin); took > time.Second {
				s.Errorf("round %d: the end took %v", round, took)
			}
		}
	})
}

// TestWorkersWaitForStoresAndRoom: workers that wait for a store of a session that
// has ended, and a run that waits for room, do not wait for each other.
func TestWorkersWaitForStoresAndRoom(t *testing.T) {
	playParts(t, 1, func(s *partScene) {
		s.fill(0, 1000, "s")
		c, err := s.env.NewConsumer("s", ConsumerConfig{Name: "billing", Workers: 3, MaxAhead: 20, Store: StorePolicy{Every: 1}})
		must(s, err)
		r := s.start(func(ctx context.Context) error {
			return c.Run(ctx, func(_ context.Context, d *Delivery) error {
				if d.Offset == 500 {
					must(s, s.b.SetAvailable("s", false))
					time.AfterFunc(10*time.Second, func() { must(s, s.b.SetAvailable("s", true)) })
				}
				s.note(d)
				return nil
			})
		})
		s.until("all", func() bool { return s.count() == 1000 })
		must(s, r.stopped())
	})
}

// TestSuperStreamGroup: the partitions spread over the members of a group. Members
// come and go in order: each message is handled once, and by partition in order.
func TestSuperStreamGroup(t *testing.T) {
	for name, cfg := range map[string]ConsumerConfig{
		"one at a time": {}, "workers": {Workers: 4, KeyOf: func(d *Delivery) string { return "" }},
		"batches": {BatchSize: 7, BatchWait: 50 * time.Millisecond}, "batches apart": {BatchSize: 7, BatchWait: 50 * time.Millisecond, BatchPerPartition: true},
	} {
		t.Run(name, func(t *testing.T) {
			playParts(t, 3, func(s *partScene) {
				cfg.Name, cfg.SingleActive = "billing", true
				by := make([]map[string]int, 3)
				join := func(i int) *superRunning {
					env := s.connect(Config{})
					c, err := env.NewConsumer("orders", func() ConsumerConfig { cfg := cfg; cfg.SuperStream = true; return cfg }())
					must(s, err)
					by[i] = map[string]int{}
					note := func(d *Delivery) {
						time.Sleep(time.Millisecond)
						s.note(d)
						s.mu.Lock()
						defer s.mu.Unlock()
						by[i][d.Stream]++
					}
					return s.start(func(ctx context.Context) error {
						if cfg.BatchSize > 0 {
							return c.RunBatch(ctx, func(_ context.Context, batch []Delivery) error {
								for i := range batch {
									note(&batch[i])
								}
								return nil
							})
						}
						return c.Run(ctx, func(_ context.Context, d *Delivery) error { note(d); return nil })
					})
				}
				members := make([]*superRunning, 3)
				end := 0
				step := func() {
					end += 100
					s.fill(end-100, end, s.partitions...)
					s.want(3 * end)
				}
				for i := range members {
					members[i] = join(i)
					time.Sleep(time.Second)
					step()
				}
				for i := range by { // each has a partition of its own now
					s.mu.Lock()
					clear(by[i])
					s.mu.Unlock()
				}
				step()
				s.mu.Lock()
				for i := range by {
					if len(by[i]) != 1 {
						s.Errorf("member %d has %v", i, by[i])
					}
				}
				s.mu.Unlock()
				for _, m := range members {
					s.fill(end, end+50, s.partitions...) // while a member leaves
					must(s, m.stopped())
					end += 50
					if m != members[2] {
						s.want(3 * end)
					}
				}
				join(0)
				s.want(3 * end)
			})
		})
	}
}
