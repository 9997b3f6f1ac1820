package stream

import (
	"math/rand/v2"
	"testing"
	"time"
)

// flowWith returns a flow with a limit of 1000 bytes.
func flowWith(change func(*flow)) flow {
	f := newFlow(1000)
	f.granted, f.typical = 0, 1
	change(&f)
	return f
}

// TestFlow: whatever the sizes, the broker never runs dry for good, and what is
// held stays within what the documentation says.
func TestFlow(t *testing.T) {
	const limit = 4 << 20
	for name, size := range map[string]func() int64{
		"tiny":       func() int64 { return 100 },
		"usual":      func() int64 { return 150_000 + rand.Int64N(100_000) },
		"large":      func() int64 { return 3 << 20 },
		"huge":       func() int64 { return 64 << 20 },
		"any":        func() int64 { return 1 + rand.Int64N(1<<20) },
		"nothing":    func() int64 { return 0 },
		"now large":  func() int64 { return 100 + rand.Int64N(2)*rand.Int64N(2)*limit },
		"once large": func() int64 { return 100 + max(0, rand.Int64N(1000)-998)*limit },
	} {
		t.Run(name, func(t *testing.T) {
			f, now := newFlow(limit), noon
			var queue []int64
			var largest int64
			for range 20_000 {
				now = now.Add(time.Duration(rand.Int64N(int64(2 * oftenCredit))))
				switch {
				case len(queue) > 0 && rand.IntN(2) == 0:
					f.returned(1, queue[0])
					queue = queue[1:]
					f.grant(limit, now)
				case f.granted > 0:
					n := size()
					switch f.arrived(n) {
					case arrivalUnasked:
						t.Fatal("there was credit")
					case arrivalTooMuch: // as a new subscription
						queue, f = nil, newFlow(limit)
						continue
					}
					largest = max(largest, n)
					if queue = append(queue, n); len(queue) == 1 {
						f.grant(limit, now)
					}
				}
				if f.granted == 0 && len(queue) == 0 {
					t.Fatal("nothing is under way, and nothing will ask for more")
				}
				if bound := max(2*limit, minWindow*largest); f.bytes > bound {
					t.Fatalf("%d bytes are held in %d chunks, more than %d", f.bytes, f.held, bound)
				}
				if f.held+f.granted > f.window && f.window > minWindow || f.window > maxWindow {
					t.Fatalf("%d chunks are held, %d are to come, with a window of %d", f.held, f.granted, f.window)
				}
			}
		})
	}
}

// TestFlowArrived: what becomes of a chunk.
func TestFlowArrived(t *testing.T) {
	for name, test := range map[string]struct {
		flow flow
		cost int64
		want arrival
	}{
		"without credit":          {flowWith(func(f *flow) {}), 1, arrivalUnasked},
		"with credit":             {flowWith(func(f *flow) { f.granted = 1 }), 1, arrivalHeld},
		"large":                   {flowWith(func(f *flow) { f.granted = 1 }), 1 << 40, arrivalHeld},
		"large, the sixteenth":    {flowWith(func(f *flow) { f.granted, f.held = 1, 15 }), 1 << 40, arrivalHeld},
		"large, the next one":     {flowWith(func(f *flow) { f.granted, f.held, f.bytes = 1, 16, 1500 }), 501, arrivalTooMuch},
		"twice the limit":         {flowWith(func(f *flow) { f.granted, f.held, f.bytes = 1, 16, 1500 }), 500, arrivalHeld},
		"too much, and no credit": {flowWith(func(f *flow) { f.held, f.bytes = 16, 1500 }), 501, arrivalUnasked},
	} {
		f := test.flow
		got := f.arrived(test.cost)
		if got != test.want {
			t.Errorf("%s: %d, want %d", name, got, test.want)
		}
		want := test.flow
		if got == arrivalHeld {
			want.granted, want.held, want.bytes = want.granted-1, want.held+1, want.bytes+test.cost
			want.burst, want.recent, want.typical = 1, 1, test.cost
		}
		if f != want {
			t.Errorf("%s: %+v, want %+v", name, f, want)
		}
	}
}

// TestFlowTypicalSize grows at once and shrinks by an eighth.
func TestFlowTypicalSize(t *testing.T) {
	for _, test := range []struct{ before, n, want int64 }{
		{0, 0, 1}, {0, 1, 1}, {0, 700, 700},
		{100, 100, 100}, {100, 101, 101}, {100, 1100, 1100},
		{800, 0, 700}, {100, 93, 100}, {100, 92, 99}, {1, 0, 1},
	} {
		f := flow{granted: 2, typical: test.before}
		if f.arrived(test.n); f.typical != test.want {
			t.Errorf("%d after a chunk of %d, typical before: %d; want %d", f.typical, test.n, test.before, test.want)
		}
	}
}

