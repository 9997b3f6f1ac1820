package stream

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidemark-go/tidemark/internal/mark"
)

// progress shares the mark between the goroutines that handle messages and the
// storer. It lives as long as a run, or until the run's stream is created
// again.
//
// The mark moves in one of three ways:
//
//	markOne, markFast         one message after the other
//	markMany                  a batch
//	takeInHand, markFinished  by workers, in any order; and pass
//
// markFast only writes fastNext, which costs a third of taking the lock. So the
// tracker may lag behind fastNext, and whoever reads the tracker calls foldFast
// first, under the lock.
type progress struct {
	policy        mark.Policy
	eachCommitted bool          // each store of Policy.Every waits until it is committed
	wake          chan struct{} // wakes the storer

	mu       sync.Mutex
	tracker  mark.Tracker
	lowWater mark.LowWater // empty unless there are workers

	fastNext atomic.Uint64 // the offset after the last message of markFast; 0: none
	idle     atomic.Bool   // all is stored, and the storer sleeps until markFast wakes it
	paused   atomic.Bool   // nothing is to be stored; see pauseStores
}

func newProgress(policy StorePolicy) *progress {
	p := &progress{policy: policy.forMark(), eachCommitted: policy.Committed && policy.Every > 0, wake: make(chan struct{}, 1)}
	p.idle.Store(true)
	return p
}

// newProgress returns the progress of a run of the consumer.
func (c *Consumer) newProgress() *progress {
	p := newProgress(c.cfg.Store)
	p.policy.Pause = c.pause
	return p
}

// markOne moves the mark over one handled message. mustStore says that the
// policy wants a store before the next handler runs. Only the goroutine that
// handles one message after the other calls markOne, markNext and markFast.
func (p *progress) markOne(offset uint64) (mustStore bool) { return p.markNext(offset, 1) }

// markNext is markOne for what counts as n messages.
func (p *progress) markNext(offset uint64, n int) (mustStore bool) {
	if p.policy.Every > 0 {
		return p.markMany(offset, n)
	}
	p.markFast(offset + 1)
	return false
}

// markFast is markOne for a policy that does not count messages. It moves the
// mark to the message before the offset next. It is called for every message
// and is just short enough for the compiler to inline it.
//
// It wakes the storer if the storer is idle, and cannot miss that: markFast
// writes fastNext and then reads idle, while the storer sets idle and then
// reads fastNext once more (see due). If markFast reads idle too early to see
// it set, the storer reads fastNext late enough to see the new value, and does
// not go idle.
func (p *progress) markFast(next uint64) {
	p.fastNext.Store(next)
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

// wakeStorer makes the storer look whether a store is due. With Manual none
// ever is.
func (p *progress) wakeStorer() {
	if !p.policy.Manual {
		p.wakeAlways()
	}
}

// wakeAlways makes the storer go once around its loop, whatever the policy.
func (p *progress) wakeAlways() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// foldFast moves the tracker's mark to where markFast has got. It counts one
// handled message, however many there were: where markFast is used, the policy
// does not count. The caller holds p.mu.
func (p *progress) foldFast() {
	next := p.fastNext.Load()
	if next == 0 {
		return
	}
	if offset, ok := p.tracker.Mark(); !ok || offset != next-1 {
		p.tracker.Advance(next-1, 1, time.Now())
	}
}

// markMany moves the mark over n handled messages, the last of which is at
// offset. mustStore says that the policy wants a store before the next handler
// runs.
func (p *progress) markMany(offset uint64, n int) (mustStore bool) {
	p.mu.Lock()
	before, after := p.advance(offset, n)
	p.mu.Unlock()
	return p.applyPolicy(before, after)
}

// advance moves the mark over n handled messages. It returns how many handled
// messages were unstored before that and are unstored now. The caller holds
// p.mu.
func (p *progress) advance(offset uint64, n int) (before, after int64) {
	var at time.Time
	if before = p.tracker.Unstored(); before == 0 {
		at = p.now()
	}
	p.tracker.Advance(offset, n, at)
	return before, before + int64(n)
}

// applyPolicy does what the policy says after the number of unstored messages
// has grown: it wakes the storer, or returns mustStore, or does nothing. It
// never blocks.
func (p *progress) applyPolicy(before, after int64) (mustStore bool) {
	if p.policy.Wakes(before, after) {
		p.wakeStorer()
	}
	return p.policy.Blocks(after)
}

// takeInHand takes messages of one chunk, of size bytes, in hand, in the order
// of delivery. They hold opened further bytes, in sub-batches that were
// decompressed. takeInHand appends a job to jobs for each message.
func (p *progress) takeInHand(chunk mark.ChunkID, size, opened int, list []Delivery, jobs []job) []job {
	p.mu.Lock()
	defer p.mu.Unlock()
	if opened > 0 {
		p.lowWater.Hold(opened)
	}
	for i := range list {
		ticket := p.lowWater.Begin(list[i].Offset, chunk, size)
		jobs = append(jobs, job{d: &list[i], ticket: ticket})
	}
	return jobs
}

// markFinished records that a worker has handled the message with a ticket. It
// moves the mark if everything before the message is finished. mustStore says
// that the policy wants a store before this worker's next handler runs.
func (p *progress) markFinished(ticket uint64) (mustStore bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	last, passed := p.lowWater.Finish(ticket)
	if passed == 0 {
		return false
	}
	return p.applyPolicy(p.advance(last, passed))
}

// pass records that everything up to an offset, behind the messages in hand,
// needs no handling, and counts as n messages. The mark moves there at once if none
// is in hand, and else with the last of them. mustStore is that of markMany.
func (p *progress) pass(offset uint64, n int) (mustStore bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.lowWater.Pass(offset, n) {
		return false
	}
	return p.applyPolicy(p.advance(offset, n))
}

// inHand returns how many messages the mark has not passed, and how many bytes
// their chunks have.
func (p *progress) inHand() (messages, bytes int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lowWater.Messages(), p.lowWater.Bytes()
}

// finishedAhead returns how many messages are finished that the mark has not
// passed.
func (p *progress) finishedAhead() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lowWater.FinishedAhead()
}

