package stream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-go/tidemark/streamtest"
)

// The first member handles what comes, the second waits and asks for nothing, and
// goes on where the first has stopped, in the middle of a chunk.
func TestGroupTakesOver(t *testing.T) {
	playGroup(t, func(g *group) {
		a := g.join("a", ConsumerConfig{}, nil)
		a.active(1)
		b := g.join("b", ConsumerConfig{}, nil)
		release := g.hold("a 3")
		g.publish("1", "2", "3", "4", "5")
		g.began("a 3")
		a.stop()
		synctest.Wait()
		release()
		must(t, a.end())
		g.want("a 1", "a 2", "a 3", "b 4", "b 5")
		must(t, b.end())
		g.wantStored(4)
		for _, s := range []State{StateConnected, StateWaiting, StateActive, StateClosed} {
			synctest.Wait()
			if n := b.count(s); n != 1 {
				t.Errorf("%v was reported %d times", s, n)
			}
		}
	})
}

// A member that waits sends nothing but its Subscribe, whatever comes.
func TestGroupWaitsWithoutAsking(t *testing.T) {
	playGroup(t, func(g *group) {
		a := g.join("a", ConsumerConfig{}, nil)
		a.active(1)
		b := g.join("b", ConsumerConfig{}, nil)
		b.wantNothingClaimed()
		g.publish("1", "2", "3")
		g.want("a 1", "a 2", "a 3")
		time.Sleep(10 * time.Minute)
		asked := g.commandsOf(b, streamtest.Credit, streamtest.StreamStats, streamtest.QueryOffset, streamtest.StoreOffset)
		if len(asked) > 0 {
			t.Errorf("it asked %v", asked)
		}
		b.wantNothingClaimed()
		must(t, b.end())
		g.wantStored(2)
		must(t, a.end())
	})
}

// A member that has handled nothing stores nothing when it leaves, active or not:
// no offset 0, which would skip the first message.
func TestGroupIdleMemberStoresNothing(t *testing.T) {
	playGroup(t, func(g *group) {
		a := g.join("a", ConsumerConfig{}, nil)
		a.active(1)
		b := g.join("b", ConsumerConfig{}, nil)
		must(t, b.end())
		must(t, a.end())
		g.wantStored(-1)
		g.publish("1")
		c := g.join("c", ConsumerConfig{}, nil)
		g.want("c 1")
		must(t, c.end())
		g.wantStored(0)
		g.join("d", ConsumerConfig{}, nil).active(1)
		g.publish("2")
		g.want("c 1", "d 2") // the offset 0 is one that was handled
	})
}

// Changes of a healthy group are the only ones: each is a Subscribe or an
// Unsubscribe of the test's, and nobody else joins or leaves. The credit of
// members that were not active is there when they are.
func TestGroupChangesOften(t *testing.T) {
	for name, version := range map[string]streamtest.Option{
		"4.0": streamtest.WithMembersLeavingOneByOne("4.0.5"), "4.2": streamtest.WithVersion("4.2.1"), "4.3": streamtest.WithVersion("4.3.6"),
	} {
		t.Run(name, func(t *testing.T) {
			playPartition(t, func(g *group) {
				var members, all []*groupMember
				n := 0
				var want []string
				for i := range 100 {
					if len(members) < 3 {
						m := g.join(fmt.Sprint("m", i), ConsumerConfig{}, nil)
						members, all = append(members, m), append(all, m)
					} else {
						must(t, members[0].end())
						members = members[1:]
					}
					for range 5 { // more chunks than the credit that Subscribe gives
						n++
						want = append(want, fmt.Sprint(n))
						g.publish(fmt.Sprint(n))
					}
					g.until("all are handled", func() bool { return len(g.list()) >= n })
				}
				time.Sleep(10 * time.Minute)
				for _, m := range all {
					if m.count(StateConnected) != 1 || m.count(StateReconnecting)+m.count(StateOverlap) > 0 {
						t.Errorf("%s was %v", m.name, m.states)
					}
				}
				var got []string
				for _, what := range g.list() {
					got = append(got, strings.Fields(what)[1])
				}
				if !slices.Equal(got, want) {
					t.Errorf("handled %q", g.list())
				}
			}, version)
		})
	}
}

