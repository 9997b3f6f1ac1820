package stream

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-go/tidemark/internal/mark"
	"github.com/tidemark-go/tidemark/internal/script"
	"github.com/tidemark-go/tidemark/internal/wire"
)

// TestFinishStoresTheMark: a run that ends without a session stores its mark if
// there is one to be stored.
func TestFinishStoresTheMark(t *testing.T) {
	for name, test := range map[string]struct {
		cfg     ConsumerConfig
		handled bool
		saves   bool
	}{
		"handled":         {ConsumerConfig{Name: "billing"}, true, true},
		"counted":         {ConsumerConfig{Name: "billing", Store: StorePolicy{Every: 2}}, true, true},
		"nothing handled": {ConsumerConfig{Name: "billing"}, false, false},
		"no name":         {ConsumerConfig{}, true, false},
		"manual":          {ConsumerConfig{Name: "billing", Store: StorePolicy{Manual: true}}, true, false},
		"neither":         {ConsumerConfig{Store: StorePolicy{Manual: true}}, false, false},
	} {
		for _, fails := range []error{nil, errTest} {
			store := &memoryStore{fails: fails}
			test.cfg.OffsetStore = store
			r := aloneRun(t, test.cfg)
			if test.handled {
				r.progress.markOne(7)
			}
			err := r.finish(t.Context(), ErrClosed)
			wantErr(t, err, ErrClosed)
			if got := slices.Equal(store.saves, []uint64{7}); got != test.saves || !test.saves && len(store.saves) > 0 {
				t.Errorf("%s: saved %v", name, store.saves)
			}
			if missed := test.saves && fails != nil; errors.Is(err, ErrNotStored) != missed || errors.Is(err, errTest) != missed {
				t.Errorf("%s, and saving returns %v: %v", name, fails, err)
			} else if missed && !strings.Contains(err.Error(), "up to offset 7 ") {
				t.Errorf("%v does not name the mark", err)
			}
		}
	}
}

// TestFinishWithoutBroker: it is tried for CloseTimeout, and what stood in the way
// is told. Whoever has nothing to store does not wait.
func TestFinishWithoutBroker(t *testing.T) {
	for _, test := range []struct {
		cfg     ConsumerConfig
		handled bool
		took    time.Duration
	}{
		{ConsumerConfig{Name: "billing"}, true, CloseTimeout},
		{ConsumerConfig{Name: "billing"}, false, 0},
		{ConsumerConfig{}, true, 0},
		{ConsumerConfig{Name: "billing", Store: StorePolicy{Manual: true}}, true, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := aloneRun(t, test.cfg)
			r.consumer.env.cfg.Backoff = Backoff{Min: time.Second, Max: time.Second}
			if test.handled {
				r.progress.markOne(7)
			}
			begun := time.Now()
			err := r.finish(t.Context(), errTest)
			wantErr(t, err, errTest)
			if took := time.Since(begun); took != test.took {
				t.Errorf("%+v took %v", test, took)
			}
			if tried := test.took > 0; errors.Is(err, ErrNotStored) != tried || errors.Is(err, ErrUnreachable) != tried {
				t.Errorf("%+v: %v", test, err)
			}
		})
	}
}

// TestStoreLastNamesTheMark: nobody serves the request, as after a storer that is
// stuck.
func TestStoreLastNamesTheMark(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := aloneRun(t, ConsumerConfig{Name: "billing"})
		r.progress.markOne(7)
		begun := time.Now()
		err := r.storeLast()
		wantErr(t, err, ErrNotStored)
		if took := time.Since(begun); took != CloseTimeout || !strings.Contains(err.Error(), "up to offset 7 ") {
			t.Errorf("after %v: %v", took, err)
		}
		go func() { // an answer
			request := <-r.requests
			if !request.verify {
				t.Error("it is not to be read back")
			}
			request.done <- nil
		}()
		must(t, r.storeLast())
	})
}

// TestFinishOnAnotherConnection: the mark is stored where the stream is the same,
// though retention may have removed what was read of it.
func TestFinishOnAnotherConnection(t *testing.T) {
	for name, test := range map[string]struct {
		frame []byte // what there is at the place
		want  error
	}{
		"the same":     {script.Chunk(100, "a", "b"), nil},
		"removed":      {script.Chunk(200, "x"), nil},
		"another":      {script.LaterChunk(100, "x"), ErrStreamRecreated},
		"another, new": {script.LaterChunk(0, "x"), ErrStreamRecreated},
		"not yet":      {script.Chunk(0, "x"), ErrStreamUnavailable},
	} {
		b := startScripted(t)
		env := b.env(t)
		env.cfg.Backoff = Backoff{Min: time.Hour, Max: time.Hour} // one attempt
		b.onSubscribe = func(p *script.Peer, _ int, spec wire.OffsetSpec) {
			if spec.Type != wire.OffsetAt || spec.Value != 100 {
				t.Errorf("%s: asked for %v", name, spec)
			}
			p.Write(test.frame)
		}
		c, err := env.NewConsumer(testStream, ConsumerConfig{Name: "billing"})
		must(t, err)
		r := newRun(c)
		chunk, err := wire.ParseChunk(script.Chunk(100, "a", "b")[deliverHead:])
		must(t, err)
		r.place.HandledTo(101, mark.IDOf(&chunk))
		err = r.storeWithoutSession(soon(t), 101)
		if wantErr(t, err, test.want); (err != nil) != (test.want != nil) {
			t.Errorf("%s: %v", name, err)
		}
		if got, ok := b.storedOffset("billing"); ok != (test.want == nil) || ok && got != 101 {
			t.Errorf("%s: stored %d, %v", name, got, ok)
		}
	}
}

// TestRunStoresOnce at the end, over the connection that it has.
func TestRunStoresOnce(t *testing.T) {
	for name, cfg := range map[string]ConsumerConfig{
		"named":   {Name: "billing", Store: StorePolicy{Interval: time.Hour}},
		"manual":  {Name: "billing", Store: StorePolicy{Manual: true}},
		"no name": {},
	} {
		b := startScripted(t)
		b.committed = 0
		b.deliverAt(map[uint64][]string{0: {"a", "b"}})
		r := b.run(t, cfg, func(r *running, d *Delivery) error {
			if d.Offset == 1 {
				r.stop(errTest)
			}
			return nil
		})
		r.want(t, 0, 1)
		if err := r.end(t); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		want := map[string][]uint64{"named": {1}}[name]
		b.set(func() {
			if !slices.Equal(b.history, want) || b.subscriptions != 1 {
				t.Errorf("%s: stored %v over %d subscriptions, want %v over 1", name, b.history, b.subscriptions, want)
			}
		})
	}
}
