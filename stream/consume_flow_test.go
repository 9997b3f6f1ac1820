package stream

import (
	"math/rand/v2"
	"testing"
)

// TestFlow: whatever the sizes, the broker never runs dry for good, what is
// held stays near the limit, and there are never too many chunks.
func TestFlow(t *testing.T) {
	const limit = 4 << 20
	for name, size := range map[string]func() int{
		"tiny":    func() int { return 100 },
		"usual":   func() int { return 150_000 + rand.IntN(100_000) },
		"large":   func() int { return 3 << 20 },
		"huge":    func() int { return 64 << 20 },
		"any":     func() int { return 1 + rand.IntN(1<<20) },
		"nothing": func() int { return 0 },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFlow(limit)
			var queue []int
			largest, hand := 0, false
			for range 10_000 {
				switch {
				case hand && rand.IntN(2) == 0:
					f.returned()
					hand = false
				case !hand && len(queue) > 0 && rand.IntN(2) == 0:
					f.taken(queue[0])
					queue, hand = queue[1:], true
				case f.granted > 0:
					n := size()
					largest = max(largest, n)
					if !f.arrived(n) {
						t.Fatal("there was credit")
					}
					queue = append(queue, n)
				}
				if f.granted+f.waiting == 0 && !hand {
					t.Fatal("nothing is under way, and nothing will ask for more")
				}
				if name != "any" && f.bytes > limit+largest {
					t.Fatalf("%d bytes wait in %d chunks", f.bytes, f.waiting)
				}
				if f.waiting+f.granted > maxChunks {
					t.Fatalf("%d chunks wait, %d are to come", f.waiting, f.granted)
				}
			}
		})
	}
}

// TestFlowSlowHandler: as chunks come and none is taken, credit ends.
func TestFlowSlowHandler(t *testing.T) {
	f := newFlow(1 << 20)
	f.arrived(100_000)
	f.taken(100_000)
	n := 0
	for f.arrived(100_000) {
		n++
	}
	if n != 9 {
		t.Errorf("%d chunks of 100,000 bytes beside the one in hand, with a limit of 1 MiB", n)
	}
	if f.arrived(1) {
		t.Error("a chunk without credit was accepted")
	}
	if credit := f.returned() + f.taken(100_000); credit == 0 {
		t.Error("no credit when there is room and nothing to come")
	}
}

// TestFlowLargerThanLimit: a chunk that is larger than all there may be is held
// alone, and the next one comes once it is done.
func TestFlowLargerThanLimit(t *testing.T) {
	f := newFlow(1 << 20)
	f.arrived(40 << 20)
	if credit := f.taken(40 << 20); credit != 0 {
		t.Errorf("credit of %d beside 40 MiB", credit)
	}
	if credit := f.returned(); credit != 1 {
		t.Errorf("credit of %d afterwards", credit)
	}
	f.arrived(1000) // a small one comes, and more of it may
	if credit := f.taken(1000); credit != 1 {
		t.Errorf("credit of %d beside 1000 bytes", credit)
	}
}

// TestFlowGrowingChunks: large chunks after small ones cost at most maxChunks
// of them, once.
func TestFlowGrowingChunks(t *testing.T) {
	f := newFlow(1 << 20)
	for range 100 {
		f.arrived(100)
		f.taken(100)
		f.returned()
	}
	n := 0
	for f.arrived(1 << 20) {
		n++
	}
	if n > maxChunks {
		t.Errorf("%d large chunks", n)
	}
	for range n {
		f.taken(1 << 20)
		f.returned()
	}
	if got := f.granted; got != 1 {
		t.Errorf("credit for %d more chunks of the limit's size, want 1", got)
	}
}
