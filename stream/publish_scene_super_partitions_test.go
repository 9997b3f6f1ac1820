package stream

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/streamtest"
)

// TestSceneSuperPartitionAdded: a partition that is added is published to within
// refreshEvery, and one that is removed ends.
func TestSceneSuperPartitionAdded(t *testing.T) {
	playSuper(t, 2, func(s *scene) {
		p := s.superProducer(ProducerConfig{})
		key := keyFor("k", 2, 3)
		must(s, p.Publish(s.ctx, keyed(key, 0)))
		must(s, s.b.CreateStream("o-2"))
		must(s, s.b.BindPartition("o", "o-2", "2"))
		time.Sleep(refreshEvery + time.Millisecond)
		must(s, p.Publish(s.ctx, keyed(key, 1)))
		if got := s.bodies("o-2"); len(got) != 1 {
			s.Errorf("the new partition has %v", got)
		}
		must(s, s.b.SetQuorum("o-2", false)) // what is on its way stays there
		late := make(chan error, 1)
		must(s, p.PublishAsync(s.ctx, keyed(key, 2), func(err error) { late <- err }))
		must(s, s.b.UnbindPartition("o", "o-2"))
		time.Sleep(refreshEvery + recreationTime + time.Millisecond)
		must(s, p.Publish(s.ctx, keyed(key, 3)))
		must(s, s.b.SetQuorum("o-2", true))
		must(s, <-late)
		if got := s.bodies("o-2"); len(got) != 2 {
			s.Errorf("the removed partition has %v", got)
		}
		s.until("its producer has ended", func() bool {
			closed := s.reported(StateClosed)
			return len(closed) == 1 && closed[0].Stream == "o-2" && closed[0].Err == nil
		})
		must(s, p.Close(s.ctx))
	})
}

// TestSceneSuperForgetfulNode: a node that says once that the super stream does not
// exist, as one may that has just come up, does not end the producer.
func TestSceneSuperForgetfulNode(t *testing.T) {
	playSuper(t, 2, func(s *scene) {
		p := s.superProducer(ProducerConfig{})
		s.b.AnswerWith(streamtest.Partitions, streamtest.StreamDoesNotExist, 1)
		time.Sleep(refreshEvery + recreationTime + time.Millisecond)
		must(s, p.Publish(s.ctx, keyed("a", 0)))
		must(s, p.Close(s.ctx))
	})
}

// TestSceneSuperRemovedWhileWaiting: a message that waits for a place in a partition
// goes to another one when that is removed.
func TestSceneSuperRemovedWhileWaiting(t *testing.T) {
	playSuper(t, 3, func(s *scene) {
		p := s.superProducer(ProducerConfig{MaxInFlight: 1})
		time.Sleep(refreshEvery - 2*time.Second) // the next one is before the partition counts as stalled
		must(s, s.b.SetQuorum("o-2", false))
		key := keyFor("k", 2, 3)
		sent := make(chan error, 2)
		must(s, p.PublishAsync(s.ctx, keyed(key, 0), func(err error) { sent <- err }))
		waited := make(chan error, 1)
		go func() { waited <- p.PublishAsync(s.ctx, keyed(key, 1), func(err error) { sent <- err }) }()
		time.Sleep(time.Second)
		if len(waited) > 0 {
			s.Fatal("there was a place")
		}
		must(s, s.b.UnbindPartition("o", "o-2"))
		must(s, <-waited)
		must(s, <-sent)
		must(s, s.b.SetQuorum("o-2", true))
		must(s, <-sent)
		if n := len(s.bodies("o-0")) + len(s.bodies("o-1")); n != 1 {
			s.Errorf("%d messages went elsewhere", n)
		}
		must(s, p.Close(s.ctx))
	})
}

