package stream

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// offsets is where a session stores the offsets of its consumer.
type offsets interface {
	// store returns when an offset is on its way and survives the process. more
	// says that another message is handled at once, with a store after it.
	store(ctx context.Context, offset uint64, more bool) error
	// verify returns when a stored offset is read back.
	verify(ctx context.Context, offset uint64) error
	// release ends the use, politely if the broker is to be told.
	release(polite bool)
}

// storer sends the stores of one session. Its own goroutine sends most of them.
// Run's goroutine sends those for which the next handler has to wait. They send
// one at a time, so that a lower mark never follows a higher one.
type storer struct {
	offsets  offsets
	progress *progress
	requests storeRequests
	log      func(msg string, args ...any)
	cancel   context.CancelFunc
	wg       sync.WaitGroup

	sending sync.Mutex // held while a mark is stored and read back
	// Under sending, for verifyWhenQuiet:
	sent       int           // how many stores were sent
	sentBefore int           // how many they were at the last look
	lastOffset uint64        // what was sent last
	verified   bool          // it was read back
	unverified chan struct{} // gets an item when something is to be read back
}

// storeRequest asks the storer for a store now.
type storeRequest struct {
	ctx    context.Context
	verify bool
	done   chan error // gets the outcome; has room for it
}

func startStorer(to offsets, p *progress, requests storeRequests, log func(string, ...any)) *storer {
	ctx, cancel := context.WithCancel(context.Background())
	s := &storer{offsets: to, progress: p, requests: requests, log: log, cancel: cancel, verified: true, unverified: make(chan struct{}, 1)}
	p.doubtStore()
	s.wg.Add(1)
	go s.run(ctx)
	return s
}

// stop ends the storer and waits for it. It stores nothing more.
func (s *storer) stop() {
	s.cancel()
	s.wg.Wait()
}

func (s *storer) run(ctx context.Context) {
	defer s.wg.Done()
	timer := time.NewTimer(0)
	defer timer.Stop()
	quiet := time.NewTicker(quietAfter)
	quiet.Stop() // until something is stored
	defer quiet.Stop()
	for {
		requests := s.requests
		if s.progress.isHeld() {
			requests = nil // they wait for the release, which wakes the storer
		}
		select {
		case <-ctx.Done():
			return
		case r := <-requests:
			r.done <- s.serve(ctx, r)
		case <-s.progress.wake:
			s.storeIfDue(ctx, timer)
		case <-timer.C:
			s.storeIfDue(ctx, timer)
		case <-s.unverified:
			quiet.Reset(quietAfter)
		case <-quiet.C:
			if s.verifyWhenQuiet(ctx) {
				quiet.Stop()
			}
		}
	}
}

// quietAfter is how long after a store the storer reads it back, if no other
// store has followed. Within a burst the next store makes up for one that is
// lost.
const quietAfter = time.Second

// verifyWhenQuiet reads the last store back once none has followed for
// quietAfter, and sends it again if the broker lost it. It reports whether the
// ticker can stop. A store that stays lost is logged; the mark is then stored
// with the next message, or at the end of the run.
func (s *storer) verifyWhenQuiet(ctx context.Context) (stopTicker bool) {
	if !s.sending.TryLock() {
		return false
	}
	defer s.sending.Unlock()
	if s.sent != s.sentBefore {
		s.sentBefore = s.sent
		return false
	}
	if !s.verified {
		err := s.offsets.verify(ctx, s.lastOffset)
		if err != nil && ctx.Err() == nil {
			s.log("the stored offset was not read back", "offset", s.lastOffset, "error", err)
		}
		s.verified = true // or it cannot be mended from here
	}
	return true
}

// serve stores for a caller. The wait ends with the caller's context and with the
// storer's, so that stop does not wait for a store that the broker never answers.
func (s *storer) serve(ctx context.Context, r storeRequest) error {
	both, cancel := context.WithCancelCause(r.ctx)
	defer cancel(nil)
	defer context.AfterFunc(ctx, func() {
		cancel(fmt.Errorf("%w: the connection was given up before the offset was stored", ErrUnreachable))
	})()
	s.sending.Lock()
	defer s.sending.Unlock()
	if r.verify {
		return s.storeVerified(both)
	}
	return s.storeMark(both, false)
}

// storeRetry is the pause before a store that failed is tried again.
const storeRetry = time.Second

// storeIfDue stores the mark if that is due, and sets the timer for the next
// look. It ignores errors. An error of the connection ends the session, and the
// next session stores again. An OffsetStore is tried again.
func (s *storer) storeIfDue(ctx context.Context, timer *time.Timer) {
	s.sending.Lock() // before due: a store that is under way may settle it
	due, at := s.progress.due()
	if due {
		at = s.storeDue(ctx)
	}
	s.sending.Unlock()
	if !at.IsZero() {
		timer.Reset(time.Until(at))
	}
}

// storeDue stores the mark and returns when to look again.
func (s *storer) storeDue(ctx context.Context) time.Time {
	err := s.storeMark(ctx, false)
	switch due, at := s.progress.due(); {
	case err != nil:
		return time.Now().Add(storeRetry)
	case due:
		return time.Now()
	default:
		return at
	}
}

// storeNow stores the mark from Run's goroutine, which saves waking the storer
// and waiting for it. If a store is under way it waits its turn under ctx. For
// more see offsets.
func (s *storer) storeNow(ctx context.Context, more bool) error {
	if !s.sending.TryLock() {
		return s.requests.ask(ctx, false, nil)
	}
	defer s.sending.Unlock()
	return s.storeMark(ctx, more)
}

// storeMark sends the mark, if there is one. The caller holds s.sending.
func (s *storer) storeMark(ctx context.Context, more bool) error {
	snapshot, ok := s.progress.snapshot()
	if !ok {
		return nil
	}
	if err := s.send(ctx, snapshot.Mark, more); err != nil {
		return err
	}
	s.progress.storedAt(snapshot)
	return nil
}

// storeVerified is storeMark, and reads the mark back. The caller holds
// s.sending.
func (s *storer) storeVerified(ctx context.Context) error {
	snapshot, ok := s.progress.snapshot()
	if !ok {
		return nil
	}
	if err := s.send(ctx, snapshot.Mark, false); err != nil {
		return err
	}
	if err := s.offsets.verify(ctx, snapshot.Mark); err != nil {
		return err
	}
	s.verified = true
	s.progress.storedAt(snapshot)
	return nil
}

// send sends an offset and takes note that it is to be read back. The caller
// holds s.sending.
func (s *storer) send(ctx context.Context, offset uint64, more bool) error {
	if err := s.offsets.store(ctx, offset, more); err != nil {
		return err
	}
	s.sent++
	s.lastOffset = offset
	if s.verified {
		s.verified = false
		select {
		case s.unverified <- struct{}{}:
		default:
		}
	}
	return nil
}

// storeRequests leads to the storer of a run's session. While the run has no
// session, nobody receives from it.
type storeRequests chan storeRequest

// ask has the storer store the mark, and with verify read it back. It waits under
// ctx, and until ended is closed.
func (q storeRequests) ask(ctx context.Context, verify bool, ended <-chan struct{}) error {
	request := storeRequest{ctx, verify, make(chan error, 1)}
	select {
	case q <- request:
	case <-ended:
		return ErrNotRunning
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case err := <-request.done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
