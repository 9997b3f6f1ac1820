package stream

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"time"
)

// ErrorPolicy says what happens when a handler returns an error or panics: the
// consumer calls it again, then settles the failure by Skip or DeadLetter, or
// ends the run. A failed message is settled when a further attempt succeeds,
// when it is skipped, or when the broker has confirmed it in the dead-letter
// stream. The mark does not pass the message before that. Each attempt and the
// dead letter get the message as it came, whatever the handler did to it; see
// [Delivery.Attempt].
//
// The zero value ends the run with the first error. A failure after ctx has ended
// or the Env was closed is not settled, because the end may be its cause, and the
// message comes again in the next run.
//
// Run and RunBatch follow the policy. All does not, because a loop's body
// cannot be called again. RunBatch calls the handler again for the whole batch,
// and skips it or sends it to the dead-letter stream as a whole.
type ErrorPolicy struct {
	// Attempts is the number of times that the handler is called for a message,
	// the first time included. Meanwhile the messages behind it wait. With
	// Workers those with its key wait, and sooner or later all; see
	// ConsumerConfig.Workers. [RetryForever] sets no limit. An error that
	// [Permanent] marks is the last one, whatever the limit. Default 0: once,
	// as with 1.
	Attempts int
	// Backoff paces the attempts: about Min before the second one, twice as
	// long before each further one, up to Max. Default: from 100 ms to 30 s.
	Backoff Backoff

	// Skip passes over a message whose attempts have failed, with a line in the
	// log. Default false: the run ends with a [*HandlerError].
	Skip bool
	// DeadLetter names a stream to which the consumer publishes a message whose
	// attempts have failed; see [DeadLetterReason] for what it adds. The stream
	// must exist: otherwise Run ends at once with [ErrStreamNotFound]. The
	// consumer goes on when the broker has confirmed the message. A crash
	// before the mark is stored may publish it twice. If the message cannot be
	// published, the run ends with a [*HandlerError] that wraps the reason.
	// DeadLetter excludes Skip. Default "": no stream.
	DeadLetter string
}

// RetryForever, as ErrorPolicy.Attempts, makes the consumer call the handler
// until it succeeds, returns a [Permanent] error, or the run ends.
const RetryForever = -1

const (
	defaultRetryMin = 100 * time.Millisecond
	defaultRetryMax = 30 * time.Second
)

// withDefaults returns the policy of a consumer of a stream with its defaults
// filled in. It fails if a setting cannot work.
func (p ErrorPolicy) withDefaults(stream string) (ErrorPolicy, error) {
	if p.Attempts == 0 {
		p.Attempts = 1
	}
	if p.Backoff.Min == 0 {
		p.Backoff.Min = defaultRetryMin
	}
	if p.Backoff.Max == 0 {
		p.Backoff.Max = max(defaultRetryMax, p.Backoff.Min)
	}
	switch {
	case p.Attempts < RetryForever:
		return p, fmt.Errorf("%w: OnError.Attempts is %d; it must be positive, 0 for 1, or RetryForever", ErrInvalidConfig, p.Attempts)
	case p.Backoff.Min < 0 || p.Backoff.Max < p.Backoff.Min || p.Backoff.Max > maxDuration:
		return p, fmt.Errorf("%w: OnError.Backoff is from %v to %v; it must grow, not be negative, and be at most %v", ErrInvalidConfig, p.Backoff.Min, p.Backoff.Max, maxDuration)
	case p.Skip && p.DeadLetter != "":
		return p, fmt.Errorf("%w: OnError.Skip and OnError.DeadLetter exclude each other", ErrInvalidConfig)
	case p.DeadLetter == stream:
		return p, fmt.Errorf("%w: OnError.DeadLetter is the stream that is read: its dead letters would come back", ErrInvalidConfig)
	case p.DeadLetter != "":
		return p, checkStream(p.DeadLetter)
	}
	return p, nil
}

// allows reports whether the handler may be called once more after so many
// calls.
func (p ErrorPolicy) allows(attempts int) bool {
	return p.Attempts == RetryForever || attempts < p.Attempts
}

// handleOne calls the handler for a message, of which it keeps a copy, and
// settles a failure. Nil means that the message is handled or settled.
func (r *run) handleOne(l lifetime, d *Delivery, kept *originals) error {
	kept.keepOne(d)
	offset := d.Offset
	if err := callProtected(l.handling, r.handler, d); err != nil {
		return r.settleOne(l, err, failure{offset, []Delivery{*d}, kept})
	}
	return nil
}

