package stream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/murmur3"
	"github.com/tidemark-go/tidemark/streamtest"
)

// playSuper is play on a broker with a super stream o of n partitions.
func playSuper(t *testing.T, n int, act func(*scene), opts ...streamtest.Option) {
	t.Helper()
	play(t, Config{}, func(s *scene) {
		must(s, s.env.DeclareSuperStream(s.ctx, "o", SuperStreamConfig{Partitions: n}))
		act(s)
	}, opts...)
}

// superProducer returns a producer to the super stream o.
func (s *scene) superProducer(cfg ProducerConfig) *Producer {
	s.Helper()
	cfg.SuperStream = true
	return s.producer("o", cfg)
}

// keyed is a message whose body is its key and a number.
func keyed(key string, i int) Message {
	return Message{Body: fmt.Appendf(nil, "%s:%d", key, i), Key: key}
}

// keyFor returns a key of a partition of n, beginning with a prefix.
func keyFor(prefix string, partition, n int) string {
	for i := 0; ; i++ {
		if key := fmt.Sprint(prefix, i); murmur3.Partition(key, n) == partition {
			return key
		}
	}
}

// inOrder expects that the numbers of each key ascend from 0 by one, in bodies as
// keyed makes them, and returns how many there are.
func (s *scene) inOrder(what string, bodies []string) int {
	s.Helper()
	next := map[string]int{}
	for _, body := range bodies {
		key, _, _ := strings.Cut(body, ":")
		if want := fmt.Sprintf("%s:%d", key, next[key]); body != want {
			s.Fatalf("%s: %s, want %s", what, body, want)
		}
		next[key]++
	}
	return len(bodies)
}

// TestSceneSuper: each message is in the partition of its key, the messages of a
// key are in order, and so are their outcomes.
func TestSceneSuper(t *testing.T) {
	for _, cfg := range []ProducerConfig{{}, {Name: "n"}, {MaxInFlight: 10}, {Name: "n", SubEntries: 7}} {
		playSuper(t, 3, func(s *scene) {
			const keys, each = 20, 30
			p := s.superProducer(cfg)
			var mu sync.Mutex
			var outcomes []string
			for i := range each {
				for k := range keys {
					m := keyed(fmt.Sprint("k", k), i)
					must(s, p.PublishAsync(s.ctx, m, func(err error) {
						mu.Lock()
						defer mu.Unlock()
						outcomes = append(outcomes, string(m.Body))
						must(s, err)
					}))
				}
			}
			must(s, p.Flush(s.ctx))
			n := 0
			for i := range 3 {
				bodies := s.bodies(fmt.Sprint("o-", i))
				for _, body := range bodies {
					if key, _, _ := strings.Cut(body, ":"); murmur3.Partition(key, 3) != i {
						s.Errorf("%s is in partition %d", body, i)
					}
				}
				n += s.inOrder(fmt.Sprint("o-", i), bodies)
			}
			if m := s.inOrder("outcomes", outcomes); n != keys*each || m != n {
				s.Errorf("%d messages are there, and %d outcomes; want %d", n, m, keys*each)
			}
			var several []Message
			for k := range keys {
				several = append(several, keyed(fmt.Sprint("later", k), 0))
			}
			must(s, p.Publish(s.ctx, several...))
			must(s, p.Publish(s.ctx, keyed("", 0)))
			must(s, p.Close(s.ctx))
			wantErr(s, p.Publish(s.ctx, keyed("", 1)), ErrClosed)
			wantErr(s, p.PublishAsync(s.ctx, keyed("", 1), nil), ErrClosed)
		})
	}
}

// TestSceneSuperConnections: a producer to 100 partitions has as many connections
// as one to a stream has at most.
func TestSceneSuperConnections(t *testing.T) {
	playSuper(t, 100, func(s *scene) {
		before := len(s.b.Connections())
		p := s.superProducer(ProducerConfig{})
		if n := len(s.b.Connections()) - before; n > 64 {
			s.Errorf("%d connections", n)
		}
		for i := range 1000 {
			must(s, p.PublishAsync(s.ctx, keyed(fmt.Sprint(i), 0), nil))
		}
		must(s, p.Flush(s.ctx))
	})
}

