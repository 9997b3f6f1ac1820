package stream

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestSceneSuperLastID: who numbers messages in one sequence and goes on above
// LastPublishingID has each of them in the super stream once.
func TestSceneSuperLastID(t *testing.T) {
	playSuper(t, 3, func(s *scene) {
		const total = 300
		message := func(id uint64) Message {
			m := keyed(fmt.Sprint("k", id%17), int(id/17))
			m.PublishingID = id
			return m
		}
		p := s.superProducer(ProducerConfig{Name: "n"})
		if id := p.LastPublishingID(); id != 0 {
			s.Errorf("the last id of nothing is %d", id)
		}
		for id := uint64(1); id <= 100; id++ {
			must(s, p.Publish(s.ctx, message(id)))
		}
		must(s, s.b.SetLeader("o-1", false)) // goes on without one of them, and is killed
		for id := uint64(101); id <= 200; id++ {
			must(s, p.PublishAsync(s.ctx, message(id), nil))
		}
		time.Sleep(time.Second)
		short, cancel := context.WithCancel(s.ctx)
		cancel()
		wantErr(s, p.Close(short), ErrUnconfirmed)
		must(s, s.b.SetLeader("o-1", true))

		p = s.superProducer(ProducerConfig{Name: "n"})
		ids, last := p.LastPublishingIDs(), p.LastPublishingID()
		smallest := min(ids["o-0"], ids["o-1"], ids["o-2"])
		if len(ids) != 3 || last != smallest || last > 100 || last == 0 || max(ids["o-0"], ids["o-2"]) < 195 {
			s.Errorf("the last id is %d, of %v", last, ids)
		}
		for id := last + 1; id <= total; id++ {
			must(s, p.Publish(s.ctx, message(id)))
		}
		n := 0
		for i := range 3 {
			seen := map[string]int{}
			for _, body := range s.bodies(fmt.Sprint("o-", i)) {
				seen[body]++
			}
			for body, times := range seen {
				if times > 1 {
					s.Errorf("%s is there %d times", body, times)
				}
			}
			n += len(seen)
		}
		if n != total {
			s.Errorf("%d of %d are there", n, total)
		}
	})
}

// TestSceneSuperFallsBelowOwnIDs: a caller who goes on above LastPublishingID is told
// if a partition has less than that after the loss of its leader: what lies between is
// in nobody's hands.
func TestSceneSuperFallsBelowOwnIDs(t *testing.T) {
	playSuper(t, 2, func(s *scene) {
		const total, committed = 60, 50
		keys := []string{keyFor("k", 0, 2), keyFor("k", 1, 2)} // of the even ids, and of the odd ones
		own := func(id int) Message {
			m := keyed(keys[id%2], id)
			m.PublishingID = uint64(id)
			return m
		}
		env := s.connect(Config{})
		old := s.producerOf(env, "o", ProducerConfig{SuperStream: true, Name: "n"})
		for id := 1; id <= total; id++ {
			if id == committed+1 {
				must(s, old.Flush(s.ctx))
				must(s, s.b.SetQuorum("o-0", false))
			}
			must(s, old.PublishAsync(s.ctx, own(id), nil))
		}
		time.Sleep(time.Second)
		ended, cancel := context.WithCancel(s.ctx)
		cancel()
		_ = old.Close(ended)
		_ = env.Close()

		p := s.superProducer(ProducerConfig{Name: "n"})
		last := int(p.LastPublishingID())
		if last != total-1 {
			s.Fatalf("the last id is %d, want that of the writes that are not committed", last)
		}
		published := make(chan error, 1)
		go func() { published <- p.Publish(s.ctx, own(last+1)) }()
		time.Sleep(time.Second)
		must(s, s.b.LoseLeader("o-0"))
		if err := <-published; err == nil || !strings.Contains(err.Error(), fmt.Sprint(committed)) {
			s.Errorf("o-0 has nothing above %d, and Publish of %d returned %v", committed, last+1, err)
		}
		must(s, p.Publish(s.ctx, own(last+2))) // the other partition goes on
	})
}

