package official

import (
	"context"
	"errors"
	"time"

	"github.com/tidemark-go/tidemark/internal/mark"
	"github.com/tidemark-go/tidemark/internal/startspec"
	"github.com/tidemark-go/tidemark/stream"
)

// run is one call of Consumer.Run. It reads over one consumer of the official
// client and ends with it.
type run struct {
	consumer     *Consumer
	gate         *gate
	stream, name string
	handler      Handler
	log          func(msg string, args ...any)

	start   startspec.Start
	policy  mark.Policy
	place   mark.Place
	known   bool // the broker had an offset of this consumer when the run began
	session *session
	storer  *storer // nil without a name
}

const (
	// openTimeout bounds the beginning of a run. After a lost connection the
	// official client often takes 10 s to make one on the same Environment.
	openTimeout = 30 * time.Second
	// drainTime is how long a handler's context outlives that of Run.
	drainTime = 5 * time.Second
)

func newRun(c *Consumer, g *gate, h Handler) *run {
	return &run{
		consumer: c, gate: g, stream: c.stream, name: c.cfg.Name, handler: h,
		log:    c.cfg.Logger.With("stream", c.stream, "consumer", c.cfg.Name).Warn,
		start:  startspec.Of(c.cfg.Start, time.Now()),
		policy: mark.Policy{Every: c.cfg.Store.Every, Interval: c.cfg.Store.Interval, Manual: c.cfg.Store.Manual},
	}
}

func (r *run) run(ctx context.Context) error {
	if err := r.open(ctx); err != nil {
		if ctx.Err() != nil {
			return nil // nothing was handled
		}
		return err
	}
	if r.name != "" {
		r.storer = r.startStorer()
		r.consumer.setStorer(r.storer)
	}
	handling, end := drainContext(ctx)
	defer end()
	lost, why := r.read(ctx, handling)
	return r.close(lost, why)
}

// open finds where to begin and makes the official consumer.
func (r *run) open(ctx context.Context) error {
	ctx, cancel := within(ctx, openTimeout)
	defer cancel()
	err := r.begin(ctx)
	if err == nil {
		r.session, err = r.gate.subscribe(ctx, r.stream, r.name, r.place.Next().Spec)
	}
	return err
}

// read hands out messages until ctx ends, the handler fails or the consumer is
// lost. It returns why; nil is the end of ctx.
func (r *run) read(ctx, handling context.Context) (lost bool, why error) {
	from := r.place.Next().From
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case e := <-r.session.closed:
			asking, cancel := within(ctx, storeTimeout)
			defer cancel()
			return true, r.gate.lost(asking, r.stream, e)
		case d := <-r.session.deliveries:
			if d.offset < from {
				continue // the chunk began before
			}
			if err := r.handle(handling, d); err != nil {
				return false, err
			}
		}
	}
	return false, nil
}

// errInterrupted ends a run whose handler was interrupted by its end.
var errInterrupted = errors.New("the handler was interrupted by the end of the run")

// handle hands out one message. Nil means that it is handled, and stored if the
// policy wants that at once.
func (r *run) handle(handling context.Context, d delivery) error {
	err := protected(handling, r.handler, &Delivery{d.offset, d.message})
	switch {
	case err != nil && handling.Err() != nil:
		return errInterrupted
	case err != nil:
		return &stream.HandlerError{Stream: r.stream, Offset: d.offset, Attempts: 1, Err: err}
	case r.storer == nil:
		return nil
	}
	return r.storer.handled(d.offset)
}

// close stores the mark and closes the official consumer. It returns the error of
// the run, which has ended for the reason why.
func (r *run) close(lost bool, why error) error {
	if why == errInterrupted {
		why = nil
	}
	ctx, cancel := within(context.Background(), stream.CloseTimeout)
	defer cancel()
	r.session.abandon()
	var stored error
	if r.storer != nil {
		r.consumer.setStorer(nil)
		r.storer.stop()
		if !errors.Is(why, stream.ErrStreamDeleted) { // its offsets are gone with it
			stored = r.storeLast(ctx, lost, why)
		}
	}
	r.session.end(ctx)
	switch {
	case stored == nil:
		return why
	case why == nil:
		return stored
	}
	return errors.Join(why, stored)
}

// storeLast stores the last mark. It does not touch an Environment that was
// closed: the official client would connect again for it.
func (r *run) storeLast(ctx context.Context, lost bool, why error) error {
	if errors.Is(why, stream.ErrClosed) {
		return r.storer.unstored(why)
	}
	return r.storer.last(ctx, lost)
}

// drainContext returns the context of the handlers: it ends drainTime after
// stop. The caller calls end.
func drainContext(stop context.Context) (ctx context.Context, end func()) {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(stop))
	timer := time.AfterFunc(drainTime, func() { cancel(context.Cause(stop)) })
	timer.Stop()
	unhook := context.AfterFunc(stop, func() { timer.Reset(drainTime) })
	return ctx, func() {
		unhook()
		timer.Stop()
		cancel(context.Canceled)
	}
}
