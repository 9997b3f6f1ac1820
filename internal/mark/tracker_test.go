package mark

import (
	"testing"
	"time"
)

func TestTrackerMark(t *testing.T) {
	var tr Tracker
	if tr.marked || tr.Unstored() != 0 {
		t.Error("a new tracker has something to store")
	}
	tr.DoubtStore(noon)
	if tr.Unstored() != 0 {
		t.Error("what was never handled was forgotten")
	}
	for i, offset := range []uint64{0, 1, 7} { // offsets have gaps
		tr.Advance(offset, 1, noon)
		if !tr.marked || tr.mark != offset || tr.Unstored() != int64(i+1) {
			t.Errorf("after %d: %+v", offset, tr)
		}
	}
	early, _ := tr.Snapshot()
	tr.Advance(9, 1, noon)
	late, _ := tr.Snapshot()
	tr.StoredAt(early, noon)
	if tr.Unstored() != 1 {
		t.Errorf("after a store of all but one, %d are unstored", tr.Unstored())
	}
	tr.StoredAt(late, noon)
	tr.StoredAt(early, noon)
	if tr.Unstored() != 0 {
		t.Error("an old store took a new one back")
	}
	tr.DoubtStore(noon)
	if tr.Unstored() == 0 {
		t.Error("on a new connection nothing is due")
	}
}

// A batch moves the mark over several messages at once.
func TestTrackerAdvancesOverSeveral(t *testing.T) {
	var tr Tracker
	if offset, ok := tr.Mark(); ok || offset != 0 {
		t.Errorf("a new tracker has the mark %d", offset)
	}
	if s, ok := tr.Snapshot(); ok {
		t.Errorf("a new tracker has %+v to store", s)
	}
	for _, test := range []struct {
		offset   uint64
		n        int
		unstored int64
	}{{4, 5, 5}, {9, 1, 6}, {30, 14, 20}} {
		tr.Advance(test.offset, test.n, noon)
		if offset, ok := tr.Mark(); !ok || offset != test.offset || tr.Unstored() != test.unstored {
			t.Errorf("after %d more the mark is at %d with %d unstored, want %d", test.n, offset, tr.Unstored(), test.unstored)
		}
		if s, ok := tr.Snapshot(); !ok || s.Mark != test.offset || s.handled != test.unstored {
			t.Errorf("after %d more the snapshot is %+v", test.n, s)
		}
	}
}

// since is the time of the first message that is not stored, or of the store
// that left it unstored.
func TestTrackerTimes(t *testing.T) {
	at := func(second int) time.Time { return noon.Add(time.Duration(second) * time.Second) }
	var tr Tracker
	var snapshot Snapshot
	for i, test := range []struct {
		do               func()
		unstored         int64
		since, lastStore time.Time
	}{
		{func() { tr.Advance(0, 1, at(1)) }, 1, at(1), time.Time{}},
		{func() { tr.Advance(3, 3, at(2)) }, 4, at(1), time.Time{}},
		{func() { snapshot, _ = tr.Snapshot() }, 4, at(1), time.Time{}},
		{func() { tr.Advance(5, 2, at(3)) }, 6, at(1), time.Time{}},
		{func() { tr.StoredAt(snapshot, at(4)) }, 2, at(4), at(4)},
		{func() { tr.Advance(6, 1, at(5)) }, 3, at(4), at(4)},
		{func() { snapshot, _ = tr.Snapshot(); tr.StoredAt(snapshot, at(6)) }, 0, at(6), at(6)},
		{func() { tr.Advance(9, 2, at(7)) }, 2, at(7), at(6)},
		{func() { tr.StoredAt(snapshot, at(8)) }, 2, at(8), at(8)}, // once more
		{func() { tr.DoubtStore(at(9)) }, 2, at(8), at(8)},
		{func() { snapshot, _ = tr.Snapshot(); tr.StoredAt(snapshot, at(10)) }, 0, at(10), at(10)},
		{func() { tr.DoubtStore(at(11)) }, 1, at(11), at(10)},
		{func() { tr.DoubtStore(at(12)) }, 1, at(11), at(10)},
	} {
		test.do()
		if tr.Unstored() != test.unstored || !tr.since.Equal(test.since) || !tr.lastStore.Equal(test.lastStore) {
			t.Errorf("step %d: %d unstored since %v, last store %v, want %d, %v, %v", i, tr.Unstored(), tr.since, tr.lastStore, test.unstored, test.since, test.lastStore)
		}
	}
}

