package stream

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidemark-go/tidemark/internal/broker"
	"github.com/tidemark-go/tidemark/internal/mark"
)

// offsets is where a session stores the offsets of its consumer.
type offsets interface {
	// store returns once an offset is on its way to the broker and arrives
	// there even if this process ends. moreFollow says that the next message,
	// and a store after it, follow at once.
	store(ctx context.Context, offset uint64, moreFollow bool) error
	// verify reads an offset back that was stored last, and stores it once more
	// if it was lost.
	verify(ctx context.Context, offset uint64) error
	// commit returns once an offset that was read back is as safe as
	// StorePolicy.Committed asks for, if that is set.
	commit(ctx context.Context, offset uint64) error

	// joinBatch lets a storer store with others. It returns nil if the storer
	// stores by itself.
	joinBatch(s *storer) batch

	// release gives up the connection. inOrder says that what was stored has
	// arrived; release then says goodbye to the broker first, for which it waits
	// under ctx.
	release(ctx context.Context, inOrder bool)
}

// storer stores the mark for one session. Its own goroutine does so when a
// store is due, or when somebody requests one. With StorePolicy.Every, Run's
// goroutine does so between two handlers (storeNow). Both hold sending
// meanwhile, so that a lower mark never follows a higher one.
//
// What is due by time, and the last mark of a run, leave in a batch with what
// other storers of the stream have, and the batch may be sent by any of them (see
// consume_storer_batch.go).
//
// The broker never answers a store, and may lose one. In a burst the next store
// makes up for it. The last store before a pause is read back by
// verifyWhenQuiet.
type storer struct {
	offsets  offsets
	progress *progress
	requests storeRequests
	log      func(msg string, args ...any)
	cancel   context.CancelFunc
	wg       sync.WaitGroup

	startTicker chan struct{} // gets an item when the ticker of verifyWhenQuiet has to start

	batch   batch         // what is due leaves in it; nil: the storer stores by itself
	leads   bool          // the storer has to send the next batch; only run uses it
	taken   mark.Snapshot // what a batch has taken; sending guards it
	mu      sync.Mutex    // guards:
	stopped bool          // what a batch says counts no more
	handOn  chan bool     // gets what became of the next batch; nil: nobody waits. See storeWithOthers.

	sending    turn         // held while a mark is stored and read back; guards what these are set to:
	stores     atomic.Int64 // how many stores were sent
	lastOffset uint64       // the offset that was sent last
	settled    atomic.Bool  // nothing is to be read back

	storesSeen int64 // what stores was at the last tick of verifyWhenQuiet; only run uses it
}

// storeRequest asks the storer for a store now.
type storeRequest struct {
	ctx  context.Context
	kind storeKind
	done chan error // gets the result; has room for it
}

// storeKind is what a request asks for.
type storeKind uint8

const (
	// storeSent is done once the socket has taken the mark.
	storeSent storeKind = iota
	// storeRead is done once the mark was read back.
	storeRead
	// storeLast is storeRead of a mark that may wait a moment for those of
	// consumers that end too.
	storeLast
)

// startStorer starts the storer of a session. It doubts the last store, so that
// the storer stores the mark again.
func startStorer(to offsets, p *progress, requests storeRequests, log func(string, ...any)) *storer {
	ctx, cancel := context.WithCancel(context.Background())
	s := &storer{offsets: to, progress: p, requests: requests, log: log, cancel: cancel, startTicker: make(chan struct{}, 1), sending: newTurn()}
	s.settled.Store(true)
	p.doubtStore()
	s.batch = to.joinBatch(s)
	s.wg.Add(1)
	go s.run(ctx)
	return s
}

// stop ends the storer and waits for it. It stores nothing more, and batches do not
// go over its connection any more. A second call does nothing.
func (s *storer) stop() {
	s.cancel()
	s.wg.Wait()
	s.mu.Lock()
	s.stopped = true
	s.mu.Unlock()
	if s.batch != nil {
		s.batch.retire()
	}
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
		if s.progress.storesPaused() {
			requests = nil // until resumeStores wakes the storer
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
		case <-s.startTicker:
			quiet.Reset(quietAfter)
		case <-quiet.C:
			if s.verifyWhenQuiet(ctx) {
				quiet.Stop()
			}
		}
	}
}

