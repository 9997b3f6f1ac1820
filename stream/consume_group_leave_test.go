package stream

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-go/tidemark/streamtest"
)

// A member that the broker has forgotten joins anew: only where the broker has the
// fault, and only while messages wait, whether an offset is stored or none yet.
func TestGroupForgottenMember(t *testing.T) {
	for _, x := range []struct {
		version         string
		forgets, manual bool
	}{{"4.2.1", true, false}, {"4.2.1", true, true}, {"4.3.6", false, false}} {
		version, forgets := x.version, x.forgets
		t.Run(fmt.Sprint(version, " manual ", x.manual), func(t *testing.T) {
			playPartition(t, func(g *group) {
				a := g.join("a", ConsumerConfig{Store: StorePolicy{Manual: x.manual}}, nil)
				a.active(1)
				release := g.hold("a 1")
				g.publish("1", "2")
				g.began("a 1")
				must(t, g.join("b", ConsumerConfig{}, nil).end()) // joins and leaves while a steps down
				release()
				g.until("a waits", func() bool { return a.count(StateWaiting) == 2 })
				time.Sleep(5 * time.Minute)
				if got := slices.Contains(g.list(), "a 2"); got != forgets {
					t.Errorf("it went on: %v", got)
				}
				if n := a.count(StateReconnecting); (n == 1) != forgets || n > 1 {
					t.Errorf("it joined anew %d times", n)
				}
				must(t, a.end())
			}, streamtest.WithStepDownBug(version))
		})
	}
}

// A member that waits, and that is not forgotten, stays where it is, however slow
// the active one is.
func TestGroupWaitingMemberStays(t *testing.T) {
	playPartition(t, func(g *group) {
		a := g.join("a", ConsumerConfig{}, nil)
		a.active(1)
		b := g.join("b", ConsumerConfig{}, nil)
		b.active(1)
		g.publish("1")
		g.want("b 1")
		release := g.hold("b 2")
		g.publish("2", "3")
		g.began("b 2")
		time.Sleep(20 * time.Second)
		release()
		time.Sleep(30 * time.Minute)
		if n := a.count(StateReconnecting); n > 0 {
			t.Errorf("it joined anew %d times", n)
		}
		g.want("b 1", "b 2", "b 3")
	}, streamtest.WithStepDownBug("4.2.1"))
}

// A member whose broker does not say what is stored stays too: it knows nothing.
func TestGroupUnansweredMemberStays(t *testing.T) {
	playPartition(t, func(g *group) {
		a := g.join("a", ConsumerConfig{}, nil)
		a.active(1)
		g.publish("1")
		g.want("a 1")
		release := g.hold("a 2")
		g.publish("2", "3")
		g.began("a 2")
		must(t, g.join("b", ConsumerConfig{}, nil).end())
		release()
		g.until("a waits", func() bool { return a.count(StateWaiting) == 2 })
		g.b.AnswerWith(streamtest.QueryOffset, streamtest.InternalError, streamtest.Forever)
		time.Sleep(10 * time.Minute)
		if n := a.count(StateReconnecting); n > 0 {
			t.Errorf("it joined anew %d times", n)
		}
		g.b.ClearFaults()
		time.Sleep(5 * time.Minute)
		if n := a.count(StateReconnecting); n != 1 {
			t.Errorf("it joined anew %d times", n)
		}
		must(t, a.end())
	}, streamtest.WithStepDownBug("4.2.1"))
}

// Env.Close ends a member as the end of its context does: it stores and leaves.
func TestGroupEnvClose(t *testing.T) {
	playGroup(t, func(g *group) {
		a := g.join("a", ConsumerConfig{Store: StorePolicy{Interval: time.Hour}}, nil)
		a.active(1)
		b := g.join("b", ConsumerConfig{}, nil)
		g.publish("1", "2")
		g.want("a 1", "a 2")
		must(t, a.env.Close())
		recv(t, a.done, "the end")
		wantErr(t, a.err, ErrClosed)
		g.publish("3")
		g.want("a 1", "a 2", "b 3")
		c := g.join("c", ConsumerConfig{}, nil)
		must(t, c.env.Close())
		recv(t, c.done, "the end of one that waits")
		wantErr(t, c.err, ErrClosed)
		must(t, b.end())
	})
}

// A member that leaves in order says goodbye on its connection, too.
func TestGroupSaysGoodbye(t *testing.T) {
	playGroup(t, func(g *group) {
		for range 2 {
			a := g.join("a", ConsumerConfig{}, nil)
			a.active(1)
			before := g.b.Received(streamtest.Close)
			must(t, a.end())
			if n := g.b.Received(streamtest.Close) - before; n != 1 {
				t.Errorf("%d connections were closed with a goodbye, want 1", n)
			}
		}
	})
}

// A stream that is deleted ends the run of a member as any run, and one that is
// created again meanwhile is read from its beginning.
func TestGroupStreamDeleted(t *testing.T) {
	playGroup(t, func(g *group) {
		a := g.join("a", ConsumerConfig{}, nil)
		a.active(1)
		b := g.join("b", ConsumerConfig{}, nil)
		g.publish("1", "2")
		g.want("a 1", "a 2")
		must(t, g.b.DeleteStream("s"))
		must(t, g.b.CreateStream("s"))
		g.until("one is active again", func() bool { return a.count(StateActive)+b.count(StateActive) == 2 })
		g.publish("new")
		g.until("it is handled", func() bool { return len(g.list()) == 3 })
		must(t, g.b.DeleteStream("s"))
		for _, m := range []*groupMember{a, b} {
			recv(t, m.done, "the end")
			wantErr(t, m.err, ErrStreamDeleted)
		}
	})
}

// A member that leaves while the broker waits for its answer gives it nevertheless:
// the broker would end the connection after a minute, which others use too.
func TestGroupLeavesNoAnswerOwed(t *testing.T) {
	playPartition(t, func(g *group) {
		env := g.connect(Config{})
		reach(t, env, readersPerNode(1))
		ctx, stop := context.WithCancel(g.ctx)
		defer stop()
		run := func(h Handler) chan error {
			c, err := env.NewConsumer(g.stream, ConsumerConfig{Name: "g", SingleActive: true})
			must(t, err)
			c.superStream = g.super
			done := make(chan error, 1)
			go func() { done <- c.Run(ctx, h) }()
			return done
		}
		held, began := make(chan struct{}), make(chan struct{})
		done := run(func(context.Context, *Delivery) error {
			close(began)
			<-held
			return nil
		})
		g.publish("1")
		recv(t, began, "the handler's call")
		neighbour, err := env.NewConsumer("s", ConsumerConfig{})
		must(t, err)
		got := make(chan struct{}, 10)
		ended := make(chan error, 1)
		other, end := context.WithCancel(g.ctx)
		go func() {
			ended <- neighbour.Run(other, func(context.Context, *Delivery) error { got <- struct{}{}; return nil })
		}()
		must(t, g.b.Publish("s", "x"))
		recv(t, got, "the neighbour's message")
		b := g.join("b", ConsumerConfig{}, nil) // so that the first is told to step down
		synctest.Wait()
		stop()
		close(held)
		must(t, recv(t, done, "the end"))
		b.active(1)
		subscribed := g.b.Received(streamtest.Subscribe)
		time.Sleep(3 * time.Minute)
		must(t, g.b.Publish("s", "y"))
		recv(t, got, "the neighbour's message")
		if n := g.b.Received(streamtest.Subscribe); n != subscribed {
			t.Error("the neighbour has lost its connection")
		}
		end()
		must(t, recv(t, ended, "the neighbour's end"))
		must(t, b.end())
	})
}
