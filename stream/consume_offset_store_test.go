package stream

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/tidemark-go/tidemark/streamtest"
)

// memoryStore is an OffsetStore that can fail.
type memoryStore struct {
	mu     sync.Mutex
	offset uint64
	has    bool
	loads  int
	saves  []uint64
	fails  error
}

func (s *memoryStore) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

func (s *memoryStore) Load(_ context.Context, consumer, _ string) (uint64, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loads++
	if consumer != "billing" {
		return 0, false, errors.New("loaded as " + consumer)
	}
	return s.offset, s.has, s.fails
}

func (s *memoryStore) Save(_ context.Context, _, _ string, offset uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fails == nil {
		s.offset, s.has = offset, true
	}
	s.saves = append(s.saves, offset)
	return s.fails
}

func (s *memoryStore) at(offset uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.has && s.offset == offset
}

func TestOffsetStore(t *testing.T) {
	b, env, name := inStream(t, 20)
	store := &memoryStore{}
	cfg := ConsumerConfig{Name: "billing", OffsetStore: store}
	bodies, _ := readN(t, env, name, cfg, 8) // stops at once: the mark is saved at the end
	wantNumbers(t, bodies, 0, 8)
	if !store.at(7) {
		t.Errorf("saved %d, want 7", store.offset)
	}
	bodies, _ = readN(t, env, name, cfg, 12)
	wantNumbers(t, bodies, 8, 20)
	if _, ok := b.Offset("billing", name); ok || b.Received(streamtest.StoreOffset) != 0 {
		t.Error("the broker has an offset too")
	}
}

// TestOffsetStoreManual is the way of exactly-once: the handler writes the
// offset, and only Load is called; after a reconnect not even that.
func TestOffsetStoreManual(t *testing.T) {
	b, env, name := inStream(t, 20)
	store := &memoryStore{}
	var done seen
	stop, ended := running1(t, env, name, ConsumerConfig{Name: "billing", OffsetStore: store, Store: StorePolicy{Manual: true}}, func(_ context.Context, d *Delivery) error {
		store.set(func() { store.offset, store.has = d.Offset, true })
		done.add(d.Offset)
		if d.Offset == 10 {
			b.DropConnections(streamtest.CutRST)
		}
		return nil
	})
	eventually(t, "all are handled", patience, func() bool { return store.at(19) })
	stop()
	must(t, recv(t, ended, "the end"))
	if done.once(t, 0, 20); store.loads != 1 || len(store.saves) > 0 {
		t.Errorf("%d loads and %d saves, want 1 and none", store.loads, len(store.saves))
	}
}

func TestOffsetStoreLoadFails(t *testing.T) {
	_, env, name := inStream(t, 1)
	_, ended := running1(t, env, name, ConsumerConfig{Name: "billing", OffsetStore: &memoryStore{fails: errTest}}, func(context.Context, *Delivery) error {
		t.Error("a message was handled")
		return nil
	})
	wantErr(t, recv(t, ended, "the end"), errTest, ErrOffsetStore)
}

func TestOffsetStoreSaveFails(t *testing.T) {
	for _, policy := range []StorePolicy{{}, {Every: 1}} {
		_, env, name := inStream(t, 5)
		store := &memoryStore{}
		var done seen
		entered := make(chan struct{})
		stop, ended := running1(t, env, name, ConsumerConfig{Name: "billing", OffsetStore: store, Store: policy}, func(_ context.Context, d *Delivery) error {
			if d.Offset == 0 {
				store.set(func() { store.fails = errTest })
			}
			if done.add(d.Offset); d.Offset == 4 {
				close(entered)
			}
			return nil
		})
		if policy.Every == 0 {
			recv(t, entered, "the last message")
			stop()
		}
		err := recv(t, ended, "the end")
		if wantErr(t, err, errTest, ErrOffsetStore, ErrNotStored); policy.Every == 1 && done.len() != 1 {
			t.Errorf("%d messages were handled after a store that failed", done.len()-1)
		}
	}
}

// TestOffsetStoreSavesAgain: a database that was away gets the offset later.
func TestOffsetStoreSavesAgain(t *testing.T) {
	beside(t)
	_, env, name := inStream(t, 5)
	store := &memoryStore{}
	failed := false
	stop, ended := running1(t, env, name, ConsumerConfig{Name: "billing", OffsetStore: store}, func(_ context.Context, d *Delivery) error {
		if d.Offset == 0 {
			store.set(func() { store.fails = errTest })
		}
		return nil
	})
	eventually(t, "a save has failed", patience, func() bool {
		store.set(func() {
			if len(store.saves) > 0 {
				store.fails, failed = nil, true
			}
		})
		return failed
	})
	eventually(t, "it is saved", patience, func() bool { return store.at(4) })
	stop()
	must(t, recv(t, ended, "the end"))
}

// TestOffsetStoreWithoutBroker: the last mark is saved although the broker is
// gone.
func TestOffsetStoreWithoutBroker(t *testing.T) {
	b, env, name := inStream(t, 5)
	store := &memoryStore{fails: nil}
	handled := make(chan uint64, 5)
	stop, ended := running1(t, env, name, ConsumerConfig{Name: "billing", OffsetStore: store, Store: StorePolicy{Every: 1000}}, func(_ context.Context, d *Delivery) error {
		handled <- d.Offset
		return nil
	})
	for range 5 {
		recv(t, handled, "a message")
	}
	b.Stop()
	stop()
	err := recv(t, ended, "the end")
	if err != nil || !store.at(4) {
		t.Errorf("saved %d, %v", store.offset, err)
	}
}

