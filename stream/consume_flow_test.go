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

// TestFlowGrant is the credit for one state each. The limit is 1000 bytes.
func TestFlowGrant(t *testing.T) {
	for name, test := range map[string]struct {
		flow flow
		want int
	}{
		"nothing came yet":               {flow{}, maxChunks},
		"ten fit":                        {flow{typicalBytes: 100}, 10},
		"as many as there may be":        {flow{typicalBytes: 1}, maxChunks},
		"what waits counts":              {flow{typicalBytes: 100, waiting: 4, bytes: 400}, 6},
		"small ones that wait count":     {flow{typicalBytes: 100, waiting: 4, bytes: 4}, 6},
		"what is in hand counts":         {flow{typicalBytes: 100, currentBytes: 200, bytes: 200}, 8},
		"what is to come counts":         {flow{typicalBytes: 100, granted: 3}, 7},
		"a part of one does not fit":     {flow{typicalBytes: 100, currentBytes: 101, bytes: 101}, 8},
		"less than a quarter":            {flow{typicalBytes: 50, granted: 16}, 0},
		"a quarter":                      {flow{typicalBytes: 50, granted: 15}, 5},
		"less, and nothing is to come":   {flow{typicalBytes: 50, waiting: 16, bytes: 800}, 4},
		"none, and one waits":            {flow{typicalBytes: 100, waiting: 1, bytes: 1000}, 0},
		"none, one waits, one to come":   {flow{typicalBytes: 200, waiting: 1, granted: 1, bytes: 1000}, 0},
		"none, and one is to come":       {flow{typicalBytes: 100, granted: 1, bytes: 1000, currentBytes: 999}, 0},
		"one is in hand, just below":     {flow{typicalBytes: 999, currentBytes: 999, bytes: 999}, 1},
		"one is in hand, of the limit":   {flow{typicalBytes: 1000, currentBytes: 1000, bytes: 1000}, 0},
		"one is in hand, larger":         {flow{typicalBytes: 1001, currentBytes: 1001, bytes: 1001}, 0},
		"more than there should be":      {flow{typicalBytes: 100, waiting: 20, bytes: 2000}, 0},
		"larger than the limit, alone":   {flow{typicalBytes: 5000}, 1},
		"larger than the limit, to come": {flow{typicalBytes: 5000, granted: 1}, 0},
	} {
		f := test.flow
		f.limit = 1000
		if got := f.grant(); got != test.want || f.granted != test.flow.granted+test.want {
			t.Errorf("%s: %d, and %d are to come, want %d", name, got, f.granted, test.want)
		}
	}
}

// TestFlowTypicalSize grows by half of the difference and shrinks by an eighth.
func TestFlowTypicalSize(t *testing.T) {
	for _, test := range []struct{ before, n, want int }{
		{0, 0, 1}, {0, 1, 1}, {0, 700, 700},
		{100, 100, 100}, {100, 101, 101}, {100, 102, 101}, {100, 103, 102}, {100, 1100, 600},
		{800, 0, 700}, {100, 93, 100}, {100, 92, 99}, {1, 0, 1},
	} {
		f := flow{granted: 2, waiting: 3, bytes: 50, typicalBytes: test.before}
		if !f.arrived(test.n) || f.typicalBytes != test.want {
			t.Errorf("%d after a chunk of %d, typical before: %d; want %d", f.typicalBytes, test.n, test.before, test.want)
		}
		if f.granted != 1 || f.waiting != 4 || f.bytes != 50+test.n {
			t.Errorf("after a chunk of %d: %+v", test.n, f)
		}
	}
	if f := (flow{}); f.arrived(1) || f != (flow{}) {
		t.Errorf("a chunk without credit changed it to %+v", f)
	}
}

// TestFlowInHand: what is taken counts until it is finished.
func TestFlowInHand(t *testing.T) {
	f := flow{limit: 1000, waiting: 3, bytes: 900, typicalBytes: 300}
	if credit := f.taken(200); credit != 0 || f.waiting != 2 || f.currentBytes != 200 || f.bytes != 900 {
		t.Errorf("credit of %d, %+v", credit, f)
	}
	if credit := f.returned(); credit != 1 || f.currentBytes != 0 || f.bytes != 700 || f.waiting != 2 {
		t.Errorf("credit of %d, %+v", credit, f)
	}
}
