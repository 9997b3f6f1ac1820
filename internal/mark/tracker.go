package mark

import "time"

// Tracker holds the mark and knows how much of it is stored.
type Tracker struct {
	mark      uint64
	marked    bool      // a message was handled; 0 is an offset like any other
	handled   int64     // messages handled
	stored    int64     // messages handled when the mark was last stored
	since     time.Time // when the first unstored message was handled, or a store since
	lastStore time.Time
	inDoubt   bool // the last store may be lost, so that the mark is stored again
}

// Advance moves the mark over n handled messages, the last of which is at
// offset. Tracker looks at now only where everything was stored before.
func (t *Tracker) Advance(offset uint64, n int, now time.Time) {
	if t.Unstored() == 0 {
		t.since = now
	}
	t.mark, t.marked = offset, true
	t.handled += int64(n)
}

// Mark returns the mark, and whether there is one.
func (t *Tracker) Mark() (offset uint64, ok bool) { return t.mark, t.marked }

// Unstored returns the number of handled messages that a crash now would
// repeat. It is at least 1 while a store is in doubt.
func (t *Tracker) Unstored() int64 { return t.handled - t.stored }

// Snapshot is the mark at one moment. Whoever stores it passes it to StoredAt.
type Snapshot struct {
	Mark    uint64
	At      time.Time // when it was taken; zero if the policy does not look at the time
	handled int64
}

// Snapshot returns what to store now. ok is false while no message was handled.
func (t *Tracker) Snapshot() (s Snapshot, ok bool) {
	return Snapshot{Mark: t.mark, handled: t.handled}, t.marked
}

// StoredAt records that a snapshot is stored. Messages may have been handled
// since it was taken: they count from then on, because when the first of them was
// handled is not known. An older snapshot than one that is stored takes nothing
// back.
func (t *Tracker) StoredAt(s Snapshot, now time.Time) {
	t.stored = max(t.stored, s.handled)
	t.since, t.lastStore, t.inDoubt = now, now, false
	if t.Unstored() > 0 && !s.At.IsZero() {
		t.since = s.At
	}
}

// DoubtStore makes the mark count as not stored, so that Policy.Due asks for a
// store at once. It is called for a new connection, because what was sent on
// the old one may be lost.
func (t *Tracker) DoubtStore(now time.Time) {
	if t.inDoubt = t.marked; t.marked && t.Unstored() == 0 {
		t.stored, t.since = t.handled-1, now
	}
}
