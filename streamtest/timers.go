package streamtest

import (
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// timers is what a connection has to do at some time. Its writer looks at them before each wait.
type timers struct {
	heartbeat  time.Duration // as tuned; 0: none
	nextBeat   time.Time     // every half heartbeat
	nextCheck  time.Time     // every heartbeat
	seen       uint64        // bytes received at the last check
	misses     int           // checks in a row that saw nothing new
	sent       bool          // something was sent since the last beat
	beaten     bool          // the first beat, which is sent in any case, is over
	pendingMax uint32        // frame size limit that holds once the connection is open
	deadline   time.Time     // of the handshake or of Close; zero: none
	reply      time.Time     // of consumer updates; zero: none
}

// replyTimeout is how long a client may take to answer a ConsumerUpdate.
const replyTimeout = 60 * time.Second

// startHeartbeat begins with the client's Tune, before Open. The bytes up to there count at the first check,
// so that a client is cut off after three intervals, not two.
func (c *conn) startHeartbeat(interval time.Duration) {
	t, now := &c.timers, c.b.beat()
	t.heartbeat = interval
	t.nextBeat, t.nextCheck = now.Add(interval/2), now.Add(interval)
	c.signal() // the writer, which keeps the time, sleeps
}

// keepTime sends heartbeats that are due and returns how long nothing else is. ok is false when the client
// has been silent, or has owed an answer, for too long.
func (c *conn) keepTime() (wait time.Duration, ok bool) {
	t, now := &c.timers, c.b.beat()
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
		if !c.alive() {
			return 0, false
		}
		t.nextCheck = t.nextCheck.Add(t.heartbeat)
	}
	if !now.Before(t.nextBeat) {
		if c.phase < phaseReady {
			return 0, false // RabbitMQ's process dies of a beat before Open
		}
		if c.beatsUntil(now) {
			c.send(&wire.Heartbeat{})
		}
	}
	return min(wait, t.nextBeat.Sub(now), t.nextCheck.Sub(now)), true
}

// beatsUntil passes all beats that are due and tells whether at one of them a heartbeat is: where nothing was sent
// since the beat before. A heartbeat is itself something sent, so on a quiet connection they come at every other beat.
func (c *conn) beatsUntil(now time.Time) (due bool) {
	t := &c.timers
	for !now.Before(t.nextBeat) {
		due = due || !t.sent || !t.beaten
		t.sent, t.beaten = false, true
		t.nextBeat = t.nextBeat.Add(t.heartbeat / 2)
	}
	return due
}

// alive counts the checks that saw nothing new; two in a row end the connection.
func (c *conn) alive() bool {
	t := &c.timers
	if n := c.received.Load(); n != t.seen || c.waiting {
		t.seen, t.misses = n, 0
		return true
	}
	t.misses++
	return t.misses < 2
}