// TestFlowDue is the credit for one state each. The limit is 1000 bytes.
func TestFlowDue(t *testing.T) {
	for name, test := range map[string]struct {
		flow flow
		want int
	}{
		"ten fit":                        {flow{typical: 100}, 10},
		"as many as there may be":        {flow{typical: 1}, minWindow},
		"with a larger window":           {flow{typical: 1, window: 700}, 700},
		"what is held counts":            {flow{typical: 100, held: 4, bytes: 400}, 6},
		"small ones that are held count": {flow{typical: 100, held: 4, bytes: 4}, 6},
		"a part of one does not fit":     {flow{typical: 100, held: 1, bytes: 101}, 8},
		"half":                           {flow{typical: 100, granted: 5}, 5},
		"less than half":                 {flow{typical: 100, granted: 6}, 0},
		"less, and some are held":        {flow{typical: 100, held: 6, bytes: 600}, 0},
		"half of an odd number":          {flow{typical: 333, granted: 1}, 2},
		"none, and two are held":         {flow{typical: 100, held: 2, bytes: 1000}, 0},
		"none, one held, one to come":    {flow{typical: 200, held: 1, granted: 1, bytes: 1000}, 0},
		"none, and one is to come":       {flow{typical: 100, granted: 1, bytes: 1000}, 0},
		"one is in hand, just below":     {flow{typical: 999, held: 1, bytes: 999}, 1},
		"one is in hand, of the limit":   {flow{typical: 1000, held: 1, bytes: 1000}, 0},
		"one is in hand, larger":         {flow{typical: 1001, held: 1, bytes: 1001}, 0},
		"more than there should be":      {flow{typical: 100, held: 20, bytes: 2000}, 0},
		"larger than the limit, alone":   {flow{typical: 5000}, 1},
		"larger than the limit, to come": {flow{typical: 5000, granted: 1}, 0},
	} {
		f := test.flow
		if f.limit = 1000; f.window == 0 {
			f.window = minWindow
		}
		if got := f.due(1000); got != test.want {
			t.Errorf("%s: %d, want %d", name, got, test.want)
		}
	}
}

// TestFlowAllowance: the Env's budget bounds the credit as the limit does, and
// leaves one chunk.
func TestFlowAllowance(t *testing.T) {
	for allowance, want := range map[int64]int{2000: 10, 1000: 10, 999: 9, 100: 1, 99: 1, 0: 1} {
		f := newFlow(1000)
		f.arrived(100)
		f.returned(1, 100)
		if got := f.grant(allowance, noon); got != want || f.granted != want {
			t.Errorf("with %d bytes: credit for %d chunks of 100, want %d", allowance, got, want)
		}
	}
	f := newFlow(1000)
	f.arrived(100)
	if got := f.grant(100, noon); got != 0 {
		t.Errorf("credit for %d chunks beside the one in hand, which is all there may be", got)
	}
	f = newFlow(1000)
	if got := f.grant(1000, noon); got != 0 || f.granted != 1 {
		t.Errorf("credit of %d while the first chunk is on its way", got)
	}
}

// TestFlowWindow: what changes the window when credit is given.
func TestFlowWindow(t *testing.T) {
	const limit = 1 << 30
	for name, test := range map[string]struct {
		window, burst int
		typical       int64
		pause         time.Duration
		waited        time.Duration // which part of the pause; below 0: and waits still
		want          int
	}{
		"often":                  {64, 1, 100, oftenCredit - 1, 0, 128},
		"not so often":           {64, 1, 100, oftenCredit, 4, 64},
		"a burst":                {64, 16, 100, time.Hour, 4, 128},
		"a burst, a short wait":  {64, 16, 100, time.Second / 20, 5, 64},
		"a burst, waits on":      {64, 16, 100, time.Hour, -4, 128},
		"a burst, waits briefly": {64, 16, 100, time.Second / 20, -5, 64},
		"a short burst":          {64, 15, 100, time.Second / 20, 1, 64},
		"rare":                   {64, 15, 100, rareCredit + 1, 1, 32},
		"not so rare":            {64, 15, 100, rareCredit, 1, 64},
		"rare, and small":        {20, 1, 100, time.Hour, 1, minWindow},
		"often, memory bounds":   {64, 1, limit/64 + 1, 1, 1, 64},
		"often, memory is due":   {64, 1, limit / 64, 1, 1, 128},
		"the largest":            {maxWindow - 1, 1, 1, 1, 1, maxWindow},
	} {
		f := newFlow(limit)
		now := noon.Add(test.pause)
		f.window, f.typical, f.longestBurst, f.creditAt = test.window, test.typical, test.burst, noon
		if test.waited != 0 {
			f.waits(now.Add(-test.pause / max(test.waited, -test.waited)))
		}
		if test.waited > 0 {
			f.resumes(now)
		}
		f.adaptWindow(limit, now)
		if f.window != test.want || f.longestBurst != 0 || f.waited != 0 || f.waitingSince.IsZero() == (test.waited < 0) {
			t.Errorf("%s: a window of %d, want %d; %+v", name, f.window, test.want, f)
		}
	}
}

