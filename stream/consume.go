package stream

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"
)

// Handler handles one message. It runs on the goroutine that called Run, for
// one message at a time, in the order of the stream; with
// ConsumerConfig.SuperStream, in the order of each partition. With
// ConsumerConfig.Workers it runs on several goroutines at a time.
//
// If the handler returns nil, the message is handled, and its offset may be
// stored. An error ends the run, unless ConsumerConfig.OnError says otherwise.
// A panic counts as an error, with its stack.
//
// ctx is the context of Run without its end: it ends ConsumerConfig.Drain after
// that context has ended or Env.Close was called, so that the handler can finish
// what it has begun. With Workers it also ends when another worker's failure ends
// the run. It does not end with a connection, except with SingleActive, where
// another member may be active from then on. Run waits until the handler has
// returned; if it then returns nil, its message counts as handled. If it returns
// an error after ctx has ended, that counts as an interruption and no failure:
// the message comes again in the next run.
type Handler func(ctx context.Context, d *Delivery) error

// Consumer reads a stream in order. Make one with [Env.NewConsumer].
type Consumer struct {
	env    *Env
	stream string
	cfg    ConsumerConfig

	// superStream is the super stream of which stream is a partition; "": it is
	// none.
	superStream string
	// pause is the time between two stores of the zero StorePolicy in a burst; 0
	// stands for the usual one.
	pause time.Duration

	mu    sync.Mutex
	run   *run      // nil while not running, and on a super stream
	super *superRun // nil while not running, and on a plain stream
}

// NewConsumer checks the configuration and returns a consumer. It does no I/O,
// so Run reports a stream that does not exist. Errors wrap [ErrInvalidConfig].
func (e *Env) NewConsumer(stream string, cfg ConsumerConfig) (*Consumer, error) {
	cfg, err := cfg.withBudget(e.cfg.MaxBuffered)
	if err == nil {
		cfg, err = cfg.withDefaults(stream)
	}
	if nameErr := checkStream(stream); nameErr != nil {
		err = nameErr
	}
	if err != nil {
		return nil, opErr("new consumer on stream", stream, cfg.Name, err)
	}
	return &Consumer{env: e, stream: stream, cfg: cfg}, nil
}

// Run reads the stream and calls h for each message. It blocks until ctx ends,
// h fails, the Env is closed, or something happens that trying again cannot
// mend. A Consumer has one run at a time, and can run again.
//
// Run survives a lost connection, a broker that restarts or stays away for
// however long, and a leader that moves: it connects again by itself and goes
// on at the first message not handled. One run handles no message twice, except
// with SingleActive, where each time of being active begins like a run. If the
// stream is deleted and created again meanwhile, Run starts over in the new
// stream; see [StateStreamRecreated].
//
// Before it returns, Run stores the last mark and reads it back, except with
// StorePolicy.Manual. That takes [CloseTimeout] at most after the last handler
// has returned. If the mark cannot be stored, the error wraps [ErrNotStored] as
// well. No handler runs after Run has returned.
//
// When ctx ends, Run takes no further message, lets the handlers at work finish
// (see ConsumerConfig.Drain) and stores the mark. It returns nil if ctx has ended
// it in whatever way, by a cancellation, a deadline or with a cause, and the mark
// is stored or there was nothing to store. Env.Close ends Run in the same way, and
// Run then returns ErrClosed. Any other end is an error too. The error is or wraps
// one of these:
//
//   - [ErrClosed] after Env.Close
//   - a [*HandlerError]
//   - [ErrNotStored], also after the end of ctx
//   - [ErrRunning], or [ErrNameInUse] if another consumer of the Env with this
//     name runs on this stream
//   - [ErrStreamNotFound], of the stream or of ErrorPolicy.DeadLetter, or
//     [ErrStreamDeleted]
//   - [ErrMalformed], if a chunk cannot be decoded
//   - [ErrMessageTooLarge], if the broker does not send a chunk that is above
//     its own limit for frames
//   - [ErrOffsetStore]
//   - what OnActive or OnInactive has returned
//   - [ErrUnsupported], if the broker is too old for Filter.Values
//   - [ErrAuthentication], [ErrVirtualHost], [ErrAccessRefused] or [ErrTLS]
//   - [ErrInvalidConfig], if h is nil, or if Config.Resolve returns no address
//
// If the stream was deleted and created again before the last mark was stored,
// the error wraps [ErrStreamRecreated] together with ErrNotStored.
func (c *Consumer) Run(ctx context.Context, h Handler) error {
	if h == nil {
		return c.noHandler("Run")
	}
	return c.consume(ctx, func(r *run) { r.handler, r.workers = h, c.cfg.Workers })
}

// All is [Consumer.Run] as an iterator. The loop's body runs on the goroutine
// of the loop. A message is handled when the loop asks for the next one; a
// message at which the loop ends by break or return is not. If Run's error is
// not nil, the last pair has it and a nil Delivery; if the end of ctx has stopped
// the loop, there is no such pair. After a break there is none either, so the
// loop does not see whether the last mark was stored; call [Consumer.Commit]
// before the break to be sure of it. Where Workers is 2 or more, the error is
// [ErrInvalidConfig].
//
//	for d, err := range consumer.All(ctx) {
//		if err != nil {
//			return err
//		}
//		...
//	}
func (c *Consumer) All(ctx context.Context) iter.Seq2[*Delivery, error] {
	return func(yield func(*Delivery, error) bool) {
		loopLeft := false
		body := func(_ context.Context, d *Delivery) error {
			// On a super stream another partition may have its turn after the end.
			loopLeft = loopLeft || !yield(d, nil)
			if loopLeft {
				return errLoopLeft
			}
			return nil
		}
		err := c.checkOneAtATime("All")
		if err == nil {
			err = c.consume(ctx, func(r *run) { r.loopBody = body })
		}
		if err != nil && !loopLeft {
			yield(nil, err)
		}
	}
}

