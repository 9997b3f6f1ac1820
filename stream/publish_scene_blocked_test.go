package stream

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/streamtest"
)

// TestSceneWithheldConfirms: without a name, a confirm that does not come while
// the broker is alive makes no copies but one for each connection. It is no reason
// to leave the connection, however often ConfirmTimeout passes: each time the
// producer asks who leads the stream, and it is this broker.
func TestSceneWithheldConfirms(t *testing.T) {
	for _, name := range []string{"", "n"} {
		play(t, Config{Heartbeat: time.Second}, func(s *scene) {
			const total = 10
			o := s.logOf(s.producer("s", ProducerConfig{Name: name, ConfirmTimeout: 2 * time.Second}))
			s.b.WithholdConfirms()
			for i := range total {
				o.publish(text("%d", i))
			}
			asked := s.b.Received(streamtest.Metadata)
			time.Sleep(10 * time.Minute)
			if n := len(s.b.Messages("s")); n > 2*total {
				s.Errorf("after ten minutes %d messages are %d in the stream", total, n)
			}
			if n := s.b.Received(streamtest.Metadata) - asked; n < 100 || n > 400 {
				s.Errorf("in ten minutes the producer asked %d times who leads the stream, and its ConfirmTimeout is 2 s", n)
			}
			if o.count() > 0 {
				s.Errorf("%d have an outcome without a confirm", o.count())
			}
			s.b.ReleaseConfirms()
			must(s, o.p.Close(s.ctx))
			o.checkAll()
		})
	}
}

// TestSceneBlocked: a broker that is alive and takes nothing is reported, with
// what the reason may be. The producer publishes again by itself when it is over,
// and makes no connection after the other meanwhile.
func TestSceneBlocked(t *testing.T) {
	for _, test := range []struct {
		name       string
		block, end func(*streamtest.Broker) error
	}{
		{"disk alarm",
			func(b *streamtest.Broker) error { b.SetDiskAlarm(true); return nil },
			func(b *streamtest.Broker) error { b.SetDiskAlarm(false); return nil }},
		{"no quorum",
			func(b *streamtest.Broker) error { return b.SetQuorum("s", false) },
			func(b *streamtest.Broker) error { return b.SetQuorum("s", true) }},
		{"flow control",
			func(b *streamtest.Broker) error {
				for _, c := range b.Connections() {
					if c.Publishers > 0 {
						b.StopReadingFrom(c.Name)
					}
				}
				return nil
			},
			func(b *streamtest.Broker) error { b.ClearFaults(); return nil }},
	} {
		for _, name := range []string{"", "n"} {
			play(t, Config{Heartbeat: time.Second}, func(s *scene) {
				o := s.logOf(s.producer("s", ProducerConfig{Name: name}))
				o.publish(text("before"))
				s.until("confirmed", func() bool { return o.count() == 1 })
				must(s, test.block(s.b))
				for i := range 3000 {
					o.publish(text("%d", i))
				}
				begin := time.Now()
				s.until(test.name, func() bool { return len(s.reported(StateBlocked)) > 0 })
				if took, _ := s.since(begin, StateBlocked); took > time.Minute {
					s.Errorf("%s: reported after %v", test.name, took)
				}
				err := s.reported(StateBlocked)[0].Err
				wantErr(s, err, ErrBlocked)
				for _, cause := range []string{"disk", "quorum"} {
					if err == nil || !oneOf(err.Error(), cause) {
						s.Errorf("%s: %v does not name %s", test.name, err, cause)
					}
				}
				time.Sleep(10 * time.Minute)
				if n := s.b.Received(streamtest.Open); n > 10 {
					s.Errorf("%s: %d connections were opened", test.name, n)
				}
				if n := len(s.reported(StateBlocked)); n > 3 {
					s.Errorf("%s: reported %d times", test.name, n)
				}
				must(s, test.end(s.b))
				must(s, o.p.Flush(s.ctx))
				o.checkAll()
				s.until(test.name+": its end", func() bool { return len(s.reported(StateConnected)) > 1 })
				must(s, o.p.Publish(s.ctx, text("after")))
			})
		}
	}
}

// TestSceneNewWhileBlocked: a producer cannot be made during a disk alarm, and the
// error says so; one that reconnects waits.
func TestSceneNewWhileBlocked(t *testing.T) {
	play(t, Config{Heartbeat: time.Second}, func(s *scene) {
		p := s.producer("s", ProducerConfig{Name: "n"})
		must(s, p.Publish(s.ctx, text("before")))
		others := runtime.GOMAXPROCS(0)
		for range others { // the next one joins one of these on its connection
			s.producer("s", ProducerConfig{})
		}
		s.b.SetDiskAlarm(true)
		short, cancel := context.WithTimeout(s.ctx, time.Minute)
		defer cancel()
		_, err := s.env.NewProducer(short, "s", ProducerConfig{})
		wantErr(s, err, ErrBlocked)
		if err == nil || !oneOf(err.Error(), "disk") {
			s.Errorf("%v does not name the disk", err)
		}
		s.b.DropConnections(streamtest.CutRST)
		s.until("reported", func() bool { return len(s.reported(StateBlocked)) > 0 })
		wantErr(s, s.reported(StateBlocked)[0].Err, ErrBlocked)
		if errs := s.reported(StateClosed); len(errs) > 0 {
			s.Fatalf("the producer has ended: %s", s.story())
		}
		published := make(chan error, 1)
		go func() { published <- p.Publish(s.ctx, text("during")) }()
		time.Sleep(time.Minute)
		if n := len(s.reported(StateBlocked)); n != 1+others {
			s.Errorf("reported %d times", n)
		}
		s.b.SetDiskAlarm(false)
		must(s, <-published)
		must(s, p.Publish(s.ctx, text("after")))
		if n := len(s.b.Messages("s")); n != 3 {
			s.Errorf("%d messages", n)
		}
	})
}

