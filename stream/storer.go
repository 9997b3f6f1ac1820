package stream

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// progress is a tracker that the goroutine of Run, which handles messages, and
// the storer share for the length of a run.
type progress struct {
	policy StorePolicy
	kick   chan struct{} // wakes the storer
	mu     sync.Mutex
	t      tracker
}

func newProgress(p StorePolicy) *progress {
	return &progress{policy: p, kick: make(chan struct{}, 1)}
}

// handle moves the mark and reports whether a store has to come before the
// next message.
func (p *progress) handle(offset uint64) (wait bool) {
	p.mu.Lock()
	n := p.t.unstored() + 1
	var now time.Time
	if n == 1 { // the clock costs more than the rest, and only this one asks for it
		now = time.Now()
	}
	p.t.handle(offset, now)
	p.mu.Unlock()
	if p.policy.wakes(n) {
		select {
		case p.kick <- struct{}{}:
		default:
		}
	}
	return p.policy.waits(n)
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

// storeIfDue ignores errors: they are the connection's, which ends the session
// and thereby stores again on the next one.
func (s *storer) storeIfDue(ctx context.Context, timer *time.Timer) {
	due, at := s.progress.due()
	if due {
		_ = s.store(ctx, false)
		_, at = s.progress.due()
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
