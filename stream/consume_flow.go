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
// within what the subscription may have: limit, or less while the Env's budget
// is short. Their number stays within window, which grows while credit has to
// be given often or the consumer waits for chunks in bursts, and shrinks when
// credit is rare. Whatever the bounds, one chunk may be on its way while none
// waits, so nobody starves. flow is pure: no I/O, no clock, no lock.
type flow struct {
	limit   int64 // most bytes that the subscription may have
	window  int   // most chunks that are granted or held
	granted int   // chunks that are granted and have not come
	held    int   // chunks that have come and were not given back
	bytes   int64 // memory of the held chunks
	typical int64 // estimated memory of the next chunk; 0: none has come yet

	burst        int           // chunks that came since the consumer last waited
	longestBurst int           // the longest burst that a wait has ended since credit was given
	waitingSince time.Time     // zero: the consumer does not wait
	waited       time.Duration // how long it has waited since credit was given
	creditAt     time.Time     // when credit was given last

	recent   int // chunks that came since the last tick
	expected int // granted chunks above this number claim no memory
}

const (
	// minWindow is the window of a quiet subscription. A subscription holds so
	// many chunks, whatever they turn out to weigh.
	minWindow = 16
	// maxWindow is the largest window: the most that one Credit frame can give.
	maxWindow = 32_767
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
	return flow{limit: int64(limit), window: minWindow, granted: broker.FirstCredit, expected: maxWindow}
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
// twice the limit with it: small chunks were followed by large ones, and there
// is no other way to take credit back than to end the subscription.
func (f *flow) arrived(cost int64) arrival {
	switch {
	case f.granted == 0:
		return arrivalUnasked
	case f.held >= minWindow && f.bytes+cost > 2*f.limit:
		return arrivalTooMuch
	}
	f.granted--
	f.held++
	f.bytes += cost
	f.burst++
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

// waits ends a burst: the consumer has handled what came, and waits for more.
func (f *flow) waits(now time.Time) {
	if f.waitingSince.IsZero() {
		f.waitingSince = now
	}
	f.longestBurst = max(f.longestBurst, f.burst)
	f.burst = 0
}

// resumes ends a wait: the consumer has more to handle.
func (f *flow) resumes(now time.Time) {
	if !f.waitingSince.IsZero() {
		f.waited += now.Sub(f.waitingSince)
		f.waitingSince = time.Time{}
	}
}

// grant returns the credit to give now, and counts it. allowance is how many
// bytes the Env's budget has for the subscription.
func (f *flow) grant(allowance int64, now time.Time) (credit int) {
	room := min(allowance, f.limit)
	if f.typical == 0 || f.due(room) == 0 {
		return 0
	}
	f.adaptWindow(room, now)
	credit = f.due(room)
	f.granted += credit
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

// adaptWindow changes the window when credit is given. While memory is what
// bounds the credit, a larger window would change nothing.
func (f *flow) adaptWindow(room int64, now time.Time) {
	pause, starved := now.Sub(f.creditAt), f.starved(now)
	switch {
	case (pause < oftenCredit || starved) && int64(f.window) <= room/f.typical:
		f.window = min(2*f.window, maxWindow)
	case pause > rareCredit && !starved:
		f.window = max(f.window/2, minWindow)
	}
	f.longestBurst, f.waited, f.creditAt = 0, 0, now
	if !f.waitingSince.IsZero() {
		f.waitingSince = now
	}
}

// starved reports whether the broker seems to have waited for credit since the
// last was given, as it does on a slow network: chunks came in bursts of a
// quarter of the window or more, and the consumer waited between them.
func (f *flow) starved(now time.Time) bool {
	waited := f.waited
	if !f.waitingSince.IsZero() {
		waited += now.Sub(f.waitingSince)
	}
	return f.longestBurst >= f.window/4 && waited >= now.Sub(f.creditAt)/4
}

// returnAfter is how many chunks the consumer may handle before it calls
// returned. Then grant gives credit in time.
func (f *flow) returnAfter() (chunks int, cost int64) {
	return max(f.window/8, 1), f.limit / 8
}

// tick comes every few seconds. From then on the granted chunks count as
// memory only as far as the broker has used credit lately: credit cannot be
// taken back, and a subscription at the stream's end has much left from when
// it was catching up.
func (f *flow) tick() {
	f.expected = min(2*f.recent+minWindow, maxWindow)
	f.recent = 0
}

// claim is the memory to be reserved for the subscription.
func (f *flow) claim() int64 {
	return f.bytes + int64(min(f.granted, f.expected))*f.typical
}