// TestSceneSuperWithoutLeader: a partition without a leader holds up its own
// messages only, also where one goroutine publishes to all of them and its
// messages fill the producer. They are confirmed when there is a leader again. A
// metadata update blocks nobody.
func TestSceneSuperWithoutLeader(t *testing.T) {
	for _, name := range []string{"", "n"} {
		for _, before := range []bool{false, true} {
			playSuper(t, 3, func(s *scene) {
				lose := func() { must(s, s.b.SetLeader("o-1", false)) }
				if before {
					lose()
				}
				p := s.superProducer(ProducerConfig{Name: name, MaxInFlight: 60})
				if !before {
					must(s, p.Publish(s.ctx, keyed(keyFor("warm", 1, 3), 0)))
					lose()
				}
				dead := keyFor("dead", 1, 3)
				accepted, refused, confirmed := 0, 0, 0
				for i := range 300 {
					err := p.PublishAsync(s.ctx, keyed(dead, accepted), func(err error) { must(s, err); confirmed++ })
					if err == nil {
						accepted++
					} else if wantErr(s, err, ErrBlocked); !strings.Contains(err.Error(), "o-1") || !SafeToRetry(err) {
						s.Fatalf("%v, safe to retry: %v", err, SafeToRetry(err))
					} else {
						refused++
					}
					for _, part := range []int{0, 2} {
						must(s, p.Publish(s.ctx, keyed(keyFor("live", part, 3), i)))
					}
				}
				if accepted+refused != 300 || refused == 0 || name == "" && accepted != 40 {
					s.Errorf("%d were accepted, and %d refused", accepted, refused)
				}
				for _, part := range []int{0, 2} {
					if n := s.inOrder("live", s.bodies(fmt.Sprint("o-", part))); n != 300 {
						s.Errorf("%d messages are in o-%d", n, part)
					}
				}
				if confirmed != 0 {
					s.Errorf("%d were confirmed without a leader", confirmed)
				}
				must(s, s.b.SetLeader("o-1", true))
				must(s, p.Flush(s.ctx))
				s.until("a leader", func() bool { return p.Publish(s.ctx, keyed(dead, accepted)) == nil })
				if confirmed != accepted {
					s.Errorf("%d of %d were confirmed", confirmed, accepted)
				}
				if list := s.reported(StateReconnecting); len(list) == 0 || list[0].Stream != "o-1" {
					s.Errorf("reported: %v", s.story())
				}
			})
		}
	}
}

// TestSceneSuperWithoutQuorum: a partition that confirms nothing leaves half of the
// places to the others, and those who wait for a place there are refused after 5 s.
func TestSceneSuperWithoutQuorum(t *testing.T) {
	playSuper(t, 3, func(s *scene) {
		p := s.superProducer(ProducerConfig{MaxInFlight: 60})
		must(s, s.b.SetQuorum("o-1", false))
		var waiting sync.WaitGroup
		begin := time.Now()
		var accepted atomic.Int32
		for range 100 {
			waiting.Go(func() {
				err := p.PublishAsync(s.ctx, keyed(keyFor("dead", 1, 3), 0), nil)
				if err == nil {
					accepted.Add(1)
				} else if wantErr(s, err, ErrBlocked); time.Since(begin) > 20*time.Second {
					s.Errorf("refused after %v", time.Since(begin))
				}
			})
		}
		var live sync.WaitGroup
		for g := range 50 {
			live.Go(func() {
				for i := range 10 {
					must(s, p.Publish(s.ctx, keyed(keyFor(fmt.Sprint(g, "live"), 2*(g%2), 3), i)))
				}
			})
		}
		live.Wait()
		if took := time.Since(begin); took > 4*time.Second {
			s.Errorf("the others took %v", took)
		}
		waiting.Wait()
		if n := accepted.Load(); n != 40 {
			s.Errorf("%d were accepted", n)
		}
		s.until("reported", func() bool { return len(s.reported(StateBlocked)) > 0 })
		if of := s.reported(StateBlocked)[0].Stream; of != "o-1" {
			s.Errorf("%s is reported: %v", of, s.story())
		}
		must(s, s.b.SetQuorum("o-1", true))
		must(s, p.Flush(s.ctx))
	})
}