// TestSceneSuperPartitionInUse: a new partition whose name another producer has holds
// up its own messages only, until that one is closed. Env.Close waits for nobody.
func TestSceneSuperPartitionInUse(t *testing.T) {
	playSuper(t, 2, func(s *scene) {
		p := s.superProducer(ProducerConfig{Name: "n"})
		s.create("o-2", "o-3")
		other := s.producer("o-3", ProducerConfig{Name: "n"})
		must(s, s.b.BindPartition("o", "o-2", "2"))
		must(s, s.b.BindPartition("o", "o-3", "3"))
		time.Sleep(refreshEvery + time.Millisecond)
		if n := len(p.LastPublishingIDs()); n != 4 {
			s.Errorf("%d partitions", n)
		}
		must(s, p.Publish(s.ctx, keyed(keyFor("k", 2, 4), 0)))
		wantErr(s, p.Publish(s.ctx, keyed(keyFor("k", 3, 4), 0)), ErrBlocked)
		must(s, other.Close(s.ctx))
		s.until("the name is free", func() bool { return p.Publish(s.ctx, keyed(keyFor("k", 3, 4), 0)) == nil })
		if got := s.bodies("o-3"); len(got) != 1 {
			s.Errorf("o-3 has %v", got)
		}
		must(s, s.env.Close())
	})
}

// TestSceneSuperPartitionIsBack: a partition that was removed, and is back before its
// messages are confirmed, goes on behind them. What else has changed is taken up
// meanwhile.
func TestSceneSuperPartitionIsBack(t *testing.T) {
	playSuper(t, 2, func(s *scene) {
		p := s.superProducer(ProducerConfig{Name: "n"})
		key := keyFor("k", 1, 2)
		must(s, p.Publish(s.ctx, keyed(key, 0)))
		must(s, s.b.SetQuorum("o-1", false))
		late := make(chan error, 1)
		must(s, p.PublishAsync(s.ctx, keyed(key, 1), func(err error) { late <- err }))
		must(s, s.b.UnbindPartition("o", "o-1"))
		time.Sleep(refreshEvery + recreationTime + time.Millisecond)
		s.create("o-2")
		must(s, s.b.BindPartition("o", "o-1", "1"))
		must(s, s.b.BindPartition("o", "o-2", "2"))
		time.Sleep(refreshEvery)
		must(s, p.Publish(s.ctx, keyed(keyFor("new", 2, 3), 0)))
		back := keyFor("back", 1, 3)
		wantErr(s, p.Publish(s.ctx, keyed(back, 0)), ErrBlocked)
		if list := s.reported(StateReconnecting); len(list) == 0 || list[len(list)-1].Stream != "o-1" || errors.Is(list[0].Err, ErrNameInUse) {
			s.Errorf("reported: %v", s.story())
		}
		must(s, s.b.SetQuorum("o-1", true))
		must(s, <-late)
		s.until("it is back", func() bool { return p.Publish(s.ctx, keyed(back, 0)) == nil })
		if got := s.bodies("o-1"); len(got) != 3 || got[2] != back+":0" {
			s.Errorf("o-1 has %v", got)
		}
		must(s, p.Close(s.ctx))
		must(s, s.producer("o-1", ProducerConfig{Name: "n"}).Close(s.ctx))
	})
}

// TestSceneSuperPartitionDeleted: a partition that is deleted takes its messages
// with it, and the next ones go elsewhere at once.
func TestSceneSuperPartitionDeleted(t *testing.T) {
	playSuper(t, 3, func(s *scene) {
		p := s.superProducer(ProducerConfig{})
		time.Sleep(2 * time.Second)
		key := keyFor("k", 2, 3)
		must(s, p.Publish(s.ctx, keyed(key, 0)))
		s.b.WithholdConfirms()
		lost := make(chan error, 1)
		must(s, p.PublishAsync(s.ctx, keyed(key, 1), func(err error) { lost <- err }))
		s.until("sent", func() bool { return len(s.bodies("o-2")) == 2 })
		must(s, s.b.DeleteStream("o-2"))
		s.b.ReleaseConfirms()
		wantErr(s, <-lost, ErrUnconfirmed)
		for i := range 100 {
			must(s, p.Publish(s.ctx, keyed(fmt.Sprint(i), 0), keyed(key, 2+i)))
		}
		if n := len(s.bodies("o-0")) + len(s.bodies("o-1")); n != 200 {
			s.Errorf("%d messages", n)
		}
		must(s, p.Close(s.ctx))
	})
}

