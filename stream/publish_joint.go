package stream

import (
	"sync"
	"sync/atomic"
)

// joint is what a producer has once, however many streams it publishes to: its
// lock, its callbacks and its bounds. The producers of the partitions of a super
// stream have one together. One lock for all of them is not asked for more often
// than that of a producer of one stream with as many messages.
type joint struct {
	mu        sync.Mutex
	admission admission
	calls     *outcomeCalls
	slack     chan struct{} // closed when a callback that publishes may go on; or nil
	inLine    atomic.Int32  // how many wait for a place
}

func newJoint(e *Env, cfg ProducerConfig) *joint {
	j := &joint{admission: admission{most: amountOf(cfg.MaxInFlight, cfg.MaxInFlightBytes), env: &e.publishing}}
	j.calls = newOutcomeCalls(j.returned, j.awaited)
	return j
}

// awaited reports whether somebody waits for a place.
func (j *joint) awaited() bool { return j.inLine.Load() > 0 }

// returned comes after callbacks. It gives back their places even if nobody waits
// here: the bytes count for the other producers of the Env.
func (j *joint) returned() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.collect()
}

// collect frees the places of messages whose callbacks have returned. The caller
// holds the lock.
func (j *joint) collect() {
	for _, q := range j.admission.quotas {
		if n, bytes := q.back.take(); n > 0 {
			q.free(n, bytes)
		}
	}
}

// wakeCallback lets a callback that waits for room look again. The caller holds the
// lock.
func (j *joint) wakeCallback() {
	if j.slack != nil {
		close(j.slack)
		j.slack = nil
	}
}

// unlocked calls f without the lock.
func (j *joint) unlocked(f func()) {
	j.mu.Unlock()
	defer j.mu.Lock()
	f()
}
