package stream

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"
)

// CloseTimeout is how long the end of a run or of an Env waits for the broker:
// to store the last mark and read it back, to confirm what was published.
const CloseTimeout = 5 * time.Second

// ConsumerConfig says who reads, and from where. The zero value reads from the
// stream's beginning and stores nothing.
type ConsumerConfig struct {
	// Name is the name under which the broker, or OffsetStore, keeps the offset
	// of the last handled message for this stream, 255 bytes at most. Consumers with
	// different names each get every message; two at a time with the same name
	// overwrite each other's offset. Default "": nothing is stored.
	Name string
	// Start says where to begin. Default: Stored(First()).
	Start Start
	// Store says when the offset is stored. Default: with every message while
	// traffic is slow, coalesced in a burst; see [StorePolicy].
	Store StorePolicy

	// OffsetStore keeps the offset in place of the broker. Needs Name. Default
	// nil: the broker does.
	OffsetStore OffsetStore
	// OnError says what happens when a handler fails. Default: the run ends.
	OnError ErrorPolicy

	// Workers is how many messages Run handles at a time, each on a goroutine
	// of its own, 10,000 at most. The offset stored is then that of the last
	// message before which everything is handled, in the order of the stream:
	// what was handled above it comes again after a crash, though not after a
	// reconnect. With StorePolicy.Every only the worker that has moved it waits
	// for the store. Default 0: one at a time, like 1.
	//
	// A slow handler lets the others run ahead of it by the chunk with which
	// MaxBuffered bytes are reached, or by twice as many messages as there are
	// workers if those are in more chunks.
	Workers int
	// KeyOf makes the workers handle messages with the same key one at a time,
	// in the order of the stream; "" is a key like any other. It runs on the
	// goroutine that called Run, before any handler of the message, and must not
	// block; a panic ends the run. Needs Workers. Default nil: no order.
	KeyOf func(*Delivery) string

	// MaxBuffered is how many bytes of chunks may be on their way, wait, or be in
	// hand: it bounds what a slow handler makes the process hold. The broker sends
	// whole chunks, which it makes of what comes at a time, of tens of MiB where
	// large messages come fast: one that is larger is held alone. Where large ones
	// follow small ones there may be up to 32, for once. What is compressed
	// counts as it comes. Beside these there are copies of up to 256 messages that
	// are being handled, and with Workers again as much. Default 8 MiB, at most 1 GiB.
	MaxBuffered int

	// BatchSize is how many messages RunBatch hands over at the most. Default
	// 1000, at most 1,000,000.
	BatchSize int
	// BatchWait is how long the first message of a batch waits for the others.
	// Default 100 ms.
	BatchWait time.Duration
}

const (
	maxWorkers   = 10_000
	maxBatchSize = 1_000_000

	defaultMaxBuffered = 8 << 20
	maxMaxBuffered     = 1 << 30
)

// withDefaults checks the configuration and fills in what is left out.
func (c ConsumerConfig) withDefaults(stream string) (ConsumerConfig, error) {
	onError, err := c.OnError.withDefaults(stream)
	c.OnError = onError
	if c.BatchSize == 0 {
		c.BatchSize = defaultBatchSize
	}
	if c.BatchWait == 0 {
		c.BatchWait = defaultBatchWait
	}
	if c.MaxBuffered == 0 {
		c.MaxBuffered = defaultMaxBuffered
	}
	for _, err := range []error{err, checkLength("consumer's name", c.Name), c.Start.validate(), c.Store.validate()} {
		if err != nil {
			return c, err
		}
	}
	switch {
	case c.Name == "" && c.Store != (StorePolicy{}):
		return c, fmt.Errorf("%w: a Store policy needs a Name to store the offset under", ErrInvalidConfig)
	case c.Name == "" && c.OffsetStore != nil:
		return c, fmt.Errorf("%w: an OffsetStore needs a Name to store the offset under", ErrInvalidConfig)
	case c.Workers < 0 || c.Workers > maxWorkers:
		return c, fmt.Errorf("%w: Workers is %d; it must be from 0 to %d", ErrInvalidConfig, c.Workers, maxWorkers)
	case c.KeyOf != nil && c.Workers < 2:
		return c, fmt.Errorf("%w: KeyOf orders what Workers do in parallel: set Workers to 2 or more, or leave KeyOf out", ErrInvalidConfig)
	case c.MaxBuffered < 0 || c.MaxBuffered > maxMaxBuffered:
		return c, fmt.Errorf("%w: MaxBuffered is %d bytes; it must be from 1 to %d, or 0 for %d", ErrInvalidConfig, c.MaxBuffered, maxMaxBuffered, defaultMaxBuffered)
	case c.BatchSize < 1 || c.BatchSize > maxBatchSize || c.BatchWait < 0:
		return c, fmt.Errorf("%w: BatchSize is %d and BatchWait %v; they must be from 1 to %d, and not negative", ErrInvalidConfig, c.BatchSize, c.BatchWait, maxBatchSize)
	}
	return c, nil
}

