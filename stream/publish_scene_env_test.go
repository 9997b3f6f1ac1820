package stream

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-go/tidemark/streamtest"
)

// TestSceneEndedLeavesNothing: a producer that has ended by itself, and that
// nobody closes, leaves no goroutine behind when the Env is closed.
func TestSceneEndedLeavesNothing(t *testing.T) {
	noLeaks(t) // not in a bubble, which would end the process
	b := streamtest.NewBroker(t, streamtest.InMemory())
	must(t, b.CreateStream("s"))
	ended := make(chan struct{})
	env, err := Connect(inTime(t), Config{URIs: []string{b.URI()}, Dial: b.Dial, OnState: func(c StateChange) {
		if c.State == StateClosed {
			close(ended)
		}
	}})
	must(t, err)
	defer env.Close()
	p, err := env.NewProducer(inTime(t), "s", ProducerConfig{})
	must(t, err)
	must(t, p.PublishAsync(inTime(t), text("x"), func(error) {}))
	must(t, p.Flush(inTime(t)))
	must(t, b.DeleteStream("s"))
	recv(t, ended, "the end of the producer")
}

// TestScenePermissions: a producer without a name needs permission to write only.
// With a name it needs to read as well. Who lacks one is told which.
func TestScenePermissions(t *testing.T) {
	only := func(name string, p streamtest.Permission) streamtest.Option {
		return streamtest.WithUser(streamtest.User{Name: name, Password: name, Permissions: map[string]streamtest.Permission{"/": p}})
	}
	play(t, Config{}, func(s *scene) {
		as := func(user string) *Env {
			env, err := Connect(s.ctx, Config{URIs: []string{strings.Replace(s.b.URI(), "guest:guest", user+":"+user, 1)}, Dial: s.b.Dial})
			must(s, err)
			s.Cleanup(func() { _ = env.Close() })
			return env
		}
		writer, reader := as("writer"), as("reader")
		must(s, s.producerOf(writer, "s", ProducerConfig{}).Publish(s.ctx, text("x")))
		for _, test := range []struct {
			env           *Env
			user, missing string
			name          string
		}{{writer, "writer", "read", "n"}, {reader, "reader", "write", ""}, {reader, "reader", "write", "n"}} {
			_, err := test.env.NewProducer(s.ctx, "s", ProducerConfig{Name: test.name})
			wantErr(s, err, ErrAccessRefused)
			if err == nil || !strings.Contains(err.Error(), test.missing) || !strings.Contains(err.Error(), test.user) {
				s.Errorf("the %s with the name %q: %v does not say that %s lacks permission to %s", test.user, test.name, err, test.user, test.missing)
			}
		}
	}, streamtest.WithUser(streamtest.User{Name: "guest", Password: "guest"}),
		only("writer", streamtest.Permission{Write: ".*"}), only("reader", streamtest.Permission{Read: ".*"}))
}

// TestSceneManyProducers: 1,000 producers of one stream, and of 1,000 streams,
// share a few connections, all come back after a drop, and publish.
func TestSceneManyProducers(t *testing.T) {
	for _, streams := range []int{1, 1000} {
		play(t, Config{}, func(s *scene) {
			const producers = 1000
			var list []*sceneLog
			for i := range producers {
				stream := "s"
				if streams > 1 {
					stream = fmt.Sprint("s", i)
					s.create(stream)
				}
				list = append(list, s.logOf(s.producer(stream, ProducerConfig{Name: fmt.Sprint(i)})))
			}
			connections := func() (n int) {
				for _, c := range s.b.Connections() {
					if c.Publishers > 0 {
						n++
					}
				}
				return n
			}
			if n := connections(); n > 16 {
				s.Errorf("%d producers have %d connections", producers, n)
			}
			round := func(n int) {
				var wg sync.WaitGroup
				for i, o := range list {
					wg.Go(func() { must(s, o.p.Publish(s.ctx, text("%d-%d", i, n))) })
				}
				wg.Wait()
			}
			round(0)
			s.b.DropConnections(streamtest.CutRST)
			round(1)
			if n := connections(); n > 32 {
				s.Errorf("%d producers have %d connections after a drop", producers, n)
			}
			total := 0
			for _, name := range s.b.Streams() {
				total += len(s.b.Messages(name))
			}
			if total != 2*producers {
				s.Errorf("%d messages, want %d", total, 2*producers)
			}
			var wg sync.WaitGroup
			for _, o := range list {
				wg.Go(func() { must(s, o.p.Close(s.ctx)) })
			}
			wg.Wait()
			time.Sleep(time.Minute)
			if n := connections(); n > 0 {
				s.Errorf("%d connections have publishers after all producers are closed", n)
			}
		})
	}
}

// TestSceneOwnConnection: a producer that asks for a connection of its own shares
// none, and does not wait for the others.
func TestSceneOwnConnection(t *testing.T) {
	play(t, Config{}, func(s *scene) {
		s.create("other")
		shared := []*Producer{s.producer("s", ProducerConfig{}), s.producer("other", ProducerConfig{})}
		own := []*Producer{s.producer("s", ProducerConfig{OwnConnection: true}), s.producer("s", ProducerConfig{OwnConnection: true})}
		alone := 0
		for _, c := range s.b.Connections() {
			if c.Publishers == 1 {
				alone++
			}
		}
		if alone < len(own) {
			s.Errorf("%d connections have a single publisher, want %d at least", alone, len(own))
		}
		for _, p := range append(shared, own...) {
			must(s, p.Publish(s.ctx, text("x")))
		}
	})
}

