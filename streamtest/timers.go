package streamtest

import (
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// timers holds the times at which a connection has to act, in the time of
// Broker.protocolNow. The writer checks them before each wait.
type timers struct {
	heartbeat  time.Duration // interval that the client chose; 0: none
	nextBeat   time.Time     // a beat is due every half interval
	nextCheck  time.Time     // a check is due every interval
	seen       uint64        // bytes received at the last check
	misses     int           // checks in a row that saw no new byte
	sent       bool          // the broker sent something since the last beat
	beaten     bool          // the first beat, which always sends, has passed
	pendingMax uint32        // longest frame that Open will allow
	deadline   time.Time     // end of a handshake step, or of Close; zero: none
	reply      time.Time     // when an answer to ConsumerUpdate is late; zero: none
}

// replyTimeout is how long a client may take to answer a ConsumerUpdate.
const replyTimeout = 60 * time.Second

// startHeartbeat starts the heartbeat timers. It runs at the client's Tune,
// before Open. The bytes received until then count at the first check, so that
// the broker cuts a silent client off after three intervals, not two.
func (c *conn) startHeartbeat(interval time.Duration) {
	t, now := &c.timers, c.b.protocolNow()
	t.heartbeat = interval
	t.nextBeat, t.nextCheck = now.Add(interval/2), now.Add(interval)
	c.signal() // the writer sleeps and must learn of the new times
}

// keepTime sends the heartbeat that is due and returns how long until the next
// timer. ok is false if the client was silent, or has owed an answer, for too
// long.
func (c *conn) keepTime() (wait time.Duration, ok bool) {
	t, now := &c.timers, c.b.protocolNow()
	wait = time.Hour
	for _, d := range []time.Time{t.deadline, t.reply} {
		if d.IsZero() {
			continue
		}
		if !now.Before(d) {
			return 0, false
		}
		wait = min(wait, d.Sub(now))
	}
	if t.heartbeat == 0 || c.flush {
		return wait, true
	}
	for !now.Before(t.nextCheck) {
		if !c.checkAlive() {
			return 0, false
		}
		t.nextCheck = t.nextCheck.Add(t.heartbeat)
	}
	if !now.Before(t.nextBeat) {
		if c.phase < phaseReady {
			return 0, false // RabbitMQ's process crashes if a beat is due before Open
		}
		if c.beatsUntil(now) {
			c.send(&wire.Heartbeat{})
		}
	}
	return min(wait, t.nextBeat.Sub(now), t.nextCheck.Sub(now)), true
}

// beatsUntil advances past all beats up to now. It reports whether a heartbeat
// is due: at the first beat, and at a later one if the broker has sent nothing
// since the beat before. A heartbeat counts as something sent, so that an idle
// connection gets one at every other beat.
func (c *conn) beatsUntil(now time.Time) (due bool) {
	t := &c.timers
	for !now.Before(t.nextBeat) {
		due = due || !t.sent || !t.beaten
		t.sent, t.beaten = false, true
		t.nextBeat = t.nextBeat.Add(t.heartbeat / 2)
	}
	return due
}

// checkAlive counts the checks in a row that saw no new byte. It returns false
// at the second. Time in which the broker does not read the connection does not
// count.
func (c *conn) checkAlive() bool {
	t := &c.timers
	if n := c.received.Load(); n != t.seen || c.waiting || c.blocked() {
		t.seen, t.misses = n, 0
		return true
	}
	t.misses++
	return t.misses < 2
}