// TestSceneConsumerBesideAlarm: consumers of the same Env, and what they store, do
// not notice that the producers' connections are not read.
func TestSceneConsumerBesideAlarm(t *testing.T) {
	play(t, Config{Heartbeat: time.Second}, func(s *scene) {
		o := s.logOf(s.producer("s", ProducerConfig{}))
		o.publish(text("before"))
		s.create("other")
		c, err := s.env.NewConsumer("other", ConsumerConfig{Name: "c", Start: First()})
		must(s, err)
		ctx, cancel := context.WithCancel(s.ctx)
		var wg sync.WaitGroup
		handled := make(chan string, 1000)
		wg.Go(func() {
			must(s, c.Run(ctx, func(_ context.Context, d *Delivery) error { handled <- string(d.Body); return nil }))
		})
		s.b.SetDiskAlarm(true)
		for i := range 3000 {
			o.publish(text("%d", i))
		}
		for i := range 100 {
			must(s, s.b.Publish("other", fmt.Sprint(i)))
			begin := time.Now()
			if got := <-handled; got != fmt.Sprint(i) || time.Since(begin) > time.Second {
				s.Errorf("message %d is %s, %v late", i, got, time.Since(begin))
			}
			time.Sleep(time.Second)
		}
		stored, ok := s.b.Offset("c", "other")
		if !ok || stored < 98 {
			s.Errorf("stored %d, %v", stored, ok)
		}
		cancel()
		wg.Wait()
		s.b.SetDiskAlarm(false)
		must(s, o.p.Close(s.ctx))
		o.checkAll()
	})
}

// TestSceneOneWithoutQuorum: a stream that confirms nothing takes up what room it
// may have, and the producers of others that share its connections go on at their
// rate. When its quorum is back, everything is there once, in order.
func TestSceneOneWithoutQuorum(t *testing.T) {
	play(t, Config{Heartbeat: time.Second}, func(s *scene) {
		const others, greedy, rate = 4, 6, 2 * time.Millisecond
		var stuck, live []*sceneLog
		for i := range greedy { // 6 times 10,000 messages are more than a connection may have unconfirmed
			stuck = append(stuck, s.logOf(s.producer("s", ProducerConfig{Name: fmt.Sprint("stuck", i), MaxInFlight: 10_000})))
		}
		for i := range others {
			stream := fmt.Sprint("live", i)
			s.create(stream)
			live = append(live, s.logOf(s.producer(stream, ProducerConfig{Name: "n"})))
		}
		must(s, s.b.SetQuorum("s", false))
		ctx, cancel := context.WithCancel(s.ctx)
		var wg sync.WaitGroup
		for _, o := range stuck {
			wg.Go(func() {
				for i := 0; ctx.Err() == nil; i++ {
					o.publishUnder(ctx, text("%s-%d", o.p.cfg.Name, i))
				}
			})
		}
		time.Sleep(time.Second) // all of them are full by then
		const seconds = 15
		worst := time.Duration(0)
		var mu sync.Mutex
		for n, o := range live {
			wg.Go(func() {
				for i := range int(seconds * time.Second / rate) {
					begin := time.Now()
					if err := o.p.Publish(s.ctx, text("%d-%d", n, i)); err != nil {
						s.Errorf("stream %d: %v", n, err)
						return
					}
					mu.Lock()
					worst = max(worst, time.Since(begin))
					mu.Unlock()
					time.Sleep(rate - time.Since(begin))
				}
			})
		}
		time.Sleep(seconds*time.Second + time.Second)
		mu.Lock()
		if worst > time.Second {
			s.Errorf("a producer of another stream waited %v for a confirm", worst)
		}
		mu.Unlock()
		for n := range live {
			if got, want := len(s.b.Messages(fmt.Sprint("live", n))), int(seconds*time.Second/rate); got < want*9/10 {
				s.Errorf("stream %d has %d messages of %d", n, got, want)
			}
		}
		if n := len(s.b.Messages("s")); n > 0 {
			s.Errorf("%d messages are committed without a quorum", n)
		}
		s.wantOneMove(func(c StateChange) bool { return c.Stream != "s" })
		must(s, s.b.SetQuorum("s", true))
		cancel()
		wg.Wait()
		for _, o := range stuck {
			must(s, o.p.Close(s.ctx))
			o.checkAll()
		}
	})
}

