package stream

import "github.com/tidemark-go/tidemark/internal/broker"

// flow decides how much credit a subscription gives. It aims at limit bytes of
// chunks that are on their way, wait, or are in the hands of the dispatcher.
// Credit counts chunks, whose sizes are known only once they come, so flow goes
// by the sizes of recent ones. While the chunk in hand is smaller than limit, one
// more may always be on its way. Behind a larger one, flow asks for nothing. It is
// pure: no I/O, no clock, no lock.
type flow struct {
	limit        int // bytes
	granted      int // chunks that credit was given for and that have not come
	waiting      int // chunks that came and were not taken
	inHandBytes  int // of the chunk that was taken
	bytes        int // of the chunks that wait and of the one in hand
	typicalBytes int // of a chunk to come, to go by the recent ones; 0: none came yet
}

// newFlow returns the flow of a subscription that has asked for its first chunks.
func newFlow(limit int) flow { return flow{limit: limit, granted: broker.FirstCredit} }

// maxChunks bounds the credit where chunks are small. It bounds how many large
// chunks may follow small ones before flow knows.
const maxChunks = 32

// arrived counts a chunk of n bytes. It reports whether there was credit for the
// chunk. The typical size grows at once and shrinks by and by.
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

// taken takes a chunk of n bytes in hand and returns the credit to give now.
func (f *flow) taken(n int) (credit int) {
	f.waiting--
	f.inHandBytes = n
	return f.grant()
}

// finished lets go of the chunk in hand and returns the credit to give now.
func (f *flow) finished() (credit int) {
	f.bytes -= f.inHandBytes
	f.inHandBytes = 0
	return f.grant()
}

func (f *flow) grant() int {
	typical := max(f.typicalBytes, 1)
	most := min(max(f.limit/typical, 1), maxChunks)
	credit := min(most-f.waiting, (f.limit-f.bytes)/typical) - f.granted
	if f.waiting+f.granted == 0 && f.inHandBytes < f.limit {
		credit = max(credit, 1)
	}
	// A frame for each chunk pays only where chunks are large.
	if credit <= 0 || f.granted > 0 && credit < most/4 {
		return 0
	}
	f.granted += credit
	return credit
}
