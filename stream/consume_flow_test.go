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
		"without credit":       {flowWith(func(f *flow) {}), 1, arrivalUnasked},
		"with credit":          {flowWith(func(f *flow) { f.granted = 1 }), 1, arrivalHeld},
		"large":                {flowWith(func(f *flow) { f.granted = 1 }), 1 << 40, arrivalHeld},
		"large, the sixteenth": {flowWith(func(f *flow) { f.granted, f.held = 1, 15 }), 1 << 40, arrivalHeld},
		"large, the next one":  {flowWith(func(f *flow) { f.granted, f.held, f.bytes = 1, 16, 1500 }), 501, arrivalTooMuch},
		"twice the limit":      {flowWith(func(f *flow) { f.granted, f.held, f.bytes = 1, 16, 1500 }), 500, arrivalHeld},
		"twice the reach": {flowWith(func(f *flow) {
			f.granted, f.held, f.bytes, f.reach = 1, 16, 1500, 900
		}), 300, arrivalHeld},
		"more than that": {flowWith(func(f *flow) {
			f.granted, f.held, f.bytes, f.reach = 1, 16, 1500, 900
		}), 301, arrivalTooMuch},
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
			want.recent, want.typical = 1, test.cost
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
	f.reach, f.typical, f.granted = 100, 10, 6
	before := f
	if got := f.grant(1000, noon); got != 0 || f != before {
		t.Errorf("credit of %d beyond the reach; %+v, was %+v", got, f, before)
	}
	f = newFlow(1000)
	if got := f.grant(1000, noon); got != 0 || f.granted != 1 {
		t.Errorf("credit of %d while the first chunk is on its way", got)
	}
}

// TestFlowAdapts: what changes the window and the reach when credit is given.
func TestFlowAdapts(t *testing.T) {
	const reach, rare = 4 * usualReach, rareCredit + 8
	for name, test := range map[string]struct {
		window     int
		reach      int64
		typical    int64
		allowance  int64
		pause      time.Duration
		dry        time.Duration
		wantWindow int
		wantReach  int64
	}{
		"often":                          {64, reach, 100, reach, oftenCredit - 1, 0, 128, reach},
		"not so often":                   {64, reach, 100, reach, oftenCredit, 0, 64, reach},
		"dry for an eighth":              {64, reach, 100, reach, rare, rare / 8, 128, reach},
		"dry for less":                   {64, reach, 100, reach, oftenCredit, oftenCredit/8 - 1, 64, reach},
		"dry for three quarters":         {64, reach, 100, reach, 4000, 3000, 256, reach},
		"always dry":                     {64, reach, 100, reach, rare, rare, 512, reach},
		"no pause":                       {64, reach, 100, reach, 0, 0, 128, reach},
		"rare":                           {64, reach, 100, reach, rareCredit + 1, 0, 32, reach / 2},
		"not so rare":                    {64, reach, 100, reach, rareCredit, 0, 64, reach},
		"rare, and small":                {20, usualReach + 1, 100, reach, time.Hour, 0, minWindow, usualReach},
		"often, memory bounds":           {64, reach, reach/64 + 1, reach, 1, 0, 64, reach},
		"often, memory just does not":    {64, reach, reach / 64, reach, 1, 0, 128, reach},
		"often, the allowance bounds":    {64, reach, reach / 64, reach - 1, 1, 0, 64, reach},
		"dry, memory bounds":             {64, reach, reach/64 + 1, 64 * reach, 4000, 3000, 64, 4 * reach},
		"dry, memory just does not":      {64, reach, reach / 64, 64 * reach, 4000, 3000, 256, reach},
		"dry, the allowance bounds":      {64, reach, reach / 64, reach - 1, 4000, 3000, 64, reach},
		"dry, the allowance soon bounds": {64, reach, reach, reach + 1, 4000, 3000, 64, reach + 1},
		"dry, at the limit":              {64, 9 * reach, reach, 64 * reach, 4000, 3000, 64, 10 * reach},
		"the largest window":             {maxWindow - 1, reach, 1, reach, 1, 0, maxWindow, reach},
		"dry, the largest window":        {maxWindow - 1, reach, 1, reach, 4000, 3000, maxWindow, reach},
	} {
		f := newFlow(10 * reach)
		f.window, f.reach, f.typical, f.granted, f.dry, f.creditAt = test.window, test.reach, test.typical, 5, test.dry, noon
		now := noon.Add(test.pause)
		f.adapt(test.allowance, now)
		if f.window != test.wantWindow || f.reach != test.wantReach {
			t.Errorf("%s: a window of %d and a reach of %d, want %d and %d", name, f.window, f.reach, test.wantWindow, test.wantReach)
		}
		if f.before != 5 || f.dry != 0 || !f.dryFrom.IsZero() || f.creditAt != now {
			t.Errorf("%s: %+v", name, f)
		}
	}
}

// TestFlowReachOfASmallLimit never exceeds the limit.
func TestFlowReachOfASmallLimit(t *testing.T) {
	f := newFlow(1000)
	f.typical, f.dry = 1000, time.Hour
	f.adapt(1<<30, noon)
	if f.reach != 1000 {
		t.Errorf("grown to %d", f.reach)
	}
	f.creditAt = noon.Add(-time.Hour)
	f.adapt(1<<30, noon)
	if f.reach != 1000 {
		t.Errorf("shrunk to %d", f.reach)
	}
}

