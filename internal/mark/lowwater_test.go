package mark

import (
	"math"
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

// beginAll begins messages of 10 to a chunk, of 100 bytes and as many more as
// the chunk's offset.
func beginAll(t *testing.T, w *LowWater, offsets ...uint64) (tickets []uint64) {
	t.Helper()
	for _, offset := range offsets {
		first := offset / 10 * 10
		ticket, fresh, passed := w.Begin(offset, id(first), 100+int(first))
		if !fresh || passed != 0 {
			t.Errorf("message %d: fresh %v, passed %d", offset, fresh, passed)
		}
		tickets = append(tickets, ticket)
	}
	return tickets
}

// What is in hand is as large as the chunks from the first unfinished message
// to the newest one, whichever messages between are finished.
func TestLowWaterInHand(t *testing.T) {
	var w LowWater
	if w.Messages() != 0 || w.Bytes() != 0 {
		t.Errorf("%d messages of %d bytes in hand before the first", w.Messages(), w.Bytes())
	}
	tickets := beginAll(t, &w, 0, 9, 10, 15, 30)
	for i, test := range []struct {
		finish          int // index of the message
		passed          int
		messages, bytes int
	}{
		{1, 0, 5, 100 + 110 + 130},
		{0, 2, 3, 110 + 130},
		{4, 0, 3, 110 + 130},
		{2, 1, 2, 110 + 130},
		{3, 2, 0, 0},
	} {
		if passed := w.Finish(tickets[test.finish]); passed != test.passed {
			t.Errorf("step %d: the mark has passed %d, want %d", i, passed, test.passed)
		}
		if w.Messages() != test.messages || w.Bytes() != test.bytes {
			t.Errorf("step %d: %d messages of %d bytes in hand, want %d of %d", i, w.Messages(), w.Bytes(), test.messages, test.bytes)
		}
	}
	beginAll(t, &w, 38) // of a chunk that is counted already
	if w.Messages() != 1 || w.Bytes() != 130 {
		t.Errorf("%d messages of %d bytes in hand, want 1 of 130", w.Messages(), w.Bytes())
	}
	w.Hold(5)
	if w.Bytes() != 130 {
		t.Errorf("%d bytes in hand before a sub-batch's first message, want 130", w.Bytes())
	}
	last := beginAll(t, &w, 39) // of a sub-batch of that chunk
	if w.Messages() != 2 || w.Bytes() != 135 {
		t.Errorf("%d messages of %d bytes in hand, want 2 of 135", w.Messages(), w.Bytes())
	}
	w.Finish(last[0] - 1)
	if w.Messages() != 1 || w.Bytes() != 5 {
		t.Errorf("%d messages of %d bytes in hand, want 1 of 5", w.Messages(), w.Bytes())
	}
	w.Hold(7) // for a chunk that does not come in this session
	w.Restart()
	beginAll(t, &w, 38) // the same chunk, and a new session gets it anew
	if w.Messages() != 1 || w.Bytes() != 130 {
		t.Errorf("in a new session %d messages of %d bytes in hand, want 1 of 130", w.Messages(), w.Bytes())
	}
}

func TestLowWaterLast(t *testing.T) {
	var w LowWater
	want := func(offset uint64, ok bool) {
		t.Helper()
		last, passed := w.Last()
		if passed != ok || ok && last != (Passed{offset, id(offset / 10 * 10)}) {
			t.Errorf("the mark has passed %+v, %v, want %d, %v", last, passed, offset, ok)
		}
	}
	want(0, false)
	tickets := beginAll(t, &w, 8, 12, 13)
	want(0, false)
	w.Finish(tickets[1])
	want(0, false)
	w.Finish(tickets[0])
	want(12, true)
	w.Restart()
	want(0, false)
	w.Finish(beginAll(t, &w, 13)[0])
	want(13, true)
}

// A ticket is good however many messages before and after it are finished, in
// blocks of which one message stays behind.
func TestLowWaterTickets(t *testing.T) {
	const block = 7
	var w LowWater
	finished := 0
	slow := beginAll(t, &w, 0)[0]
	for round := range uint64(20) {
		var offsets []uint64
		for i := range uint64(block) {
			offsets = append(offsets, 1+round*block+i)
		}
		tickets := beginAll(t, &w, offsets...)
		for i, ticket := range tickets {
			if want := 1 + round*block + uint64(i); ticket != want {
				t.Fatalf("message %d has ticket %d, want %d", offsets[i], ticket, want)
			}
		}
		finished += w.Finish(slow)
		slow = tickets[block-1]
		for i := block - 2; i > 0; i-- {
			if n := w.Finish(tickets[i]); n != 0 {
				t.Fatalf("the mark has passed %d messages, and %d is unfinished", n, offsets[0])
			}
		}
		if finished += w.Finish(tickets[0]); finished != int(round+1)*block || w.Messages() != 1 {
			t.Fatalf("round %d: the mark has passed %d, %d in hand", round, finished, w.Messages())
		}
		if last, _ := w.Last(); last.Offset != (round+1)*block-1 {
			t.Fatalf("round %d: the mark is at %d", round, last.Offset)
		}
	}
	if kept := len(w.inHand); kept > 2 {
		t.Errorf("%d messages are kept for 1 in hand", kept)
	}
}

// Messages that were finished ahead and that retention then removed do not come
// again.
func TestLowWaterRetentionRemovesWhatIsFinished(t *testing.T) {
	var w LowWater
	tickets := beginAll(t, &w, 1, 3, 5, 7, 9)
	for _, i := range []int{1, 2, 4} { // 3, 5 and 9
		w.Finish(tickets[i])
	}
	w.Restart()
	beginAll(t, &w, 6) // 1 to 5 are gone
	if !slices.Equal(w.finishedAhead, []uint64{9}) {
		t.Errorf("%v are remembered, want 9", w.finishedAhead)
	}
	beginAll(t, &w, 7)
	if _, fresh, passed := w.Begin(9, id(0), 100); fresh || passed != 0 || w.Messages() != 3 {
		t.Errorf("9 is fresh: %v, the mark has passed %d of %d", fresh, passed, w.Messages())
	}
	w.Restart()
	if !slices.Equal(w.finishedAhead, []uint64{9}) {
		t.Errorf("%v are remembered, want 9", w.finishedAhead)
	}
}

// Sessions that end before anything comes forget nothing, and what a later one
// finishes stands before what an earlier one did.
func TestLowWaterRestartTwice(t *testing.T) {
	var w LowWater
	tickets := beginAll(t, &w, 0, 1, 2, 3, 4)
	w.Finish(tickets[4])
	w.Finish(tickets[2])
	w.Restart()
	w.Restart()
	if w.Messages() != 0 || w.Bytes() != 0 {
		t.Errorf("%d messages of %d bytes in hand after the end of a session", w.Messages(), w.Bytes())
	}
	tickets = beginAll(t, &w, 0, 1)
	w.Finish(tickets[1])
	w.Restart()
	w.Restart()
	if !slices.Equal(w.finishedAhead, []uint64{1, 2, 4}) {
		t.Errorf("%v are remembered, want 1, 2 and 4", w.finishedAhead)
	}
	w.Finish(beginAll(t, &w, 0)[0])
	for _, test := range []struct {
		offset uint64
		fresh  bool
		passed int
	}{{1, false, 1}, {2, false, 1}, {3, true, 0}, {4, false, 0}, {5, true, 0}} {
		if _, fresh, passed := w.Begin(test.offset, id(0), 100); fresh != test.fresh || passed != test.passed {
			t.Errorf("%d: fresh %v, passed %d, want %v and %d", test.offset, fresh, passed, test.fresh, test.passed)
		}
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
		size := func(chunk uint64) int { return 100 + int(chunk) }
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
				ticket, fresh, n := w.Begin(offset, ChunkID{First: offset / 4 * 4}, size(offset/4*4))
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
			bytes, counted := 0, map[uint64]bool{}
			for _, offset := range log[mark:next] {
				if first := offset / 4 * 4; !counted[first] {
					counted[first] = true
					bytes += size(first)
				}
			}
			if w.Bytes() != bytes {
				t.Fatalf("%d bytes in hand, want %d", w.Bytes(), bytes)
			}
		}
	})
}

// TestLowWaterBytesAreBounded: the chunks in hand may have more bytes than an
// int holds on a 32-bit system.
func TestLowWaterBytesAreBounded(t *testing.T) {
	var w LowWater
	for i := range uint64(2) {
		w.Begin(i, ChunkID{First: i}, math.MaxInt)
	}
	if got := w.Bytes(); got != math.MaxInt {
		t.Errorf("%d bytes in hand, want %d", got, math.MaxInt)
	}
}
