package stream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
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
		g.publish("1", "2", "3")
		g.want("a 1", "a 2", "a 3")
		time.Sleep(10 * time.Minute)
		asked := g.commandsOf(b, streamtest.Credit, streamtest.StreamStats, streamtest.QueryOffset, streamtest.StoreOffset)
		if len(asked) > 0 {
			t.Errorf("it asked %v", asked)
		}
		if claimed := b.claimed(); claimed != 0 {
			t.Errorf("it claims %d bytes", claimed)
		}
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

// With Stored(Next()) the place is stored by the first one that is promoted, and
// never by one that waits.
func TestGroupPlaceIsStoredOnPromotion(t *testing.T) {
	playGroup(t, func(g *group) {
		g.publish("old 1", "old 2")
		a := g.join("a", ConsumerConfig{Start: Stored(Next())}, nil)
		a.active(1)
		g.wantStored(1)
		stores := g.b.Received(streamtest.StoreOffset)
		b := g.join("b", ConsumerConfig{Start: Stored(Next())}, nil)
		time.Sleep(time.Minute)
		if n := g.b.Received(streamtest.StoreOffset); n != stores {
			t.Errorf("%d stores came of one that waits", n-stores)
		}
		must(t, a.end())
		g.publish("new")
		g.want("b new")
		must(t, b.end())
	})
}

// dispatch is a way to have messages handled.
type dispatch struct {
	name string
	cfg  ConsumerConfig
	run  func(context.Context, *groupMember) error
}

func dispatches() []dispatch {
	return []dispatch{
		{"serial", ConsumerConfig{}, nil},
		{"every", ConsumerConfig{Store: StorePolicy{Every: 1}}, nil},
		{"manual", ConsumerConfig{Store: StorePolicy{Every: 100}}, nil},
		{"workers", ConsumerConfig{Workers: 4}, nil},
		{"lanes", ConsumerConfig{Workers: 4, KeyOf: func(d *Delivery) string { return string(d.Body[:1]) }}, nil},
		{"batches", ConsumerConfig{BatchSize: 3, BatchWait: time.Millisecond}, runBatches},
		{"all", ConsumerConfig{}, runAll},
	}
}

func runBatches(ctx context.Context, m *groupMember) error {
	return m.c.RunBatch(ctx, func(ctx context.Context, batch []Delivery) error {
		for i := range batch {
			if err := m.handle(ctx, &batch[i]); err != nil {
				return err
			}
		}
		return nil
	})
}

func runAll(ctx context.Context, m *groupMember) error {
	for d, err := range m.c.All(ctx) {
		if err != nil {
			return err
		}
		if err := m.handle(context.Background(), d); err != nil {
			return err
		}
	}
	return nil
}

// A demoted member finishes what it has in hand, takes nothing more, and stores;
// only then the next one begins. Nothing is handled twice, nothing is left out.
func TestGroupStepsDown(t *testing.T) {
	for _, d := range dispatches() {
		t.Run(d.name, func(t *testing.T) {
			playPartition(t, func(g *group) {
				a := g.join("a", d.cfg, d.run)
				a.active(1)
				release := g.hold("a 2")
				var want []string
				for i := range 40 {
					want = append(want, fmt.Sprint(i))
				}
				g.publish(want...)
				g.began("a 2")
				b := g.join("b", d.cfg, d.run)
				time.Sleep(40 * time.Second)
				if b.count(StateActive) > 0 {
					t.Error("the second is active while the first has a message in hand")
				}
				release()
				b.active(1)
				g.publish("40")
				want = append(want, "40")
				g.until("all are handled", func() bool { return len(g.list()) >= len(want) })
				synctest.Wait()
				var got []string
				for _, what := range g.list() {
					got = append(got, strings.Fields(what)[1])
				}
				slices.Sort(got)
				slices.Sort(want)
				if !slices.Equal(got, want) {
					t.Errorf("handled %q", g.list())
				}
				if !slices.ContainsFunc(g.list(), func(what string) bool { return what[0] == 'b' }) {
					t.Error("the second has handled nothing")
				}
				if n := a.count(StateOverlap); n > 0 {
					t.Errorf("%d overlaps were reported", n)
				}
				if claimed := a.claimed(); claimed != 0 {
					t.Errorf("the first claims %d bytes when it waits", claimed)
				}
				must(t, b.end())
				g.wantStored(40)
				must(t, a.end())
			})
		})
	}
}

