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
	finished    int    // messages in hand that are finished

	chunk       ChunkID // the newest chunk
	bytesBefore uint64  // size of what comes before its next message
	bytes       uint64  // size of all that has come; 0: there is none
	holds       uint64  // size that Hold has added for the next message
}

// message is a message that was delivered and that the mark has not passed.
type message struct {
	offset      uint64 // of the message, or of what Pass has added behind it
	bytesBefore uint64 // size of what came before it
	behind      int    // what Pass has added counts as so many messages
	finished    bool
}

// Begin takes the next message in the order of delivery in hand. The message
// lies in a chunk of size bytes, which are at least 1. ticket stands for the
// message; tickets count up from 0.
func (w *LowWater) Begin(offset uint64, chunk ChunkID, size int) (ticket uint64) {
	if w.bytes == 0 || chunk != w.chunk {
		w.chunk, w.bytesBefore = chunk, w.bytes
		w.bytes += uint64(size) + w.holds
		w.holds = 0
	} else if w.holds > 0 {
		w.bytesBefore = w.bytes
		w.bytes += w.holds
		w.holds = 0
	}
	ticket = w.firstTicket + uint64(w.Messages())
	w.inHand = append(w.inHand, message{offset: offset, bytesBefore: w.bytesBefore})
	return ticket
}

// Hold counts size further bytes for the messages that Begin takes in hand next:
// those of a sub-batch that was decompressed.
func (w *LowWater) Hold(size int) { w.holds += uint64(size) }

// Finish records that a message is handled. It is called once for each. passed
// is how many messages the mark passes by that, which is 0 while an earlier one
// is unfinished, with what Pass has added to these; last is the offset of the last
// of them.
func (w *LowWater) Finish(ticket uint64) (last uint64, passed int) {
	w.inHand[w.head+int(ticket-w.firstTicket)].finished = true
	for w.finished++; w.head < len(w.inHand) && w.inHand[w.head].finished; w.finished-- {
		last = w.inHand[w.head].offset
		passed += 1 + w.inHand[w.head].behind
		w.head++
		w.firstTicket++
	}
	if w.head > len(w.inHand)/2 { // so that each message is moved once at most, on average
		w.inHand = w.inHand[:copy(w.inHand, w.inHand[w.head:])]
		w.head = 0
	}
	return last, passed
}

// Pass takes note that everything up to an offset, behind the messages in hand,
// needs no handling, and counts as so many messages that the mark passes. The mark
// passes it together with the last message in hand. If none is in hand, Pass
// reports that the mark moves there at once.
func (w *LowWater) Pass(offset uint64, count int) (atOnce bool) {
	if w.Messages() == 0 {
		return true
	}
	last := &w.inHand[len(w.inHand)-1]
	last.offset = max(last.offset, offset)
	last.behind += count
	return false
}

// Messages returns the number of messages in hand: those from the first
// unfinished one on.
func (w *LowWater) Messages() int { return len(w.inHand) - w.head }

// FinishedAhead returns how many messages in hand are finished.
func (w *LowWater) FinishedAhead() int { return w.finished }

// Bytes returns the size of the chunks that the messages in hand lie in, with
// what is decompressed of them, or MaxInt if that is less, as it may be on a
// 32-bit system.
func (w *LowWater) Bytes() int {
	if w.Messages() == 0 {
		return 0
	}
	return int(min(w.bytes-w.inHand[w.head].bytesBefore, math.MaxInt))
}
