package mark

import "time"

// BeyondEnd decides whether a stored offset lies beyond the end of its stream,
// where a consumer would drop every message up to it. Replicas lag and leaders
// change, so one look is no proof: the end has to lie before the offset twice,
// BeyondEndTime apart.
//
// Each look is at the leader's last chunk, with all its messages, whether it is
// committed or not: a new leader may not know for minutes what is committed.
type BeyondEnd struct {
	stored uint64
	end    uint64 // the offset behind the end at the first look, or a lower one since
	since  time.Time
	looked bool
}

// BeyondEndTime is the least time between the two looks.
const BeyondEndTime = 10 * time.Second

// NewBeyondEnd begins to decide about a stored offset.
func NewBeyondEnd(stored uint64) BeyondEnd { return BeyondEnd{stored: stored} }

// Verdict is what is known of a stored offset.
type Verdict uint8

const (
	// Undecided asks for another look.
	Undecided Verdict = iota
	// Within says that the offset lies in the stream, or did once.
	Within
	// Beyond says that it lies beyond the end: the consumer begins at End.
	Beyond
)

// Look takes the offset behind the stream's last message at a time.
func (b *BeyondEnd) Look(end uint64, now time.Time) Verdict {
	switch {
	case b.stored < end:
		return Within
	case !b.looked:
		b.looked, b.end, b.since = true, end, now
		return Undecided
	}
	b.end = min(b.end, end)
	if now.Sub(b.since) < BeyondEndTime {
		return Undecided
	}
	return Beyond
}

// End returns where to begin: just behind the end of the first look. What has
// come since is read, so a verdict that is wrong repeats messages and skips none.
func (b *BeyondEnd) End() uint64 { return b.end }
