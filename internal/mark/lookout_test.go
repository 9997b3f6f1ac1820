package mark

import (
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// TestLookoutPause doubles while no chunk comes, up to a bound, and begins anew
// with one.
func TestLookoutPause(t *testing.T) {
	var l Lookout
	for i, want := range []time.Duration{1, 2, 4, 8, 8} {
		if got := l.Pause(); got != want*time.Second {
			t.Errorf("pause %d is %v, want %v s", i, got, want)
		}
		if !l.Quiet(0) {
			t.Error("it is not quiet")
		}
	}
	if l.Quiet(3) {
		t.Error("chunks have come, and it is quiet")
	}
	if got := l.Pause(); got != minLookPause {
		t.Errorf("after a chunk the pause is %v", got)
	}
	if !l.Quiet(3) {
		t.Error("no chunk has come since, and it is not quiet")
	}
}

// TestLookoutWorth: a look needs a chunk that no look has got to and that has not
// come.
func TestLookoutWorth(t *testing.T) {
	var l Lookout
	for _, test := range []struct {
		extent Extent
		next   uint64
		want   bool
	}{
		{Extent{Empty: true}, 0, false},
		{Extent{CommittedChunk: 0}, 0, true},
		{Extent{CommittedChunk: 10}, 11, false},
		{Extent{CommittedChunk: 10}, 10, true},
	} {
		if got := l.Worth(test.extent, test.next); got != test.want {
			t.Errorf("%+v behind %d: %v", test.extent, test.next, got)
		}
	}
	l.Crossed(Extent{CommittedChunk: 10})
	if l.Worth(Extent{CommittedChunk: 10}, 5) {
		t.Error("a second look at the same chunk is worth it")
	}
	if !l.Worth(Extent{CommittedChunk: 11}, 5) {
		t.Error("a look at another chunk is not worth it")
	}
}

// TestCrossing: only credit that is left shows that nothing is missing.
func TestCrossing(t *testing.T) {
	for _, test := range []struct {
		Crossing
		want bool
	}{
		{Crossing{Granted: 1, Arrived: 0}, true},
		{Crossing{Granted: 1, Arrived: 1}, false},
		{Crossing{Granted: 5, Arrived: 6}, false}, // credit was given meanwhile
	} {
		if got := test.Complete(); got != test.want {
			t.Errorf("%+v: %v", test.Crossing, got)
		}
	}
}

// TestLowWaterPass: what a filter leaves out is passed with the message before it.
func TestLowWaterPass(t *testing.T) {
	var w LowWater
	if !w.Pass(5, 1) {
		t.Error("nothing is in hand, and the mark does not move")
	}
	first, second := w.Begin(6, ChunkID{}, 1), w.Begin(7, ChunkID{}, 1)
	if w.Pass(9, 2) || w.Pass(12, 3) {
		t.Error("the mark moves over what is in hand")
	}
	if last, passed := w.Finish(second); passed != 0 {
		t.Errorf("%d messages are passed, up to %d", passed, last)
	}
	if last, passed := w.Finish(first); last != 12 || passed != 7 {
		t.Errorf("%d messages are passed, up to %d", passed, last)
	}
	if w.FinishedAhead() != 0 || w.Messages() != 0 {
		t.Errorf("%d are finished ahead of %d", w.FinishedAhead(), w.Messages())
	}
}

// TestJumpsPass: what the broker has skipped is no gap.
func TestJumpsPass(t *testing.T) {
	old := func(first uint64) *Jumps {
		j := ExpectJumps(0)
		j.Pass(first)
		return &j
	}
	for first, want := range map[uint64]bool{99: true, 100: false, 120: false} {
		if got := old(first).Arrive(&wire.ChunkHeader{FirstOffset: 100, Records: 5}, time.Now); got != want {
			t.Errorf("passed up to %d, a chunk at 100 jumps: %v", first, got)
		}
	}
}
