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

// The last mark of a term is read back before the step-down is answered, or before
// the member leaves: a store that is lost is made again, and the next member begins
// behind it.
func TestGroupReadsTheLastMarkBack(t *testing.T) {
	for _, leaves := range []bool{false, true} {
		t.Run(fmt.Sprint("leaves ", leaves), func(t *testing.T) {
			playPartition(t, func(g *group) {
				a := g.join("a", ConsumerConfig{Store: StorePolicy{Interval: time.Hour}}, nil)
				a.active(1)
				g.publish("1", "2")
				g.want("a 1", "a 2")
				synctest.Wait()
				g.b.LoseStores(1)
				if leaves {
					must(t, a.end())
				}
				b := g.join("b", ConsumerConfig{}, nil)
				b.active(1)
				g.wantStored(1)
				g.publish("3")
				g.want("a 1", "a 2", "b 3")
			})
		})
	}
}

// The answer to a promotion is the next offset: the broker sends no chunk that was
// handled in an earlier term.
func TestGroupAnswersWithTheNextOffset(t *testing.T) {
	playGroup(t, func(g *group) {
		a := g.join("a", ConsumerConfig{}, nil)
		a.active(1)
		var want []string
		for i := range 50 {
			g.publish(fmt.Sprint(i)) // a chunk each
			want = append(want, fmt.Sprint("a ", i))
		}
		g.want(want...)
		must(t, a.end())
		b := g.join("b", ConsumerConfig{}, nil)
		b.active(1)
		g.publish("last")
		g.want(append(want, "b last")...)
		if chunks, _ := b.c.running().term.Load().s.arrived(); chunks != 1 {
			t.Errorf("the broker sent %d chunks for one message", chunks)
		}
	})
}

// Where nothing is stored, the first one that is promoted begins where its Start
// says, although the broker has taken another place with its Subscribe.
func TestGroupBeginsWhereStartSays(t *testing.T) {
	for _, test := range []struct {
		start Start
		want  []string
	}{
		{Stored(First()), []string{"a 0", "a 1", "a 2", "a 3", "a 4"}},
		{Stored(Last()), []string{"a 2", "a 3", "a 4"}},
		{Stored(Next()), []string{"a 4"}},
		{Stored(At(1)), []string{"a 1", "a 2", "a 3", "a 4"}},
	} {
		t.Run(fmt.Sprint(test.start), func(t *testing.T) {
			playGroup(t, func(g *group) {
				g.publish("0", "1")
				g.publish("2", "3")
				a := g.join("a", ConsumerConfig{Start: test.start}, nil)
				a.active(1)
				g.publish("4")
				g.want(test.want...)
			})
		})
	}
}

// A member whose answers do not reach the broker holds its group up until the broker
// ends its connection, a minute later. Then the group goes on, and nothing is handled
// twice.
func TestGroupMemberNeverAnswers(t *testing.T) {
	playPartition(t, func(g *group) {
		a := g.join("a", ConsumerConfig{}, nil)
		a.active(1)
		g.publish("1")
		g.want("a 1")
		for _, name := range g.connectionsOf(a) {
			g.b.LoseUpdateAnswers(name, streamtest.Forever)
		}
		begun := time.Now()
		b := g.join("b", ConsumerConfig{}, nil)
		g.publish("2")
		g.until("the second message", func() bool { return len(g.list()) == 2 }) // whoever has it
		if took := time.Since(begun); took < 50*time.Second {
			t.Errorf("it was handled after %v: the answer was not lost", took)
		}
		time.Sleep(time.Minute)
		if n := a.count(StateReconnecting); n != 1 {
			t.Errorf("it joined anew %d times", n)
		}
		if n := len(g.list()); n != 2 {
			t.Errorf("handled %q", g.list())
		}
		if n := a.count(StateOverlap); n > 0 {
			t.Errorf("%d overlaps of a member that had stepped down", n)
		}
		must(t, a.end())
		must(t, b.end())
		g.wantStored(1)
	})
}

// A member that the broker's word does not reach waits, or has no more messages,
// until the broker ends its connection. It joins anew then, and the group goes on.
func TestGroupUpdateIsLost(t *testing.T) {
	t.Run("promotion", func(t *testing.T) {
		playGroup(t, func(g *group) {
			g.publish("1")
			g.b.LoseUpdates(1)
			a := g.join("a", ConsumerConfig{}, nil)
			g.want("a 1")
			if n := a.count(StateReconnecting); n != 1 {
				t.Errorf("it joined anew %d times", n)
			}
		})
	})
	t.Run("step-down", func(t *testing.T) {
		playPartition(t, func(g *group) {
			a := g.join("a", ConsumerConfig{}, nil)
			a.active(1)
			g.publish("1")
			g.want("a 1")
			g.until("it is stored", func() bool { return g.stored() == 0 })
			g.b.LoseUpdates(1)
			b := g.join("b", ConsumerConfig{}, nil)
			g.publish("2")
			g.until("the second message", func() bool { return len(g.list()) == 2 })
			g.until("the first has joined anew", func() bool { return a.count(StateReconnecting) == 1 })
			must(t, a.end())
			must(t, b.end())
			if got := g.list(); !slices.Contains(got, "a 2") && !slices.Contains(got, "b 2") {
				t.Errorf("handled %q", got)
			}
			g.wantStored(1)
		})
	})
}