// Two members of a group may share an Env, and nobody else their name.
func TestGroupInOneEnv(t *testing.T) {
	playGroup(t, func(g *group) {
		a := g.join("a", ConsumerConfig{}, nil)
		a.active(1)
		second, err := a.env.NewConsumer("s", ConsumerConfig{Name: "g", SingleActive: true})
		must(t, err)
		ctx, stop := context.WithCancel(g.ctx)
		done := make(chan error, 1)
		b := &groupMember{g: g, name: "b"}
		go func() { done <- second.Run(ctx, b.handle) }()
		g.until("both wait", func() bool { return a.count(StateWaiting) == 2 })
		alone, err := a.env.NewConsumer("s", ConsumerConfig{Name: "g"})
		must(t, err)
		wantErr(t, alone.Run(g.ctx, b.handle), ErrNameInUse)
		g.publish("1")
		g.want("a 1")
		must(t, a.end())
		g.publish("2")
		g.want("a 1", "b 2")
		stop()
		must(t, recv(t, done, "the end"))
		stop2 := g.join("c", ConsumerConfig{}, nil)
		must(t, stop2.end())
	})
}

// What cannot be a member is refused at once.
func TestGroupConfig(t *testing.T) {
	playGroup(t, func(g *group) {
		for text, cfg := range map[string]ConsumerConfig{
			"needs a Name":         {SingleActive: true},
			"must be Stored":       {SingleActive: true, Name: "g", Start: First()},
			"set SingleActive, or": {Name: "g", OnInactive: func(context.Context, string) error { return nil }},
		} {
			_, err := g.env.NewConsumer("s", cfg)
			if wantErr(t, err, ErrInvalidConfig); !strings.Contains(err.Error(), text) {
				t.Errorf("the error is %v", err)
			}
		}
	})
}

// A handler's failure ends the run in order, and the next member begins with its
// message.
func TestGroupHandlerFails(t *testing.T) {
	for _, cfg := range []ConsumerConfig{{}, {Workers: 3}} {
		playGroup(t, func(g *group) {
			a := g.join("a", cfg, func(ctx context.Context, m *groupMember) error {
				return m.c.Run(ctx, func(ctx context.Context, d *Delivery) error {
					if string(d.Body) == "2" {
						return errTest
					}
					return m.handle(ctx, d)
				})
			})
			a.active(1)
			b := g.join("b", cfg, nil)
			g.publish("1")
			g.want("a 1")
			g.publish("2")
			recv(t, a.done, "the end")
			wantErr(t, a.err, errTest)
			g.want("a 1", "b 2")
			must(t, b.end())
		})
	}
}

// Dead letters are published in each term, by one producer.
func TestGroupDeadLetters(t *testing.T) {
	playPartition(t, func(g *group) {
		g.create("dead")
		cfg := ConsumerConfig{OnError: ErrorPolicy{DeadLetter: "dead"}}
		fails := func(ctx context.Context, m *groupMember) error {
			return m.c.Run(ctx, func(ctx context.Context, d *Delivery) error { return errors.Join(m.handle(ctx, d), errTest) })
		}
		a := g.join("a", cfg, fails)
		a.active(1)
		g.publish("1")
		g.until("a dead letter", func() bool { return len(g.bodies("dead")) == 1 })
		b := g.join("b", cfg, fails)
		b.active(1)
		g.publish("2")
		g.until("a dead letter", func() bool { return len(g.bodies("dead")) == 2 })
		must(t, b.end())
		a.active(2)
		g.publish("3")
		g.until("a dead letter", func() bool { return len(g.bodies("dead")) == 3 })
		must(t, a.end())
		g.want("a 1", "b 2", "a 3")
	})
}

// A member without its dead-letter stream does not join: it could not go on after
// a failure.
func TestGroupDeadLettersMissing(t *testing.T) {
	playGroup(t, func(g *group) {
		a := g.join("a", ConsumerConfig{OnError: ErrorPolicy{DeadLetter: "nowhere"}}, nil)
		recv(t, a.done, "the end")
		wantErr(t, a.err, ErrStreamNotFound)
		if n := a.count(StateWaiting); n > 0 {
			t.Errorf("it has waited %d times", n)
		}
	})
}
