package streamtest

import "time"

// clock holds what a test has added to the real time. Broker.mu guards it.
type clock struct {
	data  time.Duration // added to the time of data, see Broker.now
	beats time.Duration // added to the time of the protocol, see Broker.protocolNow
}

// now returns the time that stamps chunks and decides on retention by age.
func (b *Broker) now() time.Time { return time.Now().Add(b.clock.data) }

// protocolNow returns the time that heartbeats and time-outs go by.
func (b *Broker) protocolNow() time.Time { return time.Now().Add(b.clock.beats) }

// Now returns the time with which the broker stamps chunks. It is the real time
// unless WithStartTime or Advance moved it.
func (b *Broker) Now() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.now()
}

// Advance moves the clock of the data forward by d and removes the data that
// retention no longer keeps. It does not affect heartbeats and time-outs, so
// that a test can age data by a week and keep its connections.
// AdvanceHeartbeats moves their clock.
func (b *Broker) Advance(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.clock.data += d
	for _, vh := range b.vhosts {
		for _, s := range vh.streams {
			b.trackSize(s, func() { s.log.retain(b.now().UnixMilli()) })
		}
	}
	b.changed()
}

// AdvanceHeartbeats moves the clock of the protocol forward by d, as if no
// client had sent anything in that time. The broker sends the heartbeats that
// fall due. It closes a connection if one of these times has run out:
//
//   - two heartbeat checks in a row without a byte from the client; checks are
//     one heartbeat interval apart, so that this takes two to three intervals
//     of silence;
//   - half a heartbeat interval between Tune and Open;
//   - 10 seconds for a step of the handshake, or for the answer to Close;
//   - 60 seconds for the answer to a ConsumerUpdate.
func (b *Broker) AdvanceHeartbeats(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.clock.beats += d
	for c := range b.conns {
		if _, ok := c.keepTime(); !ok {
			c.end(CutFIN)
		}
		c.signal()
	}
}
