package stream

import (
	"context"
	"fmt"
	"strconv"
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
