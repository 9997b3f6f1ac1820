package stream

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/tidemark-go/tidemark/internal/broker"
	"github.com/tidemark-go/tidemark/internal/mark"
	"github.com/tidemark-go/tidemark/internal/member"
	"github.com/tidemark-go/tidemark/internal/wire"
)

// run is one call of Run, RunBatch or All: one session after the other until
// the run ends. Everything happens on the caller's goroutine, except for the
// stores and for what workers handle.
type run struct {
	consumer *Consumer
	log      func(msg string, args ...any)
	letters  *deadLetters

	// One of the three is set.
	handler      Handler      // of Run
	loopBody     Handler      // of All; its panics are the caller's
	batchHandler BatchHandler // of RunBatch
	workers      int          // how many goroutines call handler; 0 and 1 stand for Run's own

	handling   context.Context // of the handlers; it ends Drain after the run's context
	dispatcher dispatcher      // set by supervise
	superPart                  // empty unless the stream is a partition

	start     Start // resolved when the run began
	recreated bool  // the stream was created again; the stored offset may be the old one's
	place     mark.Place
	frames    frameGuard
	decoder   decoder       // of the chunk in hand
	reading   *subscription // that of feed; nil: it is not called
	unsettled bool          // a dispatch or flush of the session has not come to its end

	firstExtent *broker.Extent // of the stream when the run first asked; nil before that
	toldBelow   atomic.Uint64  // a session has reported what retention took below this offset
	progress    *progress
	requests    storeRequests
	storer      *storer              // of the session, if the consumer has a name
	term        atomic.Pointer[term] // of a member of a group, while it is active; else nil
	vigil       member.Vigil         // of a member of a group
	lastChunk   *wire.Chunk          // into which a member that waits has looked; nil: none
	ended       chan struct{}        // closed when the run has ended

	// closing is the time for what the run asks of the broker once its handlers
	// have returned; nil: they have not. See beginClosing.
	closing    context.Context
	endClosing context.CancelFunc

	connected    bool      // the run has had a session
	missingSince time.Time // when the stream was found missing; zero: it exists
}

func newRun(c *Consumer) *run {
	r := &run{
		consumer: c,
		log:      c.env.cfg.Logger.With("stream", c.stream, "consumer", c.cfg.Name).Warn,
		start:    c.cfg.Start.resolve(time.Now()),
		progress: c.newProgress(),
		requests: make(storeRequests),
		ended:    make(chan struct{}),
		handling: context.Background(),
	}
	r.decoder.match = c.cfg.Filter.Match
	if c.cfg.ReuseDelivery {
		r.decoder.loan = newLoan()
	}
	r.letters = newDeadLetters(c, r.log)
	r.letters.join()
	return r
}

// nextStep is what a run does after an attempt at a session.
type nextStep uint8

const (
	// retry connects again, after a pause.
	retry nextStep = iota
	// startOver connects again, to a stream that was created again.
	startOver
	// finish stores the mark over a new connection and ends the run.
	finish
	// gone ends the run with nothing to store: the stream was deleted.
	gone
	// done ends the run: the handlers have returned, and the mark is stored, or
	// it cannot be.
	done
)

// supervise makes one attempt at a session after the other, until ctx ends or
// trying again is useless. It returns why the run ended, which is nil if ctx has
// ended it and nothing is left to store.
func (r *run) supervise(ctx context.Context) error {
	if r.grouped() {
		return r.superviseMember(ctx)
	}
	r.dispatcher = r.newDispatcher(ctx)
	for failures := 0; ; {
		taking := r.dispatcher.context()
		if sleep(taking, r.backoff(failures)) != nil {
			return r.finish(ctx, errStopped)
		}
		useful, next, err := r.attempt(taking)
		if failures++; useful {
			failures = 0 // the next attempt comes at once
		}
		switch next {
		case done:
			return err
		case gone:
			return endedBy(ctx, r.dispatcher.end(err))
		case finish:
			return r.finish(ctx, err)
		case startOver:
			if failed := r.dispatcher.abandon(); failed != nil {
				return r.finish(ctx, failed)
			}
			r.startOver(err)
			r.dispatcher = r.newDispatcher(ctx)
		case retry:
			r.report(StateChange{State: StateReconnecting, Err: err, Attempt: failures + 1})
		}
	}
}

// attempt subscribes and then reads until the session ends. useful reports that
// the session delivered something, or lasted longer than the longest pause. err
// is why the attempt failed or the session ended. ctx is the dispatcher's.
func (r *run) attempt(ctx context.Context) (useful bool, next nextStep, err error) {
	s, err := r.subscribe(ctx)
	if err != nil {
		next, err = r.afterFailure(ctx, err)
		return false, next, err
	}
	r.report(StateChange{State: StateConnected, reconnected: r.connected})
	r.connected, r.missingSince = true, time.Time{}
	begun := time.Now()
	play := r.session
	if r.grouped() {
		play = r.memberSession
	}
	ended := play(ctx, s)
	if ended.inOrder {
		return true, done, ended.err
	}
	useful = ended.progressed || time.Since(begun) > r.consumer.env.cfg.Backoff.Max
	next, err = r.afterFailure(ctx, ended.err)
	return useful, next, err
}

