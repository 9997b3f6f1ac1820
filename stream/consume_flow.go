package stream

import (
	"time"

	"github.com/tidemark-go/tidemark/internal/broker"
)

// flow decides how much credit a subscription gives. A chunk is granted when
// flow gives credit for it, and held from its arrival until the consumer gives
// its memory back. Credit counts chunks, and a chunk's size is known only when
// it comes, so flow estimates it by recent ones.
//
// Two things bound the chunks that are granted or held. Their memory stays
// within reach, or less while the Env's budget is short. Their number stays
// within window. Both grow while the broker runs out of credit and the consumer
// waits for it, as on a slow network, and shrink when credit is rare. Window
// grows as well while credit has to be given often. Whatever the bounds, one
// chunk may be on its way while none waits, so nobody starves. flow is pure: no
// I/O, no clock, no lock.
type flow struct {
	limit   int64 // most bytes that the subscription may have
	reach   int64 // the bytes of these that it uses
	window  int   // most chunks that are granted or held
	granted int   // chunks that are granted and have not come
	held    int   // chunks that have come and were not given back
	bytes   int64 // memory of the held chunks
	typical int64 // estimated memory of the next chunk; 0: none has come yet

	before   int           // chunks that were granted before credit was given last and have not come
	dryFrom  time.Time     // since when the consumer waits while before is 0; zero: it does not
	dry      time.Duration // how long it did so since credit was given
	creditAt time.Time     // when credit was given last

	parked   bool // nothing is expected, whatever is granted; see park
	recent   int  // chunks that came since the last tick
	expected int  // granted chunks above this number claim no memory
}

const (
	// minWindow is the window of a quiet subscription. A subscription holds so
	// many chunks, whatever they turn out to weigh.
	minWindow = 16
	// maxWindow is the largest window: the most that one Credit frame can give.
	maxWindow = 32_767
	// usualReach is what a subscription reaches for while the network is fast.
	// A slow handler has no use for more.
	usualReach = 8 << 20
	// maxGrowth is by how much window or reach grows at a time.
	maxGrowth = 8
	// chunkOverhead is what a chunk costs beside the buffer that it lies in.
	chunkOverhead = 64

	// oftenCredit and rareCredit are the times between two Credit frames below
	// which the window doubles, and above which it is halved. A Credit frame
	// interrupts the broker, and the broker delivers to nobody else on the
	// connection until the credit that it has is used up.
	oftenCredit = 10 * time.Millisecond
	rareCredit  = 100 * time.Millisecond
)

// newFlow returns the flow of a subscription that has asked for its first
// chunks.
func newFlow(limit int) flow {
	return flow{limit: int64(limit), reach: min(int64(limit), usualReach), window: minWindow, granted: broker.FirstCredit, expected: maxWindow}
}

// arrival says what becomes of a chunk that has come.
type arrival uint8

const (
	arrivalHeld    arrival = iota // it is held
	arrivalUnasked                // there was no credit for it
	arrivalTooMuch                // with it the subscription would hold too much
)

// arrived counts a chunk that has come and takes cost bytes of memory. The
// estimate follows a larger chunk at once, and a smaller one by an eighth of
// the difference. The chunk is too much if minWindow chunks are held, and
// twice the reach with it: small chunks were followed by large ones, and there
// is no other way to take credit back than to end the subscription.
func (f *flow) arrived(cost int64) arrival {
	switch {
	case f.granted == 0:
		return arrivalUnasked
	case f.held >= minWindow && f.bytes+cost > 2*f.reach:
		return arrivalTooMuch
	}
	f.parked = false
	f.granted--
	f.held++
	f.bytes += cost
	f.before = max(f.before-1, 0)
	if f.recent++; f.recent > f.expected {
		f.expected = maxWindow
	}
	if f.typical = max(f.typical, 1); cost > f.typical {
		f.typical = cost
	} else {
		f.typical -= (f.typical - cost) / 8
	}
	return arrivalHeld
}

// returned counts held chunks, with their memory, as given back.
func (f *flow) returned(chunks int, cost int64) {
	f.held -= chunks
	f.bytes -= cost
}

