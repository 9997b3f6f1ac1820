package stream

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
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

// TestSceneSuperBeginIsBounded: with many partitions whose producers the broker does
// not answer, NewProducer takes no longer than with one, and they go on by
// themselves.
func TestSceneSuperBeginIsBounded(t *testing.T) {
	playSuper(t, 100, func(s *scene) {
		go func() {
			must(s, s.b.Await(s.ctx, func() bool { return s.b.Received(streamtest.DeclarePublisher) >= 10 }))
			s.b.StopReading()
		}()
		begin := time.Now()
		p := s.superProducer(ProducerConfig{Name: "n"})
		if took := time.Since(begin); took > connectTimeout {
			s.Errorf("took %v", took)
		}
		s.b.ResumeReading()
		for i := range 300 {
			must(s, p.PublishAsync(s.ctx, keyed(fmt.Sprint(i), 0), func(err error) { must(s, err) }))
		}
		must(s, p.Flush(s.ctx))
		must(s, p.Close(s.ctx))
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

// TestSceneSuperNothingSent: a partition counts as stalled too when nothing of its
// own was sent, because the connection is held up by what others have sent.
func TestSceneSuperNothingSent(t *testing.T) {
	const partitions = 12
	playSuper(t, partitions, func(s *scene) {
		p := s.superProducer(ProducerConfig{MaxInFlight: 2 * partitions})
		s.b.StopReading()
		large := func(part int) Message {
			return Message{Key: keyFor("k", part, partitions), Body: make([]byte, 900_000)}
		}
		begin := time.Now()
		for part := range partitions {
			must(s, p.PublishAsync(s.ctx, large(part), nil))
		}
		for part := range partitions {
			var err error
			for err == nil {
				err = p.PublishAsync(s.ctx, large(part), nil)
			}
			wantErr(s, err, ErrBlocked)
		}
		if took := time.Since(begin); took > 2*blockedAfter {
			s.Errorf("the last one was refused after %v", took)
		}
		s.b.ResumeReading()
		must(s, p.Flush(s.ctx))
	})
}

// TestSceneSuperStalledCallback: a callback that finds no room in a partition which
// confirms nothing is refused, and does not hold up the outcomes of the others.
func TestSceneSuperStalledCallback(t *testing.T) {
	playSuper(t, 2, func(s *scene) {
		p := s.superProducer(ProducerConfig{MaxInFlight: 4})
		must(s, s.b.SetQuorum("o-1", false))
		dead, live := keyFor("dead", 1, 2), keyFor("live", 0, 2)
		refused := make(chan error, 1)
		must(s, p.PublishAsync(s.ctx, keyed(live, 0), func(error) {
			var err error
			for i := 0; err == nil; i++ {
				err = p.PublishAsync(s.ctx, keyed(dead, i), nil)
			}
			refused <- err
		}))
		wantErr(s, <-refused, ErrBlocked)
		must(s, p.Publish(s.ctx, keyed(live, 1)))
		must(s, s.b.SetQuorum("o-1", true))
		must(s, p.Close(s.ctx))
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

// TestSceneSuperBoundsBytes: so are the bytes of all partitions together.
func TestSceneSuperBoundsBytes(t *testing.T) {
	playSuper(t, 3, func(s *scene) {
		const most, size = 3000, 100
		p := s.superProducer(ProducerConfig{MaxInFlightBytes: most})
		s.b.WithholdConfirms()
		ctx, cancel := context.WithTimeout(s.ctx, time.Second)
		defer cancel()
		var accepted atomic.Int32
		var all sync.WaitGroup
		for i := range 100 {
			all.Go(func() {
				if p.PublishAsync(ctx, Message{Key: fmt.Sprint(i), Body: make([]byte, size)}, nil) == nil {
					accepted.Add(1)
				}
			})
		}
		all.Wait()
		if n := accepted.Load(); n < most/size/2 || n > most/size {
			s.Errorf("%d messages of %d bytes were accepted", n, size)
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

// TestSceneSuperNameless: a partition whose name cannot be made sure of refuses its
// messages at once after blockedAfter, says so once, and goes on by itself.
func TestSceneSuperNameless(t *testing.T) {
	playSuper(t, 3, func(s *scene) {
		p := s.superProducer(ProducerConfig{Name: "n"})
		s.b.AnswerWith(streamtest.QueryOffset, streamtest.InternalError, 1<<20)
		key := keyFor("k", 1, 3)
		wantErr(s, p.PublishAsync(s.ctx, keyed(key, 0), nil), ErrBlocked)
		for range 20 {
			time.Sleep(time.Second)
			begin := time.Now()
			wantErr(s, p.PublishAsync(s.ctx, keyed(key, 0), nil), ErrBlocked)
			if took := time.Since(begin); took > 0 {
				s.Fatalf("refused after %v", took)
			}
		}
		if n := len(s.reported(StateBlocked)); n != 1 {
			s.Errorf("reported %d times: %v", n, s.story())
		}
		s.b.ClearFaults()
		time.Sleep(blockedAfter)
		must(s, p.Publish(s.ctx, keyed(key, 0)))
		if list := s.reported(StateConnected); len(list) != 4 {
			s.Errorf("reported: %v", s.story())
		}
	})
}

// TestSceneCallbackGoexit: a callback that ends its goroutine, as FailNow of a test
// does, keeps no other callback, no place, and no Flush.
func TestSceneCallbackGoexit(t *testing.T) {
	playSuper(t, 3, func(s *scene) {
		p := s.superProducer(ProducerConfig{MaxInFlight: 20})
		called := 0
		for i := range 200 {
			must(s, p.PublishAsync(s.ctx, keyed(fmt.Sprint(i), 0), func(error) {
				if called++; i%7 == 0 {
					runtime.Goexit()
				}
			}))
		}
		must(s, p.Flush(s.ctx))
		if called != 200 {
			s.Errorf("%d were called", called)
		}
		synctest.Wait() // a place is free once its callback has returned
		p.super.mu.Lock()
		used := p.super.admission.used
		p.super.mu.Unlock()
		if used != (amount{}) {
			s.Errorf("%v are taken", used)
		}
		must(s, p.PublishAsync(s.ctx, keyed("last", 0), func(error) { runtime.Goexit() }))
		must(s, p.Close(s.ctx))
	})
}

// TestSceneSuperFilterUnsupported: a message with a filter value that is accepted
// before its partition has a leader is refused once that is a broker without filters.
// The producer goes on.
func TestSceneSuperFilterUnsupported(t *testing.T) {
	playSuper(t, 2, func(s *scene) {
		must(s, s.b.SetLeader("o-1", false))
		p := s.superProducer(ProducerConfig{})
		key := keyFor("k", 1, 2)
		m := keyed(key, 0)
		m.FilterValue = "a"
		outcomes := make(chan error, 2)
		must(s, p.PublishAsync(s.ctx, m, func(err error) { outcomes <- err }))
		must(s, p.PublishAsync(s.ctx, keyed(key, 1), func(err error) { outcomes <- err }))
		must(s, s.b.SetLeader("o-1", true))
		wantErr(s, <-outcomes, ErrUnsupported)
		must(s, <-outcomes)
		must(s, p.Close(s.ctx))
		if n := len(s.reported(StateReconnecting)); n > 10 {
			s.Errorf("it has connected anew %d times", n)
		}
	}, streamtest.WithoutFilters())
}
