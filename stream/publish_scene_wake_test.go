package stream

import (
	"context"
	"runtime/metrics"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

// waitsOf is a context that counts how often somebody begins to wait under it: who
// waits asks for Done each time.
type waitsOf struct {
	context.Context
	n *atomic.Int64
}

func (w waitsOf) Done() <-chan struct{} {
	w.n.Add(1)
	return w.Context.Done()
}

// wakeUps returns how often a goroutine of the process was woken, in a unit of the
// runtime's: it looks at some of them only.
func wakeUps() (n uint64) {
	sample := []metrics.Sample{{Name: "/sched/latencies:seconds"}}
	metrics.Read(sample)
	for _, count := range sample[0].Value.Float64Histogram().Counts {
		n += count
	}
	return n
}

// TestSceneCallersAreWokenOnce: of 10,000 callers at once, with room for 200, each
// is woken for its place and for its outcome, and by nothing else. Who waits for a
// place costs little because of that. Where free places woke all who wait, each
// caller waited 13 times.
func TestSceneCallersAreWokenOnce(t *testing.T) {
	const callers, room = 10_000, 200
	waits, woken := publishAtOnce(t, callers, room)
	waitsApart, wokenApart := publishAtOnce(t, callers, 2*callers)
	if want := int64(callers + callers - room); waits != want || waitsApart != callers {
		t.Errorf("%d callers waited %d times with room for %d, and %d times with room for all; want %d and %d",
			callers, waits, room, waitsApart, want, callers)
	}
	// This bounds what waits do not show, such as wake-ups of who waits for a lock.
	if most := 10 * wokenApart; woken > most {
		t.Errorf("%d wake-ups with room for %d, and %d with room for all; want %d at most", woken, room, wokenApart, most)
	}
}

// publishAtOnce has callers in Publish at once, with room for some of them. It
// returns how often they waited, and how many wake-ups there were until all had
// returned.
func publishAtOnce(t *testing.T, callers, room int) (waits int64, woken uint64) {
	t.Helper()
	play(t, Config{}, func(s *scene) {
		p := s.producer("s", ProducerConfig{MaxInFlight: room})
		s.b.WithholdConfirms()
		var n, failed atomic.Int64
		var wg sync.WaitGroup
		for range callers {
			wg.Go(func() {
				if p.Publish(waitsOf{s.ctx, &n}, text("m")) != nil {
					failed.Add(1)
				}
			})
		}
		synctest.Wait() // each has its place, or is in line
		before := wakeUps()
		s.b.ReleaseConfirms()
		wg.Wait()
		if waits, woken = n.Load(), wakeUps()-before; failed.Load() > 0 {
			s.Errorf("%d of %d callers were refused", failed.Load(), callers)
		}
	})
	return waits, woken
}