// TestSceneSuperCloseAfterDeletion: a partition that was deleted is no error of
// Close, though its producer has not been removed yet.
func TestSceneSuperCloseAfterDeletion(t *testing.T) {
	playSuper(t, 3, func(s *scene) {
		p := s.superProducer(ProducerConfig{})
		s.b.WithholdConfirms()
		lost := make(chan error, 1)
		must(s, p.PublishAsync(s.ctx, keyed(keyFor("k", 2, 3), 0), func(err error) { lost <- err }))
		s.until("sent", func() bool { return len(s.bodies("o-2")) == 1 })
		must(s, s.b.DeleteStream("o-2")) // too soon for a refresh at once, see restartAfter
		wantErr(s, <-lost, ErrUnconfirmed)
		must(s, p.Close(s.ctx))
	})
}

// TestSceneSuperDeletionIsNoticed: a partition that is deleted, after it has lived
// for a while, is looked for at once, though nobody publishes.
func TestSceneSuperDeletionIsNoticed(t *testing.T) {
	playSuper(t, 3, func(s *scene) {
		p := s.superProducer(ProducerConfig{})
		time.Sleep(2 * time.Second) // more than restartAfter
		must(s, s.b.DeleteStream("o-2"))
		time.Sleep(2 * recreationTime)
		if n := len(p.LastPublishingIDs()); n != 2 {
			s.Errorf("%d partitions", n)
		}
		must(s, p.Close(s.ctx))
	})
}

// TestSceneSuperDeleted: the end of the super stream is that of the producer.
func TestSceneSuperDeleted(t *testing.T) {
	playSuper(t, 3, func(s *scene) {
		p := s.superProducer(ProducerConfig{Name: "n"})
		must(s, p.Publish(s.ctx, keyed("a", 0)))
		must(s, s.env.DeleteSuperStream(s.ctx, "o"))
		s.until("the end", func() bool { return errors.Is(p.Publish(s.ctx, keyed("a", 1)), ErrStreamDeleted) })
		wantErr(s, p.PublishAsync(s.ctx, keyed("b", 1), nil), ErrStreamDeleted)
		if err := p.Close(s.ctx); err != nil {
			wantErr(s, err, ErrUnconfirmed) // what was accepted before the end was known
		}
		_, err := s.env.NewProducer(s.ctx, "o", ProducerConfig{SuperStream: true})
		wantErr(s, err, ErrStreamNotFound)
		must(s, s.env.DeclareSuperStream(s.ctx, "o", SuperStreamConfig{Partitions: 2}))
		must(s, s.superProducer(ProducerConfig{Name: "n"}).Publish(s.ctx, keyed("a", 0)))
	})
}

// TestSceneSuperBoundTwice: a partition that is bound with two keys has one
// producer, whether it is there at the beginning or comes later. The hash chooses
// from the list that the broker gives, which names it twice.
func TestSceneSuperBoundTwice(t *testing.T) {
	playSuper(t, 2, func(s *scene) {
		must(s, s.b.BindPartition("o", "o-1", "again"))
		p := s.superProducer(ProducerConfig{Name: "n"})
		must(s, p.Publish(s.ctx, keyed(keyFor("k", 1, 3), 0), keyed(keyFor("k", 2, 3), 0)))
		s.create("o-2")
		must(s, s.b.BindPartition("o", "o-2", "2"))
		must(s, s.b.BindPartition("o", "o-2", "3"))
		time.Sleep(refreshEvery + time.Millisecond)
		must(s, p.Publish(s.ctx, keyed(keyFor("k", 3, 5), 1), keyed(keyFor("k", 4, 5), 1)))
		if a, b := s.bodies("o-1"), s.bodies("o-2"); len(a) != 2 || len(b) != 2 {
			s.Errorf("%v and %v", a, b)
		}
		if n := len(p.super.all()); n != 3 {
			s.Errorf("%d producers for 3 partitions", n)
		}
		must(s, p.Close(s.ctx))
	})
}

// TestSceneSuperFirstReason: a producer that has ended with its super stream says so
// also after it was closed.
func TestSceneSuperFirstReason(t *testing.T) {
	playSuper(t, 2, func(s *scene) {
		p := s.superProducer(ProducerConfig{})
		must(s, s.env.DeleteSuperStream(s.ctx, "o"))
		time.Sleep(refreshEvery + recreationTime + time.Millisecond)
		must(s, p.Close(s.ctx))
		wantErr(s, p.Publish(s.ctx, keyed("a", 0)), ErrStreamDeleted)
	})
}