// A group that RabbitMQ 4.0 has left without an active member goes on when all its
// members have ended and begin again, as ConsumerConfig.SingleActive says.
func TestGroupHung(t *testing.T) {
	playPartition(t, func(g *group) {
		a := g.join("a", ConsumerConfig{}, nil)
		a.active(1)
		g.publish("1")
		g.want("a 1")
		if !g.b.HangGroup(g.stream, "g") {
			t.Fatal("the group does not hang")
		}
		g.publish("2")
		b := g.join("b", ConsumerConfig{}, nil)
		time.Sleep(10 * time.Minute)
		must(t, a.end())
		must(t, b.end())
		g.want("a 1")
		c := g.join("c", ConsumerConfig{}, nil)
		g.want("a 1", "c 2")
		must(t, c.end())
		g.wantStored(1)
	}, streamtest.WithMembersLeavingOneByOne("4.0.5"))
}

// Who has lost its connection while it was active learns so by ErrNotActive: a
// handler, and OnInactive, whose error then ends nothing. After a step-down and at
// the end of a run the context of OnInactive is alive.
func TestGroupCallbacksLearnOfOverlap(t *testing.T) {
	playPartition(t, func(g *group) {
		var inactive []error // the causes
		a := g.join("a", ConsumerConfig{OnInactive: func(ctx context.Context, _ string) error {
			inactive = append(inactive, context.Cause(ctx))
			if ctx.Err() != nil {
				return errTest
			}
			return nil
		}}, func(ctx context.Context, m *groupMember) error {
			return m.c.Run(ctx, func(ctx context.Context, d *Delivery) error {
				err := m.handle(ctx, d)
				if err != nil {
					wantErr(t, err, ErrNotActive)
				}
				return err
			})
		})
		a.active(1)
		release := g.hold("a 1")
		g.publish("1")
		g.began("a 1")
		g.cut(a, streamtest.CutRST)
		a.active(2)
		g.want("a 1", "a 1")
		release()
		b := g.join("b", ConsumerConfig{}, nil)
		b.active(1) // a has stepped down
		must(t, b.end())
		a.active(3)
		must(t, a.end())
		if len(inactive) != 3 {
			t.Fatalf("OnInactive was called with %v", inactive)
		}
		wantErr(t, inactive[0], ErrNotActive)
		must(t, inactive[1])
		must(t, inactive[2])
	})
}

// A partition that is added while a group runs is read from its first message by one
// of its members, and one that is unbound ends with each of them.
func TestGroupPartitionAdded(t *testing.T) {
	playPartition(t, func(g *group) {
		g.stream, g.super = "sup", ""
		cfg := ConsumerConfig{SuperStream: true, Start: Stored(Next())}
		a := g.join("a", cfg, nil)
		a.active(3)
		b := g.join("b", cfg, nil)
		b.active(1)
		g.create("sup-3")
		must(t, g.b.Publish("sup-3", "1", "2"))
		must(t, g.b.BindPartition("sup", "sup-3", "3"))
		g.until("both are handled", func() bool { return len(g.list()) >= 2 })
		by := g.list()[0][:2]
		must(t, g.b.Publish("sup-3", "3"))
		time.Sleep(time.Minute)
		if got := g.list(); len(got) < 3 || got[0] != by+"1" || got[1] != by+"2" {
			t.Errorf("handled %q", got)
		}
		must(t, g.b.UnbindPartition("sup", "sup-3"))
		g.until("both have ended it", func() bool { return a.countOf("sup-3", StateClosed) == 1 && b.countOf("sup-3", StateClosed) == 1 })
		must(t, a.end())
		must(t, b.end())
		if got := g.list(); len(got) != 3 {
			t.Errorf("handled %q", got)
		}
		if offset, ok := g.b.Offset("g", "sup-3"); !ok || offset != 2 {
			t.Errorf("stored %d, %v", offset, ok)
		}
	})
}

// countOf returns how often a state was reported of a partition.
func (m *groupMember) countOf(stream string, state State) (n int) {
	for _, c := range m.reported(state) {
		if c.Stream == stream {
			n++
		}
	}
	return n
}
