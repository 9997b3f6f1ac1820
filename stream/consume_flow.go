package stream

import "github.com/tidemark-go/tidemark/internal/broker"

// flow decides how much credit a subscription gives. A chunk is granted when
// flow gives credit for it, then waits in the subscription's queue, and then is
// the current one, which the dispatcher takes apart. flow keeps the bytes of
// all three together at about limit. Credit counts chunks, and a chunk's size
// is known only when it comes, so flow estimates it by recent ones.
//
// While the current chunk is smaller than limit, flow grants at least one more.
// While it is larger, flow grants none. flow is pure: no I/O, no clock, no
// lock.
type flow struct {
	limit        int // bytes
	granted      int // chunks that are granted and have not come
	waiting      int // chunks that wait
	currentBytes int // size of the current chunk; 0: there is none
	bytes        int // size of the waiting chunks and the current one
	typicalBytes int // estimated size of the next chunk; 0: none has come yet
}

// newFlow returns the flow of a subscription that has asked for its first
// chunks.
func newFlow(limit int) flow { return flow{limit: limit, granted: broker.FirstCredit} }

// maxChunks bounds how many chunks are granted or wait. If chunks grow, as many
// large ones may come before flow knows.
const maxChunks = 32

// arrived counts a chunk of n bytes that has come. It returns false if there
// was no credit for it. The estimate takes over half of a growth at once, and
// an eighth of a decrease.
func (f *flow) arrived(n int) bool {
	if f.granted == 0 {
		return false
	}
	f.granted--
	f.waiting++
	f.bytes += n
	switch {
	case f.typicalBytes == 0:
		f.typicalBytes = max(n, 1)
	case n > f.typicalBytes:
		f.typicalBytes += (n - f.typicalBytes + 1) / 2
	default:
		f.typicalBytes -= (f.typicalBytes - n) / 8
	}
	return true
}

// taken makes the first waiting chunk, of n bytes, the current one. It returns
// the credit to give now.
func (f *flow) taken(n int) (credit int) {
	f.waiting--
	f.currentBytes = n
	return f.grant()
}

// returned ends the current chunk and returns the credit to give now.
func (f *flow) returned() (credit int) {
	f.bytes -= f.currentBytes
	f.currentBytes = 0
	return f.grant()
}

// grant returns the credit to give now, and counts it.
func (f *flow) grant() int {
	typical := max(f.typicalBytes, 1)
	most := min(max(f.limit/typical, 1), maxChunks)
	credit := min(most-f.waiting, (f.limit-f.bytes)/typical) - f.granted
	if f.waiting+f.granted == 0 && f.currentBytes < f.limit {
		credit = max(credit, 1)
	}
	// Credit costs a frame, so it is given for several small chunks together.
	if credit <= 0 || f.granted > 0 && credit < most/4 {
		return 0
	}
	f.granted += credit
	return credit
}