// TestSceneSuperBounds: the messages of all partitions together are bounded.
func TestSceneSuperBounds(t *testing.T) {
	playSuper(t, 3, func(s *scene) {
		p := s.superProducer(ProducerConfig{MaxInFlight: 20})
		s.b.WithholdConfirms()
		ctx, cancel := context.WithTimeout(s.ctx, time.Second)
		defer cancel()
		var accepted atomic.Int32
		var all sync.WaitGroup
		for i := range 100 {
			all.Go(func() {
				if p.PublishAsync(ctx, keyed(fmt.Sprint(i), 0), nil) == nil {
					accepted.Add(1)
				}
			})
		}
		all.Wait()
		if n := accepted.Load(); n < 15 || n > 20 {
			s.Errorf("%d were accepted", n)
		}
		s.b.ReleaseConfirms()
		must(s, p.Flush(s.ctx))
	})
}

// TestSceneSuperManyAtOnce: one Publish has more messages than may be on their way,
// and a callback may publish.
func TestSceneSuperManyAtOnce(t *testing.T) {
	playSuper(t, 3, func(s *scene) {
		p := s.superProducer(ProducerConfig{MaxInFlight: 7})
		var list []Message
		for i := range 100 {
			list = append(list, keyed(fmt.Sprint(i), 0))
		}
		must(s, p.Publish(s.ctx, list...))
		again := make(chan error, 1000)
		for i := range 50 {
			must(s, p.PublishAsync(s.ctx, keyed(fmt.Sprint(i), 1), func(error) {
				again <- p.PublishAsync(s.ctx, keyed(fmt.Sprint(i+1), 2), func(err error) { again <- err })
			}))
		}
		must(s, p.Flush(s.ctx))
		for range 100 {
			must(s, <-again)
		}
	})
}

// routed is a super stream o of which two keys lead to partitions a and b, one to
// both, and all others nowhere.
func playRouted(t *testing.T, act func(*scene)) {
	t.Helper()
	play(t, Config{}, func(s *scene) {
		must(s, s.env.DeclareSuperStream(s.ctx, "o", SuperStreamConfig{BindingKeys: []string{"a", "b"}}))
		must(s, s.b.BindPartition("o", "o-a", "both"))
		must(s, s.b.BindPartition("o", "o-b", "both"))
		act(s)
	})
}

