package stream

import "time"

// tracker knows how far a consumer has come: the mark, which is the offset of
// the last handled message in the order of delivery, and how much of that is
// stored. It is pure: no I/O, no clock, no lock.
type tracker struct {
	mark      uint64
	has       bool  // a message was handled; mark 0 is an offset like any other
	handled   int64 // messages handled
	stored    int64 // messages handled when the mark was last stored
	since     time.Time
	lastStore time.Time
	lost      bool // what was stored may be lost, so that the mark is to be stored again
}

// advance moves the mark over n handled messages, the last of which is at offset.
// now is not looked at while something is unstored.
func (t *tracker) advance(offset uint64, n int, now time.Time) {
	if t.unstored() == 0 {
		t.since = now
	}
	t.mark, t.has = offset, true
	t.handled += int64(n)
}

// unstored is the number of handled messages that a crash now would repeat.
func (t *tracker) unstored() int64 { return t.handled - t.stored }

// snapshot is what a store writes, to be passed to storedAt when it is done.
type snapshot struct {
	mark    uint64
	handled int64
}

func (t *tracker) snapshot() snapshot { return snapshot{t.mark, t.handled} }

// storedAt records a store of s. Messages may have been handled since.
func (t *tracker) storedAt(s snapshot, now time.Time) {
	t.stored = max(t.stored, s.handled)
	t.since, t.lastStore, t.lost = now, now, false
}

// forgetStore makes the mark count as not stored, as on a new connection: what
// was sent on the old one may be lost.
func (t *tracker) forgetStore(now time.Time) {
	if t.lost = t.has; t.has && t.unstored() == 0 {
		t.stored, t.since = t.handled-1, now
	}
}