// TestFlowDry: a wait counts as dry from the moment when all has come that was
// granted before the last credit.
func TestFlowDry(t *testing.T) {
	at := func(ms int) time.Time { return noon.Add(time.Duration(ms) * time.Millisecond) }
	f := newFlow(1 << 20)
	f.granted, f.typical, f.creditAt = 10, 1, at(0)
	f.adapt(1<<20, at(0))
	f.granted += 10
	isDry := func(when string, want time.Duration) {
		t.Helper()
		if f.dry != want*time.Millisecond {
			t.Errorf("%s: dry for %v", when, f.dry)
		}
	}
	for range 9 {
		f.arrived(1)
	}
	f.waits(at(1))
	f.resumes(at(2))
	isDry("before the tenth chunk", 0)
	f.arrived(1)
	f.waits(at(3))
	f.waits(at(4)) // woken for nothing
	f.resumes(at(7))
	f.resumes(at(8))
	isDry("behind the tenth chunk", 4)
	f.arrived(1)
	f.waits(at(10))
	f.resumes(at(11))
	isDry("a second time", 5)
	f.waits(at(12))
	if f.growth(at(13)) != 2 { // dry for 6 of 13
		t.Errorf("growth by %d", f.growth(at(13)))
	}
	if f.growth(at(32)) != 4 { // dry for 25 of 32
		t.Errorf("growth by %d", f.growth(at(32)))
	}
	f.adapt(1<<20, at(20)) // credit while it waits: 9 were granted before
	f.resumes(at(30))
	isDry("with credit in time", 0)
	f.granted = 0
	f.waits(at(31))
	f.before = 0
	f.waits(at(31))
	f.adapt(1<<20, at(40)) // credit while it waits, and none was granted before
	f.resumes(at(45))
	isDry("with credit too late", 5)
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

// farAway lets a flow read a stream of chunks of one size that a network brings,
// perTrip of them in a round trip. It returns how many of the round trips it
// took until as many chunks come in one, and whether they still do at the end.
func farAway(f *flow, size int64, perTrip int) (trips int, inTheEnd bool) {
	const roundTrip = 10 * time.Millisecond
	type due struct {
		at     time.Duration
		credit int
	}
	step := roundTrip / time.Duration(perTrip)
	var now time.Duration
	var onItsWay []due // credit on its way to the broker, which a chunk follows at once
	broker, inTrip := f.granted, 0
	for n := range 40 * perTrip {
		now += step
		for len(onItsWay) > 0 && onItsWay[0].at <= now {
			broker += onItsWay[0].credit
			onItsWay = onItsWay[1:]
		}
		given := 0
		if broker > 0 {
			broker--
			inTrip++
			f.arrived(size)
			f.resumes(noon.Add(now))
			f.returned(1, size)
			given = f.grant(32<<20, noon.Add(now))
		}
		f.waits(noon.Add(now)) // the handler is fast
		if given += f.grant(32<<20, noon.Add(now)); given > 0 {
			onItsWay = append(onItsWay, due{now + roundTrip, given})
		}
		if (n+1)%perTrip == 0 {
			if inTheEnd = inTrip >= perTrip*95/100; !inTheEnd {
				trips = (n + 1) / perTrip
			}
			inTrip = 0
		}
	}
	return trips, inTheEnd
}

// TestFlowFarAway: on a slow network window and reach grow until they are no
// longer what limits the rate, within a few round trips.
func TestFlowFarAway(t *testing.T) {
	for name, test := range map[string]struct {
		size    int64
		perTrip int
		trips   int // after which the rate is that of the network
	}{
		"tiny chunks":  {200, 5000, 6},
		"small chunks": {2000, 2000, 6},
		"chunks":       {200_000, 40, 4},
		"full chunks":  {900_000, 12, 4}, // 11 MB
	} {
		f := newFlow(defaultMaxBuffered)
		trips, inTheEnd := farAway(&f, test.size, test.perTrip)
		if trips > test.trips || !inTheEnd {
			t.Errorf("%s: after %d round trips, %d allowed; in the end %v; %+v", name, trips, test.trips, inTheEnd, f)
		}
		t.Logf("%s: %d round trips, a window of %d, a reach of %d KiB", name, trips, f.window, f.reach>>10)
	}
}

// TestFlowOfASlowHandler reaches for no more than usual: there is always a chunk
// that waits.
func TestFlowOfASlowHandler(t *testing.T) {
	f, now := newFlow(1<<30), noon
	f.arrived(200_000)
	f.grant(1<<30, now)
	for range 10_000 { // what was asked for comes at once
		for f.granted > 0 {
			f.arrived(200_000)
		}
		now = now.Add(time.Millisecond)
		f.returned(1, 200_000)
		f.grant(1<<30, now)
	}
	if f.reach != usualReach || f.bytes > usualReach {
		t.Errorf("a reach of %d, %d bytes are held", f.reach, f.bytes)
	}
}

func TestFlowReturnAfter(t *testing.T) {
	f := newFlow(8000)
	f.reach = 800
	for window, want := range map[int]int{minWindow: 2, 7: 1, 8: 1, 8000: 1000} {
		f.window = window
		if chunks, cost := f.returnAfter(); chunks != want || cost != 100 {
			t.Errorf("with a window of %d, after %d chunks or %d bytes", window, chunks, cost)
		}
	}
}
