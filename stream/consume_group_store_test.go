package stream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-go/tidemark/streamtest"
)

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

// lastSaveStore fails, and then loses the member's connection in its last Save.
type lastSaveStore struct {
	groupStore
	saves int
	cut   func()
}

func (s *lastSaveStore) Save(ctx context.Context, _, _ string, _ uint64) error {
	switch s.saves++; s.saves {
	case 1:
		return errTest
	case 2:
		s.cut()
		<-ctx.Done()
		return context.Cause(ctx)
	}
	return nil
}

// A run that has begun its end does not go on, although its connection is lost
// while it stores the last mark.
func TestGroupEndsLostWhileItStores(t *testing.T) {
	playGroup(t, func(g *group) {
		store := &lastSaveStore{}
		a := g.join("a", ConsumerConfig{OffsetStore: store, Store: StorePolicy{Every: 1}}, nil)
		store.cut = func() { g.cut(a, streamtest.CutRST) }
		g.publish("1")
		recv(t, a.done, "the end")
		wantErr(t, a.err, errTest, ErrOffsetStore, ErrNotStored)
		g.want("a 1")
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

// stuckSaveStore is an OffsetStore whose Save fails once release is closed.
type stuckSaveStore struct {
	groupStore
	saving  chan struct{} // has an item for each Save
	release chan struct{}
}

func (s *stuckSaveStore) Save(context.Context, string, string, uint64) error {
	s.saving <- struct{}{}
	<-s.release
	return errTest
}

// A Commit returns the error of its store. One that waits for its turn when the
// term ends says so.
func TestGroupCommitFails(t *testing.T) {
	playGroup(t, func(g *group) {
		store := &stuckSaveStore{saving: make(chan struct{}, 10), release: make(chan struct{})}
		a := g.join("a", ConsumerConfig{OffsetStore: store, Store: StorePolicy{Manual: true}}, nil)
		g.publish("1")
		g.want("a 1")
		synctest.Wait()
		first, second := make(chan error, 1), make(chan error, 1)
		go func() { first <- a.c.Commit(g.ctx) }()
		recv(t, store.saving, "the store")
		go func() { second <- a.c.Commit(g.ctx) }()
		synctest.Wait()
		g.cut(a, streamtest.CutRST)
		wantErr(t, recv(t, second, "the second commit"), ErrNotActive)
		close(store.release)
		wantErr(t, recv(t, first, "the first commit"), errTest, ErrOffsetStore)
	})
}

// Commit waits for nobody in OnActive, and in an OnInactive before which no message
// could come: there is nothing to store, and nobody who would.
func TestGroupCommitInCallbacks(t *testing.T) {
	playPartition(t, func(g *group) {
		var a *groupMember
		joined, entered := make(chan struct{}), make(chan struct{}, 10)
		a = g.join("a", ConsumerConfig{OnActive: func(ctx context.Context, _ string, _ uint64) error {
			<-joined
			soon, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			if err := a.c.Commit(soon); err != nil {
				t.Errorf("in OnActive: %v", err)
			}
			entered <- struct{}{}
			<-ctx.Done()
			return nil
		}, OnInactive: func(context.Context, string) error { return a.c.Commit(context.Background()) }}, nil)
		close(joined)
		recv(t, entered, "OnActive")
		g.publish("1")
		begun := time.Now()
		b := g.join("b", ConsumerConfig{}, nil)
		g.want("b 1")
		if took := time.Since(begun); took > 10*time.Second {
			t.Errorf("a stepped down after %v", took)
		}
		must(t, b.c.Commit(g.ctx))
		g.wantStored(0)
		must(t, a.end())
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
