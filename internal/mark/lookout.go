package mark

import "time"

// Lookout decides when to find out how far a subscription with a filter has got.
// The chunks that the filter skips leave no trace, so the consumer asks where
// the stream ends and has the broker send what it has up to there. See Crossing
// for what the answer means. The zero Lookout has not looked yet.
type Lookout struct {
	pause    time.Duration // before the last look; 0: there was none
	arrivals uint64        // chunks that had come at the last look
	crossed  uint64        // first offset of the last chunk up to which a look has got
	looked   bool          // crossed is set
}

const (
	// minLookPause is how long no chunk comes before a look.
	minLookPause = time.Second
	// maxLookPause bounds the pause between two looks, which doubles while no
	// chunk comes. Each look at new messages reads a chunk.
	maxLookPause = 8 * time.Second
)

// Pause returns how long to wait until Quiet is to be called.
func (l *Lookout) Pause() time.Duration {
	l.pause = min(max(2*l.pause, minLookPause), maxLookPause)
	return l.pause
}

// Quiet takes the number of chunks that have come so far. It reports whether a
// look is due, because none came in the last pause.
func (l *Lookout) Quiet(arrivals uint64) bool {
	if arrivals != l.arrivals {
		l.arrivals, l.pause = arrivals, 0
		return false
	}
	return true
}

// Worth reports whether a look can find something: the stream of that extent
// has a chunk behind what has come, where next is the offset behind that, and
// behind the last look.
func (l *Lookout) Worth(extent Extent, next uint64) bool {
	return !extent.Empty && extent.CommittedChunk >= next && !(l.looked && extent.CommittedChunk == l.crossed)
}

// Crossed takes note of a look that got to the end of a stream of that extent.
func (l *Lookout) Crossed(extent Extent) { l.looked, l.crossed = true, extent.CommittedChunk }

// Crossing is what a look knows of the subscription's credit, in chunks. The
// order of events is this, on one connection to the broker:
//
//  1. The broker says which chunk is the last one that it has committed.
//  2. A Credit frame leaves, behind frames that granted Granted chunks.
//  3. A request leaves, and its answer comes. Until then Arrived chunks came.
//
// The broker sends what it has for a Credit before it reads the next frame, as
// far as the credit goes, on a subscription that was begun with credit 1. So if
// credit is left at the answer, the broker has looked at every chunk up to that
// of step 1, and each that the filter lets through has come.
type Crossing struct{ Granted, Arrived uint64 }

// Complete reports whether each chunk has come that the filter lets through.
func (c Crossing) Complete() bool { return c.Arrived < c.Granted }