// TestSceneRouteByKey: the binding decides, the broker is asked once for each key,
// a key of several partitions makes copies, and one of none is an error for that
// message alone.
func TestSceneRouteByKey(t *testing.T) {
	playRouted(t, func(s *scene) {
		p := s.superProducer(ProducerConfig{Routing: RouteByKey()})
		err := p.Publish(s.ctx, keyed("a", 0), keyed("nowhere", 0), keyed("b", 0), keyed("both", 0), keyed(strings.Repeat("l", 300), 0))
		var several *PublishError
		if !errors.As(err, &several) {
			s.Fatal(err)
		}
		for i, err := range several.Outcomes {
			if want := i == 1 || i == 4; errors.Is(err, ErrNoRoute) != want || !want && err != nil {
				s.Errorf("message %d: %v", i, err)
			}
		}
		wantErr(s, p.Publish(s.ctx, keyed("nowhere", 0)), ErrNoRoute)
		wantErr(s, p.PublishAsync(s.ctx, keyed("nowhere", 0), nil), ErrNoRoute)
		outcomes := 0
		must(s, p.PublishAsync(s.ctx, keyed("both", 1), func(err error) { must(s, err); outcomes++ }))
		must(s, p.Flush(s.ctx))
		for stream, want := range map[string]string{"o-a": "a:0", "o-b": "b:0"} {
			if got := s.bodies(stream); !slices.Equal(got, []string{want, "both:0", "both:1"}) {
				s.Errorf("%s has %v", stream, got)
			}
		}
		if outcomes != 1 {
			s.Errorf("%d outcomes of one message", outcomes)
		}
		asked := s.b.Received(streamtest.Route)
		for i := range 100 {
			must(s, p.Publish(s.ctx, keyed("a", i)))
		}
		if n := s.b.Received(streamtest.Route) - asked; n > 0 {
			s.Errorf("a known key was asked for %d times", n)
		}
		must(s, s.b.CreateStream("o-new"))
		must(s, s.b.BindPartition("o", "o-new", "nowhere")) // and at once
		must(s, p.Publish(s.ctx, keyed("nowhere", 1)))
		if got := s.bodies("o-new"); len(got) != 1 {
			s.Errorf("o-new has %v", got)
		}
		must(s, s.b.BindPartition("o", "o-new", "a")) // known already
		must(s, p.Publish(s.ctx, keyed("a", 100)))
		time.Sleep(refreshEvery + time.Millisecond)
		must(s, p.Publish(s.ctx, keyed("a", 101)))
		if got := s.bodies("o-new"); len(got) != 2 {
			s.Errorf("o-new has %v", got)
		}
	})
}

// TestSceneRouteBy: the user's function decides.
func TestSceneRouteBy(t *testing.T) {
	playRouted(t, func(s *scene) {
		asked := map[string]int{}
		p := s.superProducer(ProducerConfig{Routing: RouteBy(func(m *Message, partitions []string) ([]string, error) {
			asked[m.Key]++
			switch m.Key {
			case "all":
				return append(partitions[:len(partitions):len(partitions)], partitions[0]), nil
			case "none":
				return nil, nil
			case "bad":
				return nil, errTest
			}
			return []string{m.Key}, nil
		})})
		must(s, p.Publish(s.ctx, keyed("all", 0), keyed("o-b", 0)))
		for key, want := range map[string]error{"none": ErrNoRoute, "bad": errTest, "o-x": ErrNoRoute} {
			err := p.Publish(s.ctx, keyed(key, 0))
			wantErr(s, err, want)
			wantErr(s, err, ErrNoRoute)
			if asked[key] != 1 {
				s.Errorf("%q was asked for %d times", key, asked[key])
			}
		}
		if a, b := s.bodies("o-a"), s.bodies("o-b"); len(a) != 1 || len(b) != 2 {
			s.Errorf("%v and %v", a, b)
		}
	})
}

// TestSceneSuperCopies: the outcome of a message with copies is that of all of them.
func TestSceneSuperCopies(t *testing.T) {
	playRouted(t, func(s *scene) {
		p := s.superProducer(ProducerConfig{Routing: RouteByKey(), MaxInFlight: 1})
		must(s, s.b.SetQuorum("o-b", false))
		results := make(chan error, 2)
		short, cancel := context.WithTimeout(s.ctx, time.Second)
		defer cancel()
		must(s, p.PublishAsync(s.ctx, keyed("both", 0), func(err error) { results <- err }))
		must(s, p.PublishAsync(short, keyed("both", 1), func(err error) { results <- err })) // no place in o-b
		if err := <-results; !errors.Is(err, context.DeadlineExceeded) || SafeToRetry(err) || !strings.Contains(err.Error(), "1 of") {
			s.Errorf("accepted by one: %v", err)
		}
		must(s, s.b.SetQuorum("o-b", true))
		must(s, <-results)
		must(s, p.Publish(s.ctx, keyed("both", 2)))
		if a, b := s.bodies("o-a"), s.bodies("o-b"); len(a) != 3 || len(b) != 2 {
			s.Errorf("%v and %v", a, b)
		}
	})
}

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
		time.Sleep(refreshEvery + time.Millisecond)
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

