package stream

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
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
			err := r.finish(ErrClosed)
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
			err := r.finish(errTest)
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
