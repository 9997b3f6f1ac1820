package stream

import (
	"slices"
	"testing"
)

// FuzzLanes plays messages of four keys, and workers that take and finish them.
// One of a key is out at a time, in order, and in the end all have been.
func FuzzLanes(f *testing.F) {
	f.Add(true, []byte{0, 1, 0, 0, 4, 4, 8, 8, 4})
	f.Add(false, []byte{0, 1, 2, 3, 4, 8, 4, 8})
	f.Fuzz(func(t *testing.T, byKey bool, steps []byte) {
		l := newLanes(byKey)
		last, out := map[string]uint64{}, []job(nil)
		pushed, taken := uint64(0), uint64(0)
		take := func(j job) {
			for _, other := range out {
				if byKey && other.key == j.key {
					t.Fatalf("messages %d and %d of the key %s are out", other.ticket, j.ticket, j.key)
				}
			}
			if j.ticket <= last[j.key] || !byKey && j.ticket != taken+1 {
				t.Fatalf("message %d of the key %s comes after %d", j.ticket, j.key, last[j.key])
			}
			last[j.key] = j.ticket
			out = append(out, j)
			taken++
		}
		finish := func(i int) {
			done := out[i]
			out = append(out[:i], out[i+1:]...)
			if j, ok := l.popBehind(done); ok {
				take(j)
			}
		}
		pop := func() bool {
			j, ok := l.pop()
			if ok {
				take(j)
			}
			return ok
		}
		for _, step := range steps {
			switch {
			case step%16 < 8:
				pushed++
				l.push(job{ticket: pushed, key: string('a' + rune(step%4))})
			case step%16 < 12:
				pop()
			case len(out) > 0:
				finish(int(step/16) % len(out))
			}
		}
		for pop() || len(out) > 0 {
			if len(out) > 0 {
				finish(0)
			}
		}
		if taken != pushed || len(l.behind) > 0 {
			t.Fatalf("%d of %d messages came out, %d keys are left", taken, pushed, len(l.behind))
		}
	})
}

// TestLanesKeepTheirMemory: a queue that never runs empty moves what waits to the
// front before it grows, and forgets what was taken.
func TestLanesKeepTheirMemory(t *testing.T) {
	l := newLanes(false)
	pushed, popped := uint64(0), uint64(0)
	push := func() { pushed++; l.push(job{ticket: pushed, d: &Delivery{}}) }
	push()
	for range 1000 {
		push()
		popped++
		if j, ok := l.pop(); !ok || j.ticket != popped {
			t.Fatalf("took message %d, %v, want %d", j.ticket, ok, popped)
		}
		for i, j := range l.ready[:l.head] {
			if j != (job{}) {
				t.Fatalf("message %d is kept at %d, before the head %d", j.ticket, i, l.head)
			}
		}
	}
	if cap(l.ready) > 8 {
		t.Errorf("room for %d messages where 2 wait at a time", cap(l.ready))
	}
	if j, ok := l.popBehind(job{}); ok {
		t.Errorf("without keys message %d follows another one", j.ticket)
	}
	if j, ok := l.pop(); !ok || j.ticket != pushed || l.head != 0 || len(l.ready) != 0 {
		t.Errorf("took message %d, %v, and the head is at %d of %d", j.ticket, ok, l.head, len(l.ready))
	}
	if _, ok := l.pop(); ok {
		t.Error("took a message that is not there")
	}
}

// TestLanesCut keeps what comes before a ticket, in its order.
func TestLanesCut(t *testing.T) {
	l := newLanes(true)
	for ticket := range uint64(12) {
		l.push(job{ticket: ticket, key: string('a' + rune(ticket%3))})
	}
	first, _ := l.pop()
	l.cut(7)
	var got []uint64
	for j, ok := first, true; ok; j, ok = l.popBehind(j) {
		got = append(got, j.ticket)
	}
	for range 2 {
		for j, ok := l.pop(); ok; j, ok = l.popBehind(j) {
			got = append(got, j.ticket)
		}
	}
	if want := []uint64{0, 3, 6, 1, 4, 2, 5}; !slices.Equal(got, want) {
		t.Errorf("%v are left, want %v", got, want)
	}
	if j, ok := l.pop(); ok || len(l.behind) > 0 {
		t.Errorf("message %d is left", j.ticket)
	}
}
