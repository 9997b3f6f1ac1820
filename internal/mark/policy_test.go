package mark

import (
	"testing"
	"time"
)

func TestPolicyDue(t *testing.T) {
	ms := func(n int) time.Time { return noon.Add(time.Duration(n) * time.Millisecond) }
	// handled and stored messages; since: the first unstored one, store: the
	// last store, in ms after noon.
	state := func(handled, stored int64, since, store int) *Tracker {
		return &Tracker{marked: handled > 0, handled: handled, stored: stored, since: ms(since), lastStore: ms(store)}
	}
	fresh := &Tracker{marked: true, handled: 1, since: noon}
	for _, test := range []struct {
		name   string
		policy Policy
		t      *Tracker
		now    int
		due    bool
		at     time.Time
	}{
		{"nothing handled", Policy{}, &Tracker{}, 0, false, time.Time{}},
		{"all stored", Policy{}, state(5, 5, 0, 0), 1000, false, time.Time{}},
		{"the first message", Policy{}, fresh, 0, true, time.Time{}},
		{"soon after a store", Policy{}, state(6, 5, 10, 0), 10, false, ms(100)},
		{"long after a store", Policy{}, state(6, 5, 100, 0), 100, true, time.Time{}},
		{"a burst", Policy{}, state(1e6, 0, 0, 0), 1, false, ms(100)},
		{"every 3: two", Policy{Every: 3}, state(2, 0, 0, 0), 1e6, false, time.Time{}},
		{"every 3: three", Policy{Every: 3}, state(3, 0, 0, 0), 0, true, time.Time{}},
		{"interval: early", Policy{Interval: time.Second}, state(9e6, 0, 5, 0), 1004, false, ms(1005)},
		{"interval: over", Policy{Interval: time.Second}, state(1, 0, 5, 0), 1005, true, time.Time{}},
		{"both: the count", Policy{Every: 2, Interval: time.Second}, state(2, 0, 5, 0), 5, true, time.Time{}},
		{"both: the time", Policy{Every: 2, Interval: time.Second}, state(1, 0, 5, 0), 1005, true, time.Time{}},
		{"both: neither", Policy{Every: 2, Interval: time.Second}, state(1, 0, 5, 0), 6, false, ms(1005)},
		{"manual", Policy{Manual: true}, state(1e6, 0, 0, 0), 1e6, false, time.Time{}},
	} {
		if due, at := test.policy.Due(test.t, ms(test.now)); due != test.due || !at.Equal(test.at) {
			t.Errorf("%s: %v, %v, want %v, %v", test.name, due, at, test.due, test.at)
		}
	}
}

func TestPolicyWakesAndWaits(t *testing.T) {
	for _, test := range []struct {
		policy       Policy
		unstored     int64
		wakes, waits bool
	}{
		{Policy{}, 1, true, false},
		{Policy{}, 2, false, false},
		{Policy{}, 1e6, false, false},
		{Policy{Every: 1}, 1, false, true},
		{Policy{Every: 1, Interval: 1}, 1, false, true},
		{Policy{Every: 2, Interval: 1}, 1, true, false},
		{Policy{Every: 2}, 1, false, false},
		{Policy{Every: 3}, 2, false, false},
		{Policy{Every: 3}, 3, false, true},
		{Policy{Every: 3}, 4, false, true},
		{Policy{Interval: 1}, 1, true, false},
		{Policy{Manual: true}, 1, false, false},
		{Policy{Manual: true}, 10_000, false, false},
	} {
		if wakes, waits := test.policy.Wakes(test.unstored-1, test.unstored), test.policy.Blocks(test.unstored); wakes != test.wakes || waits != test.waits {
			t.Errorf("%+v with %d unstored: wakes %v, waits %v", test.policy, test.unstored, wakes, waits)
		}
	}
}
