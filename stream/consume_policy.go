package stream

import (
	"fmt"
	"time"
)

// StorePolicy says when the consumer stores the mark, which is the offset of the
// last handled message. Storing has a price, because each store is an entry in
// the stream's log. Not storing has one too: what is handled and not stored is
// what a crash repeats. A run that ends in order always stores its mark, except
// with Manual.
//
// The zero value stores the mark of every message while traffic is slow, and
// every 100 ms in a burst. A crash then repeats what was handled in 100 ms.
type StorePolicy struct {
	// Every stores after that many handled messages, before the handler of the
	// next one runs. With Every: 1 a crash of the process repeats at most the
	// message in hand.
	//
	// In a burst the operating system may hold stores back for 200 ms, to send
	// them together. A crash of the machine, or a broken network, can lose those,
	// and other clients see an offset that is as old. RabbitMQ lists such a
	// consumer twice, the second time without credit.
	Every int
	// Interval stores that long after the first handled message that is not
	// stored yet. With Every, whichever comes first counts.
	Interval time.Duration
	// Manual stores only on [Consumer.Commit].
	Manual bool
}

func (p StorePolicy) validate() error {
	switch {
	case p.Every < 0 || p.Interval < 0:
		return fmt.Errorf("%w: Store.Every %d and Store.Interval %v must not be negative", ErrInvalidConfig, p.Every, p.Interval)
	case p.Manual && (p.Every > 0 || p.Interval > 0):
		return fmt.Errorf("%w: Store.Manual goes without Every and Interval", ErrInvalidConfig)
	}
	return nil
}
