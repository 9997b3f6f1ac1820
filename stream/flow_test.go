package stream

import (
	"math/rand/v2"
	"testing"
)

// TestFlow: whatever the sizes, the broker never runs dry while there is
// room, what waits stays near the limit, and there are never too many chunks.
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
			w := flow{limit: limit, granted: 1}
			var queue []int
			largest := 0
			for range 10_000 {
				if w.granted+w.waiting == 0 {
					t.Fatal("nothing is under way")
				}
				if w.granted > 0 && (len(queue) == 0 || rand.IntN(2) == 0) {
					n := size()
					largest = max(largest, n)
					if !w.arrived(n) {
						t.Fatal("there was credit")
					}
					queue = append(queue, n)
				} else {
					w.taken(queue[0])
					queue = queue[1:]
				}
				if w.size > max(limit+largest, 2*largest) && name != "any" {
					t.Fatalf("%d bytes wait in %d chunks", w.size, w.waiting)
				}
				if w.waiting+w.granted > maxChunks {
					t.Fatalf("%d chunks wait, %d are to come", w.waiting, w.granted)
				}
			}
		})
	}
}

// TestFlowSlowHandler: as chunks come and none is taken, credit ends.
func TestFlowSlowHandler(t *testing.T) {
	w := flow{limit: 1 << 20, granted: 1}
	w.arrived(100_000)
	w.taken(100_000)
	n := 0
	for w.arrived(100_000) {
		n++
	}
	if n != 10 {
		t.Errorf("%d chunks of 100,000 bytes in a limit of 1 MiB", n)
	}
	if w.arrived(1) {
		t.Error("a chunk without credit was accepted")
	}
	if credit := w.taken(100_000); credit == 0 {
		t.Error("no credit when there is room and nothing to come")
	}
}

// TestFlowGrowingChunks: large chunks after small ones cost at most maxChunks
// of them, once.
func TestFlowGrowingChunks(t *testing.T) {
	w := flow{limit: 1 << 20, granted: 1}
	for range 100 {
		w.arrived(100)
		w.taken(100)
	}
	n := 0
	for w.arrived(1 << 20) {
		n++
	}
	if n > maxChunks {
		t.Errorf("%d large chunks", n)
	}
	for range n {
		w.taken(1 << 20)
	}
	if got := w.granted; got != minChunks {
		t.Errorf("credit for %d more chunks of the limit's size, want %d", got, minChunks)
	}
}