// errLoopLeft ends the run of All when the user's loop ends by break or return.
var errLoopLeft = errors.New("the loop was left")

// Commit stores the mark and returns once it has read the mark back from the
// broker, or once OffsetStore.Save has returned. With StorePolicy.Committed it
// also waits until a majority of the stream's replicas has the mark. The mark is
// the offset of the last handled message; with Workers, of the last message
// before which everything is handled. If this run has handled nothing, Commit
// returns nil.
//
// Any goroutine may call Commit. So may the handler, but the message that it
// has in hand does not count as handled. While the consumer connects again,
// Commit waits under ctx. On a super stream it stores the marks of all partitions
// side by side, and the error names those that could not be stored; a partition
// without leader makes it wait.
//
// Errors wrap [ErrNoName], [ErrNotRunning], [ErrNotStored], [ErrOffsetStore], or
// [ErrNotActive] for a member of a group that waits, on a super stream for all
// partitions, or are the context's. If the connection is lost or the stream moves
// meanwhile, the error wraps [ErrUnreachable] or [ErrStreamUnavailable]. The
// consumer then stores the mark again on its next connection, except with
// StorePolicy.Manual, where the caller calls Commit again.
func (c *Consumer) Commit(ctx context.Context) error {
	const op = "commit offset on stream"
	if c.cfg.Name == "" {
		return opErr(op, c.stream, "", fmt.Errorf("%w: set ConsumerConfig.Name", ErrNoName))
	}
	c.mu.Lock()
	r, s := c.run, c.super
	c.mu.Unlock()
	switch {
	case s != nil:
		return s.commit(ctx)
	case r == nil:
		return opErr(op, c.stream, c.cfg.Name, ErrNotRunning)
	}
	return opErr(op, c.stream, c.cfg.Name, r.commit(ctx))
}

// commit is Consumer.Commit for one stream.
func (r *run) commit(ctx context.Context) error {
	if r.grouped() {
		return r.commitTerm(ctx)
	}
	return r.requests.ask(ctx, storeRead, r.ended)
}

// consume does what Run, RunBatch and All have in common. setup sets the new
// run's handler.
func (c *Consumer) consume(ctx context.Context, setup func(*run)) error {
	err := c.env.ownRun()
	if err == nil {
		defer c.env.disownRun()
		ctx, cancel := c.env.under(ctx)
		defer cancel()
		if c.cfg.SuperStream {
			err = c.consumeSuper(ctx, setup)
		} else {
			err = c.consumeOne(ctx, setup)
		}
	}
	var h *HandlerError
	if errors.As(err, &h) || errors.Is(err, errLoopLeft) {
		return err
	}
	return opErr("consume stream", c.stream, c.cfg.Name, err)
}

// consumeOne is consume for one stream. ctx ends with the Env, too.
func (c *Consumer) consumeOne(ctx context.Context, setup func(*run)) (err error) {
	r, err := c.beginRun(setup)
	if err != nil {
		return err
	}
	supervised := false
	defer func() {
		c.endRun(r)
		if supervised { // the handler neither panicked nor ended the goroutine
			r.reportClosed(err) // last: who hears of it may use the name
		}
	}()
	defer r.finishClosing()
	handling, end := drainContext(ctx, c.cfg.Drain)
	defer end()
	r.handling = handling
	defer r.dropWorkers()
	err = r.supervise(ctx)
	supervised = true
	return err
}

func (c *Consumer) beginRun(setup func(*run)) (*run, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.run != nil {
		return nil, ErrRunning
	}
	if err := c.env.useName(c.stream, c.cfg.Name, c.cfg.SingleActive); err != nil {
		return nil, err
	}
	c.env.countReader(c.stream, 1)
	c.run = newRun(c)
	setup(c.run)
	if c.run.grouped() {
		c.run.guardHandlers()
	}
	return c.run, nil
}

func (c *Consumer) endRun(r *run) {
	c.mu.Lock()
	c.run = nil
	c.mu.Unlock()
	c.env.countReader(c.stream, -1)
	c.env.giveBackName(c.stream, c.cfg.Name)
	close(r.ended)
}

// noHandler is the error of a method that was given no handler.
func (c *Consumer) noHandler(method string) error {
	return opErr("consume stream", c.stream, c.cfg.Name, fmt.Errorf("%w: the handler of %s is nil: pass a function that handles the messages", ErrInvalidConfig, method))
}

// checkOneAtATime refuses Workers for a method that would ignore them.
func (c *Consumer) checkOneAtATime(method string) error {
	if c.cfg.Workers > 1 {
		return opErr("consume stream", c.stream, c.cfg.Name, fmt.Errorf("%w: %s handles one thing at a time: leave Workers at 0, or call Run", ErrInvalidConfig, method))
	}
	return nil
}
