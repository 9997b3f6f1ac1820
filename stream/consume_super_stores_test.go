package stream

import (
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/streamtest"
)

// TestSuperStreamStorePause: a consumer makes 100 stores a second, however many
// partitions are busy, and what it has handled is stored a pause later. An Interval
// is kept, and so are 100 ms on few partitions.
func TestSuperStreamStorePause(t *testing.T) {
	const rounds, pause = 200, 10 * time.Millisecond // of a burst of 2 s
	for name, test := range map[string]struct {
		partitions  int
		policy      StorePolicy
		least, most int // stores
		last        time.Duration
	}{
		"few":           {3, StorePolicy{}, 3 * 19, 3 * 22, 100 * time.Millisecond},
		"many":          {40, StorePolicy{}, 40 * 5, 40 * 7, 400 * time.Millisecond},
		"many, by time": {40, StorePolicy{Interval: 250 * time.Millisecond}, 40 * 7, 40 * 14, 250 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			playParts(t, test.partitions, func(s *partScene) {
				r := s.run(ConsumerConfig{Name: "billing", Store: test.policy}, s.handle)
				for i := range rounds {
					s.fill(i, i+1, s.partitions...)
					time.Sleep(pause)
				}
				s.want(rounds * test.partitions)
				if n := s.b.Received(streamtest.StoreOffset); n < test.least || n > test.most {
					t.Errorf("%d stores in %v, want %d to %d", n, rounds*pause, test.least, test.most)
				}
				time.Sleep(test.last)
				for _, p := range s.partitions {
					s.wantStored("billing", p, rounds-1)
				}
				must(s, r.stopped())
			})
		})
	}
}

func TestStorePause(t *testing.T) {
	for partitions, want := range map[int]time.Duration{
		1: 100 * time.Millisecond, 10: 100 * time.Millisecond, 11: 110 * time.Millisecond, 100: time.Second, 500: 5 * time.Second, 10_000: 5 * time.Second,
	} {
		if got := storePause(partitions); got != want {
			t.Errorf("%d partitions: %v, want %v", partitions, got, want)
		}
	}
}