// A handler that takes longer than the broker waits is answered over. It learns of
// it by its context, nothing of it is stored, and OnState says so.
func TestGroupHandlerTakesTooLong(t *testing.T) {
	for _, d := range dispatches() {
		t.Run(d.name, func(t *testing.T) {
			playPartition(t, func(g *group) {
				a := g.join("a", d.cfg, d.run)
				a.active(1)
				g.publish("0")
				g.began("a 0")
				g.until("it is stored", func() bool { return g.stored() == 0 || d.cfg.Store.Every > 1 })
				before := g.stored()
				release := g.hold("a 1")
				g.publish("1")
				g.began("a 1")
				begun := time.Now()
				b := g.join("b", d.cfg, d.run)
				b.active(1)
				if waited := time.Since(begun); waited < answerTime || waited > answerTime+time.Second {
					t.Errorf("the answer took %v", waited)
				}
				changes := a.reported(StateOverlap)
				if len(changes) != 1 {
					t.Fatalf("the overlaps that were reported are %v", changes)
				}
				wantErr(t, changes[0].Err, ErrNotActive)
				if text := changes[0].Err.Error(); !strings.Contains(text, "; 1 handlers are at work") {
					t.Error(text)
				}
				g.publish("2", "3")
				g.until("the second handles it again, and more", func() bool { return slices.Contains(g.list(), "b 3") && slices.Contains(g.list(), "b 1") })
				must(t, b.end())
				if g.wantStored(3); before > 0 {
					t.Errorf("stored %d before", before)
				}
				if d.name != "all" { // whose body has no context
					g.until("its handler has learned of it", func() bool { return a.count(StateWaiting) == 2 })
				}
				release() // what it has in hand ends now
				a.active(2)
				time.Sleep(time.Minute)
				g.wantStored(3)
				must(t, a.end())
				g.wantStored(3)
			})
		})
	}
}

// Whoever loses its connection while it is active stores nothing more, over no
// connection: the next one may be further.
func TestGroupLostConnectionStoresNothing(t *testing.T) {
	for _, d := range dispatches() {
		for _, cut := range []streamtest.Cut{streamtest.CutRST, streamtest.CutSilent} {
			t.Run(fmt.Sprint(d.name, cut), func(t *testing.T) {
				playGroup(t, func(g *group) {
					a := g.join("a", d.cfg, d.run)
					a.active(1)
					release := g.hold("a 1")
					g.publish("1", "2", "3")
					g.began("a 1")
					b := g.join("b", d.cfg, d.run)
					time.Sleep(time.Second)
					g.cut(a, cut)
					g.until("the second handles all", func() bool { return g.stored() == 2 || d.cfg.Store.Every > 1 && slices.Contains(g.list(), "b 3") })
					g.until("the first has noticed", func() bool { return a.count(StateOverlap) == 1 })
					release()
					g.until("the first waits again", func() bool { return a.count(StateWaiting) == 2 })
					if slices.Contains(g.list(), "a 2") && d.cfg.Workers == 0 && d.cfg.BatchSize == 0 {
						t.Error("the first has begun another message")
					}
					must(t, a.end())
					must(t, b.end())
					g.wantStored(2)
				})
			})
		}
	}
}

// A run that is told to end when its connection is lost says that its last
// messages were not stored.
func TestGroupEndsLost(t *testing.T) {
	playGroup(t, func(g *group) {
		a := g.join("a", ConsumerConfig{Store: StorePolicy{Every: 100}}, nil)
		a.active(1)
		release := g.hold("a 2")
		g.publish("1", "2")
		g.began("a 2")
		a.stop()
		g.cut(a, streamtest.CutRST)
		g.until("noticed", func() bool { return a.count(StateOverlap) == 1 })
		release()
		wantErr(t, a.end(), ErrNotStored)
		g.wantStored(-1)
	})
}

