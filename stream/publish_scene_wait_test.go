package stream

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-go/tidemark/streamtest"
)

// TestSceneCallersInTurn: 10,000 callers wait in Publish for a place, of which
// there are 200. They get one in the order in which they came, but for those who
// gave up. Those who get theirs at the same time may publish in any order.
func TestSceneCallersInTurn(t *testing.T) {
	play(t, Config{}, func(s *scene) {
		const callers, room = 10_000, 200
		p := s.producer("s", ProducerConfig{MaxInFlight: room})
		s.b.WithholdConfirms()
		impatient, giveUp := context.WithCancel(s.ctx)
		var wg sync.WaitGroup
		errs := make([]error, callers)
		for i := range callers {
			ctx := s.ctx
			if i >= room && i%10 == 0 {
				ctx = impatient
			}
			wg.Go(func() { errs[i] = p.Publish(ctx, text("%d", i)) })
			synctest.Wait() // it has its place, or is in line
		}
		giveUp()
		synctest.Wait()
		s.b.ReleaseConfirms()
		wg.Wait()
		var want []string
		for i, err := range errs {
			if i >= room && i%10 == 0 {
				wantErr(t, err, context.Canceled)
				continue
			}
			want = append(want, fmt.Sprint(i))
			must(s, err)
		}
		got := s.bodies("s")
		if len(got) != len(want) {
			s.Fatalf("%d messages, want %d", len(got), len(want))
		}
		turn := make(map[string]int)
		for i, body := range want {
			turn[body] = i
		}
		for i, body := range got {
			if at, one := turn[body]; !one || at > i+room {
				s.Fatalf("message %d is that of caller %s, who came as number %d of those who wait", i, body, at)
			}
		}
	})
}

// TestSceneLargeCallerInTurn: a caller with a large message is not overtaken for
// ever by those with small ones, for which there is room.
func TestSceneLargeCallerInTurn(t *testing.T) {
	play(t, Config{}, func(s *scene) {
		const room = 10_000
		p := s.producer("s", ProducerConfig{MaxInFlightBytes: room})
		s.b.DelayConfirms(time.Millisecond)
		life, end := context.WithCancel(s.ctx)
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				for life.Err() == nil {
					_ = p.Publish(life, Message{Body: make([]byte, room/10)})
				}
			})
		}
		time.Sleep(time.Second)
		before := len(s.b.Messages("s"))
		must(s, p.Publish(s.ctx, Message{Body: make([]byte, room-100)}))
		if n := len(s.b.Messages("s")) - before; n > 100 {
			s.Errorf("%d small messages overtook the large one", n)
		}
		end()
		wg.Wait()
		ignoreUnconfirmed(s, p.Close(s.ctx))
	})
}

// TestSceneSlowCallbacks: a place is free when its callback has returned, not
// before, so that callbacks cannot pile up.
func TestSceneSlowCallbacks(t *testing.T) {
	play(t, Config{}, func(s *scene) {
		const room = 10
		p := s.producer("s", ProducerConfig{MaxInFlight: room})
		step := make(chan struct{})
		accepted := make(chan int, 100)
		go func() {
			for i := range 3 * room {
				if p.PublishAsync(s.ctx, text("%d", i), func(error) { <-step }) != nil {
					return
				}
				accepted <- i
			}
		}()
		time.Sleep(time.Minute) // more than enough for all that may come
		if n := len(accepted); n != room {
			s.Errorf("%d were accepted while no callback returned, want %d", n, room)
		}
		if n := len(s.b.Messages("s")); n != room {
			s.Errorf("%d are in the stream, want %d", n, room)
		}
		for i := range 5 {
			step <- struct{}{}
			time.Sleep(time.Second)
			if n := len(accepted); n != room+i+1 {
				s.Errorf("%d were accepted after %d callbacks, want %d", n, i+1, room+i+1)
			}
		}
		close(step)
		must(s, p.Close(s.ctx))
	})
}

// TestSceneCallbackPublishes: a callback may publish again, however little room
// there is, while others publish too.
func TestSceneCallbackPublishes(t *testing.T) {
	for _, cfg := range []ProducerConfig{{MaxInFlight: 1}, {MaxInFlight: 3, Name: "n"}, {MaxInFlightBytes: 40}} {
		play(t, Config{}, func(s *scene) {
			const total = 200
			p := s.producer("s", cfg)
			var wg sync.WaitGroup
			wg.Add(2 * total)
			for i := range total {
				must(s, p.PublishAsync(s.ctx, text("first %d", i), func(err error) {
					defer wg.Done()
					must(s, err)
					must(s, p.PublishAsync(s.ctx, text("second %d", i), func(err error) {
						defer wg.Done()
						must(s, err)
					}))
				}))
			}
			wg.Wait()
			must(s, p.Close(s.ctx))
			if n := len(s.b.Messages("s")); n != 2*total {
				s.Errorf("%d messages, want %d", n, 2*total)
			}
		})
	}
}