// TestSceneSuperCountedIDs: where the producer counts, each message is there once
// through moves of leaders, and another process takes the name over.
func TestSceneSuperCountedIDs(t *testing.T) {
	playSuper(t, 3, func(s *scene) {
		p := s.superProducer(ProducerConfig{Name: "n"})
		_, err := s.env.NewProducer(s.ctx, "o", ProducerConfig{Name: "n", SuperStream: true})
		wantErr(s, err, ErrNameInUse)
		_, err = s.env.NewProducer(s.ctx, "o-1", ProducerConfig{Name: "n"})
		wantErr(s, err, ErrNameInUse)
		for i := range 300 {
			must(s, p.PublishAsync(s.ctx, keyed("k"+fmt.Sprint(i%7), i/7), func(err error) { must(s, err) }))
			if i%30 == 29 {
				must(s, s.b.MoveLeader(fmt.Sprint("o-", i/30%3)))
				time.Sleep(10 * time.Millisecond)
			}
		}
		must(s, p.Flush(s.ctx))
		n := 0
		for i := range 3 {
			n += s.inOrder(fmt.Sprint("o-", i), s.bodies(fmt.Sprint("o-", i)))
		}
		if n != 300 {
			s.Errorf("%d messages", n)
		}
		other, err := s.connect(Config{}).NewProducer(s.ctx, "o", ProducerConfig{Name: "n", SuperStream: true})
		must(s, err)
		for i := range 3 {
			must(s, other.Publish(s.ctx, keyed(keyFor("other", i, 3), 0)))
		}
		for i := range 3 {
			wantErr(s, p.Publish(s.ctx, keyed(keyFor("mine", i, 3), 0)), ErrNameInUse)
		}
		must(s, other.Close(s.ctx))
		wantErr(s, p.Close(s.ctx), ErrUnconfirmed) // of what it published last
	})
}

// TestSceneSuperBatch: what a PublishBatch has for one partition is one sub-batch.
func TestSceneSuperBatch(t *testing.T) {
	playSuper(t, 3, func(s *scene) {
		p := s.superProducer(ProducerConfig{Name: "n", SubEntries: 100})
		batch := func() (list []Message) {
			for i := range 60 {
				m := keyed(fmt.Sprint("k", i), 0)
				m.PublishingID = uint64(i + 1)
				list = append(list, m)
			}
			return list
		}
		must(s, p.PublishBatch(s.ctx, batch()...))
		must(s, p.Close(s.ctx))
		p = s.superProducer(ProducerConfig{Name: "n", SubEntries: 100})
		must(s, p.PublishBatch(s.ctx, batch()...)) // as another process does
		n := 0
		for i := range 3 {
			n += len(s.bodies(fmt.Sprint("o-", i)))
		}
		if n != 60 {
			s.Errorf("%d messages", n)
		}
		must(s, s.b.SetQuorum("o-1", false))
		short, cancel := context.WithTimeout(s.ctx, time.Second)
		defer cancel()
		var several []Message
		for i := range 3 {
			several = append(several, keyed(keyFor("b", i, 3), 0))
		}
		err := p.PublishBatch(short, several...)
		var outcomes *PublishError
		if !errors.As(err, &outcomes) || outcomes.Outcomes[0] != nil || !errors.Is(outcomes.Outcomes[1], ErrUnconfirmed) || outcomes.Outcomes[2] != nil {
			s.Errorf("%v", err)
		}
		must(s, s.b.SetQuorum("o-1", true))
	})
}

// TestSceneSuperBatchWithoutLeader: what a PublishBatch has for a partition is one
// sub-batch although the partition has never had a connection, and it is not known
// what its frames take. Another process, which publishes the batch as a whole,
// would otherwise repeat the first part of one that was cut.
func TestSceneSuperBatchWithoutLeader(t *testing.T) {
	playSuper(t, 2, func(s *scene) {
		must(s, s.b.SetLeader("o-1", false))
		p := s.superProducer(ProducerConfig{Name: "n", SubEntries: 100, Compression: CompressionZstd}) // which the broker keeps as it is
		var batch []Message
		for i := range 100 {
			batch = append(batch, Message{Key: keyFor("k", 1, 2), Body: make([]byte, 2000), PublishingID: uint64(i + 1)})
		}
		done := make(chan error, 1)
		go func() { done <- p.PublishBatch(s.ctx, batch...) }()
		time.Sleep(time.Second)
		must(s, s.b.SetLeader("o-1", true))
		must(s, <-done)
		if list := s.b.Messages("o-1"); len(list) != 1 || list[0].Records != len(batch) {
			s.Errorf("%d sub-batches, the first of %d messages", len(list), list[0].Records)
		}
	})
}
