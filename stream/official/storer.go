package official

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tidemark-go/tidemark/internal/mark"
	"github.com/tidemark-go/tidemark/stream"
)

// storer stores the mark of a run, as the policy says. Its goroutine does so
// when the time has come; with Every the goroutine of Run does, between two
// handlers. Both hold sending meanwhile, so that a lower mark never follows a
// higher one.
type storer struct {
	gate         *gate
	stream, name string
	policy       mark.Policy
	log          func(msg string, args ...any)

	wake   chan struct{}
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex
	tracker mark.Tracker

	sending turn // guards these:
	known   bool // the broker was seen to have an offset of this consumer
	sent    uint64
	sentAt  time.Time
	doubt   bool // what was sent last is not read back
	watched bool // the goroutine will read it back
}

const (
	// storeTimeout bounds one store.
	storeTimeout = stream.CloseTimeout
	// storeRetry is the pause before a store that failed is tried again.
	storeRetry = time.Second
	// quietAfter is how long after the last store that store is read back: the
	// broker may have lost it, and no other store makes up for it.
	quietAfter = time.Second
)

// startStorer starts the storer of a run. The caller calls stop.
func (r *run) startStorer() *storer {
	ctx, cancel := context.WithCancel(context.Background())
	st := &storer{
		gate: r.gate, stream: r.stream, name: r.name, policy: r.policy, log: r.log, known: r.known,
		wake: make(chan struct{}, 1), cancel: cancel, sending: newTurn(),
	}
	st.wg.Go(func() { st.run(ctx) })
	return st
}

// stop ends the storer's goroutine and waits for it.
func (st *storer) stop() {
	st.cancel()
	st.wg.Wait()
}

func (st *storer) run(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-st.wake:
		case <-timer.C:
		}
		timer.Stop()
		if at := st.tick(ctx, time.Now()); !at.IsZero() {
			timer.Reset(time.Until(at))
		}
	}
}

// tick stores the mark if that is due, or reads the last store back once it was
// quiet. It returns when to look again, or zero if the storer will be woken.
func (st *storer) tick(ctx context.Context, now time.Time) (again time.Time) {
	due, at := st.due(now)
	if due {
		if err := st.store(ctx, false); err != nil {
			if ctx.Err() == nil {
				st.log("the offset was not stored", "error", err)
			}
			return time.Now().Add(storeRetry)
		}
		if due, at = st.due(time.Now()); due {
			return time.Now()
		}
	}
	if quiet := st.verifyWhenQuiet(ctx); !quiet.IsZero() && (at.IsZero() || quiet.Before(at)) {
		return quiet
	}
	return at
}

func (st *storer) due(now time.Time) (bool, time.Time) {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.policy.Due(&st.tracker, now)
}

// handled moves the mark over a message. With Every it returns once the mark is
// stored, if that is due.
func (st *storer) handled(offset uint64) error {
	st.mu.Lock()
	before := st.tracker.Unstored()
	st.tracker.Advance(offset, 1, time.Now())
	after := st.tracker.Unstored()
	st.mu.Unlock()
	switch {
	case st.policy.Blocks(after):
		ctx, cancel := within(context.Background(), storeTimeout)
		defer cancel()
		if err := st.store(ctx, false); err != nil {
			return fmt.Errorf("store offset %d: %w", offset, err)
		}
	case st.policy.Wakes(before, after):
		st.rouse()
	}
	return nil
}

func (st *storer) rouse() {
	select {
	case st.wake <- struct{}{}:
	default:
	}
}

// store stores the mark, if there is one. With verify it reads the mark back, as
// it does for the first one: an offset that is known to be there tells the
// stream from another one of its name.
func (st *storer) store(ctx context.Context, verify bool) error {
	ctx, cancel := within(ctx, storeTimeout)
	defer cancel()
	if err := st.sending.lock(ctx); err != nil {
		return err
	}
	defer st.sending.unlock()
	snapshot, ok := st.snapshot()
	if !ok {
		return nil
	}
	send := st.gate.store
	if verify = verify || !st.known; verify {
		send = st.gate.storeVerified
	}
	if err := send(ctx, st.stream, st.name, snapshot.Mark); err != nil {
		return err
	}
	st.sent, st.sentAt, st.doubt, st.known = snapshot.Mark, time.Now(), !verify, true
	if st.doubt && !st.watched {
		st.watched = true
		st.rouse()
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	st.tracker.StoredAt(snapshot, st.sentAt)
	return nil
}

func (st *storer) snapshot() (mark.Snapshot, bool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	s, ok := st.tracker.Snapshot()
	if st.policy.Timed() {
		s.At = time.Now()
	}
	return s, ok
}

// verifyWhenQuiet reads the last store back if none has followed for quietAfter.
// It returns when to look again, or zero if there is nothing to read back.
func (st *storer) verifyWhenQuiet(ctx context.Context) time.Time {
	if err := st.sending.lock(ctx); err != nil {
		return time.Time{}
	}
	defer st.sending.unlock()
	if !st.doubt {
		st.watched = false
		return time.Time{}
	}
	if quiet := st.sentAt.Add(quietAfter); time.Now().Before(quiet) {
		return quiet
	}
	ctx, cancel := within(ctx, storeTimeout)
	defer cancel()
	err := st.checkSameStream(ctx)
	if err == nil {
		err = st.gate.verify(ctx, st.stream, st.name, st.sent)
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		st.log("the stored offset was not read back", "offset", st.sent, "error", err)
	}
	st.doubt, st.watched = false, false // even after an error, which another try would not mend
	return time.Time{}
}

// last stores the mark at the end of a run and reads it back. After the loss of a
// consumer, for which lost is true, the stream may have been deleted and created
// again. The broker then has no offset of this consumer, and gets none.
func (st *storer) last(ctx context.Context, lost bool) error {
	snapshot, ok := st.snapshot()
	if !ok || st.policy.Manual {
		return nil
	}
	var err error
	if lost {
		err = st.checkSameStream(ctx)
	}
	if err == nil {
		err = st.store(ctx, true)
	}
	if err != nil {
		return notStored(snapshot.Mark, err)
	}
	return nil
}

// unstored returns why the mark is not stored, or nil if it is.
func (st *storer) unstored(why error) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	if offset, ok := st.tracker.Mark(); ok && st.tracker.Unstored() > 0 && !st.policy.Manual {
		return notStored(offset, why)
	}
	return nil
}

func notStored(offset uint64, why error) error {
	return fmt.Errorf("%w: the messages up to offset %d were handled, but: %w", stream.ErrNotStored, offset, why)
}

func (st *storer) checkSameStream(ctx context.Context) error {
	_, err := st.gate.query(ctx, st.stream, st.name)
	switch {
	case errors.Is(err, stream.ErrNoOffset) && st.known:
		return fmt.Errorf("%w: what was stored under the name is gone", stream.ErrStreamRecreated)
	case errors.Is(err, stream.ErrNoOffset):
		return errors.New("nothing was stored before that could tell whether the stream is still the same")
	}
	return err
}
