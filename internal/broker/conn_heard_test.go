package broker

import (
	"sync"
	"testing"
	"time"
)

// A peer that is heard of in the moment in which the watch begins is not silent.
func TestWatchBesideHeard(t *testing.T) {
	for range 2000 {
		h := hearing{limit: time.Minute, began: time.Now().Add(-time.Hour)}
		var wg sync.WaitGroup
		wg.Go(func() {
			for range 100 {
				h.heard()
			}
		})
		wg.Go(func() {
			h.watch()
			if h.silentAt(time.Now()) {
				t.Error("the second one who watches takes the peer for silent")
			}
		})
		h.watch()
		wg.Wait()
		if h.silentAt(time.Now()) {
			t.Fatal("the peer counts as silent")
		}
	}
}
