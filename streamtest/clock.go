package streamtest

import "time"

// clock is real time plus what a test has added. Guarded by Broker.mu.
type clock struct {
	data  time.Duration // timestamps and retention
	beats time.Duration // heartbeats and time-outs of the protocol
}

// now is the time of the data: chunk timestamps and retention.
func (b *Broker) now() time.Time { return time.Now().Add(b.clock.data) }

// beat is the time of the protocol: heartbeats and time-outs.
func (b *Broker) beat() time.Time { return time.Now().Add(b.clock.beats) }

// Now returns the broker's time, as chunks are stamped with it.
func (b *Broker) Now() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.now()
}

// Advance moves the broker's clock by d and lets retention by age take effect. Heartbeats do not notice:
// a test that ages data by a week would otherwise lose its connections; see AdvanceHeartbeats.
func (b *Broker) Advance(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.clock.data += d
	for _, vh := range b.vhosts {
		for _, s := range vh.streams {
			b.account(s, func() { s.log.retain(b.now().UnixMilli()) })
		}
	}
	b.changed()
}

// AdvanceHeartbeats lets d pass for the connections as if nobody had sent anything: heartbeats that fall
// due are sent, connections silent for too long are closed, as are handshakes and consumer updates that
// were left unanswered.
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
