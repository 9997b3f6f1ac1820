package stream

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// offsets is where a storer stores the offsets of its consumer.
type offsets interface {
	// store returns when an offset is on its way and survives the process. more
	// says that another message is to be handled at once, with a store after it.
	store(ctx context.Context, offset uint64, more bool) error
	// verify returns when an offset that was stored is read back.
	verify(ctx context.Context, offset uint64) error
}

// storer sends the stores of one session: its goroutine does, and that of Run
// where the next handler has to wait for the store anyway. They do it one at a
// time, so that a lower mark never follows a higher one.
type storer struct {
	to       offsets
	progress *progress
	requests chan storeRequest
	cancel   context.CancelFunc
	wg       sync.WaitGroup
	sending  sync.Mutex // held while a mark is stored, and read back

	// Under sending, for quiet: how many stores were sent, how many they were at
	// the last look, the last one, and whether it was read back.
	sent, seen int
	last       uint64
	verified   bool
	stored     chan struct{} // something is to be read back
	log        func(msg string, args ...any)
}

// storeRequest asks for a store now; done gets its outcome and never blocks.
type storeRequest struct {
	ctx    context.Context
	verify bool
	done   chan error
}

func startStorer(to offsets, p *progress, requests chan storeRequest, log func(string, ...any)) *storer {
	ctx, cancel := context.WithCancel(context.Background())
	s := &storer{to: to, progress: p, requests: requests, cancel: cancel, verified: true, stored: make(chan struct{}, 1), log: log}
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
	look := time.NewTicker(quietAfter)
	look.Stop() // until something is stored
	defer look.Stop()
	for {
		requests := s.requests
		if s.progress.held() {
			requests = nil // they wait until it is released, which kicks
		}
		select {
		case <-ctx.Done():
			return
		case r := <-requests:
			r.done <- s.serve(ctx, r)
		case <-s.progress.kick:
			s.storeIfDue(ctx, timer)
		case <-timer.C:
			s.storeIfDue(ctx, timer)
		case <-s.stored:
			look.Reset(quietAfter)
		case <-look.C:
			if s.quiet(ctx) {
				look.Stop()
			}
		}
	}
}

// quietAfter is how long after a store that none has followed it is read back.
// Within a burst the next store makes up for one that is lost.
const quietAfter = time.Second

// quiet reads the last store back if there was none since the last look, which
// repeats one that was lost. done says that there is nothing to look after. What
// remains lost is reported, and stored with the next message or at the end.
func (s *storer) quiet(ctx context.Context) (done bool) {
	if !s.sending.TryLock() {
		return false
	}
	defer s.sending.Unlock()
	since := s.sent - s.seen
	if s.seen = s.sent; since > 0 {
		return false
	}
	if !s.verified {
		err := s.to.verify(ctx, s.last)
		if err != nil && ctx.Err() == nil {
			s.log("the stored offset was not read back", "offset", s.last, "error", err)
		}
		s.verified = true // or not to be mended from here
	}
	return true
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
	s.sending.Lock() // first: what is due may be stored meanwhile
	due, at := s.progress.due()
	if due {
		err := s.storeLocked(ctx, false, false)
		switch again, later := s.progress.due(); {
		case err != nil:
			at = time.Now().Add(storeRetry)
		case again:
			at = time.Now()
		default:
			at = later
		}
	}
	s.sending.Unlock()
	if !at.IsZero() {
		timer.Reset(time.Until(at))
	}
}

// storeNow stores from the goroutine of Run, which saves waking another one and
// waiting for it. Where a store is under way it waits its turn under ctx. For
// more see offsets.
func (s *storer) storeNow(ctx context.Context, more bool) error {
	if !s.sending.TryLock() {
		return request(ctx, s.requests, false, nil)
	}
	defer s.sending.Unlock()
	return s.storeLocked(ctx, false, more)
}

// store sends the mark, and with verify reads it back.
func (s *storer) store(ctx context.Context, verify bool) error {
	s.sending.Lock()
	defer s.sending.Unlock()
	return s.storeLocked(ctx, verify, false)
}

func (s *storer) storeLocked(ctx context.Context, verify, more bool) error {
	snap, handled := s.progress.take()
	if !handled {
		return nil
	}
	if err := s.to.store(ctx, snap.mark, more); err != nil {
		return err
	}
	s.sent++
	if s.last = snap.mark; s.verified {
		s.verified = false
		select {
		case s.stored <- struct{}{}:
		default:
		}
	}
	if verify {
		if err := s.to.verify(ctx, snap.mark); err != nil {
			return err
		}
		s.verified = true
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
