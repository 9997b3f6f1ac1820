package mark

import (
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// Jumps watches for messages that retention removes in front of a connected
// consumer: the broker then goes on at the first chunk that is left. The broker's
// own entries take offsets too, and are not delivered, so most jumps between two
// chunks are none. The stream's first offset tells the two apart: what was taken
// lies below it. The zero Jumps expects no certain chunk as the first.
type Jumps struct {
	next     uint64 // the offset behind the newest chunk, or behind what Pass says
	expected bool   // a chunk that begins behind next has jumped
	open     []Gap  // to be judged, ascending
}

// Gap is a range of offsets that were not delivered, both included.
type Gap struct{ From, To uint64 }

const (
	// maxGaps bounds how many gaps wait for a judgement. A further one is joined
	// to the last.
	maxGaps = 1000
	// smallGap and tailAge tell gaps that are not worth a question: at the tail
	// of a stream retention takes no few messages. It keeps a whole segment.
	smallGap = 16
	tailAge  = 5 * time.Second
)

// ExpectJumps returns Jumps for a subscription whose first chunk begins at next
// or contains it.
func ExpectJumps(next uint64) Jumps { return Jumps{next: next, expected: true} }

// Arrive takes note of a chunk. It reports whether the chunk leaves a gap that
// is to be judged. It asks for the time only at a gap.
func (j *Jumps) Arrive(chunk *wire.ChunkHeader, now func() time.Time) (jumped bool) {
	if j.expected && chunk.FirstOffset > j.next {
		gap := Gap{j.next, chunk.FirstOffset - 1}
		age := now().Sub(time.UnixMilli(chunk.Timestamp)).Abs()
		if jumped = gap.To-gap.From >= smallGap || age > tailAge; jumped {
			j.add(gap)
		}
	}
	j.next, j.expected = max(j.next, chunk.FirstOffset+uint64(chunk.Records)), true
	return jumped
}

func (j *Jumps) add(gap Gap) {
	if n := len(j.open); n == maxGaps {
		j.open[n-1].To = gap.To
		return
	}
	j.open = append(j.open, gap)
}

// Pass takes note that nothing below next can be missed any more, because the
// broker has looked at it for a filter.
func (j *Jumps) Pass(next uint64) { j.next = max(j.next, next) }

// Fresh returns Jumps for another subscription that goes on at the same place,
// with no gap to be judged.
func (j *Jumps) Fresh() Jumps { return Jumps{next: j.next, expected: j.expected} }

// Asks reports whether a part of gaps is still to be judged.
func (j *Jumps) Asks(gaps []Gap) bool { return Overlap(gaps, j.open) }

// Next returns the offset behind the newest chunk, or behind what Pass says.
func (j *Jumps) Next() uint64 { return j.next }

// Take returns the gaps that are to be judged. The caller asks for the stream's
// first offset after that, and passes both to Lost.
func (j *Jumps) Take() (open []Gap) {
	open, j.open = j.open, nil
	return open
}

// Lost returns what retention has taken of gaps, if a stream now begins at first.
func Lost(gaps []Gap, first uint64) (lost []Gap) {
	for _, g := range gaps {
		if g.From < first {
			lost = append(lost, Gap{g.From, min(g.To, first-1)})
		}
	}
	return lost
}

// Overlap reports whether two lists of gaps have an offset in common.
func Overlap(a, b []Gap) bool { return len(Common(a, b)) > 0 }

// Common returns the offsets that are in both of two lists of gaps.
func Common(a, b []Gap) (common []Gap) {
	for _, x := range a {
		for _, y := range b {
			if x.From <= y.To && y.From <= x.To {
				common = append(common, Gap{max(x.From, y.From), min(x.To, y.To)})
			}
		}
	}
	return common
}
