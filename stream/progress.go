package stream

import (
	"sync"
	"sync/atomic"
	"time"
)

// progress is a tracker that those who handle messages and the storer share
// for the length of a run, or until its stream is created again.
//
// Run's goroutine, handling one message after the other, has a lane of its own:
// it says in reached how far it is, which costs a third of taking the lock, and
// takes the lock only to wake the storer. Whoever holds the lock folds that into
// the tracker before looking at it.
type progress struct {
	policy StorePolicy
	kick   chan struct{} // wakes the storer
	mu     sync.Mutex
	t      tracker
	w      lowWater // empty unless there are workers

	reached atomic.Uint64 // one above the offset of the lane's last message; 0: none
	idle    atomic.Bool   // the storer sleeps until it is woken
	onHold  atomic.Bool   // nothing is to be stored, see hold
}

func newProgress(p StorePolicy) *progress {
	r := &progress{policy: p, kick: make(chan struct{}, 1)}
	r.idle.Store(true)
	return r
}

// handle moves the mark and reports whether a store has to come before the
// next message. It is for one goroutine.
func (p *progress) handle(offset uint64) (wait bool) {
	if p.policy.Every > 0 {
		return p.handleAll(offset, 1)
	}
	p.reach(offset + 1)
	return false
}

// reach is handle where the policy does not count, for all messages below next:
// just short enough to be inlined, since it comes with every message.
func (p *progress) reach(next uint64) {
	p.reached.Store(next)
	// The storer sets idle and then looks at reached once more, and here it is
	// the other way round: one of them sees the other.
	if p.idle.Load() {
		p.wake()
	}
}

func (p *progress) wake() {
	p.mu.Lock()
	p.idle.Store(false)
	p.fold()
	p.mu.Unlock()
	p.kickStorer()
}

func (p *progress) kickStorer() {
	if !p.policy.Manual {
		p.kickNow()
	}
}

func (p *progress) kickNow() {
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// fold brings the tracker up to the lane. p.mu is held.
func (p *progress) fold() {
	if next := p.reached.Load(); next != 0 && (!p.t.has || p.t.mark != next-1) {
		p.t.advance(next-1, 1, time.Now()) // or more of them, which nobody asks for
	}
}

// handleAll is handle for n messages at once, the last of which is at offset.
func (p *progress) handleAll(offset uint64, n int) (wait bool) {
	p.mu.Lock()
	before, now := p.advance(offset, n)
	p.mu.Unlock()
	return p.moved(before, now)
}

// advance moves the mark and returns how many handled messages were unstored
// before, and are now. p.mu is held.
func (p *progress) advance(offset uint64, n int) (before, now int64) {
	var at time.Time
	if before = p.t.unstored(); before == 0 {
		at = p.now()
	}
	p.t.advance(offset, n, at)
	return before, before + int64(n)
}

// moved wakes the storer if need be, and reports whether the next handler has
// to wait for a store.
func (p *progress) moved(before, now int64) (wait bool) {
	if p.policy.wakes(before, now) {
		p.kickStorer()
	}
	return p.policy.waits(now)
}

// begin takes the messages of a chunk in hand, in the order of delivery, and
// returns those that were not handled in an earlier session with their tickets.
func (p *progress) begin(id chunkID, size int, list []Delivery, jobs []job) []job {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range list {
		ticket, fresh, passed := p.w.begin(list[i].Offset, id, size)
		if fresh {
			jobs = append(jobs, job{d: &list[i], ticket: ticket})
		}
		if passed > 0 {
			p.moved(p.advance(p.w.last.offset, passed)) // never blocks
		}
	}
	return jobs
}

// finish marks a message in hand as handled, and moves the mark if nothing
// before it is unfinished. It reports whether the next handler has to wait for
// a store.
func (p *progress) finish(ticket uint64) (wait bool) {
	p.mu.Lock()
	passed := p.w.finish(ticket)
	if passed == 0 {
		p.mu.Unlock()
		return false
	}
	before, now := p.advance(p.w.last.offset, passed)
	p.mu.Unlock()
	return p.moved(before, now)
}

// inHand returns how many messages, and chunks of how many bytes, the mark has
// not passed.
func (p *progress) inHand() (messages, bytes int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.w.len(), p.w.open()
}

// restart ends a session of workers. moved says that the mark moved in it, and
// last is where to.
func (p *progress) restart() (last inHand, moved bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	last, moved = p.w.last, p.w.hasLast
	p.w.restart()
	return last, moved
}

// hold has nothing stored until release: the stream of a new session may be
// another one, to which the mark means nothing.
func (p *progress) hold() { p.onHold.Store(true) }

func (p *progress) held() bool { return p.onHold.Load() }

// release ends hold. It is called with each chunk that shows that the stream is
// the same.
func (p *progress) release() {
	if p.onHold.Load() {
		p.onHold.Store(false)
		p.kickNow()
	}
}

// due reports whether the mark is to be stored now, and otherwise when to ask
// again; zero: when there is a kick.
func (p *progress) due() (bool, time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held() {
		return false, time.Time{}
	}
	p.fold()
	if p.t.unstored() == 0 {
		p.idle.Store(true)
		if p.fold(); p.t.unstored() == 0 {
			return false, time.Time{}
		}
	}
	p.idle.Store(false)
	return p.policy.due(&p.t, time.Now())
}

// take returns what to store now, if anything was handled.
func (p *progress) take() (s snapshot, handled bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fold()
	return p.t.snapshot(), p.t.has
}

func (p *progress) stored(s snapshot) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.t.storedAt(s, p.now())
}

// now is the time, where the policy looks at it: the clock costs as much as all
// the rest.
func (p *progress) now() time.Time {
	if !p.policy.timed() {
		return time.Time{}
	}
	return time.Now()
}

func (p *progress) forgetStore() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fold()
	p.t.forgetStore(time.Now())
}
