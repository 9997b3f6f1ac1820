package stream

import (
	"errors"
	"testing"
	"time"
)

func TestPolicyValidate(t *testing.T) {
	for _, test := range []struct {
		policy StorePolicy
		ok     bool
	}{
		{StorePolicy{}, true},
		{StorePolicy{Every: 1}, true},
		{StorePolicy{Interval: time.Second}, true},
		{StorePolicy{Every: 100, Interval: time.Second}, true},
		{StorePolicy{Manual: true}, true},
		{StorePolicy{Every: -1}, false},
		{StorePolicy{Interval: -1}, false},
		{StorePolicy{Manual: true, Every: 1}, false},
		{StorePolicy{Manual: true, Interval: 1}, false},
	} {
		err := test.policy.validate()
		if (err == nil) != test.ok || err != nil && !errors.Is(err, ErrInvalidConfig) {
			t.Errorf("%+v: %v, want ok %v", test.policy, err, test.ok)
		}
	}
}

func TestPolicyDue(t *testing.T) {
	ms := func(n int) time.Time { return noon.Add(time.Duration(n) * time.Millisecond) }
	// handled and stored messages; since: the first unstored one, store: the
	// last store, in ms after noon.
	state := func(handled, stored int64, since, store int) *tracker {
		return &tracker{has: handled > 0, handled: handled, stored: stored, since: ms(since), lastStore: ms(store)}
	}
	fresh := &tracker{has: true, handled: 1, since: noon}
	for _, test := range []struct {
		name   string
		policy StorePolicy
		t      *tracker
		now    int
		due    bool
		at     time.Time
	}{
		{"nothing handled", StorePolicy{}, &tracker{}, 0, false, time.Time{}},
		{"all stored", StorePolicy{}, state(5, 5, 0, 0), 1000, false, time.Time{}},
		{"the first message", StorePolicy{}, fresh, 0, true, time.Time{}},
		{"soon after a store", StorePolicy{}, state(6, 5, 10, 0), 10, false, ms(100)},
		{"long after a store", StorePolicy{}, state(6, 5, 100, 0), 100, true, time.Time{}},
		{"a burst", StorePolicy{}, state(1e6, 0, 0, 0), 1, false, ms(100)},
		{"every 3: two", StorePolicy{Every: 3}, state(2, 0, 0, 0), 1e6, false, time.Time{}},
		{"every 3: three", StorePolicy{Every: 3}, state(3, 0, 0, 0), 0, true, time.Time{}},
		{"interval: early", StorePolicy{Interval: time.Second}, state(9e6, 0, 5, 0), 1004, false, ms(1005)},
		{"interval: over", StorePolicy{Interval: time.Second}, state(1, 0, 5, 0), 1005, true, time.Time{}},
		{"both: the count", StorePolicy{Every: 2, Interval: time.Second}, state(2, 0, 5, 0), 5, true, time.Time{}},
		{"both: the time", StorePolicy{Every: 2, Interval: time.Second}, state(1, 0, 5, 0), 1005, true, time.Time{}},
		{"both: neither", StorePolicy{Every: 2, Interval: time.Second}, state(1, 0, 5, 0), 6, false, ms(1005)},
		{"manual", StorePolicy{Manual: true}, state(1e6, 0, 0, 0), 1e6, false, time.Time{}},
	} {
		if due, at := test.policy.due(test.t, ms(test.now)); due != test.due || !at.Equal(test.at) {
			t.Errorf("%s: %v, %v, want %v, %v", test.name, due, at, test.due, test.at)
		}
	}
}

func TestPolicyWakesAndWaits(t *testing.T) {
	for _, test := range []struct {
		policy       StorePolicy
		unstored     int64
		wakes, waits bool
	}{
		{StorePolicy{}, 1, true, false},
		{StorePolicy{}, 2, false, false},
		{StorePolicy{}, 1e6, false, false},
		{StorePolicy{Every: 1}, 1, false, true},
		{StorePolicy{Every: 1, Interval: 1}, 1, false, true},
		{StorePolicy{Every: 2, Interval: 1}, 1, true, false},
		{StorePolicy{Every: 2}, 1, false, false},
		{StorePolicy{Every: 3}, 2, false, false},
		{StorePolicy{Every: 3}, 3, false, true},
		{StorePolicy{Every: 3}, 4, false, true},
		{StorePolicy{Interval: 1}, 1, true, false},
		{StorePolicy{Manual: true}, 1, false, false},
		{StorePolicy{Manual: true}, 10_000, false, false},
	} {
		if wakes, waits := test.policy.wakes(test.unstored-1, test.unstored), test.policy.waits(test.unstored); wakes != test.wakes || waits != test.waits {
			t.Errorf("%+v with %d unstored: wakes %v, waits %v", test.policy, test.unstored, wakes, waits)
		}
	}
}
