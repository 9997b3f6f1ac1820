package streamtest

import (
	"slices"
	"time"
)

// This file imitates what subscriptions cost a connection in RabbitMQ below
// 4.2.2, for WithSubscriptionDelay. There one process per connection handles
// the client's frames and sends the chunks. Each commit to a stream wakes it
// once for each subscription of the stream. A wake-up that comes to the end of
// the log sleeps and looks once more. Frames wait meanwhile.
//
// A wake-up that waits already takes the commits that follow with it, as in
// RabbitMQ, where a subscription asks for the next commit only after it has
// looked.

// turns says whose turn it is on a connection: the reader's with the frames of
// a packet, or a subscription's. Without WithSubscriptionDelay it stays empty.
type turns struct {
	wakes   []*subscription // subscriptions whose wake-up waits, in order
	queued  uint64          // wake-ups ever added to wakes
	served  uint64          // wake-ups ever removed from wakes
	before  uint64          // value of served at which the reader's turn comes
	packet  uint64          // conn.received at the packet that the reader handles
	reading bool            // the reader has frames of a packet to handle
	serving bool            // the first of wakes has begun
	inline  bool            // the first of wakes belongs to the reader's command
}

// wake queues a wake-up of the subscription, unless one waits already.
func (s *subscription) wake() {
	c := s.conn
	if !c.slow || s.woken {
		return
	}
	s.woken = true
	c.turns.wakes = append(c.turns.wakes, s)
	c.turns.queued++
}

// wakeInline makes the wake-up of the subscription the next one. The frames
// behind the command that caused it wait until it has been served.
func (s *subscription) wakeInline() {
	t := &s.conn.turns
	if !s.woken {
		return
	}
	i := slices.Index(t.wakes, s)
	t.wakes = slices.Insert(slices.Delete(t.wakes, i, i+1), 0, s)
	t.inline = true
}

// beginPacket notes whether the frame at hand begins a packet. Such a frame
// comes after the wake-ups that waited before it.
func (c *conn) beginPacket() {
	t := &c.turns
	if n := c.received.Load(); c.slow && n != t.packet {
		t.packet, t.before, t.reading = n, t.queued, true
	}
}

// endPacket runs when the reader has handled all frames that have arrived.
func (c *conn) endPacket() {
	c.writePublished()
	if c.slow {
		c.turns.reading = false
		c.signal()
	}
}

// mustWaitItsTurn reports whether the frame at hand comes after a wake-up.
func (c *conn) mustWaitItsTurn() bool {
	t := &c.turns
	return (t.served < t.before || t.serving || t.inline) && !c.b.faults.stopAnswering
}

// mayServe reports whether it is the turn of the next wake-up.
func (t *turns) mayServe(readerBlocked bool) bool {
	if len(t.wakes) == 0 {
		return false
	}
	return t.serving || t.inline || readerBlocked || !t.reading || t.served < t.before
}

// takeTurns is takeChunks with a delay. It adds the chunks of the subscriptions
// whose turn it is. It sets w.sleep if the connection must sleep after the
// batch.
func (c *conn) takeTurns(w *batch) time.Duration {
	t := &c.turns
	for !c.gone && w.room() && t.mayServe(c.blocked()) {
		s := t.wakes[0]
		if rest := s.untilFirstChunk(); rest > 0 {
			return rest
		}
		t.serving = true
		chunks := w.chunks
		for !c.gone && w.room() && s.deliverNext(w) {
		}
		switch {
		case c.gone:
			w.last = c.flush
		case s.sending: // the batch is full
		case s.attached && s.credit > 0 && (w.chunks > chunks || !s.slept):
			s.sending, s.slept = true, true
			w.sleep = c.b.cfg.subscriptionDelay
			return time.Hour
		default:
			c.endTurn()
		}
	}
	return time.Hour
}

// endTurn removes the first wake-up.
func (c *conn) endTurn() {
	t := &c.turns
	s := t.wakes[0]
	s.woken, s.slept = false, false
	t.wakes = t.wakes[1:]
	t.served++
	t.serving, t.inline = false, false
	c.room.Broadcast()
}

// sleep waits for d, or until the connection ends.
func (c *conn) sleep(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-c.ended:
	}
}