func TestOffsetStoreNeedsAName(t *testing.T) {
	_, env, name := inStream(t, 1)
	_, err := env.NewConsumer(name, ConsumerConfig{OffsetStore: &memoryStore{}})
	wantErr(t, err, ErrInvalidConfig)
}

// TestLoadOffset: what fails because the run ends is not the store's fault.
func TestLoadOffset(t *testing.T) {
	ended, stop := context.WithCancelCause(t.Context())
	stop(ErrClosed)
	for name, test := range map[string]struct {
		ctx   context.Context
		store *memoryStore
		want  error
		not   error
	}{
		"stored":            {ctx: t.Context(), store: &memoryStore{has: true}},
		"nothing":           {ctx: t.Context(), store: &memoryStore{}, want: ErrNoOffset, not: ErrOffsetStore},
		"fails":             {ctx: t.Context(), store: &memoryStore{has: true, fails: errTest}, want: ErrOffsetStore, not: ErrNoOffset},
		"fails, and ended":  {ctx: ended, store: &memoryStore{has: true, fails: errTest}, want: ErrClosed, not: ErrOffsetStore},
		"stored, and ended": {ctx: ended, store: &memoryStore{has: true}},
	} {
		test.store.offset = 41
		offset, err := loadOffset(test.ctx, test.store, "billing", "s")
		if wantErr(t, err, test.want); (err != nil) != (test.want != nil) || test.not != nil && errors.Is(err, test.not) || err == nil && offset != 41 {
			t.Errorf("%s: %d, %v", name, offset, err)
		}
	}
}

// TestSavedOffsets: a failure is logged and says what it is about. Once the
// stream is gone, nothing is saved.
func TestSavedOffsets(t *testing.T) {
	store := &memoryStore{}
	r := aloneRun(t, ConsumerConfig{Name: "billing", OffsetStore: store})
	logs := 0
	r.log = func(string, ...any) { logs++ }
	session, _ := loneSubscription()
	for _, s := range []*savedOffsets{{run: r}, {run: r, session: session}} {
		store.fails, store.saves, logs = nil, nil, 0
		must(t, s.store(t.Context(), 7, false))
		store.fails = errTest
		wantErr(t, s.store(t.Context(), 8, false), ErrOffsetStore, errTest)
		if !store.at(7) || len(store.saves) != 2 || logs != 1 {
			t.Errorf("saved %v, %d lines in the log", store.saves, logs)
		}
		must(t, s.verify(t.Context(), 9))
	}
	session.Moved(testStream)
	wantErr(t, (&savedOffsets{run: r, session: session}).store(t.Context(), 9, false), errMoved)
	if len(store.saves) != 2 {
		t.Errorf("saved %v", store.saves)
	}
}

// panicking is an OffsetStore whose methods panic when they are told to.
type panicking struct {
	memoryStore
	load, save atomic.Bool
}

func (s *panicking) Load(ctx context.Context, consumer, stream string) (uint64, bool, error) {
	if s.load.Load() {
		panic("load")
	}
	return s.memoryStore.Load(ctx, consumer, stream)
}

func (s *panicking) Save(ctx context.Context, consumer, stream string, offset uint64) error {
	if s.save.Load() {
		panic("save")
	}
	return s.memoryStore.Save(ctx, consumer, stream, offset)
}

// TestOffsetStorePanics: a panic of the store is the store's, on whichever
// goroutine, and no message is skipped for it.
func TestOffsetStorePanics(t *testing.T) {
	for name, test := range map[string]struct {
		cfg ConsumerConfig
		at  uint64 // the message whose store panics
	}{
		"on Run's goroutine": {ConsumerConfig{Store: StorePolicy{Every: 1}}, 2},
		"at the end":         {ConsumerConfig{Store: StorePolicy{Every: 1}}, 4},
		"for a worker":       {ConsumerConfig{Store: StorePolicy{Every: 1}, Workers: 2}, 2},
		"on the storer's":    {ConsumerConfig{}, 4},
	} {
		_, env, stream := inStream(t, 5)
		store := &panicking{}
		test.cfg.Name, test.cfg.OffsetStore, test.cfg.OnError = "billing", store, ErrorPolicy{Skip: true}
		var done seen
		stop, ended := running1(t, env, stream, test.cfg, func(_ context.Context, d *Delivery) error {
			if d.Offset == test.at {
				store.save.Store(true)
			}
			done.add(d.Offset)
			return nil
		})
		if test.cfg.Store.Every == 0 {
			eventually(t, "all are handled", patience, func() bool { return done.len() == 5 })
			stop()
		}
		err := recv(t, ended, "the end")
		if wantErr(t, err, ErrOffsetStore, ErrNotStored); !strings.Contains(fmt.Sprint(err), "panic: save") {
			t.Errorf("%s: %v", name, err)
		}
		if test.cfg.Workers == 0 {
			done.once(t, 0, test.at+1)
		}
	}
	_, env, stream := inStream(t, 1)
	store := &panicking{}
	store.load.Store(true)
	c, err := env.NewConsumer(stream, ConsumerConfig{Name: "billing", OffsetStore: store})
	must(t, err)
	err = c.Run(t.Context(), func(context.Context, *Delivery) error { return nil })
	if wantErr(t, err, ErrOffsetStore); !strings.Contains(fmt.Sprint(err), "panic: load") {
		t.Error(err)
	}
}