// TestFlowKeepsTheLongestBurst of those since credit was given.
func TestFlowKeepsTheLongestBurst(t *testing.T) {
	f := newFlow(1 << 20)
	f.granted = 100
	for _, n := range []int{3, 5, 0, 4} {
		for range n {
			f.arrived(1)
		}
		f.waits(noon)
	}
	if f.longestBurst != 5 || f.burst != 0 {
		t.Errorf("%+v", f)
	}
}

// TestFlowAtTheEnd: credit that the broker does not use claims no memory. It
// does again when chunks come.
func TestFlowAtTheEnd(t *testing.T) {
	f := newFlow(1 << 20)
	f.granted = 1000
	for range 100 {
		f.arrived(10)
	}
	f.returned(100, 1000)
	claims := func(when string, want int64) {
		t.Helper()
		if got := f.claim(); got != want {
			t.Errorf("%s: a claim of %d bytes, want %d", when, got, want)
		}
	}
	claims("after a burst", 9000)
	f.tick()
	claims("half a heartbeat later", 10*(2*100+minWindow))
	f.tick()
	claims("without any", 10*minWindow)
	for range minWindow {
		f.arrived(10)
	}
	claims("as few as expected", 10*minWindow+10*minWindow)
	f.arrived(10)
	claims("with one more", 10*(minWindow+1)+10*int64(f.granted))
}

// TestFlowCreditIsRare: reading all the time, a subscription comes to give
// credit once in oftenCredit, and goes back to a small window at the end of the
// stream.
func TestFlowCreditIsRare(t *testing.T) {
	f, now := newFlow(8<<20), noon
	last := time.Duration(0)
	for range 100_000 { // one chunk in 5 microseconds
		now = now.Add(5 * time.Microsecond)
		f.arrived(200)
		f.returned(1, 200)
		before := f.creditAt
		if f.grant(32<<20, now) > 0 {
			last = now.Sub(before)
		}
	}
	if last < oftenCredit || f.window > 10_000 {
		t.Errorf("credit after %v, a window of %d", last, f.window)
	}
	for range 10_000 { // one in 100 ms
		now = now.Add(100 * time.Millisecond)
		f.arrived(200)
		f.resumes(now)
		f.returned(1, 200)
		f.grant(32<<20, now)
		f.waits(now)
	}
	if f.window != minWindow || f.granted > minWindow {
		t.Errorf("a window of %d, %d are to come", f.window, f.granted)
	}
}

// TestFlowFarAway: on a slow network, where chunks come in bursts, the window
// grows until it is no longer what limits the rate.
func TestFlowFarAway(t *testing.T) {
	const roundTrip, perTrip = 200 * time.Millisecond, 5000 // what the broker could send
	f, now := newFlow(8<<20), noon
	broker := f.granted
	for range 40 {
		f.resumes(now)
		n := min(broker, perTrip)
		given := 0
		for range n {
			f.arrived(200)
			f.returned(1, 200)
			given += f.grant(32<<20, now)
		}
		f.waits(now)
		given += f.grant(32<<20, now)
		broker += given - n
		now = now.Add(roundTrip)
	}
	if broker < perTrip {
		t.Errorf("%d chunks come in a round trip, of %d; the window is %d", broker, perTrip, f.window)
	}
}

func TestFlowReturnAfter(t *testing.T) {
	f := newFlow(800)
	for window, want := range map[int]int{minWindow: 2, 7: 1, 8: 1, 8000: 1000} {
		f.window = window
		if chunks, cost := f.returnAfter(); chunks != want || cost != 100 {
			t.Errorf("with a window of %d, after %d chunks or %d bytes", window, chunks, cost)
		}
	}
}
