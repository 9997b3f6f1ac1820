package stream

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidemark-go/tidemark/internal/mark"
)

// progress shares the mark between the goroutines that handle messages and the
// storer. It lives as long as a run, or until the run's stream is created again.
//
// A goroutine that handles one message after the other says in fastNext how far
// it is, which costs a third of taking the lock. It takes the lock only to wake
// the storer. Whoever holds the lock folds fastNext into the tracker before
// looking at the tracker.
type progress struct {
	policy mark.Policy
	wake   chan struct{} // wakes the storer

	mu       sync.Mutex
	tracker  mark.Tracker
	lowWater mark.LowWater // empty unless there are workers

	fastNext atomic.Uint64 // the offset after the last message of markFast; 0: none
	idle     atomic.Bool   // the storer sleeps until it is woken
	held     atomic.Bool   // nothing is to be stored; see hold
}

func newProgress(p StorePolicy) *progress {
	r := &progress{policy: mark.Policy(p), wake: make(chan struct{}, 1)}
	r.idle.Store(true)
	return r
}

// markOne moves the mark over one handled message. It reports whether the next
// handler has to wait for a store. One goroutine calls it.
func (p *progress) markOne(offset uint64) (mustStore bool) {
	if p.policy.Every > 0 {
		return p.markMany(offset, 1)
	}
	p.markFast(offset + 1)
	return false
}

// markFast is markOne where the policy does not count messages. It moves the mark
// over all messages before next. It runs for every message and is just short
// enough for the compiler to inline it.
func (p *progress) markFast(next uint64) {
	p.fastNext.Store(next)
	// The storer sets idle and then looks at fastNext once more. Here the order is
	// the other way round, so that one of the two sees the other.
	if p.idle.Load() {
		p.wakeIdleStorer()
	}
}

func (p *progress) wakeIdleStorer() {
	p.mu.Lock()
	p.idle.Store(false)
	p.foldFast()
	p.mu.Unlock()
	p.wakeStorer()
}

// wakeStorer has the storer look whether a store is due.
func (p *progress) wakeStorer() {
	if !p.policy.Manual {
		p.wakeAlways()
	}
}

// wakeAlways is wakeStorer for every policy.
func (p *progress) wakeAlways() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// foldFast moves the tracker to where markFast is. The caller holds p.mu.
func (p *progress) foldFast() {
	next := p.fastNext.Load()
	if next == 0 {
		return
	}
	if offset, ok := p.tracker.Mark(); !ok || offset != next-1 {
		p.tracker.Advance(next-1, 1, time.Now()) // they may be more than 1, which nobody asks for
	}
}

// markMany moves the mark over n handled messages, the last of which is at
// offset. It reports whether the next handler has to wait for a store.
func (p *progress) markMany(offset uint64, n int) (mustStore bool) {
	p.mu.Lock()
	before, after := p.advance(offset, n)
	p.mu.Unlock()
	return p.react(before, after)
}

// advance moves the mark and returns how many handled messages were unstored
// before and are unstored after that. The caller holds p.mu.
func (p *progress) advance(offset uint64, n int) (before, after int64) {
	var at time.Time
	if before = p.tracker.Unstored(); before == 0 {
		at = p.now()
	}
	p.tracker.Advance(offset, n, at)
	return before, before + int64(n)
}

// react wakes the storer if need be. It reports whether the next handler has to
// wait for a store.
func (p *progress) react(before, after int64) (mustStore bool) {
	if p.policy.Wakes(before, after) {
		p.wakeStorer()
	}
	return p.policy.Blocks(after)
}

// takeInHand takes the messages of a chunk in hand, in the order of delivery. It
// appends a job to jobs for each message that no earlier session has handled.
func (p *progress) takeInHand(chunk mark.ChunkID, size int, list []Delivery, jobs []job) []job {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range list {
		ticket, fresh, passed := p.lowWater.Begin(list[i].Offset, chunk, size)
		if fresh {
			jobs = append(jobs, job{d: &list[i], ticket: ticket})
		}
		p.pass(passed) // mustStore does not matter: nothing new was handled
	}
	return jobs
}

// finish marks a message in hand as handled, and moves the mark if everything
// before it is handled. It reports whether the next handler has to wait for a
// store.
func (p *progress) finish(ticket uint64) (mustStore bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pass(p.lowWater.Finish(ticket))
}

// pass moves the mark over the messages that the low-water mark has passed. The
// caller holds p.mu.
func (p *progress) pass(passed int) (mustStore bool) {
	if passed == 0 {
		return false
	}
	last, _ := p.lowWater.Last()
	return p.react(p.advance(last.Offset, passed)) // which never blocks
}

// inHand returns how many messages the mark has not passed, and how many bytes
// their chunks have.
func (p *progress) inHand() (messages, bytes int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lowWater.Messages(), p.lowWater.Bytes()
}

// restart ends a session of workers. It returns the last message that the mark
// has passed in that session, and whether there is one.
func (p *progress) restart() (last mark.Passed, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	last, ok = p.lowWater.Last()
	p.lowWater.Restart()
	return last, ok
}

// hold keeps everything from being stored until release. The stream of a new
// session may be another one, to which the mark means nothing.
func (p *progress) hold() { p.held.Store(true) }

func (p *progress) isHeld() bool { return p.held.Load() }

// release ends hold. It is called with each chunk that shows that the stream is
// the same.
func (p *progress) release() {
	if p.held.Load() {
		p.held.Store(false)
		p.wakeAlways()
	}
}

// due reports whether the mark is to be stored now. If not, at is when to ask
// again; a zero at stands for the next wake.
func (p *progress) due() (due bool, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.isHeld() {
		return false, time.Time{}
	}
	p.foldFast()
	if p.tracker.Unstored() == 0 {
		p.idle.Store(true)
		if p.foldFast(); p.tracker.Unstored() == 0 {
			return false, time.Time{}
		}
	}
	p.idle.Store(false)
	return p.policy.Due(&p.tracker, time.Now())
}

// snapshot returns what to store now. ok is false while nothing was handled.
func (p *progress) snapshot() (s mark.Snapshot, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.foldFast()
	return p.tracker.Snapshot()
}

// storedAt records that a snapshot is stored.
func (p *progress) storedAt(s mark.Snapshot) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tracker.StoredAt(s, p.now())
}

// now returns the time if the policy looks at it, because reading the clock costs
// as much as everything else.
func (p *progress) now() time.Time {
	if !p.policy.Timed() {
		return time.Time{}
	}
	return time.Now()
}

// doubtStore makes the mark count as not stored: what was sent on the last
// connection may be lost.
func (p *progress) doubtStore() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.foldFast()
	p.tracker.DoubtStore(time.Now())
}