// TestSceneFlush: Flush returns when the callbacks have returned, not when they
// are called, and does not wait for what comes later.
func TestSceneFlush(t *testing.T) {
	play(t, Config{}, func(s *scene) {
		p := s.producer("s", ProducerConfig{})
		returned := 0
		var mu sync.Mutex
		slow := func(error) {
			time.Sleep(time.Second)
			mu.Lock()
			defer mu.Unlock()
			returned++
		}
		for i := range 5 {
			must(s, p.PublishAsync(s.ctx, text("%d", i), slow))
		}
		must(s, p.Flush(s.ctx))
		mu.Lock()
		if returned != 5 {
			s.Errorf("Flush returned after %d of 5 callbacks", returned)
		}
		mu.Unlock()

		s.b.WithholdConfirms()
		must(s, p.PublishAsync(s.ctx, text("withheld"), nil))
		short, cancel := context.WithTimeout(s.ctx, time.Second)
		defer cancel()
		begin := time.Now()
		wantErr(s, p.Flush(short), context.DeadlineExceeded)
		if took := time.Since(begin); took != time.Second {
			s.Errorf("Flush took %v under a context of a second", took)
		}
		s.b.ReleaseConfirms()
		must(s, p.Flush(s.ctx))
		must(s, p.Close(s.ctx))
		must(s, p.Flush(s.ctx))
	})
}

// TestSceneCloseLimits: each Close obeys its own context while another one waits,
// and so does Env.Close.
func TestSceneCloseLimits(t *testing.T) {
	play(t, Config{}, func(s *scene) {
		p := s.producer("s", ProducerConfig{ConfirmTimeout: sceneTime})
		s.b.WithholdConfirms()
		must(s, p.PublishAsync(s.ctx, text("withheld"), nil))
		patient := make(chan error, 1)
		go func() { patient <- p.Close(s.ctx) }()
		synctest.Wait()
		for range 2 {
			short, cancel := context.WithTimeout(s.ctx, time.Second)
			begin := time.Now()
			err := p.Close(short)
			cancel()
			if err == nil {
				s.Error("Close returned nil, and a message is unconfirmed")
			}
			if took := time.Since(begin); took > 1500*time.Millisecond {
				s.Errorf("Close took %v under a context of a second", took)
			}
		}
		begin := time.Now()
		_ = s.env.Close()
		if took := time.Since(begin); took > 2*CloseTimeout+time.Second {
			s.Errorf("Env.Close took %v beside a Close without end, want %v", took, 2*CloseTimeout)
		}
		ignoreUnconfirmed(s, <-patient)
	})
}

// TestSceneCloseAway: a Close while the broker is away or takes nothing does not
// wait longer than its context, and says why the messages have no outcome.
func TestSceneCloseAway(t *testing.T) {
	for name, leave := range map[string]func(*streamtest.Broker){
		"stopped":    (*streamtest.Broker).Stop,
		"silent":     func(b *streamtest.Broker) { b.DropConnections(streamtest.CutSilent) },
		"hanging":    (*streamtest.Broker).StopReading,
		"disk alarm": func(b *streamtest.Broker) { b.SetDiskAlarm(true) },
	} {
		play(t, Config{}, func(s *scene) {
			o := s.logOf(s.producer("s", ProducerConfig{}))
			leave(s.b)
			for i := range 3000 { // a disk alarm lets a packet through
				o.publish(text("%d", i))
			}
			time.Sleep(time.Second)
			ctx, cancel := context.WithTimeout(s.ctx, 2*time.Second)
			defer cancel()
			begin := time.Now()
			err := o.p.Close(ctx)
			wantErr(s, err, ErrUnconfirmed, context.DeadlineExceeded)
			if took := time.Since(begin); took > 2500*time.Millisecond {
				s.Errorf("%s: Close took %v under a context of two seconds", name, took)
			}
			if o.count() != 3000 {
				s.Errorf("%s: %d of 3000 have an outcome", name, o.count())
			}
			wantErr(s, o.of["2999"], ErrUnconfirmed)
			s.b.ClearFaults()
		})
	}
}

// TestSceneCallbackPublishesMany: a callback may publish more than there is room for.
// What was accepted is sent while it waits.
func TestSceneCallbackPublishesMany(t *testing.T) {
	play(t, Config{}, func(s *scene) {
		p := s.producer("s", ProducerConfig{MaxInFlight: 4})
		done := make(chan error, 1)
		must(s, p.PublishAsync(s.ctx, text("first"), func(error) {
			var msgs []Message
			for i := range 20 {
				msgs = append(msgs, text("%d", i))
			}
			done <- p.Publish(s.ctx, msgs...)
		}))
		must(s, <-done)
		if n := len(s.bodies("s")); n != 21 {
			s.Errorf("%d messages", n)
		}
		must(s, p.Close(s.ctx))
	})
}
