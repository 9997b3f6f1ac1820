package mark

import (
	"cmp"
	"time"
)

// Policy says when the mark is stored. Its zero value stores the mark of every
// message while traffic is slow, and every AutoInterval in a burst.
type Policy struct {
	Every    int           // store after that many messages, before the next handler runs
	Interval time.Duration // store that long after the first message that is not stored
	Manual   bool          // store on request only
	// Pause is what stands for AutoInterval while none of the others is set; 0
	// stands for AutoInterval.
	Pause time.Duration
}

// AutoInterval is the pause between the stores of a zero Policy in a burst. No
// count of messages stands beside it: at 7 M messages a second a store for each
// 10,000 of them cost a tenth of the rate, on the broker's side and on ours.
const AutoInterval = 100 * time.Millisecond

// auto reports whether the time of the last store decides.
func (p Policy) auto() bool { return p.Every == 0 && p.Interval == 0 && !p.Manual }

// pause returns the time between two stores of an auto policy in a burst.
func (p Policy) pause() time.Duration { return cmp.Or(p.Pause, AutoInterval) }

// Timed reports whether the policy looks at the time.
func (p Policy) Timed() bool { return p.auto() || p.Interval > 0 }

// Due reports whether the mark is to be stored now. If not, at is when to ask
// again even if no message is handled until then. A zero at says that no time
// makes the mark due.
func (p Policy) Due(t *Tracker, now time.Time) (due bool, at time.Time) {
	return p.due(t, now, 0)
}

// DueInBatch is Due for a mark that is stored in a batch, up to BatchGap later.
func (p Policy) DueInBatch(t *Tracker, now time.Time) (due bool, at time.Time) {
	return p.due(t, now, p.BatchGap())
}

// BatchGap is how long after one batch the next one leaves, in which the marks of
// several consumers are stored together. It is 0 for an Interval so short that
// the mark would be stored too late.
func (p Policy) BatchGap() time.Duration {
	switch {
	case p.auto():
		return p.pause()
	case p.Interval >= 2*AutoInterval:
		return AutoInterval
	}
	return 0
}

// due is Due with marks that are due early by so much.
func (p Policy) due(t *Tracker, now time.Time, early time.Duration) (due bool, at time.Time) {
	if p.Manual || t.Unstored() == 0 {
		return false, time.Time{}
	}
	if t.inDoubt || p.Blocks(t.Unstored()) {
		return true, time.Time{}
	}
	switch {
	case p.auto():
		at = t.lastStore.Add(p.pause() - early)
	case p.Interval > 0:
		at = t.since.Add(p.Interval - early)
	default:
		return false, time.Time{}
	}
	if !now.Before(at) {
		return true, time.Time{}
	}
	return false, at
}

// Wakes reports whether whoever stores the mark has to ask Due again, after the
// number of unstored messages has grown from before to after. That is so for
// the first unstored message, with which a wait begins. The count of Every
// wakes nobody: see Blocks.
func (p Policy) Wakes(before, after int64) bool {
	if p.Manual || p.Every > 0 && p.Interval == 0 || p.Blocks(after) {
		return false
	}
	return before < 1 && after >= 1
}

// Blocks reports whether the next handler has to wait for a store. Whoever
// waits sees to the store.
func (p Policy) Blocks(unstored int64) bool { return p.Every > 0 && unstored >= int64(p.Every) }