// TestSceneTwoWithoutQuorum: two streams that confirm nothing take all the room of
// each connection. The producers of another one leave for connections where there is
// room, and the two stay where their messages are.
func TestSceneTwoWithoutQuorum(t *testing.T) {
	play(t, Config{Heartbeat: time.Second}, func(s *scene) {
		s.create("s2", "live")
		conns := runtime.GOMAXPROCS(0)
		var stuck, live []*sceneLog
		for _, stream := range []string{"s", "s2"} {
			for i := range conns { // one on each connection
				stuck = append(stuck, s.logOf(s.producer(stream, ProducerConfig{Name: fmt.Sprint(stream, i), MaxInFlight: 30_000})))
			}
		}
		for i := range conns {
			live = append(live, s.logOf(s.producer("live", ProducerConfig{Name: fmt.Sprint("live", i)})))
			must(s, live[i].p.Publish(s.ctx, text("")))
		}
		for _, stream := range []string{"s", "s2"} {
			must(s, s.b.SetQuorum(stream, false))
		}
		for i := range 30_000 {
			for _, o := range stuck {
				o.publish(text("%s-%d", o.p.cfg.Name, i))
			}
		}
		time.Sleep(time.Second) // the connections have all that they may
		for round := range 5 {
			for i, o := range live {
				begin := time.Now()
				for n := range 2000 { // more than the rest of the room that no frame of theirs fits into
					o.publish(text("%d-%d-%d", i, round, n))
				}
				must(s, o.p.Flush(s.ctx))
				if took := time.Since(begin); took > 10*time.Second || round > 0 && took > time.Second {
					s.Fatalf("round %d of producer %d took %v", round, i, took)
				}
			}
		}
		s.wantOneMove(func(c StateChange) bool { return c.Stream == "live" })
		for _, stream := range []string{"s", "s2"} {
			must(s, s.b.SetQuorum(stream, true))
		}
		for _, o := range append(stuck, live...) {
			must(s, o.p.Close(s.ctx))
			o.checkAll()
		}
	})
}

// wantOneMove expects that each of the producers that may move has left its connection
// once at most, and no other one.
func (s *scene) wantOneMove(may func(StateChange) bool) {
	s.Helper()
	moves := make(map[[2]string]int)
	for _, c := range s.reported(StateReconnecting) {
		of := [2]string{c.Stream, c.Name}
		if moves[of]++; moves[of] > 1 || !may(c) {
			s.Errorf("%q has left a connection, for the %d. time: %v", of, moves[of], c.Err)
		}
	}
}

// TestSceneTwentyMoves: each of 20 leaders is lost with thousands of messages
// unconfirmed, whose credit the connection never gets back. Publishing goes on, on a
// connection of the producer's own and on one that others keep open.
func TestSceneTwentyMoves(t *testing.T) {
	for _, own := range []bool{false, true} {
		play(t, Config{Heartbeat: time.Second}, func(s *scene) {
			const moves, each = 20, 5000
			s.create("other")
			var beside []*sceneLog
			for i := range runtime.GOMAXPROCS(0) { // one on each connection
				beside = append(beside, s.logOf(s.producer("other", ProducerConfig{Name: fmt.Sprint("n", i), OwnConnection: own})))
			}
			o := s.logOf(s.producer("s", ProducerConfig{Name: "n", OwnConnection: own}))
			shared := slices.ContainsFunc(s.b.Connections(), func(c streamtest.Connection) bool { return c.Publishers > 1 })
			if shared == own {
				s.Fatalf("producers share a connection: %v, and should: %v", shared, !own)
			}
			for m := range moves {
				must(s, s.b.SetQuorum("s", false))
				for i := range each {
					o.publish(text("%d-%d", m, i))
				}
				for i, other := range beside {
					other.publish(text("%d-%d", i, m))
				}
				time.Sleep(100 * time.Millisecond) // all of them are at the leader
				if m%2 == 0 {
					must(s, s.b.MoveLeader("s"))
				} else {
					must(s, s.b.LoseLeader("s"))
				}
				time.Sleep(100 * time.Millisecond)
			}
			for _, log := range append(beside, o) {
				must(s, log.p.Close(s.ctx))
				log.checkAll()
			}
			if n := len(s.reported(StateBlocked)); n > 0 {
				s.Errorf("blocked %d times", n)
			}
		})
	}
}

// publishUnder is publish under a context, whose end is no error.
func (o *sceneLog) publishUnder(ctx context.Context, m Message) {
	o.s.Helper()
	body := string(m.Body)
	o.mu.Lock()
	o.accepted = append(o.accepted, body)
	o.mu.Unlock()
	err := o.p.PublishAsync(ctx, m, func(err error) { o.settle(body, err) })
	if err == nil {
		return
	}
	if !errors.Is(err, context.Canceled) {
		o.s.Error(err)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.accepted = o.accepted[:len(o.accepted)-1]
}
