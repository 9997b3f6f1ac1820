package stream

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// progress is a tracker that those who handle messages and the storer share
// for the length of a run.
type progress struct {
	policy StorePolicy
	kick   chan struct{} // wakes the storer
	mu     sync.Mutex
	t      tracker
	w      lowWater // empty unless there are workers
}

func newProgress(p StorePolicy) *progress {
	return &progress{policy: p, kick: make(chan struct{}, 1)}
}

// handle moves the mark and reports whether a store has to come before the
// next message.
func (p *progress) handle(offset uint64) (wait bool) { return p.handleAll(offset, 1) }

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
		at = time.Now() // the clock costs as much as all the rest
	}
	p.t.advance(offset, n, at)
	return before, before + int64(n)
}

// moved wakes the storer if need be, and reports whether the next handler has
// to wait for a store.
func (p *progress) moved(before, now int64) (wait bool) {
	if p.policy.wakes(before, now) {
		select {
		case p.kick <- struct{}{}:
		default:
		}
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

func (p *progress) due() (bool, time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.policy.due(&p.t, time.Now())
}

// take returns what to store now, if anything was handled.
func (p *progress) take() (s snapshot, handled bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.t.snapshot(), p.t.has
}

func (p *progress) stored(s snapshot) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.t.storedAt(s, time.Now())
}

func (p *progress) forgetStore() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.t.forgetStore(time.Now())
}

// offsets is where a storer stores: a connection, or a test's stand-in.
type offsets interface {
	storeOffset(ctx context.Context, consumer, stream string, offset uint64) error
	verifyOffset(ctx context.Context, consumer, stream string, offset uint64) error
}

// storer sends the stores of one session: its goroutine does, and that of Run
// where the next handler has to wait for the store anyway. They do it one at a
// time, so that a lower mark never follows a higher one.
type storer struct {
	to           offsets
	name, stream string
	progress     *progress
	requests     chan storeRequest
	cancel       context.CancelFunc
	wg           sync.WaitGroup
	sending      sync.Mutex // held while a mark is stored, and read back
}

// storeRequest asks for a store now; done gets its outcome and never blocks.
type storeRequest struct {
	ctx    context.Context
	verify bool
	done   chan error
}

func startStorer(to offsets, name, stream string, p *progress, requests chan storeRequest) *storer {
	ctx, cancel := context.WithCancel(context.Background())
	s := &storer{to: to, name: name, stream: stream, progress: p, requests: requests, cancel: cancel}
	p.forgetStore()
	s.wg.Add(1)
	go s.run(ctx)
	return s
}

// close ends the storer and waits for it. What is not stored stays so.
func (s *storer) close() {
	s.cancel()
	s.wg.Wait()
}

func (s *storer) run(ctx context.Context) {
	defer s.wg.Done()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case r := <-s.requests:
			r.done <- s.serve(ctx, r)
		case <-s.progress.kick:
			s.storeIfDue(ctx, timer)
		case <-timer.C:
			s.storeIfDue(ctx, timer)
		}
	}
}

// serve stores for a caller, under its context and the storer's: close does not
// wait for a store that the broker never answers.
func (s *storer) serve(ctx context.Context, r storeRequest) error {
	both, cancel := context.WithCancelCause(r.ctx)
	defer cancel(nil)
	defer context.AfterFunc(ctx, func() {
		cancel(fmt.Errorf("%w: the connection was given up before the offset was stored", ErrUnreachable))
	})()
	return s.store(both, r.verify)
}

// storeRetry is when a store that failed is tried again.
const storeRetry = time.Second

// storeIfDue ignores errors: those of a connection end the session, which
// stores again on the next one, and an OffsetStore is tried again.
func (s *storer) storeIfDue(ctx context.Context, timer *time.Timer) {
	due, at := s.progress.due()
	if due {
		err := s.store(ctx, false)
		if _, at = s.progress.due(); err != nil {
			at = time.Now().Add(storeRetry)
		}
	}
	if !at.IsZero() {
		timer.Reset(time.Until(at))
	}
}

// storeNow stores from the goroutine of Run, which saves waking another one and
// waiting for it. Where a store is under way it waits its turn under ctx.
func (s *storer) storeNow(ctx context.Context) error {
	if !s.sending.TryLock() {
		return request(ctx, s.requests, false, nil)
	}
	defer s.sending.Unlock()
	return s.storeLocked(ctx, false)
}

// store sends the mark, and with verify reads it back.
func (s *storer) store(ctx context.Context, verify bool) error {
	s.sending.Lock()
	defer s.sending.Unlock()
	return s.storeLocked(ctx, verify)
}

func (s *storer) storeLocked(ctx context.Context, verify bool) error {
	snap, handled := s.progress.take()
	if !handled {
		return nil
	}
	if err := s.to.storeOffset(ctx, s.name, s.stream, snap.mark); err != nil {
		return err
	}
	if verify {
		if err := s.to.verifyOffset(ctx, s.name, s.stream, snap.mark); err != nil {
			return err
		}
	}
	s.progress.stored(snap)
	return nil
}

// request has the running session's storer store, under ctx.
func request(ctx context.Context, requests chan storeRequest, verify bool, ended <-chan struct{}) error {
	r := storeRequest{ctx, verify, make(chan error, 1)}
	select {
	case requests <- r:
	case <-ended:
		return ErrNotRunning
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