// TestSceneSuperPartitionNotThereYet: a new partition of which the node does not know
// yet is published to after the next look.
func TestSceneSuperPartitionNotThereYet(t *testing.T) {
	playSuper(t, 2, func(s *scene) {
		p := s.superProducer(ProducerConfig{})
		time.Sleep(refreshEvery / 2)
		s.create("o-2")
		must(s, s.b.BindPartition("o", "o-2", "2"))
		s.b.AnswerWith(streamtest.Metadata, streamtest.StreamDoesNotExist, 2)
		time.Sleep(refreshEvery)
		s.b.ClearFaults()
		if list := s.reported(StateClosed); len(list) != 1 || list[0].Stream != "o-2" || !errors.Is(list[0].Err, ErrStreamDeleted) {
			s.Errorf("reported: %v", s.story())
		}
		time.Sleep(refreshEvery)
		must(s, p.Publish(s.ctx, keyed(keyFor("k", 2, 3), 0)))
		must(s, p.Close(s.ctx))
	})
}

// TestSceneSuperTooLate: what is about to begin when the producer ends leaves
// nothing behind: no producer for which Env.Close waits, and no connection.
func TestSceneSuperTooLate(t *testing.T) {
	playSuper(t, 2, func(s *scene) {
		cfg, err := ProducerConfig{SuperStream: true, Name: "n"}.withDefaults()
		must(s, err)
		late := &superProducer{joint: newJoint(s.env, cfg), env: s.env, name: "o", cfg: cfg, parts: map[*Producer]bool{}}
		late.table.Store(&partitionTable{})
		late.refuse(errTest)
		wantErr(s, late.begin(s.ctx), errTest) // as when Env.Close comes before the first table
		p, err := late.newPart("o-0")
		must(s, err)
		late.replace(newPartitionTable([]string{"o-0"}, map[string]*Producer{"o-0": p}), late.table.Load(), []*Producer{p})
		if n := len(late.admission.quotas); n > 0 {
			s.Errorf("%d partitions have a part of the places", n)
		}
		s.until("no connection is left", func() bool { return s.env.cluster.SharedConns() == 0 })
		must(s, s.producer("o-0", ProducerConfig{Name: "n"}).Close(s.ctx))
		must(s, s.env.Close())
		b := late.beginPart(s.ctx, "o-0")
		wantErr(s, b.err, ErrClosed)
		b.undo()
		wantErr(s, beginError(s.ctx, []partStart{b}), ErrClosed)
	})
}

// TestSceneSuperDeletedIsFree: a producer that has ended with its super stream has
// its name no longer, though nobody has closed it.
func TestSceneSuperDeletedIsFree(t *testing.T) {
	playSuper(t, 3, func(s *scene) {
		p := s.superProducer(ProducerConfig{Name: "n"})
		must(s, s.env.DeleteSuperStream(s.ctx, "o"))
		time.Sleep(refreshEvery + recreationTime + time.Millisecond)
		wantErr(s, p.Publish(s.ctx, keyed("a", 0)), ErrStreamDeleted)
		must(s, s.env.DeclareSuperStream(s.ctx, "o", SuperStreamConfig{Partitions: 2}))
		must(s, s.superProducer(ProducerConfig{Name: "n"}).Publish(s.ctx, keyed("a", 0)))
		must(s, s.env.Close())
	})
}

// TestSceneSuperAsksOnce: a Publish asks once for the partitions, and not for each
// message, where one is deleted and the broker does not say what has become of it.
func TestSceneSuperAsksOnce(t *testing.T) {
	playSuper(t, 2, func(s *scene) {
		p := s.superProducer(ProducerConfig{})
		s.b.AnswerWith(streamtest.Partitions, streamtest.InternalError, 1<<20)
		must(s, s.b.DeleteStream("o-1"))
		time.Sleep(time.Second)
		var list []Message
		for i := range 50 {
			list = append(list, keyed(keyFor("k", 1, 2), i))
		}
		asked := s.b.Received(streamtest.Partitions)
		wantErr(s, p.Publish(s.ctx, list...), ErrStreamDeleted)
		if n := s.b.Received(streamtest.Partitions) - asked; n != 1 {
			s.Errorf("%d questions", n)
		}
	})
}
