package streamtest

import (
	"slices"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// A connection may publish creditLimit entries, a sub-batch being one, before the
// first of them is written. When none are left, the broker does not read the
// connection until more than creditToGoOn are. RabbitMQ counts in the same way,
// for all publishers of a connection together. What a dead leader had not
// confirmed is never given back.
const (
	creditLimit  = 50_000
	creditToGoOn = 12_500
)

// spend takes the credit for the entries of a frame, which may make it negative.
// The broker does not handle the next frame once it is used up. RabbitMQ looks at
// it after each packet, so that it may handle some frames more.
func (c *conn) spend(entries int) {
	c.credits -= entries
	c.starved = c.starved || c.credits <= 0
}

// giveBack returns the credit of n entries that are written.
func (c *conn) giveBack(n int) {
	c.credits += n
	if c.starved && (c.credits > creditToGoOn || len(c.publishers) == 0) {
		c.starved = false
		c.room.Broadcast()
	}
}

// heldConfirm holds confirms back because a test delays or withholds them.
type heldConfirm struct {
	publisher *publisher
	ids       []uint64
	due       time.Time // real time at which it is sent; zero: only when released
}

// confirm confirms messages, or holds the confirms back as the faults demand. It
// keeps the order of confirms. Without ids it does nothing.
func (c *conn) confirm(p *publisher, ids []uint64) {
	if len(ids) == 0 || c.gone {
		return
	}
	f := &c.b.faults
	if !f.withhold && f.delay == 0 && len(c.held) == 0 {
		c.confirmNow(p, ids)
		return
	}
	h := heldConfirm{publisher: p, ids: slices.Clone(ids)}
	if !f.withhold {
		h.due = time.Now().Add(f.delay)
	}
	c.held = append(c.held, h)
	c.signal()
}

// confirmNow gives the credit back and sends a PublishConfirm, unless the
// publisher has gone.
func (c *conn) confirmNow(p *publisher, ids []uint64) {
	c.giveBack(len(ids))
	if p = c.successor(p); p != nil {
		c.push(wire.KeyPublishConfirm, wire.AppendPublishConfirm(c.out, p.id, ids))
	}
}

// successor returns the publisher that gets the confirms of p, or nil. Without a
// reference only p itself does. With one it is whichever publisher of the
// connection now has the reference, as in RabbitMQ.
func (c *conn) successor(p *publisher) *publisher {
	if c.publishers[p.id] == p {
		return p
	}
	for _, other := range c.publishers {
		if p.reference != "" && other.reference == p.reference && other.stream == p.stream {
			return other
		}
	}
	return nil
}

// releaseConfirms sends the held confirms that are due. It returns how long the
// next one must still wait.
func (c *conn) releaseConfirms() time.Duration {
	now := time.Now()
	for len(c.held) > 0 {
		h := c.held[0]
		if h.due.IsZero() && c.b.faults.withhold {
			return time.Hour
		}
		if now.Before(h.due) {
			return h.due.Sub(now)
		}
		c.held = c.held[1:]
		c.confirmNow(h.publisher, h.ids)
	}
	return time.Hour
}

// loseHeld discards the held confirms of a stream whose leader has died. Their
// credit is lost.
func (c *conn) loseHeld(s *stream) {
	c.held = slices.DeleteFunc(c.held, func(h heldConfirm) bool { return h.publisher.stream == s })
}
