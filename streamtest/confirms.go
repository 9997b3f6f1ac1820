package streamtest

import (
	"slices"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// heldConfirm is a PublishConfirm that the broker holds back because a test
// delays or withholds confirms.
type heldConfirm struct {
	publisher uint8
	frame     []byte
	ids       int       // how many messages it confirms
	due       time.Time // real time at which it is sent; zero: only when released
}

// confirm sends a PublishConfirm, or holds it back as the faults demand. It
// keeps the order of confirms. Without ids it does nothing.
func (c *conn) confirm(publisher uint8, ids []uint64) {
	if len(ids) == 0 {
		return
	}
	f := &c.b.faults
	if !f.withhold && f.delay == 0 && len(c.held) == 0 {
		c.push(wire.KeyPublishConfirm, wire.AppendPublishConfirm(c.out, publisher, ids))
		return
	}
	h := heldConfirm{publisher: publisher, frame: wire.AppendPublishConfirm(nil, publisher, ids), ids: len(ids)}
	if !f.withhold {
		h.due = time.Now().Add(f.delay)
	}
	c.held = append(c.held, h)
	c.nHeld += h.ids
	c.signal()
}

// releaseConfirms moves the held confirms that are due to out. It returns how
// long the next one must still wait.
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
		c.nHeld -= h.ids
		c.push(wire.KeyPublishConfirm, append(c.out, h.frame...))
		c.room.Broadcast()
	}
	return time.Hour
}

// dropHeld discards the held confirms of a deleted publisher. A client may
// reuse the id and would take them for confirms of the new publisher.
func (c *conn) dropHeld(publisher uint8) {
	c.held = slices.DeleteFunc(c.held, func(h heldConfirm) bool {
		if h.publisher == publisher {
			c.nHeld -= h.ids
		}
		return h.publisher == publisher
	})
}
