package mark

import (
	"math"
	"slices"
	"testing"
)

func TestLowWaterMark(t *testing.T) {
	var w LowWater
	begin := func(offset uint64) uint64 { return w.Begin(offset, ChunkID{First: offset / 10 * 10}, 100) }
	a, b, c := begin(0), begin(7), begin(12) // offsets have gaps
	if w.Messages() != 3 || w.Bytes() != 200 {
		t.Errorf("%d messages in chunks of %d bytes, want 3 in 200", w.Messages(), w.Bytes())
	}
	for i, ticket := range []uint64{c, b} {
		if _, n := w.Finish(ticket); n != 0 || w.FinishedAhead() != i+1 {
			t.Errorf("the mark has passed %d messages, %d are finished ahead, and the first is unfinished", n, w.FinishedAhead())
		}
	}
	if last, n := w.Finish(a); n != 3 || last != 12 || w.Bytes() != 0 || w.FinishedAhead() != 0 {
		t.Errorf("the mark has passed %d messages and is at %d, want 3 and 12; %d are finished ahead", n, last, w.FinishedAhead())
	}
}

// beginAll begins messages of 10 to a chunk, of 100 bytes and as many more as
// the chunk's offset.
func beginAll(w *LowWater, offsets ...uint64) (tickets []uint64) {
	for _, offset := range offsets {
		first := offset / 10 * 10
		tickets = append(tickets, w.Begin(offset, id(first), 100+int(first)))
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
	tickets := beginAll(&w, 0, 9, 10, 15, 30)
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
		if _, passed := w.Finish(tickets[test.finish]); passed != test.passed {
			t.Errorf("step %d: the mark has passed %d, want %d", i, passed, test.passed)
		}
		if w.Messages() != test.messages || w.Bytes() != test.bytes {
			t.Errorf("step %d: %d messages of %d bytes in hand, want %d of %d", i, w.Messages(), w.Bytes(), test.messages, test.bytes)
		}
	}
	beginAll(&w, 38) // of a chunk that is counted already
	if w.Messages() != 1 || w.Bytes() != 130 {
		t.Errorf("%d messages of %d bytes in hand, want 1 of 130", w.Messages(), w.Bytes())
	}
	w.Hold(5)
	if w.Bytes() != 130 {
		t.Errorf("%d bytes in hand before a sub-batch's first message, want 130", w.Bytes())
	}
	last := beginAll(&w, 39) // of a sub-batch of that chunk
	if w.Messages() != 2 || w.Bytes() != 135 {
		t.Errorf("%d messages of %d bytes in hand, want 2 of 135", w.Messages(), w.Bytes())
	}
	w.Finish(last[0] - 1)
	if w.Messages() != 1 || w.Bytes() != 5 {
		t.Errorf("%d messages of %d bytes in hand, want 1 of 5", w.Messages(), w.Bytes())
	}
}

// A ticket is good however many messages before and after it are finished, in
// blocks of which one message stays behind.
func TestLowWaterTickets(t *testing.T) {
	const block = 7
	var w LowWater
	finished := 0
	slow := beginAll(&w, 0)[0]
	for round := range uint64(20) {
		var offsets []uint64
		for i := range uint64(block) {
			offsets = append(offsets, 1+round*block+i)
		}
		tickets := beginAll(&w, offsets...)
		for i, ticket := range tickets {
			if want := 1 + round*block + uint64(i); ticket != want {
				t.Fatalf("message %d has ticket %d, want %d", offsets[i], ticket, want)
			}
		}
		_, n := w.Finish(slow)
		finished += n
		slow = tickets[block-1]
		for i := block - 2; i > 0; i-- {
			if _, n := w.Finish(tickets[i]); n != 0 {
				t.Fatalf("the mark has passed %d messages, and %d is unfinished", n, offsets[0])
			}
		}
		last, n := w.Finish(tickets[0])
		if finished += n; finished != int(round+1)*block || w.Messages() != 1 {
			t.Fatalf("round %d: the mark has passed %d, %d in hand", round, finished, w.Messages())
		}
		if last != (round+1)*block-1 {
			t.Fatalf("round %d: the mark is at %d", round, last)
		}
	}
	if kept := len(w.inHand); kept > 2 {
		t.Errorf("%d messages are kept for 1 in hand", kept)
	}
}

// FuzzLowWater plays deliveries with gaps and outcomes in any order against a
// model that looks at everything ever delivered: the mark never passes an
// unfinished message, and what is handled is passed as soon as nothing stands
// before it.
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
			passed, last := 0, uint64(0)
			switch {
			case step < 128:
				if next == len(log) {
					continue
				}
				offset := log[next]
				next++
				tickets[offset] = w.Begin(offset, ChunkID{First: offset / 4 * 4}, size(offset/4*4))
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
				last, passed = w.Finish(tickets[offset])
				handled[offset] = true
				delete(tickets, offset)
			}
			before := mark
			for mark < next && handled[log[mark]] {
				mark++
			}
			if passed != mark-before || passed > 0 && last != log[mark-1] {
				t.Fatalf("the mark has passed %d and is at %d, want %d and %d", passed, last, mark-before, log[max(mark-1, 0)])
			}
			if ahead := len(handled) - mark; w.Messages() != next-mark || w.FinishedAhead() != ahead {
				t.Fatalf("%d in hand, %d of them finished, want %d and %d", w.Messages(), w.FinishedAhead(), next-mark, ahead)
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