// A store that is in doubt is due at once under every policy but Manual, and
// only until it is repeated.
func TestTrackerDoubtStore(t *testing.T) {
	policies := []Policy{{}, {Every: 1000}, {Interval: time.Hour}, {Every: 1000, Interval: time.Hour}}
	isDue := func(tr *Tracker) (n int) {
		for _, p := range policies {
			if due, at := p.Due(tr, noon); due && at.IsZero() {
				n++
			}
		}
		return n
	}
	for _, test := range []struct {
		name            string
		handled, stored int
		due             int // policies
	}{
		{"nothing handled", 0, 0, 0},
		{"nothing stored", 2, 0, len(policies)},
		{"some stored", 5, 3, len(policies)},
		{"all stored", 5, 5, len(policies)},
	} {
		tr := Tracker{lastStore: noon}
		for i := range test.handled {
			tr.Advance(uint64(i), 1, noon)
			if i+1 == test.stored {
				s, _ := tr.Snapshot()
				tr.StoredAt(s, noon)
			}
		}
		if due := isDue(&tr); due != 0 {
			t.Errorf("%s: %d policies are due before the doubt", test.name, due)
		}
		mark, marked := tr.Mark()
		tr.DoubtStore(noon)
		if due := isDue(&tr); due != test.due {
			t.Errorf("%s: %d policies are due, want %d", test.name, due, test.due)
		}
		if due, at := (Policy{Manual: true}).Due(&tr, noon); due || !at.IsZero() {
			t.Errorf("%s: Manual is due, %v", test.name, at)
		}
		if offset, ok := tr.Mark(); offset != mark || ok != marked {
			t.Errorf("%s: the doubt has moved the mark to %d", test.name, offset)
		}
		if s, ok := tr.Snapshot(); ok {
			tr.StoredAt(s, noon)
		}
		if due := isDue(&tr); due != 0 || tr.Unstored() != 0 {
			t.Errorf("%s: %d policies are due after the store", test.name, due)
		}
	}
}

// FuzzTracker plays handle, snapshot, store, a lost connection and time
// against every policy. However they come: what is stored was handled and was
// the mark, counts never go wrong, and once it is quiet a store comes due.
func FuzzTracker(f *testing.F) {
	f.Add(uint16(0), uint16(0), []byte{0, 1, 2, 0, 0, 1, 3, 2, 4})
	f.Add(uint16(3), uint16(0), []byte{0, 0, 0, 1, 2, 3, 0})
	f.Add(uint16(0), uint16(50), []byte{0, 4, 1, 0, 2, 3, 0, 4})
	f.Add(uint16(5), uint16(20), []byte{1, 2, 0, 3, 3, 4})
	f.Fuzz(func(t *testing.T, every, interval uint16, steps []byte) {
		p := Policy{Every: int(every), Interval: time.Duration(interval) * time.Millisecond}
		var tr Tracker
		var pending *Snapshot
		now, handled := noon, map[uint64]bool{}
		for i, step := range steps {
			switch step % 5 {
			case 0:
				offset := uint64(i) * 3
				handled[offset] = true
				tr.Advance(offset, 1, now)
			case 1:
				s, _ := tr.Snapshot()
				pending = &s
			case 2:
				if pending == nil || !tr.marked {
					break
				}
				if !handled[pending.Mark] && pending.handled > 0 {
					t.Fatalf("offset %d would be stored and was not handled", pending.Mark)
				}
				if pending.handled > 0 {
					tr.StoredAt(*pending, now)
				}
			case 3:
				tr.DoubtStore(now)
			case 4:
				now = now.Add(time.Duration(step) * time.Millisecond)
			}
			if n := tr.Unstored(); n < 0 || n > int64(len(handled)) {
				t.Fatalf("%d of %d handled messages are unstored", n, len(handled))
			}
		}
		comesDue(t, p, &tr, now)
	})
}

// comesDue fails the test unless a store of what is unstored comes due, be it
// after waiting or, with a count alone, after that many messages.
func comesDue(t *testing.T, p Policy, tr *Tracker, now time.Time) {
	t.Helper()
	if tr.Unstored() == 0 {
		if due, at := p.Due(tr, now); due || !at.IsZero() {
			t.Fatalf("with nothing to store, due is %v, %v", due, at)
		}
		return
	}
	due, at := p.Due(tr, now)
	if due {
		return
	}
	if at.IsZero() {
		if p.Every == 0 || p.Interval > 0 || tr.Unstored() >= int64(p.Every) {
			t.Fatalf("%+v: %d unstored are never due", p, tr.Unstored())
		}
		for range p.Every {
			tr.Advance(tr.mark+1, 1, now)
		}
		if due, _ := p.Due(tr, now); !due {
			t.Fatalf("%+v: %d unstored are not due", p, tr.Unstored())
		}
		return
	}
	if !at.After(now) {
		t.Fatalf("%+v: not due, but to be asked again %v ago", p, now.Sub(at))
	}
	if due, _ := p.Due(tr, at); !due {
		t.Fatalf("%+v: not due when it said it would be", p)
	}
}

// TestStoredWhileHandling: messages that were handled while a store was under way
// are due by the time when it began, however long it took.
func TestStoredWhileHandling(t *testing.T) {
	p := Policy{Interval: time.Second}
	var tr Tracker
	tr.Advance(1, 1, noon)
	s, _ := tr.Snapshot()
	s.At = noon.Add(time.Second)
	tr.Advance(2, 1, time.Time{})
	tr.StoredAt(s, noon.Add(time.Minute))
	if due, _ := p.Due(&tr, noon.Add(2*time.Second)); !due {
		t.Error("the second message waits for the first one's store and as long again")
	}
	s, _ = tr.Snapshot()
	s.At = noon.Add(time.Minute)
	tr.StoredAt(s, noon.Add(2*time.Minute))
	tr.Advance(3, 1, noon.Add(3*time.Minute))
	if due, at := p.Due(&tr, noon.Add(3*time.Minute)); due || !at.Equal(noon.Add(3*time.Minute+time.Second)) {
		t.Errorf("a message that was handled later is due: %v, at %v", due, at)
	}
}
