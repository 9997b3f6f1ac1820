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