// afterFailure decides what follows a failed subscribe, or a session that did
// not end in order. It also returns the error to report: err, or what explains
// it better.
func (r *run) afterFailure(ctx context.Context, err error) (nextStep, error) {
	err = r.frames.explain(err, r.place.Next())
	switch {
	case endedByHandler(err):
		return finish, err
	case ctx.Err() != nil:
		return finish, errStopped
	case errors.Is(err, ErrStreamRecreated):
		return startOver, err
	case errors.Is(err, ErrStreamNotFound) && r.connected:
		return r.afterMissing(err)
	case isFatal(err):
		return finish, err
	}
	return retry, err
}

// recreationTime is how long a stream may be missing until it counts as
// deleted.
const recreationTime = time.Second

// afterMissing decides what follows when a stream that the run has read is
// missing. For recreationTime the run tries again, because somebody may create
// the stream again. After that it ends, with nothing to store: the broker
// deletes stored offsets with their stream.
func (r *run) afterMissing(err error) (nextStep, error) {
	if r.missingSince.IsZero() {
		r.missingSince = time.Now()
	}
	if time.Since(r.missingSince) < recreationTime {
		return retry, err
	}
	return gone, fmt.Errorf("%w; its messages and stored offsets are gone: create it again with Env.DeclareStream and start a new run", ErrStreamDeleted)
}

// startOver forgets the old stream, its place and its mark.
func (r *run) startOver(err error) {
	r.place, r.recreated, r.progress = mark.Place{}, true, r.consumer.newProgress()
	r.firstExtent = nil
	r.toldBelow.Store(0)
	r.report(StateChange{State: StateStreamRecreated, Err: err})
}

// backoff returns the pause before the attempt that follows so many failures.
func (r *run) backoff(failures int) time.Duration {
	return r.consumer.env.cfg.Backoff.pause(failures, rand.Float64)
}

// report logs a change of the consumer and hands it to OnState.
func (r *run) report(c StateChange) {
	c.Role, c.Stream, c.Name = RoleConsumer, r.consumer.stream, r.consumer.cfg.Name
	r.consumer.env.states.change(c)
}

// reportClosed reports the end of the run.
func (r *run) reportClosed(err error) {
	r.report(StateChange{State: StateClosed, Err: withoutLoopEnd(err)})
}

// withoutLoopEnd returns the error of a run, but nil if the user's loop over All
// has ended it.
func withoutLoopEnd(err error) error {
	if errors.Is(err, errLoopLeft) {
		return nil
	}
	return err
}

// errStopped ends a session whose run is told to end. It never leaves the run:
// see endedBy.
var errStopped = errors.New("the run was told to end")

// endedBy returns the error of a run that has ended for the reason why. The end
// of the caller's context is an ordinary stop and no error; Env.Close is one.
func endedBy(ctx context.Context, why error) error {
	switch {
	case why != errStopped:
		return why
	case errors.Is(context.Cause(ctx), errEnvClosed):
		return errEnvClosed
	}
	return nil
}

// closingTime is the part of CloseTimeout in which a run waits for the broker. It
// leaves time for what ends without such a wait.
const closingTime = CloseTimeout - 250*time.Millisecond

// beginClosing returns a context that ends closingTime after the first call. The
// run calls it once its handlers have returned. Whatever it then asks of the
// broker, it waits under this context: for the last store, on whichever
// connection, and for the answers to its goodbyes.
func (r *run) beginClosing() context.Context {
	if r.closing == nil {
		r.closing, r.endClosing = context.WithTimeout(context.Background(), closingTime)
		r.letters.leave(r.closing)
	}
	return r.closing
}

// finishClosing ends what beginClosing has begun, with nothing left to ask of the
// broker.
func (r *run) finishClosing() {
	r.beginClosing()
	if !r.isPartition() { // others may still publish
		r.letters.closed.Wait()
	}
	r.endClosing()
}

// goodbye returns the context of a goodbye to the broker. A run that is told to
// end, and whose handlers may be at work, waits for no answer. ctx is the
// dispatcher's.
func (r *run) goodbye(ctx context.Context) context.Context {
	switch {
	case r.closing != nil:
		return r.closing
	case ctx.Err() != nil:
		return ctx
	}
	return context.Background()
}

// reads reports whether the session in hand can deliver more. It is called by the
// run's goroutine.
func (r *run) reads() bool { return r.reading == nil || r.reading.alive() }

// isPartition reports whether the run is one of several on a super stream.
func (r *run) isPartition() bool { return r.endAll != nil }

// named reports whether the consumer has a name to store offsets under.
func (r *run) named() bool { return r.consumer.cfg.Name != "" }

// endedByHandler reports whether err means that a handler's failure, that of
// OnActive or OnInactive, or the end of the user's loop over All, has ended a
// session.
func endedByHandler(err error) bool {
	var h *HandlerError
	var c *callbackError
	return errors.As(err, &h) || errors.As(err, &c) || errors.Is(err, errLoopLeft)
}

// sleep waits for d, or until ctx ends, which is its error.
func sleep(ctx context.Context, d time.Duration) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