// A member stores before it leaves: what is unsubscribed first is promoted before
// the offset is there.
func TestGroupStoresBeforeItLeaves(t *testing.T) {
	playGroup(t, func(g *group) {
		a := g.join("a", ConsumerConfig{Store: StorePolicy{Interval: time.Hour}}, nil)
		a.active(1)
		g.publish("1")
		g.want("a 1")
		other := g.join("b", ConsumerConfig{}, nil) // so that the connection of a's Env is known
		sent := g.commandsOf(a, streamtest.StoreOffset, streamtest.Unsubscribe)
		if len(sent) > 0 {
			t.Fatalf("it sent %v", sent)
		}
		before := len(g.b.Commands())
		must(t, a.end())
		var order []streamtest.Command
		for _, r := range g.b.Commands()[before:] {
			if r.Command == streamtest.StoreOffset || r.Command == streamtest.Unsubscribe {
				order = append(order, r.Command)
			}
		}
		if want := []streamtest.Command{streamtest.StoreOffset, streamtest.Unsubscribe}; !slices.Equal(order, want) {
			t.Errorf("it sent %v, want %v", order, want)
		}
		must(t, other.end())
	})
}

// A stored offset that cannot be asked for at a promotion is asked for again.
func TestGroupQueryFailsAtPromotion(t *testing.T) {
	playGroup(t, func(g *group) {
		g.publish("1", "2", "3")
		a := g.join("a", ConsumerConfig{}, nil)
		g.want("a 1", "a 2", "a 3")
		must(t, a.end())
		g.b.AnswerWith(streamtest.QueryOffset, streamtest.StreamNotAvailable, 5)
		b := g.join("b", ConsumerConfig{}, nil)
		b.active(1)
		g.publish("4")
		g.want("a 1", "a 2", "a 3", "b 4")
		if n := b.count(StateReconnecting); n > 0 {
			t.Errorf("it connected again %d times", n)
		}
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

// OnActive comes before the first message, with the offset at which the term
// begins, and OnInactive before the offset is stored.
func TestGroupCallbacks(t *testing.T) {
	playPartition(t, func(g *group) {
		calls := func(name string) ConsumerConfig {
			note := func(format string, args ...any) {
				g.mu.Lock()
				defer g.mu.Unlock()
				g.handled = append(g.handled, name+" "+fmt.Sprintf(format, args...))
			}
			return ConsumerConfig{
				Store: StorePolicy{Manual: true},
				OnActive: func(_ context.Context, stream string, next uint64) error {
					note("load %s %d", stream, next)
					return nil
				},
			}
		}
		withSave := func(name string, m **groupMember) ConsumerConfig {
			cfg := calls(name)
			cfg.OnInactive = func(ctx context.Context, stream string) error {
				g.mu.Lock()
				g.handled = append(g.handled, name+" save "+stream)
				g.mu.Unlock()
				return (*m).c.Commit(ctx)
			}
			return cfg
		}
		var a, b *groupMember
		a = g.join("a", withSave("a", &a), nil)
		g.publish("1", "2")
		g.want("a load sup-1 0", "a 1", "a 2")
		b = g.join("b", withSave("b", &b), nil)
		b.active(1)
		g.wantStored(1)
		g.publish("3")
		g.want("a load sup-1 0", "a 1", "a 2", "a save sup-1", "b load sup-1 2", "b 3")
		must(t, b.end())
		a.active(2)
		must(t, a.end())
		g.want("a load sup-1 0", "a 1", "a 2", "a save sup-1", "b load sup-1 2", "b 3", "b save sup-1", "a load sup-1 3", "a save sup-1")
		g.wantStored(2)
	})
}

// An error, or a panic, of OnActive or OnInactive ends the run, and that of
// OnInactive keeps the offset.
func TestGroupCallbackFails(t *testing.T) {
	boom := func() error { return errTest }
	panics := func() error { panic(errTest.Error()) }
	for name, fail := range map[string]func() error{"error": boom, "panic": panics} {
		t.Run(name, func(t *testing.T) {
			playPartition(t, func(g *group) {
				a := g.join("a", ConsumerConfig{OnActive: func(context.Context, string, uint64) error { return fail() }}, nil)
				recv(t, a.done, "the end")
				if a.err == nil || !strings.Contains(a.err.Error(), "OnActive: ") || !strings.Contains(a.err.Error(), errTest.Error()) {
					t.Errorf("the run ended with %v", a.err)
				}
				b := g.join("b", ConsumerConfig{Store: StorePolicy{Interval: time.Hour}, OnInactive: func(context.Context, string) error { return fail() }}, nil)
				b.active(1)
				g.publish("1")
				g.want("b 1")
				c := g.join("c", ConsumerConfig{}, nil)
				recv(t, b.done, "the end")
				if b.err == nil || !strings.Contains(b.err.Error(), "OnInactive: ") {
					t.Errorf("the run ended with %v", b.err)
				}
				g.want("b 1", "c 1")
				must(t, c.end())
			})
		})
	}
}

// The OffsetStore is asked at each promotion, and gets nothing of a term that is
// over.
func TestGroupOffsetStore(t *testing.T) {
	playPartition(t, func(g *group) {
		store := &groupStore{}
		cfg := ConsumerConfig{OffsetStore: store}
		a := g.join("a", cfg, nil)
		a.active(1)
		g.publish("1", "2")
		g.want("a 1", "a 2")
		b := g.join("b", cfg, nil)
		b.active(1)
		g.publish("3")
		g.want("a 1", "a 2", "b 3")
		must(t, b.end())
		a.active(2)
		g.publish("4")
		g.want("a 1", "a 2", "b 3", "a 4")
		must(t, a.end())
		if store.loads != 3 || store.offset != 3 {
			t.Errorf("%d loads, offset %d", store.loads, store.offset)
		}
		g.wantStored(-1)
	})
}

// groupStore is an OffsetStore in memory.
type groupStore struct {
	mu     sync.Mutex
	loads  int
	offset uint64
	has    bool
}

func (s *groupStore) Load(context.Context, string, string) (uint64, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loads++
	return s.offset, s.has, nil
}

func (s *groupStore) Save(_ context.Context, _, _ string, offset uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.offset, s.has = offset, true
	return nil
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

// A Commit outside of a term stores nothing, and does not wait.
func TestGroupCommit(t *testing.T) {
	playGroup(t, func(g *group) {
		a := g.join("a", ConsumerConfig{Store: StorePolicy{Manual: true}}, nil)
		a.active(1)
		b := g.join("b", ConsumerConfig{Store: StorePolicy{Manual: true}}, nil)
		wantErr(t, b.c.Commit(g.ctx), ErrNotActive)
		g.publish("1")
		g.want("a 1")
		synctest.Wait()
		must(t, a.c.Commit(g.ctx))
		g.wantStored(0)
		release := g.hold("a 2")
		g.publish("2")
		g.began("a 2")
		g.cut(a, streamtest.CutRST)
		g.until("noticed", func() bool { return a.count(StateOverlap) == 1 })
		if err := a.c.Commit(context.Background()); !errors.Is(err, ErrNotActive) {
			t.Errorf("a commit of a term that is over: %v", err)
		}
		release()
	})
}

// A member that the broker has forgotten joins anew: only where the broker has the
// fault, and only while messages wait.
func TestGroupForgottenMember(t *testing.T) {
	for version, forgets := range map[string]bool{"4.2.1": true, "4.3.6": false} {
		t.Run(version, func(t *testing.T) {
			playPartition(t, func(g *group) {
				a := g.join("a", ConsumerConfig{}, nil)
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

// Credit that is given when a term ends is there in the next one: the flow has
// counted it, and without it the broker would send nothing then.
func TestGroupCreditOutlivesTerm(t *testing.T) {
	playGroup(t, func(g *group) {
		a := g.join("a", ConsumerConfig{}, nil)
		a.active(1)
		g.until("it serves", func() bool { return a.c.running().term.Load() != nil })
		s := a.c.running().term.Load().s
		before := g.b.Received(streamtest.Credit)
		ended, cancel := context.WithCancel(g.ctx)
		cancel()
		s.giveCredit(ended, 1)
		synctest.Wait()
		if n := g.b.Received(streamtest.Credit); n != before+1 {
			t.Errorf("the broker got %d Credits", n-before)
		}
	})
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

// OnActive is interrupted by the end of the run, by the broker's word and by the
// loss of the connection, which is no failure of it.
func TestGroupOnActiveInterrupted(t *testing.T) {
	playPartition(t, func(g *group) {
		entered := make(chan struct{}, 10)
		slow := ConsumerConfig{OnActive: func(ctx context.Context, _ string, _ uint64) error {
			entered <- struct{}{}
			<-ctx.Done()
			return ctx.Err()
		}, OnInactive: func(context.Context, string) error {
			t.Error("OnInactive was called without an OnActive that succeeded")
			return nil
		}}
		a := g.join("a", slow, nil)
		recv(t, entered, "OnActive")
		g.publish("1")
		b := g.join("b", ConsumerConfig{}, nil)
		g.want("b 1") // a has stepped down
		must(t, b.end())
		recv(t, entered, "OnActive again")
		g.cut(a, streamtest.CutRST)
		recv(t, entered, "OnActive on the next connection")
		if n := a.count(StateActive) + a.count(StateOverlap); n > 0 {
			t.Errorf("it was %v", a.states)
		}
		must(t, a.end())
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

// A handler that ignores the end of its context, and then succeeds, moves the mark
// of a term that is over. The mark is not stored, however long the term's end
// takes: the next member is further.
func TestGroupStoresNothingWhenLate(t *testing.T) {
	playPartition(t, func(g *group) {
		held := make(chan struct{})
		slow := ConsumerConfig{OnInactive: func(context.Context, string) error {
			time.Sleep(time.Minute)
			return nil
		}}
		a := g.join("a", slow, func(ctx context.Context, m *groupMember) error {
			return m.c.Run(ctx, func(_ context.Context, d *Delivery) error {
				m.begin(string(d.Body))
				<-held
				return nil
			})
		})
		a.active(1)
		g.publish("1")
		g.began("a 1")
		b := g.join("b", ConsumerConfig{}, nil)
		g.publish("2", "3")
		g.want("a 1", "b 1", "b 2", "b 3")
		g.until("stored", func() bool { return g.stored() == 2 })
		close(held)
		for range 100 {
			time.Sleep(time.Second)
			g.wantStored(2)
		}
		if n := a.count(StateWaiting); n != 2 {
			t.Errorf("it waited %d times", n)
		}
		must(t, b.end())
		must(t, a.end())
		g.wantStored(2)
	})
}

// The stores of a member leave on the connection that carries its subscription:
// others neither send them in a batch, nor is there another one for Every.
func TestGroupStoresOnItsConnection(t *testing.T) {
	playGroup(t, func(g *group) {
		a := g.join("a", ConsumerConfig{}, nil)
		a.active(1)
		g.until("it serves", func() bool { return a.c.running().term.Load() != nil })
		s, conns := a.c.running().term.Load().s, a.env.cluster.SharedConns()
		for _, policy := range []StorePolicy{{}, {Every: 1}} {
			to, err := a.env.brokerOffsets(g.ctx, s, "g", policy)
			must(t, err)
			if to.joinBatch(nil) != nil || a.env.cluster.SharedConns() != conns {
				t.Errorf("with %+v its stores leave elsewhere", policy)
			}
			to.release(g.ctx, true)
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
