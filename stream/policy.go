package stream

import (
	"fmt"
	"time"
)

// StorePolicy says when the mark, the offset of the last handled message, is
// stored on the broker. Each store is an entry in the stream's log, so that
// storing has a price; what is handled and not stored is what a crash repeats.
// A run that ends in order always stores its mark, except with Manual.
//
// The zero value stores the mark of every message while traffic is slow, and
// in a burst every 100 ms: a crash repeats what was handled in that time at the
// most, however fast that is.
type StorePolicy struct {
	// Every stores after that many handled messages, before the next one's
	// handler runs. Every: 1 stores each message, so that a crash of the process
	// repeats at most the message in hand. In a burst the operating system may
	// send stores together, 200 ms later at most: that is what can be lost with
	// the machine or the network, and how old the offset can be that others see.
	// RabbitMQ shows such a consumer twice, the second time without credit.
	Every int
	// Interval stores that long after the first handled message that is not
	// stored yet. With Every, whichever comes first.
	Interval time.Duration
	// Manual stores only on [Consumer.Commit].
	Manual bool
}

// autoInterval is the pause between stores in a burst. There is no count of
// messages beside it: at 7 M messages a second a store for each 10,000 of them
// cost a tenth of the rate, on the broker's side and here.
const autoInterval = 100 * time.Millisecond

func (p StorePolicy) validate() error {
	switch {
	case p.Every < 0 || p.Interval < 0:
		return fmt.Errorf("%w: Store.Every %d and Store.Interval %v must not be negative", ErrInvalidConfig, p.Every, p.Interval)
	case p.Manual && (p.Every > 0 || p.Interval > 0):
		return fmt.Errorf("%w: Store.Manual goes without Every and Interval", ErrInvalidConfig)
	}
	return nil
}

func (p StorePolicy) auto() bool { return p == StorePolicy{} }

// timed reports whether the time has a say.
func (p StorePolicy) timed() bool { return p.auto() || p.Interval > 0 }

// due reports whether the mark is to be stored at now, and if not, when to ask
// again unless more messages come; zero: not before they do.
func (p StorePolicy) due(t *tracker, now time.Time) (bool, time.Time) {
	if p.Manual || t.unstored() == 0 {
		return false, time.Time{}
	}
	if t.lost {
		return true, time.Time{}
	}
	var at time.Time
	switch {
	case p.auto():
		at = t.lastStore.Add(autoInterval)
	case p.Interval > 0:
		at = t.since.Add(p.Interval)
	}
	if p.waits(t.unstored()) || !at.IsZero() && !now.Before(at) {
		return true, time.Time{}
	}
	return false, at
}

// wakes reports whether the storer has to look again after messages were
// handled, of which before and now that many were unstored: when a wait begins.
// The count of Every is not for it: see waits.
func (p StorePolicy) wakes(before, now int64) bool {
	if p.Manual || p.Every > 0 && p.Interval == 0 || p.waits(now) {
		return false
	}
	return before < 1 && now >= 1
}

// waits reports whether the next handler has to wait for a store.
func (p StorePolicy) waits(unstored int64) bool { return p.Every > 0 && unstored >= int64(p.Every) }