// TestSceneSuperPartitionInUse: a new partition whose name another producer has
// changes nothing until that one is closed, and Env.Close waits for nobody.
func TestSceneSuperPartitionInUse(t *testing.T) {
	playSuper(t, 2, func(s *scene) {
		p := s.superProducer(ProducerConfig{Name: "n"})
		s.create("o-2", "o-3")
		other := s.producer("o-3", ProducerConfig{Name: "n"})
		must(s, s.b.BindPartition("o", "o-2", "2"))
		must(s, s.b.BindPartition("o", "o-3", "3"))
		time.Sleep(refreshEvery + time.Millisecond)
		if n := len(p.LastPublishingIDs()); n != 2 {
			s.Errorf("%d partitions", n)
		}
		must(s, p.Publish(s.ctx, keyed(keyFor("k", 3, 4), 0)))
		must(s, other.Close(s.ctx))
		time.Sleep(refreshEvery)
		if n := len(p.LastPublishingIDs()); n != 4 {
			s.Errorf("%d partitions", n)
		}
		must(s, p.Publish(s.ctx, keyed(keyFor("k", 3, 4), 1)))
		if got := s.bodies("o-3"); len(got) != 1 {
			s.Errorf("o-3 has %v", got)
		}
		must(s, s.env.Close())
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

// TestSceneSuperClose: Close and Env.Close keep their time with a partition that
// confirms nothing, and what it has gets its outcome.
func TestSceneSuperClose(t *testing.T) {
	for _, whole := range []bool{false, true} {
		playSuper(t, 3, func(s *scene) {
			env := s.connect(Config{})
			p := s.producerOf(env, "o", ProducerConfig{SuperStream: true})
			must(s, s.b.SetQuorum("o-1", false))
			outcomes := make(chan error, 3)
			for i := range 3 {
				must(s, p.PublishAsync(s.ctx, keyed(keyFor("k", i, 3), 0), func(err error) { outcomes <- err }))
			}
			begin := time.Now()
			var err error
			if whole {
				err = env.Close()
			} else {
				ctx, cancel := context.WithTimeout(s.ctx, time.Second)
				defer cancel()
				err = p.Close(ctx)
				wantErr(s, err, context.DeadlineExceeded)
			}
			wantErr(s, err, ErrUnconfirmed)
			if took := time.Since(begin); took > 2*CloseTimeout {
				s.Errorf("took %v", took)
			}
			failed := 0
			for range 3 {
				if err := <-outcomes; err != nil {
					wantErr(s, err, ErrUnconfirmed)
					failed++
				}
			}
			if failed != 1 {
				s.Errorf("%d have failed", failed)
			}
			if !whole {
				must(s, env.Close())
			}
		})
	}
}

// TestSceneSuperRefused: what cannot work is refused at once, and owns nothing.
func TestSceneSuperRefused(t *testing.T) {
	playSuper(t, 3, func(s *scene) {
		for want, cfg := range map[error]ProducerConfig{
			ErrInvalidConfig: {SuperStream: true, OwnConnection: true},
		} {
			_, err := s.env.NewProducer(s.ctx, "o", cfg)
			wantErr(s, err, want)
		}
		_, err := s.env.NewProducer(s.ctx, "o-0", ProducerConfig{Routing: RouteByKey()})
		wantErr(s, err, ErrInvalidConfig)
		_, err = s.env.NewProducer(s.ctx, "s", ProducerConfig{SuperStream: true})
		wantErr(s, err, ErrStreamNotFound)
		for i := range 3 {
			must(s, s.b.SetLeader(fmt.Sprint("o-", i), false))
		}
		_, err = s.env.NewProducer(s.ctx, "o", ProducerConfig{SuperStream: true, Name: "n"})
		wantErr(s, err, ErrStreamUnavailable)
		for i := range 3 {
			must(s, s.b.SetLeader(fmt.Sprint("o-", i), true))
		}
		p := s.superProducer(ProducerConfig{Name: "n"})
		must(s, p.Publish(s.ctx, keyed("a", 0)))
		must(s, p.Close(s.ctx))
		must(s, s.env.Close())
	})
}
