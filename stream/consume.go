package stream

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
)

// Handler handles one message. It runs on the goroutine that called Run, for one
// message at a time, in the order of the stream; with ConsumerConfig.Workers it
// runs on several goroutines.
//
// Nil means that the message is handled: from then on its offset may be stored.
// An error ends the run, unless ConsumerConfig.OnError says otherwise. A panic
// counts as an error, with its stack.
//
// ctx ends with the run's. Run waits for a handler that is at work then, and if
// the handler returns nil its message counts as handled.
type Handler func(ctx context.Context, d *Delivery) error

// Consumer reads a stream in order. Make one with [Env.NewConsumer].
type Consumer struct {
	env    *Env
	stream string
	cfg    ConsumerConfig

	mu  sync.Mutex
	run *run // nil while not running
}

// NewConsumer checks the configuration and does no I/O. A stream that is missing
// shows when the consumer runs. Errors wrap [ErrInvalidConfig].
func (e *Env) NewConsumer(stream string, cfg ConsumerConfig) (*Consumer, error) {
	cfg, err := cfg.withDefaults(stream)
	if nameErr := checkStream(stream); nameErr != nil {
		err = nameErr
	}
	if err != nil {
		return nil, opErr("new consumer on stream", stream, cfg.Name, err)
	}
	return &Consumer{env: e, stream: stream, cfg: cfg}, nil
}

// Run reads the stream and calls h for each message. It blocks until ctx ends, h
// fails, the Env is closed, or something happens that trying again cannot mend. A
// Consumer runs once at a time, and can run again.
//
// Run survives a lost connection, a broker that restarts or stays away for
// however long, and a leader that moves: it connects again by itself and goes on
// at the first message not handled. One run handles nothing twice. If the stream
// is deleted and created again meanwhile, Run starts over in the new stream; see
// [StateStreamRecreated].
//
// Before it returns, Run stores the last mark and reads it back, which takes
// [CloseTimeout] at most. If that fails, the error wraps [ErrNotStored] as well.
// No handler runs after Run has returned.
//
// Run never returns nil. The error wraps the context's error after a
// cancellation, [ErrClosed] after Env.Close, a [*HandlerError], [ErrRunning], or
// one of [ErrStreamNotFound], [ErrStreamDeleted], [ErrMalformed],
// [ErrOffsetStore], [ErrAuthentication], [ErrVirtualHost], [ErrAccessRefused] and
// [ErrTLS]. It wraps [ErrInvalidConfig] if Config.Resolve returns no address, or
// if the stored offset cannot be one. [ErrStreamRecreated] comes together with
// ErrNotStored if the stream that was read is gone.
func (c *Consumer) Run(ctx context.Context, h Handler) error {
	return c.consume(ctx, func(r *run) { r.handler, r.workers = h, c.cfg.Workers })
}

// All is [Consumer.Run] as an iterator. Asking for the next message marks the
// last one as handled; leaving the loop does not. The error is Run's and comes
// last. After a break the loop sees neither that error nor a mark that could not
// be stored; call [Consumer.Commit] to be sure of the mark. The error is
// [ErrInvalidConfig] if Workers is set.
//
//	for d, err := range consumer.All(ctx) {
//		if err != nil {
//			return err
//		}
//		...
//	}
func (c *Consumer) All(ctx context.Context) iter.Seq2[*Delivery, error] {
	return func(yield func(*Delivery, error) bool) {
		left := false
		body := func(_ context.Context, d *Delivery) error {
			if !yield(d, nil) {
				left = true
				return errLeft
			}
			return nil
		}
		err := c.checkOneAtATime("All")
		if err == nil {
			err = c.consume(ctx, func(r *run) { r.loopBody = body })
		}
		if !left {
			yield(nil, err)
		}
	}
}

// errLeft ends a run whose loop was left.
var errLeft = errors.New("the loop was left")

// Commit stores the mark, which is the offset of the last handled message, and
// returns when the broker gives it back on being asked. The handler may call it,
// whose own message is not handled yet, and so may another goroutine. While the
// consumer is connecting again, Commit waits. If this run has handled nothing,
// there is nothing to store, and Commit returns nil.
//
// Errors: [ErrNoName], [ErrNotRunning], [ErrNotStored] or the context's. If the
// connection is lost or the stream moves meanwhile, [ErrUnreachable] or
// [ErrStreamUnavailable]. The consumer then stores the mark again on its next
// connection, except with StorePolicy.Manual, where the caller calls Commit
// again.
func (c *Consumer) Commit(ctx context.Context) error {
	const op = "commit offset on stream"
	if c.cfg.Name == "" {
		return opErr(op, c.stream, "", fmt.Errorf("%w: set ConsumerConfig.Name", ErrNoName))
	}
	c.mu.Lock()
	r := c.run
	c.mu.Unlock()
	if r == nil {
		return opErr(op, c.stream, c.cfg.Name, ErrNotRunning)
	}
	return opErr(op, c.stream, c.cfg.Name, r.requests.ask(ctx, true, r.ended))
}

// consume does what Run, RunBatch and All have in common. setup gives the run its
// handler.
func (c *Consumer) consume(ctx context.Context, setup func(*run)) error {
	err := c.env.own()
	if err == nil {
		defer c.env.owned.Done()
		ctx, cancel := c.env.under(ctx)
		defer cancel()
		var r *run
		if r, err = c.beginRun(setup); err == nil {
			defer c.endRun(r)
			defer r.letters.closeProducer()
			err = r.supervise(ctx)
			r.reportClosed(err)
		}
	}
	var h *HandlerError
	if errors.As(err, &h) || errors.Is(err, errLeft) {
		return err
	}
	return opErr("consume stream", c.stream, c.cfg.Name, err)
}

func (c *Consumer) beginRun(setup func(*run)) (*run, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.run != nil {
		return nil, ErrRunning
	}
	c.run = newRun(c)
	setup(c.run)
	return c.run, nil
}

func (c *Consumer) endRun(r *run) {
	c.mu.Lock()
	c.run = nil
	c.mu.Unlock()
	close(r.ended)
}

// checkOneAtATime refuses Workers where they would be ignored.
func (c *Consumer) checkOneAtATime(what string) error {
	if c.cfg.Workers > 1 {
		return opErr("consume stream", c.stream, c.cfg.Name, fmt.Errorf("%w: %s handles one thing at a time: leave Workers at 0, or call Run", ErrInvalidConfig, what))
	}
	return nil
}