// quietAfter is the interval of the ticker of verifyWhenQuiet. A store is read
// back one to two intervals after it was sent, if no other store has followed.
const quietAfter = time.Second

// verifyWhenQuiet is called with each tick. The first store after a quiet time
// starts the ticker (see send). A tick that finds new stores waits for the next
// one, and holds up nobody: a batch that leaves at that moment would go without
// this storer's mark. A tick that finds none reads the last store back, stores it again if the
// broker lost it, and stops the ticker.
//
// If the store cannot be read back even so, verifyWhenQuiet logs that. The mark
// is then stored with the next message, or at the end of the run.
func (s *storer) verifyWhenQuiet(ctx context.Context) (stopTicker bool) {
	if stores := s.stores.Load(); stores != s.storesSeen {
		s.storesSeen = stores
		return false
	}
	if s.settled.Load() {
		return true
	}
	if !s.sending.TryLock() {
		return false // a store is under way
	}
	defer s.sending.Unlock()
	if !s.settled.Load() {
		s.yieldBatch()
		err := s.offsets.verify(ctx, s.lastOffset)
		if err != nil && ctx.Err() == nil {
			s.log("the stored offset was not read back", "offset", s.lastOffset, "error", err)
		}
		s.settled.Store(true) // even after an error, which another try would not mend
	}
	return true
}

// serve fulfils a request. It stops waiting when the caller's context ends, or
// the storer's: stop must not wait for an answer that never comes.
func (s *storer) serve(ctx context.Context, r storeRequest) error {
	both, cancel := context.WithCancelCause(r.ctx)
	defer cancel(nil)
	defer context.AfterFunc(ctx, func() {
		cancel(broker.OwnReason(fmt.Errorf("%w: the connection was given up before the offset was stored", ErrUnreachable)))
	})()
	if r.kind == storeLast && s.batch != nil && s.storeWithOthers(both) {
		defer s.sending.Unlock()
		s.batch.settle(both)
		return s.confirm(both, s.taken)
	}
	s.yieldBatch()
	if err := s.sending.LockWithin(both); err != nil {
		return err
	}
	defer s.sending.Unlock()
	if r.kind == storeSent {
		return s.storeMark(both, false)
	}
	return s.storeVerified(both)
}

// storeRetry is the pause before a store that failed is tried again.
const storeRetry = time.Second

// storeIfDue stores the mark if that is due, and sets the timer for the next
// look. It does not report errors: one of the connection has ended the session,
// and the next session stores again; an OffsetStore is called again.
func (s *storer) storeIfDue(ctx context.Context, timer *time.Timer) {
	var at time.Time
	if s.batch != nil {
		at = s.storeInBatch(ctx)
	} else {
		at = s.storeAlone(ctx)
	}
	if !at.IsZero() {
		timer.Reset(time.Until(at))
	}
}

// storeAlone stores the mark if that is due, and returns when to look again.
func (s *storer) storeAlone(ctx context.Context) time.Time {
	s.sending.Lock() // before due: once a store under way has ended, none may be due
	defer s.sending.Unlock()
	due, at := s.progress.due(false)
	if due {
		at = s.storeDue(ctx)
	}
	return at
}

// storeDue stores the mark and returns when to look again. A zero time says
// that something will wake the storer.
func (s *storer) storeDue(ctx context.Context) time.Time {
	err := s.storeMark(ctx, false)
	switch due, at := s.progress.due(false); {
	case err != nil:
		return time.Now().Add(storeRetry)
	case due:
		return time.Now()
	default:
		return at
	}
}

// storeNow stores the mark on Run's goroutine, which saves two switches between
// goroutines. If a store is under way, storeNow requests one and waits under
// ctx. moreFollow is that of offsets.store.
func (s *storer) storeNow(ctx context.Context, moreFollow bool) error {
	if !s.sending.TryLock() {
		return s.requests.ask(ctx, storeSent, nil)
	}
	defer s.sending.Unlock()
	return s.storeMark(ctx, moreFollow)
}

