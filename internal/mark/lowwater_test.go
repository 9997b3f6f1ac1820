package mark

import (
	"slices"
	"testing"
)

func TestLowWaterMark(t *testing.T) {
	var w LowWater
	begin := func(offset uint64) uint64 {
		t.Helper()
		ticket, fresh, passed := w.Begin(offset, ChunkID{First: offset / 10 * 10}, 100)
		if !fresh || passed != 0 {
			t.Errorf("message %d: fresh %v, passed %d", offset, fresh, passed)
		}
		return ticket
	}
	a, b, c := begin(0), begin(7), begin(12) // offsets have gaps
	if w.Messages() != 3 || w.Bytes() != 200 {
		t.Errorf("%d messages in chunks of %d bytes, want 3 in 200", w.Messages(), w.Bytes())
	}
	if n := w.Finish(c) + w.Finish(b); n != 0 || w.passed {
		t.Errorf("the mark has passed %d messages, and the first is unfinished", n)
	}
	if n := w.Finish(a); n != 3 || w.last.Offset != 12 || w.Bytes() != 0 {
		t.Errorf("the mark has passed %d messages and is at %d, want 3 and 12", n, w.last.Offset)
	}
}

func TestLowWaterRemembersAcrossSessions(t *testing.T) {
	var w LowWater
	for _, offset := range []uint64{3, 5, 6, 9} {
		ticket, _, _ := w.Begin(offset, ChunkID{}, 100)
		if offset == 5 || offset == 9 {
			w.Finish(ticket)
		}
	}
	w.Restart()
	var fresh []uint64
	var tickets []uint64
	for _, offset := range []uint64{3, 5, 6} { // and the connection drops again before 9
		ticket, isFresh, _ := w.Begin(offset, ChunkID{}, 100)
		if isFresh {
			fresh, tickets = append(fresh, offset), append(tickets, ticket)
		}
	}
	if !slices.Equal(fresh, []uint64{3, 6}) {
		t.Errorf("%v are to be handled, want 3 and 6", fresh)
	}
	w.Finish(tickets[1])
	w.Restart()
	if _, isFresh, passed := w.Begin(9, ChunkID{}, 100); isFresh || passed != 1 || w.last.Offset != 9 {
		t.Errorf("with 3 to 6 removed by retention, 9 is fresh: %v, the mark at %d", isFresh, w.last.Offset)
	}
	if len(w.finishedAhead) != 0 {
		t.Errorf("%v are remembered for nothing", w.finishedAhead)
	}
}

// FuzzLowWater plays deliveries with gaps, outcomes in any order and lost
// connections against a model that looks at everything ever delivered: the mark
// never passes an unfinished message, nothing is handled twice, and what is
// handled is passed as soon as nothing stands before it.
func FuzzLowWater(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 130, 131, 129, 128})
	f.Add([]byte{0, 0, 9, 140, 255, 0, 0, 0, 128})
	f.Add([]byte{1, 2, 3, 130, 255, 1, 130, 255, 1, 1, 1, 128, 128, 128})
	f.Fuzz(func(t *testing.T, steps []byte) {
		// The stream: offsets with gaps that the steps decide.
		var log []uint64
		for i, at := 0, uint64(0); i < 64; i++ {
			log = append(log, at)
			at += 1 + uint64(i%3)
		}
		var w LowWater
		handled := map[uint64]bool{}   // by the model
		tickets := map[uint64]uint64{} // in hand, by offset
		mark, next := 0, 0             // how many of log the model's mark has passed; the next to deliver
		for _, step := range steps {
			passed := 0
			switch {
			case step == 255: // the connection drops
				w.Restart()
				tickets, next = map[uint64]uint64{}, mark
			case step < 128:
				if next == len(log) {
					continue
				}
				offset := log[next]
				next++
				ticket, fresh, n := w.Begin(offset, ChunkID{First: offset / 4 * 4}, 100)
				if fresh == handled[offset] {
					t.Fatalf("message %d is fresh: %v; handled: %v", offset, fresh, handled[offset])
				}
				if passed = n; fresh {
					tickets[offset] = ticket
				}
			default:
				var open []uint64
				for offset := range tickets {
					open = append(open, offset)
				}
				if len(open) == 0 {
					continue
				}
				slices.Sort(open)
				offset := open[int(step-128)%len(open)]
				passed = w.Finish(tickets[offset])
				handled[offset] = true
				delete(tickets, offset)
			}
			before := mark
			for mark < next && handled[log[mark]] {
				mark++
			}
			if passed != mark-before || passed > 0 && (!w.passed || w.last.Offset != log[mark-1]) {
				t.Fatalf("the mark has passed %d and is at %d, want %d and %d", passed, w.last.Offset, mark-before, log[max(mark-1, 0)])
			}
			if w.Messages() != next-mark {
				t.Fatalf("%d in hand, want %d", w.Messages(), next-mark)
			}
		}
	})
}
