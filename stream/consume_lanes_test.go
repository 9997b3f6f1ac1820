package stream

import "testing"

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
