package stream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/tidemark-go/tidemark/internal/broker"
	"github.com/tidemark-go/tidemark/internal/mark"
)

// term is what a member of a group does from its promotion to its end. It is for
// the run what a run is for a consumer that is in no group: it begins at the
// stored offset, with nothing known of what came before, and its stores end with
// it.
type term struct {
	run    *run
	s      *subscription
	member *membership

	// taking ends with the run's context, with the broker's word, or with the
	// connection: no further message is begun. handling ends with that of the run,
	// or when the term is over.
	taking         context.Context
	handling       context.Context
	cancelTaking   context.CancelCauseFunc
	cancelHandling context.CancelCauseFunc

	inHand atomic.Int64 // messages, or batches, that a handler has
	handed atomic.Bool  // a handler was called
	stores atomic.Bool  // there is a storer; before that nothing was handled

	once   sync.Once     // closes ended
	ended  chan struct{} // closed when nothing of the term is stored any more
	watch  sync.WaitGroup
	opened bool // OnActive has returned nil
}

// errSteppedDown ends what a term does when the broker chooses another member.
var errSteppedDown = fmt.Errorf("%w: the broker has chosen another member", ErrNotActive)

// newTerm returns a term that has not begun. ctx is the run's.
func (r *run) newTerm(ctx context.Context, s *subscription) *term {
	t := &term{run: r, s: s, member: s.member, ended: make(chan struct{})}
	t.taking, t.cancelTaking = context.WithCancelCause(ctx)
	t.handling, t.cancelHandling = context.WithCancelCause(r.handling)
	return t
}

// cancel frees what a term has. No handler is at work.
func (t *term) cancel() {
	t.cancelTaking(context.Canceled)
	t.cancelHandling(context.Canceled)
}

// stepDown ends the taking of messages. The caller waits for those in hand.
func (t *term) stepDown() { t.cancelTaking(broker.OwnReason(errSteppedDown)) }

// over ends a term beside which another member may be active: those of its
// handlers that are at work learn of it by their context, and nothing is stored.
func (t *term) over(why error) {
	t.once.Do(func() {
		atWork := t.inHand.Load() // before they learn of it
		t.cancelTaking(broker.OwnReason(why))
		t.cancelHandling(broker.OwnReason(why))
		close(t.ended)
		if t.handed.Load() {
			t.run.report(StateChange{State: StateOverlap, Err: fmt.Errorf("%w; handlers at work: %d", why, atWork)})
		}
	})
}

// isOver reports whether over was called.
func (t *term) isOver() bool {
	select {
	case <-t.ended:
		return true
	default:
		return false
	}
}

// lose ends a term whose subscription has ended, or may have.
func (t *term) lose(why error) {
	t.member.lose()
	t.over(fmt.Errorf("%w: %w", ErrNotActive, why))
}

// watchSubscription loses the term when its subscription ends, whatever Run's
// goroutine does meanwhile. The caller calls the function that it returns.
func (t *term) watchSubscription() (stop func()) {
	done := make(chan struct{})
	t.watch.Go(func() {
		select {
		case <-t.s.ended:
		case <-t.s.lease.Ended():
		case <-done:
			return
		}
		t.lose(t.s.whyEnded())
	})
	return func() { close(done); t.watch.Wait() }
}

// errSilentPeer ends a subscription whose connection lives, as far as is known.
var errSilentPeer = fmt.Errorf("%w: the broker was not heard of for two heartbeats, and may have given this process up", ErrUnreachable)

// enter is called before each call of a handler, and leave after it. It returns an
// error if the broker may have chosen another member meanwhile.
func (t *term) enter() error {
	if t.s.lease.SilentPeer() {
		t.s.end(errSilentPeer)
		t.lose(errSilentPeer)
	}
	if t.isOver() {
		return errStopped
	}
	t.handed.Store(true)
	t.inHand.Add(1)
	return nil
}

func (t *term) leave() { t.inHand.Add(-1) }

// guardHandlers has the run's handlers called only while its term allows it.
func (r *run) guardHandlers() {
	if h := r.handler; h != nil {
		r.handler = r.guarded(h)
	}
	if h := r.loopBody; h != nil {
		r.loopBody = r.guarded(h)
	}
	if h := r.batchHandler; h != nil {
		r.batchHandler = func(ctx context.Context, batch []Delivery) error {
			t := r.term.Load()
			if err := t.enter(); err != nil {
				return err
			}
			defer t.leave()
			return h(ctx, batch)
		}
	}
}

func (r *run) guarded(h Handler) Handler {
	return func(ctx context.Context, d *Delivery) error {
		t := r.term.Load()
		if err := t.enter(); err != nil {
			return err
		}
		defer t.leave()
		return h(ctx, d)
	}
}

// serve plays a term from the promotion to its end. With end.inOrder the run ends.
// Else, if end.err is nil, the broker has ended the term, and the member waits
// again.
func (t *term) serve(ctx context.Context) (end sessionEnd) {
	r := t.run
	handling := r.handling
	r.term.Store(t)
	r.handling = t.handling
	stopWatch := t.watchSubscription()
	defer func() { // deferred, because the handler may call Goexit
		stopWatch()
		t.member.stop()
		t.cancel()
		r.handling = handling
		r.term.Store(nil)
		t.s.park()
		t.once.Do(func() { close(t.ended) }) // for a Commit that waits
	}()
	why, failed := t.play(ctx, &end)
	switch {
	case why != errStopped && !t.opened && ctx.Err() == nil && !endedByHandler(why):
		end.err = why // as where any session finds no place to begin
	case ctx.Err() != nil, r.closing != nil, endedByHandler(why), endedByHandler(failed),
		why != errStopped && !errors.Is(why, ErrStreamRecreated) && t.s.alive():
		end.inOrder, end.err = true, joinErrors(endedBy(ctx, why), failed)
	case !t.s.alive():
		end.err = t.s.whyEnded()
	case why != errStopped:
		end.err = why
	}
	return end
}