// storeMark stores the mark, if there is one. With StorePolicy.Every and Committed
// it waits until that counts. The caller holds s.sending.
func (s *storer) storeMark(ctx context.Context, moreFollow bool) error {
	if s.progress.eachCommitted {
		return s.storeVerified(ctx)
	}
	snapshot, ok := s.progress.snapshot()
	if !ok {
		return nil
	}
	if err := s.send(ctx, snapshot.Mark, moreFollow); err != nil {
		return err
	}
	s.progress.storedAt(snapshot)
	return nil
}

// storeVerified stores the mark, if there is one, and confirms it. The caller
// holds s.sending.
func (s *storer) storeVerified(ctx context.Context) error {
	snapshot, ok := s.progress.snapshot()
	if !ok {
		return nil
	}
	if s.batch != nil {
		s.batch.settle(ctx)
	}
	if err := s.send(ctx, snapshot.Mark, false); err != nil {
		return err
	}
	return s.confirm(ctx, snapshot)
}

// confirm reads a snapshot back that was sent last, and with StorePolicy.Committed
// waits until it is committed. Only then it counts as stored. The caller holds
// s.sending.
func (s *storer) confirm(ctx context.Context, snapshot mark.Snapshot) error {
	if err := s.offsets.verify(ctx, snapshot.Mark); err != nil {
		return err
	}
	if err := s.offsets.commit(ctx, snapshot.Mark); err != nil {
		return err
	}
	s.settled.Store(true)
	s.progress.storedAt(snapshot)
	return nil
}

// send stores an offset. If it is the first one since everything was read back,
// it starts the ticker of verifyWhenQuiet. The caller holds s.sending.
func (s *storer) send(ctx context.Context, offset uint64, moreFollow bool) error {
	if err := s.offsets.store(ctx, offset, moreFollow); err != nil {
		return err
	}
	s.sent(offset)
	return nil
}

// sent counts a store. The caller holds s.sending.
func (s *storer) sent(offset uint64) {
	s.stores.Add(1)
	s.lastOffset = offset
	if s.settled.CompareAndSwap(true, false) {
		select {
		case s.startTicker <- struct{}{}:
		default:
		}
	}
}

// storeRequests carries requests to the storer of the run's current session.
// While the run has no session, nobody receives from it, and requests wait.
type storeRequests chan storeRequest

// ask makes the storer store the mark. It waits for the result under ctx. It
// returns ErrNotRunning if ended is closed before a storer has received the
// request.
func (q storeRequests) ask(ctx context.Context, kind storeKind, ended <-chan struct{}) error {
	request := storeRequest{ctx, kind, make(chan error, 1)}
	select {
	case q <- request:
	case <-ended:
		return ErrNotRunning
	case <-ctx.Done():
		return broker.ContextError(ctx)
	}
	select {
	case err := <-request.done:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-request.done: // which says what the storer was waiting for
		return err
	case <-time.After(answerGrace):
		return broker.ContextError(ctx)
	}
}

// answerGrace is how long ask waits for a storer that has to give up.
const answerGrace = 20 * time.Millisecond

// turn is a lock that somebody can wait for under a context.
type turn chan struct{}

func newTurn() turn { return make(turn, 1) }

func (t turn) Lock()   { t <- struct{}{} }
func (t turn) Unlock() { <-t }

// TryLock locks if nobody holds the lock, and reports whether it did.
func (t turn) TryLock() bool {
	select {
	case t <- struct{}{}:
		return true
	default:
		return false
	}
}

// LockWithin locks, unless ctx ends first, whose cause it then returns.
func (t turn) LockWithin(ctx context.Context) error {
	if ctx.Err() != nil {
		return broker.ContextError(ctx)
	}
	select {
	case t <- struct{}{}:
		return nil
	case <-ctx.Done():
		return broker.ContextError(ctx)
	}
}