// Handler handles one message. It runs on the goroutine that called Run, one
// message at a time, in the order of the stream; with ConsumerConfig.Workers,
// on several goroutines. Nil means that the message is handled: its offset may
// be stored from then on. An error ends the run unless
// ConsumerConfig.OnError says otherwise. A panic counts as an error, with its
// stack.
//
// ctx ends with the run's. A handler that is at work then is waited for, and
// if it returns nil its message counts as handled.
type Handler func(ctx context.Context, d *Delivery) error

// Consumer reads a stream in order. Make one with [Env.NewConsumer].
type Consumer struct {
	env    *Env
	stream string
	cfg    ConsumerConfig

	mu  sync.Mutex
	run *run // nil while not running
}

// NewConsumer checks the configuration and does no I/O: that the stream is
// missing shows when the consumer runs. Errors wrap [ErrInvalidConfig].
func (e *Env) NewConsumer(stream string, cfg ConsumerConfig) (*Consumer, error) {
	cfg, err := cfg.withDefaults(stream)
	if named := checkStream(stream); named != nil {
		err = named
	}
	if err != nil {
		return nil, opErr("new consumer on stream", stream, cfg.Name, err)
	}
	return &Consumer{env: e, stream: stream, cfg: cfg}, nil
}

// Run reads the stream and calls h for each message until ctx ends, h fails,
// the Env is closed, or something happens that trying again cannot mend. It
// blocks for as long. A Consumer runs once at a time, and can run again.
//
// A lost connection, a broker that restarts or is away for however long, a
// leader that moves: Run connects again by itself and goes on at the first
// message not handled. Nothing is handled twice within one run. If the stream is
// deleted and created again meanwhile, it starts over in the new one, as Start
// says where nothing is stored, see [StateStreamRecreated].
//
// Before it returns, the last mark is stored and read back, which takes
// [CloseTimeout] at most; if that fails the error wraps [ErrNotStored] as well.
// No handler runs after Run has returned.
//
// Run never returns nil. The error wraps the context's error after a
// cancellation, [ErrClosed] after Env.Close, a [*HandlerError], [ErrRunning],
// or one of [ErrStreamNotFound], [ErrStreamDeleted], [ErrMalformed], [ErrOffsetStore],
// [ErrAuthentication], [ErrVirtualHost], [ErrAccessRefused], [ErrTLS], and
// [ErrInvalidConfig] for what Config.Resolve returned or an offset that cannot be
// one. [ErrStreamRecreated] comes with ErrNotStored where the stream that was read
// is gone.
func (c *Consumer) Run(ctx context.Context, h Handler) error {
	return c.consume(ctx, func(r *run) { r.h, r.workers = h, c.cfg.Workers })
}

// All is [Consumer.Run] as an iterator: asking for the next message marks the
// last one as handled, and leaving the loop does not. The error, always the
// last that comes, is Run's; after a break it is not seen, and neither is a
// mark that could not be stored, for which there is [Consumer.Commit].
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
		each := func(_ context.Context, d *Delivery) error {
			if !yield(d, nil) {
				left = true
				return errLeft
			}
			return nil
		}
		err := c.oneAtATime("All")
		if err == nil {
			err = c.consume(ctx, func(r *run) { r.loop = each })
		}
		if !left {
			yield(nil, err)
		}
	}
}

// errLeft ends a run whose loop was left.
var errLeft = errors.New("the loop was left")

// Commit stores the mark, the offset of the last handled message, and returns
// when the broker gives it back on being asked. It can be called from within
// the handler, whose own message is not handled yet, or from another
// goroutine; while the consumer is connecting again it waits. Where nothing
// was handled in this run there is nothing to store, and that is nil.
//
// Errors: [ErrNoName], [ErrNotRunning], [ErrNotStored], the context's, or
// [ErrUnreachable] and [ErrStreamUnavailable] if the connection is lost or the
// stream moves meanwhile: the mark is stored again on the next connection,
// except with StorePolicy.Manual, where Commit is to be called again.
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
	return opErr(op, c.stream, c.cfg.Name, request(ctx, r.requests, true, r.ended))
}

// consume runs the consumer with what Run, RunBatch and All have in common;
// setup gives the run its handler.
func (c *Consumer) consume(ctx context.Context, setup func(*run)) error {
	err := c.env.own()
	if err == nil {
		defer c.env.owns.Done()
		ctx, cancel := c.env.under(ctx)
		defer cancel()
		var r *run
		if r, err = c.begin(setup); err == nil {
			defer c.end(r)
			defer r.letters.close()
			err = r.supervise(ctx)
			r.closed(err)
		}
	}
	var h *HandlerError
	if errors.As(err, &h) || errors.Is(err, errLeft) {
		return err
	}
	return opErr("consume stream", c.stream, c.cfg.Name, err)
}

func (c *Consumer) begin(setup func(*run)) (*run, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.run != nil {
		return nil, ErrRunning
	}
	c.run = newRun(c)
	setup(c.run)
	return c.run, nil
}

func (c *Consumer) end(r *run) {
	c.mu.Lock()
	c.run = nil
	c.mu.Unlock()
	close(r.ended)
}
