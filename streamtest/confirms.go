package streamtest

import (
	"slices"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// heldConfirm is a PublishConfirm that is not sent yet because a test delays or withholds confirms.
type heldConfirm struct {
	publisher uint8
	frame     []byte
	ids       int
	due       time.Time // zero: only when released
}

// confirm tells the client what is stored; sooner or later, as the faults say.
func (c *conn) confirm(publisher uint8, ids []uint64) {
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

// releaseConfirms moves the confirms that are due to out, and returns how long the next one has.
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

// dropHeld discards the held confirms of a publisher that is gone: clients use its id again.
func (c *conn) dropHeld(publisher uint8) {
	c.held = slices.DeleteFunc(c.held, func(h heldConfirm) bool {
		if h.publisher == publisher {
			c.nHeld -= h.ids
		}
		return h.publisher == publisher
	})
}
