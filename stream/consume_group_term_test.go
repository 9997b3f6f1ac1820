package stream

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-go/tidemark/internal/broker"
	"github.com/tidemark-go/tidemark/streamtest"
)

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
				a.wantNothingClaimed()
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
				if text := changes[0].Err.Error(); !strings.Contains(text, "; handlers at work: 1") {
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

// An overlap names the handlers that were at work when the term ended, although
// they learn of it at once and may return before anybody else does anything.
func TestGroupOverlapCountsWhoIsInterrupted(t *testing.T) {
	cfg := testConfig()
	var reported []StateChange
	cfg.OnState = func(c StateChange) { reported = append(reported, c) }
	states := startStates(cfg)
	c, err := (&Env{cfg: cfg, states: states}).NewConsumer("s", ConsumerConfig{Name: "g", SingleActive: true})
	must(t, err)
	const terms = 2000
	for range terms {
		x := newRun(c).newTerm(t.Context(), &subscription{})
		x.handed.Store(true)
		x.inHand.Store(1)
		atWork, stopped := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(stopped)
			close(atWork)
			for x.handling.Err() == nil {
			}
			x.leave()
		}()
		<-atWork
		x.over(ErrNotActive)
		<-stopped
	}
	must(t, states.drain())
	if len(reported) != terms {
		t.Fatalf("%d overlaps", len(reported))
	}
	for _, change := range reported {
		if text := change.Err.Error(); !strings.HasSuffix(text, "; handlers at work: 1") {
			t.Fatal(text)
		}
	}
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

// A member whose place cannot be found, because its user may not read it, ends.
func TestGroupQueryRefusedAtPromotion(t *testing.T) {
	playGroup(t, func(g *group) {
		g.b.AnswerWith(streamtest.QueryOffset, streamtest.AccessRefused, 1)
		a := g.join("a", ConsumerConfig{}, nil)
		recv(t, a.done, "the end")
		wantErr(t, a.err, ErrAccessRefused)
		g.join("b", ConsumerConfig{}, nil).active(1)
	})
}

// A member that does not know where to begin when the broker's patience ends joins
// the group anew: it cannot answer the promotion.
func TestGroupOnActiveTakesTooLong(t *testing.T) {
	playGroup(t, func(g *group) {
		begun, calls := time.Now(), 0
		a := g.join("a", ConsumerConfig{OnActive: func(ctx context.Context, _ string, _ uint64) error {
			if calls++; calls == 1 {
				<-ctx.Done()
			}
			return nil
		}}, nil)
		a.active(1)
		if took := time.Since(begun); took < answerTime || took > answerTime+time.Second {
			t.Errorf("it was active after %v", took)
		}
		changes := a.reported(StateReconnecting)
		if len(changes) != 1 {
			t.Fatalf("it joined anew %d times", len(changes))
		}
		wantErr(t, changes[0].Err, ErrUnreachable)
		if text := changes[0].Err.Error(); !strings.Contains(text, "the place to begin was not found") {
			t.Error(text)
		}
		g.publish("1")
		g.want("a 1")
	})
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

// An answer that is late when the member leaves is sent once, by who leaves.
func TestGroupAnswersNothingAfterItHasLeft(t *testing.T) {
	playGroup(t, func(g *group) {
		a := g.join("a", ConsumerConfig{}, nil)
		a.active(1)
		g.until("it serves", func() bool { return a.c.running().term.Load() != nil })
		m := newMembership(a.c.running().term.Load().s)
		m.ordered(broker.Update{Active: true})
		m.ordered(broker.Update{})
		m.close()
		m.answer() // as late does, which has seen that an answer is owed
		if n := len(m.owed); n > 0 {
			t.Errorf("%d answers are owed", n)
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
