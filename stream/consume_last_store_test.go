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

	"github.com/tidemark-go/tidemark/internal/mark"
	"github.com/tidemark-go/tidemark/internal/script"
	"github.com/tidemark-go/tidemark/internal/wire"
	"github.com/tidemark-go/tidemark/streamtest"
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
				r.progress.markNext(7, 1)
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
		{ConsumerConfig{Name: "billing"}, true, closingTime},
		{ConsumerConfig{Name: "billing"}, false, 0},
		{ConsumerConfig{}, true, 0},
		{ConsumerConfig{Name: "billing", Store: StorePolicy{Manual: true}}, true, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := aloneRun(t, test.cfg)
			r.consumer.env.cfg.Backoff = Backoff{Min: time.Second, Max: time.Second}
			if test.handled {
				r.progress.markNext(7, 1)
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
		r.progress.markNext(7, 1)
		begun := time.Now()
		err := r.storeLast()
		wantErr(t, err, ErrNotStored)
		if took := time.Since(begun); took != closingTime || !strings.Contains(err.Error(), "up to offset 7 ") {
			t.Errorf("after %v: %v", took, err)
		}
		go func() { // an answer
			request := <-r.requests
			if request.kind != storeLast {
				t.Error("it is not asked for as the last one")
			}
			request.done <- nil
		}()
		r.endClosing()
		r.closing = nil
		must(t, r.storeLast())
		r.endClosing()
	})
}

// TestClosingIsOneWait: what a session could not store is tried over other
// connections in the time that is left, and not for as long again.
func TestClosingIsOneWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := aloneRun(t, ConsumerConfig{Name: "billing"})
		r.consumer.env.cfg.Backoff = Backoff{Min: time.Second, Max: time.Second}
		r.progress.markNext(7, 1)
		ctx, stop := context.WithCancel(t.Context())
		stop()
		if r.goodbye(t.Context()).Err() != nil || r.goodbye(ctx).Err() == nil {
			t.Error("a run that is told to end waits for answers")
		}
		begun := time.Now()
		time.AfterFunc(CloseTimeout/2, func() { // the connection is lost
			request := <-r.requests
			request.done <- ErrUnreachable
		})
		wantErr(t, r.storeLast(), ErrNotStored, ErrUnreachable)
		err := r.finish(ctx, errStopped)
		if wantErr(t, err, ErrNotStored, ErrUnreachable); errors.Is(err, errStopped) {
			t.Error(err)
		}
		r.finishClosing()
		if took := time.Since(begun); took != closingTime {
			t.Errorf("took %v", took)
		}
		if r.goodbye(t.Context()).Err() == nil {
			t.Error("there is time for goodbyes")
		}
	})
}

// TestEndWithASilentPeer: whatever the broker does not answer or read, and
// whatever the consumer has to end, it ends within CloseTimeout and says that it
// has not stored. The connection is on a socket, so the margin is wide; the waits
// one by one are tested in virtual time.
func TestEndWithASilentPeer(t *testing.T) {
	beside(t)
	for name, cfg := range map[string]ConsumerConfig{
		"default": {},
		"every":   {Store: StorePolicy{Every: 1}},
		"batch":   {BatchSize: 1},
		"letters": {OnError: ErrorPolicy{DeadLetter: "letters"}},
		"workers": {Workers: 3, Store: StorePolicy{Every: 2}},
	} {
		for _, silence := range []func(*streamtest.Broker){(*streamtest.Broker).StopAnswering, (*streamtest.Broker).StopReading} {
			t.Run(name, func(t *testing.T) {
				besideSubtest(t)
				noLeaks(t)
				b := streamtest.NewBroker(t)
				env := connect(t, b.URI())
				stream := newStream(t, env)
				b.CreateStream("letters")
				publish(t, env, stream, 0, 10)
				cfg := cfg // the two tests of a case run beside each other
				cfg.Name = "billing"
				var done seen
				stop, ended := start(t, env, stream, cfg, func(ctx context.Context, c *Consumer) error {
					handle := func(_ context.Context, d *Delivery) error {
						if done.add(d.Offset); cfg.OnError.DeadLetter != "" && d.Offset == 0 {
							return errTest
						}
						if d.Offset == 9 {
							silence(b)
						}
						return nil
					}
					if cfg.BatchSize > 0 {
						return c.RunBatch(ctx, func(ctx context.Context, batch []Delivery) error { return handle(ctx, &batch[0]) })
					}
					return c.Run(ctx, handle)
				})
				eventually(t, "all are handled", patience, func() bool { return done.len() == 10 })
				begun := time.Now()
				stop()
				err := recv(t, ended, "the end")
				if took := time.Since(begun); took > CloseTimeout+4*time.Second {
					t.Errorf("took %v", took)
				}
				wantErr(t, err, ErrNotStored)
			})
		}
	}
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

// TestLeavesBeforeItStores: a run unsubscribes and then stores its last mark,
// because the store would wake its own subscription. Of those that share one the
// last does so.
func TestLeavesBeforeItStores(t *testing.T) {
	for _, consumers := range []int{1, 3} {
		synctest.Test(t, func(t *testing.T) {
			b := streamtest.NewBroker(t, streamtest.InMemory())
			must(t, b.CreateStream("s"))
			must(t, b.Publish("s", "0", "1"))
			env, err := Connect(t.Context(), Config{URIs: []string{b.URI()}, Dial: b.Dial})
			must(t, err)
			defer env.Close()
			var stops []func() error
			for i := range consumers {
				cfg := ConsumerConfig{Name: fmt.Sprint("c", i), Store: StorePolicy{Interval: time.Hour}}
				stop, _ := runConsumer(t, env, "s", cfg, func(*Delivery) {})
				stops = append(stops, stop)
				time.Sleep(time.Second)
			}
			before := len(b.Commands())
			for _, stop := range stops {
				must(t, stop())
			}
			var order []streamtest.Command
			for _, r := range b.Commands()[before:] {
				if r.Command == streamtest.StoreOffset || r.Command == streamtest.Unsubscribe {
					order = append(order, r.Command)
				}
			}
			leave, store := streamtest.Unsubscribe, streamtest.StoreOffset
			want := [][]streamtest.Command{1: {leave, store}, 3: {leave, store, store, leave, store}}[consumers]
			if !slices.Equal(order, want) {
				t.Errorf("%d consumers sent %v, want %v", consumers, order, want)
			}
		})
	}
}
