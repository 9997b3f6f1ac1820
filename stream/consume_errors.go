package stream

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"time"
)

// ErrorPolicy says what happens when a handler returns an error or panics. The
// offset moves only once the outcome of the message is settled: the message is
// handled at last, skipped, or confirmed in the dead-letter stream.
//
// The zero value ends the run with the first error. A run that is ending settles
// no failure: the message comes again in the next run.
//
// Run and RunBatch follow the policy; All has no handler. For RunBatch, what is
// said of a message goes for the whole batch, which is tried again, skipped, or
// sent to the dead-letter stream as one.
type ErrorPolicy struct {
	// Attempts is how often the handler is called for a message in all.
	// [RetryForever] calls it until it succeeds. Meanwhile the messages behind it
	// wait. With Workers those with its key wait, and sooner or later all; see
	// ConsumerConfig.Workers. Default 1: the handler is not called again.
	Attempts int
	// Backoff paces the attempts: about Min before the second one, twice as long
	// before each further one, up to Max. Default 100 ms to 30 s.
	Backoff Backoff

	// Skip passes over a message whose attempts have failed, with a line in the
	// log. Default false: the run ends with a [*HandlerError].
	Skip bool
	// DeadLetter names a stream to which the consumer publishes such a message.
	// The stream must exist. Once the broker has confirmed, the consumer goes on.
	// A crash before that may publish the message twice. If the message cannot be
	// published, it is not settled, and the run ends with a [*HandlerError] that
	// wraps the reason. See [DeadLetterReason] for what is added to the message.
	// Default "": no stream.
	DeadLetter string
}

// RetryForever as ErrorPolicy.Attempts calls the handler until it succeeds or the
// run ends.
const RetryForever = -1

const (
	defaultRetryMin = 100 * time.Millisecond
	defaultRetryMax = 30 * time.Second
)

// withDefaults checks the policy of a consumer of a stream and fills in what is
// left out.
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
	case p.Backoff.Min < 0 || p.Backoff.Max < p.Backoff.Min:
		return p, fmt.Errorf("%w: OnError.Backoff is from %v to %v; it must grow, and not be negative", ErrInvalidConfig, p.Backoff.Min, p.Backoff.Max)
	case p.Skip && p.DeadLetter != "":
		return p, fmt.Errorf("%w: OnError.Skip and OnError.DeadLetter exclude each other", ErrInvalidConfig)
	case p.DeadLetter == stream:
		return p, fmt.Errorf("%w: OnError.DeadLetter is the stream that is read: its dead letters would come back", ErrInvalidConfig)
	case p.DeadLetter != "":
		return p, checkStream(p.DeadLetter)
	}
	return p, nil
}

// allows reports whether the handler may be called once more.
func (p ErrorPolicy) allows(attempts int) bool {
	return p.Attempts == RetryForever || attempts < p.Attempts
}

// handleOne handles a message. Nil means that its outcome is settled.
func (r *run) handleOne(ctx context.Context, d *Delivery) error {
	if err := callProtected(ctx, r.handler, d); err != nil {
		return r.settleOne(ctx, err, d)
	}
	return nil
}

// settleOne does what the policy says after the first failure of a message.
func (r *run) settleOne(ctx context.Context, err error, d *Delivery) error {
	return r.settle(ctx, err, []Delivery{*d}, func() error { return callProtected(ctx, r.handler, d) })
}

// settlingBatch returns a handler that calls h and settles its errors. Nil from it
// means that the outcome of the batch is settled.
func (r *run) settlingBatch(h BatchHandler) BatchHandler {
	return func(ctx context.Context, batch []Delivery) error {
		err := callBatchProtected(ctx, h, batch)
		if err == nil {
			return nil
		}
		return r.settle(ctx, err, batch, func() error { return callBatchProtected(ctx, h, batch) })
	}
}

// settle does what the policy says after the handler's first error. callAgain
// calls the handler for the messages that have failed.
func (r *run) settle(ctx context.Context, err error, failed []Delivery, callAgain func() error) error {
	p := r.consumer.cfg.OnError
	h := &HandlerError{Stream: failed[0].Stream, Offset: failed[0].Offset, Attempts: 1, Err: err}
	for p.allows(h.Attempts) {
		pause := p.Backoff.pause(h.Attempts, rand.Float64)
		r.log("handler failed; it is called again", "offset", h.Offset, "attempts", h.Attempts, "pause", pause, "error", h.Err)
		if ended := sleep(ctx, pause); ended != nil {
			h.Err = fmt.Errorf("%w; the run ended before the next attempt: %w", h.Err, ended)
			return h
		}
		h.Attempts++
		if h.Err = callAgain(); h.Err == nil {
			return nil
		}
	}
	switch {
	case ctx.Err() != nil || r.consumer.env.isClosing():
		return h // the handler may have failed for that
	case p.Skip:
		r.log("handler failed; skipped", "offset", h.Offset, "messages", len(failed), "attempts", h.Attempts, "error", h.Err)
		return nil
	case p.DeadLetter != "":
		return r.deadLetter(ctx, h, failed)
	}
	return h
}

// deadLetter settles a failure by publishing what failed.
func (r *run) deadLetter(ctx context.Context, h *HandlerError, failed []Delivery) error {
	to := r.consumer.cfg.OnError.DeadLetter
	if err := r.letters.publish(ctx, h, failed); err != nil {
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

// panicError returns a panic as an error. It is called while panicking, so that
// the stack is the panic's.
func panicError(v any) error { return fmt.Errorf("panic: %v\n%s", v, debug.Stack()) }
