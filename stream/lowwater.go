package stream

import "math"

// lowWater holds the messages in hand when several are handled at a time, in the
// order of delivery, and finds the low-water mark: the last message before
// which, and with which, everything is handled. Offsets have gaps, so that only
// this order tells what comes between two of them. It is pure: no I/O, no
// clock, no lock.
type lowWater struct {
	hand  []inHand // from head on; hand[head] is the first unfinished one
	head  int
	first uint64 // ticket of hand[head]

	// ahead are the offsets, ascending, of messages that an earlier session
	// finished above the mark. They come again and are not to be handled.
	ahead []uint64

	chunk   chunkID // the newest
	before  uint64  // bytes of the chunks before it in this session
	bytes   uint64  // and with it
	last    inHand  // the last one that the mark passed in this session
	hasLast bool
}

// inHand is a message that was delivered and that the mark has not passed.
type inHand struct {
	offset uint64
	id     chunkID
	before uint64 // bytes of the chunks before its own
	done   bool
}

// begin adds the next message in the order of delivery. fresh is false if it
// was handled in an earlier session; then it is finished already, and passed is
// the number of messages that the mark has passed thereby. size is that of the
// message's chunk in bytes.
func (w *lowWater) begin(offset uint64, id chunkID, size int) (ticket uint64, fresh bool, passed int) {
	if w.bytes == 0 || id != w.chunk {
		w.chunk, w.before = id, w.bytes
		w.bytes += uint64(size)
	}
	for len(w.ahead) > 0 && w.ahead[0] < offset {
		w.ahead = w.ahead[1:] // it was removed from the stream
	}
	fresh = len(w.ahead) == 0 || w.ahead[0] != offset
	if !fresh {
		w.ahead = w.ahead[1:]
	}
	ticket = w.first + uint64(w.len())
	w.hand = append(w.hand, inHand{offset: offset, id: id, before: w.before, done: !fresh})
	return ticket, fresh, w.advance()
}

// finish marks a message as handled and returns how many messages the mark has
// passed thereby: 0 while an earlier one is unfinished.
func (w *lowWater) finish(ticket uint64) (passed int) {
	w.hand[w.head+int(ticket-w.first)].done = true
	return w.advance()
}

func (w *lowWater) advance() (passed int) {
	for w.head < len(w.hand) && w.hand[w.head].done {
		w.last, w.hasLast = w.hand[w.head], true
		w.head++
		w.first++
		passed++
	}
	if w.head > len(w.hand)/2 { // each message is moved once at most, on average
		w.hand = w.hand[:copy(w.hand, w.hand[w.head:])]
		w.head = 0
	}
	return passed
}

// len is the number of messages from the first unfinished one on.
func (w *lowWater) len() int { return len(w.hand) - w.head }

// open is how many bytes the chunks have that these messages are of.
func (w *lowWater) open() int {
	if w.len() == 0 {
		return 0
	}
	return int(min(w.bytes-w.hand[w.head].before, math.MaxInt)) // quiet streams may have more than an int holds on 32-bit systems
}

// restart ends a session: what is unfinished will come again, and what is
// finished above it will be recognised.
func (w *lowWater) restart() {
	var ahead []uint64
	for _, m := range w.hand[w.head:] {
		if m.done {
			ahead = append(ahead, m.offset)
		}
	}
	// Those of an earlier session that have not come again are above all of these.
	w.ahead = append(ahead, w.ahead...)
	w.hand, w.head, w.before, w.bytes, w.hasLast = nil, 0, 0, 0, false
}