// TestSceneUnavailable: a stream without a leader for a minute.
func TestSceneUnavailable(t *testing.T) {
	for _, name := range []string{"", "n"} {
		play(t, Config{}, func(s *scene) {
			o := s.logOf(s.producer("s", ProducerConfig{Name: name}))
			o.publish(text("before"))
			must(s, o.p.Flush(s.ctx))
			must(s, s.b.SetAvailable("s", false))
			for i := range 100 {
				o.publish(text("%d", i))
			}
			time.Sleep(time.Minute)
			if err := s.reported(StateReconnecting); len(err) == 0 {
				s.Errorf("the producers were %s", s.story())
			}
			must(s, s.b.SetAvailable("s", true))
			must(s, o.p.Close(s.ctx))
			o.checkAll()
		})
	}
}

// TestSceneEnvCloses: Env.Close confirms what is on its way, and ends producers
// that callers wait in.
func TestSceneEnvCloses(t *testing.T) {
	play(t, Config{}, func(s *scene) {
		o := s.logOf(s.producer("s", ProducerConfig{Name: "n", MaxInFlight: 100}))
		s.b.DelayConfirms(10 * time.Millisecond)
		for i := range 100 {
			o.publish(text("%d", i))
		}
		late := make(chan error, 1)
		go func() { late <- o.p.Publish(s.ctx, text("late")) }() // it may get a place or not
		time.Sleep(time.Millisecond)
		must(s, s.env.Close())
		if failed := o.checkConfirmed(); len(failed) > 0 {
			s.Errorf("%q failed", failed)
		}
		if err := <-late; err != nil {
			wantErr(s, err, ErrClosed)
		}
		wantErr(s, o.p.Publish(s.ctx, text("x")), ErrClosed)
		_, err := s.env.NewProducer(s.ctx, "s", ProducerConfig{})
		wantErr(s, err, ErrClosed)
	})
}

// TestScenePublishContexts: a caller that gives up leaves nothing wrong behind.
func TestScenePublishContexts(t *testing.T) {
	play(t, Config{}, func(s *scene) {
		p := s.producer("s", ProducerConfig{MaxInFlight: 2})
		ended, cancel := context.WithCancel(s.ctx)
		cancel()
		wantErr(s, p.Publish(ended, text("never")), context.Canceled)
		wantErr(s, p.PublishAsync(ended, text("never"), func(error) { s.Error("called") }), context.Canceled)
		s.b.WithholdConfirms()
		for i := range 2 {
			must(s, p.PublishAsync(s.ctx, text("%d", i), nil))
		}
		var wg sync.WaitGroup
		for range 50 {
			short, cancel := context.WithTimeout(s.ctx, time.Second)
			defer cancel()
			wg.Go(func() { wantErr(s, p.Publish(short, text("never")), context.DeadlineExceeded) })
		}
		wg.Wait()
		s.b.ReleaseConfirms()
		must(s, p.Publish(s.ctx, text("2")))
		must(s, p.Close(s.ctx))
		if got := strings.Join(s.bodies("s"), " "); got != "0 1 2" {
			s.Errorf("the stream has %s", got)
		}
	})
}

// TestSceneEnvBytes: the producers of an Env share its bound of bytes, and each of
// them may have one message whatever the others have.
func TestSceneEnvBytes(t *testing.T) {
	play(t, Config{MaxInFlightBytes: 20_000}, func(s *scene) {
		const producers, each = 5, 100
		s.b.WithholdConfirms()
		var wg sync.WaitGroup
		for range producers {
			p := s.producer("s", ProducerConfig{})
			wg.Go(func() {
				for range each {
					must(s, p.PublishAsync(s.ctx, Message{Body: make([]byte, 1000)}, nil))
				}
				must(s, p.Flush(s.ctx))
			})
		}
		time.Sleep(time.Minute)
		if n := len(s.b.Messages("s")); n < 15 || n > 20+producers {
			s.Errorf("%d messages of 1,000 bytes are on their way, and the Env has room for 20,000 bytes", n)
		}
		s.b.ReleaseConfirms()
		wg.Wait()
		if n := len(s.b.Messages("s")); n != producers*each {
			s.Errorf("%d messages, want %d", n, producers*each)
		}
	})
}

// TestSceneEnvClosesWhileProducersBegin: Env.Close ends a NewProducer that is at
// work, and does not wait for the producer that never comes.
func TestSceneEnvClosesWhileProducersBegin(t *testing.T) {
	for _, super := range []bool{false, true} {
		play(t, Config{}, func(s *scene) {
			must(s, s.env.DeclareSuperStream(s.ctx, "o", SuperStreamConfig{Partitions: 3}))
			var hang atomic.Bool
			env, err := Connect(s.ctx, Config{URIs: []string{s.b.URI()}, Logger: slog.New(slog.DiscardHandler),
				Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
					if hang.Load() {
						<-ctx.Done()
						return nil, ctx.Err()
					}
					return s.b.Dial(ctx, network, address)
				}})
			must(s, err)
			hang.Store(true)
			begun := make(chan error, 1)
			go func() {
				_, err := env.NewProducer(s.ctx, map[bool]string{false: "s", true: "o"}[super], ProducerConfig{SuperStream: super})
				begun <- err
			}()
			synctest.Wait()
			closing := time.Now()
			must(s, env.Close())
			if took := time.Since(closing); took >= time.Second {
				s.Errorf("super stream %v: Close took %v", super, took)
			}
			wantErr(s, <-begun, ErrClosed)
		})
	}
}
