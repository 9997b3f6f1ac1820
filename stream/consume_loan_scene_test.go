package stream

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"testing"
	"testing/synctest"

	"github.com/tidemark-go/tidemark/streamtest"
)

// loanScene is a super stream whose messages are read by a consumer that lends
// them, while connections are lost.
type loanScene struct {
	*scene
	rand  *rand.Rand
	each  int            // messages in a partition
	next  map[string]int // the next message of each partition
	again map[string]int // attempts at it that have failed
	left  int            // messages that are not settled
	stop  context.CancelFunc
}

// fill publishes to a partition: messages of data alone and of several sections,
// in chunks and sub-batches of any size.
func (s *loanScene) fill(partition string) {
	for i := 0; i < s.each; {
		cfg := ProducerConfig{}
		if s.rand.IntN(2) > 0 {
			cfg = ProducerConfig{SubEntries: 2 + s.rand.IntN(150), Compression: CompressionZstd}
		}
		p := s.producerOf(s.env, partition, cfg)
		var msgs []Message
		for most := 1 << s.rand.IntN(11); i < s.each && len(msgs) < most; i++ {
			m := Message{Body: lentBody(i)}
			if i%3 == 0 {
				m.ApplicationProperties = map[string]any{"i": int64(i)}
			}
			msgs = append(msgs, m)
		}
		must(s, p.Publish(s.ctx, msgs...))
		must(s, p.Close(s.ctx))
	}
}

// lentBody is the body of a message: large enough for chunks above minBuffer.
func lentBody(i int) []byte { return bytes.Repeat([]byte(strconv.Itoa(i)+" "), 16) }

// check fails the test unless a delivery is a partition's next message.
func (s *loanScene) check(when string, d *Delivery, partition string, i int) {
	properties, err := d.ApplicationProperties()
	if err != nil || d.Stream != partition || !bytes.Equal(d.Body, lentBody(i)) || (i%3 == 0) != (properties["i"] == int64(i)) {
		s.Errorf("%s: message %d of %s is %.10q of %s, %v, %v", when, i, partition, d.Body, d.Stream, properties, err)
	}
}

// handle has a message while everything else goes on, a lost connection too, then
// writes over it, and may fail.
func (s *loanScene) handle(_ context.Context, d *Delivery) error {
	partition := d.Stream
	i := s.next[partition]
	s.check("before", d, partition, i)
	if s.rand.IntN(200) == 0 {
		s.b.DropConnections(streamtest.CutRST)
	}
	if s.rand.IntN(20) == 0 {
		synctest.Wait()
		s.wipeFreeBuffers()
	}
	s.check("after", d, partition, i)
	scribble(d)
	if s.rand.IntN(10) == 0 {
		if s.again[partition]++; s.again[partition] < 3 {
			return errors.New("again")
		}
		s.settled(partition) // as a dead letter
		return errors.New("given up")
	}
	s.settled(partition)
	return nil
}

// wipeFreeBuffers overwrites the memory that the next chunks are to lie in.
func (s *loanScene) wipeFreeBuffers() {
	s.env.memory.mu.Lock()
	defer s.env.memory.mu.Unlock()
	for _, free := range s.env.memory.buffers {
		for _, buffer := range free.list {
			clear(buffer[:cap(buffer)])
		}
	}
}

func (s *loanScene) settled(partition string) {
	s.again[partition] = 0
	s.next[partition]++
	if s.left--; s.left == 0 {
		s.stop()
	}
}

// TestLentWhileHandled: a handler has its message for itself until it returns,
// whatever is attempted again, published as a dead letter, or lost meanwhile.
func TestLentWhileHandled(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	play(t, Config{}, func(base *scene) {
		s := &loanScene{scene: base, rand: rand.New(rand.NewPCG(seed, 0)), each: 2000, next: map[string]int{}, again: map[string]int{}}
		must(s, s.env.DeclareSuperStream(s.ctx, "orders", SuperStreamConfig{Partitions: 3}))
		must(s, s.env.DeclareStream(s.ctx, "letters", StreamConfig{}))
		partitions, err := s.env.Partitions(s.ctx, "orders")
		must(s, err)
		for _, p := range partitions {
			s.fill(p)
		}
		s.left = s.each * len(partitions)
		var ctx context.Context
		ctx, s.stop = context.WithCancel(s.ctx)
		c, err := s.env.NewConsumer("orders", ConsumerConfig{
			SuperStream: true, Name: "billing", ReuseDelivery: true, MaxBuffered: 64 << 10,
			OnError: quick(ErrorPolicy{Attempts: 3, DeadLetter: "letters"}),
		})
		must(s, err)
		must(s, c.Run(ctx, s.handle))
		if n := s.b.Received(streamtest.Open); n < 10 {
			s.Errorf("%d connections were made: hardly any was lost", n)
		}
		for _, p := range partitions {
			if s.next[p] != s.each {
				s.Errorf("%s: %d of %d messages were settled", p, s.next[p], s.each)
			}
		}
	})
}
