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
		{"a burst, almost", Policy{}, state(1e6, 0, 0, 0), 99, false, ms(100)},
		{"a burst, long after", Policy{}, state(1e6, 0, 0, 0), 101, true, time.Time{}},
		{"a longer pause: almost", Policy{Pause: time.Second}, state(1e6, 0, 0, 0), 999, false, ms(1000)},
		{"a longer pause: over", Policy{Pause: time.Second}, state(1e6, 0, 0, 0), 1000, true, time.Time{}},
		{"a longer pause: the first message", Policy{Pause: time.Second}, fresh, 0, true, time.Time{}},
		{"a pause and an interval", Policy{Pause: time.Hour, Interval: time.Second}, state(1, 0, 5, 0), 1005, true, time.Time{}},
		{"a pause and manual", Policy{Pause: 1, Manual: true}, state(1e6, 0, 0, 0), 1e6, false, time.Time{}},
		{"every 1: one", Policy{Every: 1}, state(1, 0, 0, 0), 0, true, time.Time{}},
		{"every 3: four", Policy{Every: 3}, state(4, 0, 0, 0), 0, true, time.Time{}},
		{"every 3: all stored", Policy{Every: 3}, state(3, 3, 0, 0), 1e6, false, time.Time{}},
		{"every 3: one since", Policy{Every: 3}, state(4, 3, 0, 0), 1e6, false, time.Time{}},
		{"interval: all stored", Policy{Interval: time.Second}, state(1, 1, 0, 0), 1e6, false, time.Time{}},
		{"interval: a store since", Policy{Interval: time.Second}, state(2, 1, 600, 600), 1599, false, ms(1600)},
		{"both: the count is over", Policy{Every: 2, Interval: time.Second}, state(3, 0, 5, 0), 5, true, time.Time{}},
		{"manual: in doubt", Policy{Manual: true}, &Tracker{marked: true, handled: 1, inDoubt: true}, 1e6, false, time.Time{}},
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

func TestPolicyTimed(t *testing.T) {
	for _, test := range []struct {
		policy Policy
		want   bool
	}{
		{Policy{}, true},
		{Policy{Pause: 1}, true},
		{Policy{Interval: 1}, true},
		{Policy{Every: 1, Interval: 1}, true},
		{Policy{Every: 1}, false},
		{Policy{Manual: true}, false},
	} {
		if got := test.policy.Timed(); got != test.want {
			t.Errorf("%+v: %v", test.policy, got)
		}
	}
}

// Unstored messages may become more by several at once.
func TestPolicyWakes(t *testing.T) {
	for _, test := range []struct {
		policy        Policy
		before, after int64
		want          bool
	}{
		{Policy{}, 0, 0, false},
		{Policy{}, 0, 1, true},
		{Policy{}, 0, 500, true},
		{Policy{}, 1, 500, false},
		{Policy{Interval: 1}, 0, 7, true},
		{Policy{Interval: 1}, 7, 14, false},
		{Policy{Every: 10, Interval: 1}, 0, 9, true},
		{Policy{Every: 10, Interval: 1}, 0, 10, false}, // it blocks, which stores
		{Policy{Every: 10, Interval: 1}, 9, 10, false},
		{Policy{Every: 10, Interval: 1}, 0, 0, false},
		{Policy{Every: 10}, 0, 9, false},
		{Policy{Every: 10}, 0, 10, false},
		{Policy{Manual: true}, 0, 9, false},
	} {
		if got := test.policy.Wakes(test.before, test.after); got != test.want {
			t.Errorf("%+v from %d to %d: %v", test.policy, test.before, test.after, got)
		}
	}
}

func TestPolicyBlocks(t *testing.T) {
	for _, test := range []struct {
		every    int
		unstored int64
		want     bool
	}{
		{0, 0, false}, {0, 1e6, false}, {1, 0, false}, {1, 1, true}, {3, 2, false}, {3, 3, true}, {3, 4, true},
	} {
		if got := (Policy{Every: test.every}).Blocks(test.unstored); got != test.want {
			t.Errorf("every %d with %d unstored: %v", test.every, test.unstored, got)
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

// TestPolicyDueInBatch: a mark that waits up to BatchGap for others is due so
// much earlier.
func TestPolicyDueInBatch(t *testing.T) {
	const ms = time.Millisecond
	for _, test := range []struct {
		name    string
		policy  Policy
		gap     time.Duration
		handled int64
		now     time.Duration // since a store, and the first message after it
		due     bool
		at      time.Duration // 0: never
	}{
		{"auto: nothing", Policy{}, AutoInterval, 0, 0, false, 0},
		{"auto: one", Policy{}, AutoInterval, 1, 0, true, 0},
		{"auto: a longer pause", Policy{Pause: time.Second}, time.Second, 1, 0, true, 0},
		{"a pause and an interval", Policy{Pause: time.Hour, Interval: time.Second}, AutoInterval, 1, 900 * ms, true, 0},
		{"interval: early", Policy{Interval: time.Second}, AutoInterval, 1, 899 * ms, false, 900 * ms},
		{"interval: the gap before", Policy{Interval: time.Second}, AutoInterval, 1, 900 * ms, true, 0},
		{"interval: the shortest with a gap", Policy{Interval: 200 * ms}, AutoInterval, 1, 99 * ms, false, 100 * ms},
		{"a short interval: early", Policy{Interval: 199 * ms}, 0, 1, 198 * ms, false, 199 * ms},
		{"a short interval: over", Policy{Interval: 199 * ms}, 0, 1, 199 * ms, true, 0},
		{"every", Policy{Every: 2}, 0, 1, time.Hour, false, 0},
		{"every: reached", Policy{Every: 2}, 0, 2, 0, true, 0},
		{"manual", Policy{Manual: true}, 0, 9, time.Hour, false, 0},
	} {
		tracker := &Tracker{marked: true, handled: test.handled, since: noon, lastStore: noon}
		due, at := test.policy.DueInBatch(tracker, noon.Add(test.now))
		if due != test.due || !at.IsZero() && at.Sub(noon) != test.at || at.IsZero() && test.at != 0 {
			t.Errorf("%s: due %v, at %v", test.name, due, at.Sub(noon))
		}
		if got := test.policy.BatchGap(); got != test.gap {
			t.Errorf("%s: gap %v", test.name, got)
		}
	}
}