// settleOne does what the policy says after the first failure of a message.
func (r *run) settleOne(l lifetime, err error, failed failure) error {
	return r.settle(l, err, failed, func(again []Delivery) error {
		return r.inTurn(l.taking, func() error { return callProtected(l.handling, r.handler, &again[0]) })
	})
}

// handleBatch is handleOne for batches.
func (r *run) handleBatch(l lifetime, batch []Delivery, kept *originals) error {
	kept.keep(batch)
	offset := batch[0].Offset
	call := func(batch []Delivery) error {
		if r.mixed != nil { // whose turn it is
			return callBatchProtected(l.handling, r.batchHandler, batch)
		}
		return r.inTurn(l.taking, func() error { return callBatchProtected(l.handling, r.batchHandler, batch) })
	}
	err := call(batch)
	if err == nil || outOfTurn(err) {
		return err
	}
	return r.settle(l, err, failure{offset, batch, kept}, call)
}

// outOfTurn reports whether a handler was not called, or has not returned, because
// the run is to end. No handler can return these errors.
func outOfTurn(err error) bool { return err == errStopped || err == errLoopLeft }

// settle does what the policy says after the handler's first error. callAgain
// calls the handler for the failed messages. Nil means that they are settled,
// and errStopped that they come again in the next run.
func (r *run) settle(l lifetime, err error, failed failure, callAgain func([]Delivery) error) error {
	if err == errStopped { // no handler was called: see term.enter
		return errStopped
	}
	p := r.consumer.cfg.OnError
	h := &HandlerError{Stream: r.consumer.stream, Offset: failed.offset, Attempts: 1, Err: err}
	for p.allows(h.Attempts) && !isPermanent(h.Err) {
		pause := p.Backoff.pause(h.Attempts, rand.Float64)
		r.log("handler failed; it is called again", "offset", h.Offset, "attempts", h.Attempts, "pause", pause, "error", h.Err)
		stopped := sleep(l.taking, pause) != nil
		if l.handling.Err() != nil || stopped && !l.lastAttempt {
			return errStopped
		}
		h.Attempts++
		if h.Err = callAgain(failed.messages(h.Attempts)); h.Err == nil || outOfTurn(h.Err) {
			return h.Err
		}
		if stopped && p.allows(h.Attempts) {
			return r.interrupted(h)
		}
	}
	switch {
	case l.handling.Err() != nil:
		return r.interrupted(h)
	case p.Skip:
		r.log("handler failed; skipped", "offset", h.Offset, "messages", len(failed.given), "attempts", h.Attempts, "error", h.Err)
		return nil
	case p.DeadLetter != "":
		return r.deadLetter(l.handling, h, failed.messages(h.Attempts))
	}
	return h
}

// interrupted returns errStopped for a handler that failed after its context had
// ended, which may be why it failed, whatever its error says. It does so too for
// one that the end of the run leaves no time for the attempts that it has left.
// The message comes again in the next run.
func (r *run) interrupted(h *HandlerError) error {
	r.log("handler interrupted by the end of the run; its message comes again in the next one", "offset", h.Offset, "attempts", h.Attempts, "error", h.Err)
	return errStopped
}

// deadLetter settles a failure by publishing the failed messages.
func (r *run) deadLetter(ctx context.Context, h *HandlerError, failed []Delivery) error {
	to := r.consumer.cfg.OnError.DeadLetter
	err := r.letters.publish(ctx, h, failed)
	if err != nil && ctx.Err() != nil {
		return r.interrupted(h)
	}
	if err != nil {
		h.Err = fmt.Errorf("%w; it was not published to the dead-letter stream %q: %w", h.Err, to, err)
		return h
	}
	r.log("handler failed; sent to the dead-letter stream", "offset", h.Offset, "messages", len(failed), "attempts", h.Attempts, "error", h.Err, "to", to)
	return nil
}

// callProtected turns a handler's panic into an error.
func callProtected(ctx context.Context, h Handler, d *Delivery) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = panicError(v)
		}
	}()
	return h(ctx, d)
}

// callBatchProtected is callProtected for batches.
func callBatchProtected(ctx context.Context, h BatchHandler, batch []Delivery) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = panicError(v)
		}
	}()
	return h(ctx, batch)
}

// panicError returns a panic as an error. The deferred function that recovers
// calls it, so that the stack is the panic's.
func panicError(v any) error { return fmt.Errorf("panic: %v\n%s", v, debug.Stack()) }
