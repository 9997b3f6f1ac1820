package mark

import (
	"testing"
	"time"
)

func TestBeyondEnd(t *testing.T) {
	type look struct {
		end  uint64
		at   time.Duration
		want Verdict
	}
	for name, test := range map[string]struct {
		looks []look
		end   uint64
	}{
		"within":                  {[]look{{51, 0, Within}}, 0},
		"the last message":        {[]look{{60, 0, Within}}, 0},
		"beyond":                  {[]look{{5, 0, Undecided}, {5, BeyondEndTime, Beyond}}, 5},
		"right behind the end":    {[]look{{50, 0, Undecided}, {50, BeyondEndTime, Beyond}}, 50},
		"too soon":                {[]look{{5, 0, Undecided}, {5, BeyondEndTime - 1, Undecided}, {5, BeyondEndTime, Beyond}}, 5},
		"it grows, not to it":     {[]look{{5, 0, Undecided}, {40, BeyondEndTime, Beyond}}, 5},
		"it grows to it":          {[]look{{5, 0, Undecided}, {51, BeyondEndTime, Within}}, 5},
		"it becomes shorter":      {[]look{{5, 0, Undecided}, {3, BeyondEndTime, Beyond}}, 3},
		"shorter for a moment":    {[]look{{5, 0, Undecided}, {3, 1, Undecided}, {5, BeyondEndTime, Beyond}}, 3},
		"empty":                   {[]look{{0, 0, Undecided}, {0, 2 * BeyondEndTime, Beyond}}, 0},
		"a new leader catches up": {[]look{{5, 0, Undecided}, {5, time.Second, Undecided}, {60, 2 * time.Second, Within}}, 5},
	} {
		b := NewBeyondEnd(50)
		for i, l := range test.looks {
			if got := b.Look(l.end, noon.Add(l.at)); got != l.want {
				t.Errorf("%s: look %d: %v, want %v", name, i, got, l.want)
			}
		}
		if b.End() != test.end {
			t.Errorf("%s: begins at %d, want %d", name, b.End(), test.end)
		}
	}
}
