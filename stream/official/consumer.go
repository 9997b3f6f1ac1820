package official

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"

	"github.com/rabbitmq/rabbitmq-stream-go-client/pkg/amqp"
	client "github.com/rabbitmq/rabbitmq-stream-go-client/pkg/stream"

	"github.com/tidemark-go/tidemark/internal/startspec"
	"github.com/tidemark-go/tidemark/stream"
)

// Config says who reads, and from where. The zero value reads from the stream's
// beginning and stores nothing.
type Config struct {
	// Name is the name under which the broker keeps the offset of the last
	// handled message of this stream. It has 255 bytes at most. Consumers with
	// different names each get every message. Two consumers that use one name
	// at the same time overwrite each other's offset; with one Environment the
	// second one gets [stream.ErrNameInUse]. Default "": nothing is stored.
	Name string
	// Start says where to begin. Default: Stored(First()), after the stored
	// offset, or at the oldest message if there is none. What package stream
	// reports as StateMessagesLost or StateOffsetBeyondEnd is a line in the log.
	Start stream.Start
	// Store says when the consumer stores the offset. Default: after each
	// message while traffic is slow, and every 100 ms in a burst. Each consumer
	// stores by itself. A store needs a Name. Committed is not offered here.
	Store stream.StorePolicy
	// Logger gets a line for messages that retention has removed unread, for a
	// stored offset beyond the end of the stream, and for each store that
	// failed. Default: nothing is logged.
	Logger *slog.Logger
}

// Delivery is a message for a [Handler].
type Delivery struct {
	// Offset is the message's place in the stream. Offsets grow, with gaps.
	Offset uint64
	// Message is the message as the official client has decoded it. The handler
	// may keep it.
	Message *amqp.Message
}

// Handler handles one message. It runs on the goroutine that called Run, for one
// message at a time, in the order of the stream.
//
// If the handler returns nil, the message is handled, and its offset may be
// stored. An error ends the run. A panic counts as an error, with its stack.
//
// ctx has the values of the context of Run, and ends 5 s after it, so that the
// handler can finish what it has begun. It does not end with a chunk or a
// connection. If the handler returns an error after ctx has ended, that counts
// as an interruption and no failure: the message comes again in the next run.
type Handler func(ctx context.Context, d *Delivery) error

// Consumer reads a stream in order with a consumer of the official client. Make
// one with [NewConsumer].
type Consumer struct {
	env    *client.Environment
	stream string
	cfg    Config

	mu      sync.Mutex
	running bool
	storer  *storer // of the run; nil while there is none
}

// NewConsumer checks the configuration and returns a consumer. It does no I/O,
// so Run reports a stream that does not exist. env stays the caller's, who
// closes it after the run has ended. Errors wrap [stream.ErrInvalidConfig] or
// [stream.ErrClosed].
func NewConsumer(env *client.Environment, streamName string, cfg Config) (*Consumer, error) {
	err := errors.Join(checkEnv(env), startspec.CheckConsumer(streamName, cfg.Name, cfg.Start, cfg.Store), checkName(cfg.Name), checkStore(cfg.Store))
	if err != nil {
		return nil, opErr("new consumer on stream", streamName, cfg.Name, err)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Consumer{env: env, stream: streamName, cfg: cfg}, nil
}

// checkName rejects a name that the official client does not take.
func checkName(name string) error {
	if name != "" && strings.TrimSpace(name) == "" {
		return fmt.Errorf("%w: the consumer's name %q has only spaces, which the official client refuses", stream.ErrInvalidConfig, name)
	}
	return nil
}

// Run reads the stream and calls h for each message. It blocks until ctx ends, h
// fails or the connection is lost. A Consumer has one run at a time, and can run
// again: Run then goes on at the first message that was not handled.
//
// Before it returns, Run stores the last mark, which is the offset of the last
// handled message, and reads it back, except with StorePolicy.Manual. That takes
// [stream.CloseTimeout] at most. No handler runs after Run has returned.
//
// When ctx ends, in whatever way, Run takes no further message, waits for the
// handler and stores the mark. It returns nil if the mark is stored or there is
// none. Any other end is an error. It is a [*stream.HandlerError], or wraps one
// of these:
//
//   - [stream.ErrUnreachable], if the connection is lost, the stream moves to
//     another node, or the broker does not answer: run again
//   - [stream.ErrNotStored], beside another error or alone
//   - [stream.ErrStreamRecreated] together with ErrNotStored, if the stream was
//     deleted and created again before the last mark was stored
//   - [stream.ErrStreamNotFound] or [stream.ErrStreamDeleted]
//   - [stream.ErrStreamUnavailable], if the stream has no leader
//   - [stream.ErrAccessRefused]
//   - [stream.ErrRunning], or [stream.ErrNameInUse]
//   - [stream.ErrClosed], if the Environment was closed
//   - [stream.ErrInvalidConfig], if h is nil
//
// errors.Is matches the official client's own error as well.
func (c *Consumer) Run(ctx context.Context, h Handler) error {
	const op = "consume stream"
	var failed *stream.HandlerError
	err := c.runOnce(ctx, h)
	if errors.As(err, &failed) {
		return err
	}
	return opErr(op, c.stream, c.cfg.Name, err)
}

func (c *Consumer) runOnce(ctx context.Context, h Handler) error {
	if h == nil {
		return fmt.Errorf("%w: the handler of Run is nil: pass a function that handles the messages", stream.ErrInvalidConfig)
	}
	if err := c.begin(); err != nil {
		return err
	}
	defer c.end()
	if err := checkEnv(c.env); err != nil {
		return err
	}
	g := enter(c.env)
	defer g.leave()
	key := consumerKey{c.stream, c.cfg.Name}
	if err := g.useName(key); err != nil {
		return err
	}
	defer g.giveBackName(key)
	return newRun(c, g, h).run(ctx)
}

func (c *Consumer) begin() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running {
		return stream.ErrRunning
	}
	c.running = true
	return nil
}

func (c *Consumer) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.running = false
}

func (c *Consumer) setStorer(st *storer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.storer = st
}

// Commit stores the mark and returns once it has read the mark back. If this run
// has handled nothing, Commit returns nil. Any goroutine may call it. So may the
// handler, but the message that it has in hand does not count as handled.
//
// Errors wrap [stream.ErrNoName], [stream.ErrNotRunning], which it also returns
// while Run connects, [stream.ErrNotStored] or [stream.ErrUnreachable], or are
// the context's.
func (c *Consumer) Commit(ctx context.Context) error {
	const op = "commit offset on stream"
	if c.cfg.Name == "" {
		return opErr(op, c.stream, "", fmt.Errorf("%w: set Config.Name", stream.ErrNoName))
	}
	c.mu.Lock()
	st := c.storer
	c.mu.Unlock()
	if st == nil {
		return opErr(op, c.stream, c.cfg.Name, stream.ErrNotRunning)
	}
	return opErr(op, c.stream, c.cfg.Name, st.store(ctx, true))
}

// checkStore rejects what only the engine of package stream can do.
func checkStore(p stream.StorePolicy) error {
	if p.Committed {
		return fmt.Errorf("%w: StorePolicy.Committed is not offered over the official client, which does not show what the stream's leader has committed: leave it out, or use package stream", stream.ErrInvalidConfig)
	}
	return nil
}
