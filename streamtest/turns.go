package streamtest

import (
	"slices"
	"time"
)

// This file imitates what subscriptions cost a connection in RabbitMQ below
// 4.2.2, for WithSubscriptionDelay. There one process per connection handles
// the client's frames and sends the chunks.
//
// A subscription that has come to the end of the log sleeps, looks once more,
// and then asks to hear of the next commit. A commit sends the process one event
// for each subscription that asked. On each event the process tries all its
// subscriptions of the stream, and each that finds nothing sleeps. So n
// subscriptions of a stream cost n times n sleeps per commit: on 4.0.5 a query
// after a store took 50 ms with 5, 0.3 s with 10 and 2 s with 20 of them. Frames
// wait behind the events that came before them.

// turns says whose turn it is on a connection: the reader's with the frames of
// a packet, or that of an event. Without WithSubscriptionDelay it stays empty.
type turns struct {
	events  []event         // events to serve, in order
	queued  uint64          // events ever added
	served  uint64          // events ever served
	before  uint64          // value of served at which the reader's turn comes
	packet  uint64          // conn.received at the packet that the reader handles
	reading bool            // the reader has frames of a packet to handle
	serving bool            // the first event has begun
	inline  bool            // the first event belongs to the reader's command
	untried []*subscription // subscriptions that the first event has still to try
}

// event makes a connection try its subscriptions of a stream n times.
type event struct {
	stream *stream
	only   *subscription // the one to try; nil: all
	n      int
}

// committed queues an event for each subscription that waits for a commit.
func (s *stream) committed() {
	for r := range s.readers {
		if r.listening {
			r.listening = false
			r.conn.turns.add(s)
			r.conn.signal()
		}
	}
}

// add queues an event behind all others.
func (t *turns) add(s *stream) {
	t.queued++
	last := len(t.events) - 1
	if last > 0 && t.events[last].stream == s && t.events[last].only == nil {
		t.events[last].n++
		return
	}
	t.events = append(t.events, event{stream: s, n: 1})
}

// addInline makes the subscription the next to try. The frames behind the
// command that caused it wait until it has been tried.
func (t *turns) addInline(s *subscription) {
	t.queued++
	t.events = slices.Insert(t.events, 0, event{stream: s.stream, only: s, n: 1})
	t.inline = true
}

// beginPacket notes whether the frame at hand begins a packet. Such a frame
// comes after the events that waited before it.
func (c *conn) beginPacket() {
	t := &c.turns
	if n := c.received.Load(); c.slow && n != t.packet {
		t.packet, t.before, t.reading = n, t.queued, true
	}
}

// endPacket runs when the reader has handled all frames that have arrived.
func (c *conn) endPacket() {
	c.spared = false
	c.writePublished()
	if c.slow {
		c.turns.reading = false
		c.signal()
	}
}

// mustWaitItsTurn reports whether the frame at hand comes after an event.
func (c *conn) mustWaitItsTurn() bool {
	t := &c.turns
	return (t.served < t.before || t.serving || t.inline) && !c.b.faults.stopAnswering
}

// mayServe reports whether it is the turn of the next event.
func (t *turns) mayServe(readerBlocked bool) bool {
	if len(t.events) == 0 {
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
		if !t.serving {
			c.beginEvent()
		}
		if len(t.untried) == 0 {
			c.endEvent()
			continue
		}
		s := t.untried[0]
		if rest := s.untilFirstChunk(); rest > 0 {
			return rest
		}
		if s.try(w) {
			t.untried = t.untried[1:]
		} else if w.sleep > 0 {
			break
		}
	}
	if c.gone {
		w.last = c.flush
	}
	return time.Hour
}

// try adds the chunks of a subscription. It reports whether the subscription
// has been tried; otherwise the batch is full, the connection has ended, or it
// must sleep first.
func (s *subscription) try(w *batch) bool {
	if !s.attached || !s.sending && s.credit <= s.threshold {
		return true
	}
	s.sending = true
	chunks := w.chunks
	for !s.conn.gone && w.room() && s.deliverNext(w) {
	}
	atEnd := s.attached && s.credit > 0
	switch {
	case s.conn.gone || s.sending:
		return false
	case atEnd && (w.chunks > chunks || !s.slept):
		s.sending, s.slept = true, true
		w.sleep = s.conn.b.cfg.subscriptionDelay
		return false
	}
	s.slept, s.listening = false, atEnd
	return true
}

// beginEvent begins to serve the first event.
func (c *conn) beginEvent() {
	t := &c.turns
	t.serving = true
	for _, s := range c.subs {
		if e := t.events[0]; s == e.only || e.only == nil && s.stream == e.stream {
			t.untried = append(t.untried, s)
		}
	}
}

// endEvent removes the first event.
func (c *conn) endEvent() {
	t := &c.turns
	if t.events[0].n--; t.events[0].n == 0 {
		t.events = t.events[1:]
	}
	t.served++
	t.serving, t.inline, t.untried = false, false, nil
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
