package stream

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/tidemark-go/tidemark/internal/mark"
)

// run is one Run of a consumer: a session after the other until it ends. All of
// it happens on the goroutine that called Run, except for the stores and what
// workers handle.
type run struct {
	consumer *Consumer
	log      func(msg string, args ...any)
	letters  *deadLetters

	// One of the three is set.
	handler  Handler      // of Run
	loopBody Handler      // of All; its panics are the caller's
	batch    BatchHandler // of RunBatch; nil from it means that the outcome is settled
	workers  int          // how many goroutines call handler; 0 and 1 stand for Run's own

	start     Start // resolved when the run began
	recreated bool  // the stream was created again, so what is stored is the old one's
	place     mark.Place
	progress  *progress
	requests  storeRequests
	storer    *storer       // of the session, if the consumer has a name
	ended     chan struct{} // closed when the run has ended

	connected    bool      // at least once
	missingSince time.Time // when the stream was found missing; zero: it is there
}

func newRun(c *Consumer) *run {
	r := &run{
		consumer: c,
		log:      c.env.cfg.Logger.With("stream", c.stream, "consumer", c.cfg.Name).Warn,
		start:    c.cfg.Start.resolve(time.Now()),
		progress: newProgress(c.cfg.Store),
		requests: make(storeRequests),
		ended:    make(chan struct{}),
	}
	r.letters = &deadLetters{run: r}
	return r
}

// outcome is what a run does after a session, or after an attempt to begin one.
type outcome uint8

const (
	// retry connects again, after a pause.
	retry outcome = iota
	// startOver connects again to a stream that was created anew.
	startOver
	// finish ends the run. The mark may not be stored, and other connections are
	// tried for it.
	finish
	// done ends the run. Nothing is left to be stored.
	done
)

// supervise keeps a session going until ctx ends or trying again is useless. It
// returns why the run ended.
func (r *run) supervise(ctx context.Context) error {
	for failures := 0; ; {
		if err := sleep(ctx, r.backoff(failures)); err != nil {
			return r.finish(err)
		}
		useful, next, err := r.attempt(ctx)
		if failures++; useful {
			failures = 0 // the next attempt comes at once
		}
		switch next {
		case done:
			return err
		case finish:
			return r.finish(err)
		case startOver:
			r.startOver(err)
		case retry:
			r.report(StateChange{State: StateReconnecting, Err: err, Attempt: failures + 1})
		}
	}
}

// attempt connects and lives through one session. useful says that a connection
// was of use; err is why it ended.
func (r *run) attempt(ctx context.Context) (useful bool, next outcome, err error) {
	s, err := r.subscribe(ctx)
	if err != nil {
		next, err = r.afterFailure(ctx, err)
		return false, next, err
	}
	r.report(StateChange{State: StateConnected, reconnected: r.connected})
	r.connected, r.missingSince = true, time.Time{}
	begun := time.Now()
	ended := r.session(ctx, s)
	if ended.inOrder {
		return true, done, ended.err
	}
	useful = ended.progressed || time.Since(begun) > r.consumer.env.cfg.Backoff.Max
	next, err = r.afterFailure(ctx, ended.err)
	return useful, next, err
}

// afterFailure decides what follows a session that did not end in order, or an
// attempt that failed. It returns the error that the run reports.
func (r *run) afterFailure(ctx context.Context, err error) (outcome, error) {
	switch {
	case endedByHandler(err):
		return finish, err
	case ctx.Err() != nil:
		return finish, context.Cause(ctx)
	case errors.Is(err, ErrStreamRecreated):
		return startOver, err
	case errors.Is(err, ErrStreamNotFound) && r.connected:
		return r.afterMissing(err)
	case isFatal(err):
		return finish, err
	}
	return retry, err
}

// recreationTime is how long a stream may be missing until it counts as deleted.
const recreationTime = time.Second

// afterMissing waits for a stream that the run has read to be created again. The
// stream's end is also that of its stored offsets.
func (r *run) afterMissing(err error) (outcome, error) {
	if r.missingSince.IsZero() {
		r.missingSince = time.Now()
	}
	if time.Since(r.missingSince) < recreationTime {
		return retry, err
	}
	return done, fmt.Errorf("%w; its messages and stored offsets are gone: create it again with Env.DeclareStream and start a new run", ErrStreamDeleted)
}

// startOver forgets the stream that is gone, and its mark with it.
func (r *run) startOver(err error) {
	r.place, r.recreated, r.progress = mark.Place{}, true, newProgress(r.consumer.cfg.Store)
	r.report(StateChange{State: StateStreamRecreated, Err: err})
}

// backoff returns the pause before the attempt that follows so many failures.
func (r *run) backoff(failures int) time.Duration {
	return r.consumer.env.cfg.Backoff.pause(failures, rand.Float64)
}

// report tells OnState of a change of the consumer's.
func (r *run) report(c StateChange) {
	c.Role, c.Stream, c.Name = RoleConsumer, r.consumer.stream, r.consumer.cfg.Name
	r.consumer.env.states.change(c)
}

// reportClosed reports the end of the run.
func (r *run) reportClosed(err error) {
	if errors.Is(err, errLeft) {
		err = nil
	}
	r.report(StateChange{State: StateClosed, Err: err})
}

// named reports whether the consumer has a name to store offsets under.
func (r *run) named() bool { return r.consumer.cfg.Name != "" }

// endedByHandler reports whether the handler, or a loop that was left, has ended
// a session.
func endedByHandler(err error) bool {
	var h *HandlerError
	return errors.As(err, &h) || errors.Is(err, errLeft)
}

// sleep waits for d, or until ctx ends.
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
