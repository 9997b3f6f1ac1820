package mark

import "math"

// LowWater finds the mark when several messages are handled at a time: the last
// message that is finished, with everything delivered before it. It holds the
// messages in hand, in the order of delivery. A message is in hand from its
// delivery until the mark passes it.
type LowWater struct {
	inHand      []message // inHand[head] is the first unfinished message
	head        int
	firstTicket uint64 // of inHand[head]

	// finishedAhead are the offsets, ascending, of the messages above the mark
	// that an earlier session finished. They come again and are not handled
	// again.
	finishedAhead []uint64

	chunk       ChunkID // the newest chunk
	bytesBefore uint64  // size of what comes before its next message in this session
	bytes       uint64  // size of all that has come; 0: there is none
	holds       uint64  // size that Hold has added for the next message

	last   Passed // the last message that the mark passed in this session
	passed bool   // there is one
}

// message is a message that was delivered and that the mark has not passed.
type message struct {
	Passed
	bytesBefore uint64 // size of what came before it in this session
	finished    bool
}

// Passed is a message that the mark has passed.
type Passed struct {
	Offset uint64
	Chunk  ChunkID
}

// Begin takes the next message in the order of delivery in hand. The message
// lies in a chunk of size bytes, which are at least 1. ticket stands for the
// message until the session ends. fresh is false for a message that an earlier
// session finished: it is not to be handled again. passed is the number of
// messages that the mark passes by that.
func (w *LowWater) Begin(offset uint64, chunk ChunkID, size int) (ticket uint64, fresh bool, passed int) {
	if w.bytes == 0 || chunk != w.chunk {
		w.chunk, w.bytesBefore = chunk, w.bytes
		w.bytes += uint64(size) + w.holds
		w.holds = 0
	} else if w.holds > 0 {
		w.bytesBefore = w.bytes
		w.bytes += w.holds
		w.holds = 0
	}
	for len(w.finishedAhead) > 0 && w.finishedAhead[0] < offset {
		w.finishedAhead = w.finishedAhead[1:] // retention has removed it from the stream
	}
	fresh = len(w.finishedAhead) == 0 || w.finishedAhead[0] != offset
	if !fresh {
		w.finishedAhead = w.finishedAhead[1:]
	}
	ticket = w.firstTicket + uint64(w.Messages())
	w.inHand = append(w.inHand, message{Passed{offset, chunk}, w.bytesBefore, !fresh})
	return ticket, fresh, w.advance()
}

// Hold counts size further bytes for the messages that Begin takes in hand next:
// those of a sub-batch that was decompressed.
func (w *LowWater) Hold(size int) { w.holds += uint64(size) }

// Finish records that a message is handled. It is called once for each fresh
// message. It returns how many messages the mark passes by that, which is 0
// while an earlier one is unfinished.
func (w *LowWater) Finish(ticket uint64) (passed int) {
	w.inHand[w.head+int(ticket-w.firstTicket)].finished = true
	return w.advance()
}

func (w *LowWater) advance() (passed int) {
	for w.head < len(w.inHand) && w.inHand[w.head].finished {
		w.last, w.passed = w.inHand[w.head].Passed, true
		w.head++
		w.firstTicket++
		passed++
	}
	if w.head > len(w.inHand)/2 { // so that each message is moved once at most, on average
		w.inHand = w.inHand[:copy(w.inHand, w.inHand[w.head:])]
		w.head = 0
	}
	return passed
}

// Last returns the last message that the mark has passed in this session, and
// whether there is one.
func (w *LowWater) Last() (last Passed, ok bool) { return w.last, w.passed }

// Messages returns the number of messages in hand: those from the first
// unfinished one on.
func (w *LowWater) Messages() int { return len(w.inHand) - w.head }

// Bytes returns the size of the chunks that the messages in hand lie in, with
// what is decompressed of them, or MaxInt if that is less, as it may be on a 32-bit system.
func (w *LowWater) Bytes() int {
	if w.Messages() == 0 {
		return 0
	}
	return int(min(w.bytes-w.inHand[w.head].bytesBefore, math.MaxInt))
}

// Restart ends a session. What is in hand comes again in the next one. Begin
// then recognises what is finished.
func (w *LowWater) Restart() {
	var ahead []uint64
	for _, m := range w.inHand[w.head:] {
		if m.finished {
			ahead = append(ahead, m.Offset)
		}
	}
	// What an earlier session finished and has not come again lies above these.
	w.finishedAhead = append(ahead, w.finishedAhead...)
	w.inHand, w.head, w.bytesBefore, w.bytes, w.holds, w.passed = nil, 0, 0, 0, 0, false
}