// waits begins a wait: the consumer has handled what came.
func (f *flow) waits(now time.Time) {
	if f.before == 0 && f.dryFrom.IsZero() {
		f.dryFrom = now
	}
}

// resumes ends a wait: the consumer has more to handle.
func (f *flow) resumes(now time.Time) {
	if !f.dryFrom.IsZero() {
		f.dry += now.Sub(f.dryFrom)
		f.dryFrom = time.Time{}
	}
}

// grant returns the credit to give now, and counts it. allowance is how many
// bytes the Env's budget has for the subscription.
func (f *flow) grant(allowance int64, now time.Time) (credit int) {
	if f.typical == 0 || f.due(min(allowance, f.reach)) == 0 {
		return 0
	}
	f.adapt(allowance, now)
	credit = f.due(min(allowance, f.reach))
	f.granted += credit
	f.parked = f.parked && credit == 0
	return credit
}

// due returns the credit that may be given. Credit costs a frame, so it is
// given for half of the chunks that there may be at a time. It is given for
// fewer once none is on its way and at most the one in hand is left.
func (f *flow) due(room int64) int {
	fits := max(room/f.typical, 1)
	most := int(min(int64(f.window), fits))
	credit := int(min(int64(most-f.held), (room-f.bytes)/f.typical)) - f.granted
	switch {
	case f.granted == 0 && (f.held == 0 || f.held == 1 && f.bytes < room):
		return max(credit, 1)
	case credit < (most+1)/2:
		return 0
	}
	return credit
}

// adapt changes the window when credit is given, or the reach where memory is
// what bounds the credit.
func (f *flow) adapt(allowance int64, now time.Time) {
	pause, growth := now.Sub(f.creditAt), f.growth(now)
	fits := min(allowance, f.reach) / f.typical
	switch {
	case growth > 1 && int64(f.window) > fits:
		f.reach = min(f.reach*int64(growth), max(allowance, f.reach), f.limit)
	case growth > 1:
		f.window = min(growth*f.window, maxWindow)
	case pause < oftenCredit && int64(f.window) <= fits:
		f.window = min(2*f.window, maxWindow)
	case pause > rareCredit:
		f.window = max(f.window/2, minWindow)
		f.reach = max(f.reach/2, min(f.limit, usualReach))
	}
	f.before, f.dry, f.creditAt = f.granted, 0, now
	if !f.dryFrom.IsZero() {
		f.dryFrom = time.Time{}
		f.waits(now)
	}
}

// growth returns by how much window or reach is to grow so that the broker does
// not run out of credit again, and 1 if it did not. Credit that comes in time
// reaches the broker while it still sends chunks that were granted before. If it
// comes too late, as on a slow network, the consumer gets all of these and then
// waits for the first new one, for a round trip less what they took.
func (f *flow) growth(now time.Time) int {
	pause, dry := now.Sub(f.creditAt), f.dry
	if !f.dryFrom.IsZero() {
		dry += now.Sub(f.dryFrom)
	}
	if dry < pause/8 {
		return 1
	}
	return int(min(max(pause/max(pause-dry, 1), 2), maxGrowth))
}

// returnAfter is how many chunks the consumer may handle before it calls
// returned. Then grant gives credit in time.
func (f *flow) returnAfter() (chunks int, cost int64) {
	return max(f.window/8, 1), f.reach / 8
}

// tick comes every few seconds. From then on the granted chunks count as
// memory only as far as the broker has used credit lately: credit cannot be
// taken back, and a subscription at the stream's end has much left from when
// it was catching up.
func (f *flow) tick() {
	f.expected = min(2*f.recent+minWindow, maxWindow)
	f.recent = 0
}

// park drops the chunks that are held. Those that are granted claim no memory
// until one of them comes: the broker keeps the credit of a subscription to which
// it sends nothing.
func (f *flow) park() {
	f.parked, f.held, f.bytes, f.before = true, 0, 0, 0
	f.dryFrom, f.dry = time.Time{}, 0
}

// claim is the memory to be reserved for the subscription.
func (f *flow) claim() int64 {
	if f.parked {
		return 0
	}
	return f.bytes + int64(min(f.granted, f.expected))*f.typical
}