// play finds the place, answers the promotion, hands out messages, and ends what
// it has begun. why is errStopped if the term has ended with the run's context, by
// the broker's word or with the subscription. failed is what failed at the end.
func (t *term) play(ctx context.Context, end *sessionEnd) (why, failed error) {
	r := t.run
	if why = t.open(); why != nil {
		return why, t.callInactive()
	}
	to, err := r.offsetsOf(ctx, t.s)
	if err != nil {
		return err, t.callInactive()
	}
	defer func() { to.release(r.goodbye(ctx), !t.isOver()) }()
	r.storer = startStorer(to, r.progress, r.requests, r.log)
	defer r.storer.stop()
	t.stores.Store(true)
	var look *lookout
	if r.filters() {
		look = startLookout(r, t.s)
		defer look.stop()
	}
	end.progressed, why = t.deliver()
	if ctx.Err() != nil && !t.isOver() {
		r.lookAtEnd(look)
	}
	if failed = t.callInactive(); failed != nil || errors.Is(why, ErrStreamRecreated) {
		return why, failed
	}
	return why, t.storeLast(ctx, why)
}

// callbackError ends a run whose OnActive or OnInactive has failed.
type callbackError struct {
	callback string
	err      error
}

func (e *callbackError) Error() string { return e.callback + ": " + e.err.Error() }
func (e *callbackError) Unwrap() error { return e.err }

// open finds the place of the term, calls OnActive and answers the promotion. It
// returns errStopped if the term ends meanwhile.
func (t *term) open() error {
	r, onActive := t.run, t.run.consumer.cfg.OnActive
	if err := t.findPlace(); err != nil {
		return err
	}
	if onActive != nil {
		err := protect(func() error { return onActive(t.taking, t.s.stream, r.place.Next().Offset()) })
		switch {
		case err != nil && t.taking.Err() != nil:
			return errStopped
		case err != nil:
			return &callbackError{"OnActive", err}
		}
	}
	t.opened = true
	if t.taking.Err() != nil || !t.member.activate(r.place.Next().Exact()) {
		return errStopped
	}
	r.vigil.Promoted()
	r.report(StateChange{State: StateActive})
	return nil
}

// findPlace sets where the term begins. While the broker does not answer as it
// should, it asks again.
func (t *term) findPlace() error {
	r := t.run
	r.beginTerm()
	for attempt := 1; ; attempt++ {
		r.place = mark.Place{}
		_, err := r.findPosition(t.taking, t.s)
		switch {
		case err == nil:
			return nil
		case t.taking.Err() != nil || !t.s.alive():
			return errStopped
		case isFatal(err):
			return err
		}
		r.log("the place to begin was not found; asking again", "error", err, "attempt", attempt)
		if sleep(t.taking, r.backoff(attempt)) != nil {
			return errStopped
		}
	}
}

// deliver hands out messages until the term ends, and waits for the handlers.
func (t *term) deliver() (progressed bool, why error) {
	r := t.run
	r.dispatcher = r.newDispatcher(t.taking)
	defer r.dropWorkers() // while their term is there
	progressed, why = r.feed(r.dispatcher, t.s)
	if lost := t.s.whyEnded(); lost != nil {
		t.lose(lost) // before a batch that is not full is handed out
	}
	if t.taking.Err() != nil && !endedByHandler(why) {
		why = errStopped
	}
	return progressed, r.dispatcher.end(r.endAllIf(r.dispatcher.endSession(why)))
}

// callInactive calls OnInactive, if OnActive was called or there is none.
func (t *term) callInactive() error {
	onInactive := t.run.consumer.cfg.OnInactive
	if !t.opened || onInactive == nil {
		return nil
	}
	err := protect(func() error { return onInactive(t.handling, t.s.stream) })
	switch {
	case err == nil:
		return nil
	case t.isOver():
		t.run.log("OnInactive failed when the term was over", "error", err)
		return nil
	}
	return &callbackError{"OnInactive", err}
}

// storeLast stores the last mark of the term and reads it back. If the term is
// over, it says so of a run that ends; the next owner begins at what was stored.
func (t *term) storeLast(ctx context.Context, why error) error {
	r := t.run
	if r.consumer.cfg.Store.Manual {
		return nil
	}
	ends := ctx.Err() != nil || why != errStopped
	if t.isOver() {
		if !ends || !r.progress.unstored() {
			return nil
		}
		snapshot, _ := r.progress.snapshot()
		return notStored(snapshot.Mark, context.Cause(t.taking))
	}
	storing := context.Background()
	if ends {
		storing = r.beginClosing()
	}
	storing, cancel := context.WithTimeout(storing, closingTime)
	defer cancel()
	defer context.AfterFunc(t.handling, func() {
		if t.isOver() {
			cancel()
		}
	})()
	err := r.requests.ask(storing, storeRead, t.ended)
	if err == nil {
		return nil
	}
	snapshot, _ := r.progress.snapshot()
	if err = notStored(snapshot.Mark, err); ends {
		return err
	}
	r.log("the next member of the group handles messages again", "error", err)
	return nil
}
