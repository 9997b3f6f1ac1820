package stream

import (
	"context"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/streamtest"
)

// TestSuperStreamManyPartitions: a hundred are read over few connections, none is
// left out, and none comes much later than the others.
func TestSuperStreamManyPartitions(t *testing.T) {
	playParts(t, 100, func(s *partScene) {
		s.fill(0, 20, s.partitions...)
		r := s.run(ConsumerConfig{Name: "billing"}, s.handle)
		s.want(2000)
		if n := readConnections(s.b); n > max(7, runtime.GOMAXPROCS(0)) { // 16 to each
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

// TestSuperStreamSharesNothing: a partition's chunks count for the budget of its
// consumer, whatever others read the partition as a stream.
func TestSuperStreamSharesNothing(t *testing.T) {
	playParts(t, 2, func(s *partScene) {
		s.fill(0, 10, s.partitions...)
		var others atomic.Int32
		for i := range 2 {
			c, err := s.env.NewConsumer(s.partitions[0], ConsumerConfig{})
			must(s, err)
			s.start(func(ctx context.Context) error {
				return c.Run(ctx, func(context.Context, *Delivery) error { others.Add(1); return nil })
			})
			s.until("it has all", func() bool { return others.Load() == int32(10*(i+1)) })
		}
		s.run(ConsumerConfig{}, s.handle)
		s.want(20)
		if n := subscriptions(s.b); n != 4 {
			s.Errorf("%d subscriptions, want one for each of the others and for each partition", n)
		}
	})
}

// TestSuperStreamMemory: MaxBuffered is for all partitions together, beside one chunk
// for each.
func TestSuperStreamMemory(t *testing.T) {
	const partitions, most, messages, size = 10, 64 << 10, 8, 1 << 10
	playParts(t, partitions, func(s *partScene) {
		var chunk []string
		for range messages {
			chunk = append(chunk, strings.Repeat("x", size))
		}
		for _, p := range s.partitions {
			for range 40 {
				must(s, s.b.Publish(p, chunk...))
			}
		}
		release := make(chan struct{})
		r := s.run(ConsumerConfig{MaxBuffered: most}, func(_ context.Context, d *Delivery) error {
			<-release
			s.note(d)
			return nil
		})
		time.Sleep(10 * time.Second)
		used := s.env.memory.claimed()
		if each := int64(messages*size + 1<<10); used < most/2 || used > most+partitions*each {
			s.Errorf("%d bytes are claimed; at most %d for all, and %d for each, should be", used, most, each)
		}
		close(release)
		s.until("all", func() bool { return s.count() == partitions*40*messages })
		must(s, r.stopped())
	})
}