// pauseStores keeps the storer from storing until resumeStores. A new session
// begins so: its stream may be another one of the same name, in which the mark
// means other messages.
func (p *progress) pauseStores() { p.paused.Store(true) }

func (p *progress) storesPaused() bool { return p.paused.Load() }

// resumeStores ends pauseStores. It is called with each chunk that shows that
// the stream is the same.
func (p *progress) resumeStores() {
	if p.paused.Load() {
		p.paused.Store(false)
		p.wakeAlways()
	}
}

// due reports whether the mark is to be stored now, or with batched whether it is
// to be stored with the next batch. If not, at is when to ask again; a zero at
// says that something will wake the storer.
func (p *progress) due(batched bool) (due bool, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.storesPaused() {
		return false, time.Time{}
	}
	p.foldFast()
	if p.tracker.Unstored() == 0 {
		p.idle.Store(true) // and then look at fastNext once more: see markFast
		if p.foldFast(); p.tracker.Unstored() == 0 {
			return false, time.Time{}
		}
	}
	p.idle.Store(false)
	if batched {
		return p.policy.DueInBatch(&p.tracker, time.Now())
	}
	return p.policy.Due(&p.tracker, time.Now())
}

// snapshot returns the mark to store. ok is false while nothing was handled.
func (p *progress) snapshot() (s mark.Snapshot, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.foldFast()
	s, ok = p.tracker.Snapshot()
	s.At = p.now()
	return s, ok
}

// unstored reports whether something was handled that is not stored.
func (p *progress) unstored() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.foldFast()
	return p.tracker.Unstored() > 0
}

// storedAt records that a snapshot is stored.
func (p *progress) storedAt(s mark.Snapshot) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tracker.StoredAt(s, p.now())
}

// now returns the time, or the zero time if the policy does not look at it:
// reading the clock would cost as much as everything else here.
func (p *progress) now() time.Time {
	if !p.policy.Timed() {
		return time.Time{}
	}
	return time.Now()
}

// doubtStore makes the mark count as not stored. A new session calls it,
// because what was sent on the connection before may be lost.
func (p *progress) doubtStore() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.foldFast()
	p.tracker.DoubtStore(time.Now())
}
