package stream

import (
	"context"
	"time"

	"github.com/tidemark-go/tidemark/internal/mark"
	"github.com/tidemark-go/tidemark/internal/wire"
)

// dispatcher hands a run's messages to the handler, session after session. Run's
// goroutine calls its methods. An error of dispatch or flush ends the session.
type dispatcher interface {
	// context returns a context that ends when no further message is to be
	// taken: with the run's, or when a failure of a worker ends the run.
	context() context.Context
	// dispatch handles the messages of a chunk, or queues them, as far as they
	// can be decoded. It blocks while the session holds as much as it may.
	dispatch(chunk *wire.Chunk, d *decoder) error
	// pass moves the mark to an offset, which lies in a chunk or is its last one,
	// once everything that dispatch has taken is handled: what else comes before
	// it, the filter has left out. That counts as n messages. pass is called
	// where the offset lies behind everything that was dispatched, or is the last
	// of that.
	pass(offset uint64, chunk mark.ChunkID, n int) error
	// flushDue returns a channel that gets an item when the caller has to call
	// flush, unless it calls dispatch before. A nil channel stands for never.
	flushDue() <-chan time.Time
	// flush returns once every message that dispatch has taken is handled, also
	// those that it has kept back for a batch.
	flush() error
	// endSession is called when err has ended a session. It returns the
	// session's error: err, or that of a handler. Handlers may be at work after
	// it, and another session may follow.
	endSession(err error) error
	// end is called when err has ended the run. It waits for the handlers at
	// work, and returns why the run ended: err, or the error of a handler. A
	// further call returns at once.
	end(err error) error
	// abandon drops the messages that no handler has begun, and waits for the
	// handlers at work. It returns a failure of theirs that ends the run.
	abandon() error
}

// lifetime is the two contexts of a dispatcher.
type lifetime struct {
	taking   context.Context // that of dispatcher.context
	handling context.Context // what the handlers get
	// lastAttempt makes a message that pauses between two attempts, when taking
	// ends, get one more attempt at once, because messages behind it are
	// handled already.
	lastAttempt bool
}

// context is dispatcher.context.
func (l lifetime) context() context.Context { return l.taking }

// drainContext returns the context of the handlers: it ends a time after stop,
// and with negative time together with stop. It has the values of stop. The
// caller calls end.
func drainContext(stop context.Context, drain time.Duration) (ctx context.Context, end func()) {
	if drain < 0 {
		return stop, func() {}
	}
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(stop))
	timer := time.AfterFunc(drain, func() { cancel(context.Cause(stop)) })
	timer.Stop()
	unhook := context.AfterFunc(stop, func() { timer.Reset(drain) })
	return ctx, func() {
		unhook()
		cancel(context.Canceled)
		timer.Stop()
	}
}

// newDispatcher returns the dispatcher of a run, which ends with ctx.
func (r *run) newDispatcher(ctx context.Context) dispatcher {
	switch {
	case r.mixesBatches():
		return newMixed(ctx, r)
	case r.batchHandler != nil:
		return newBatches(ctx, r)
	case r.workers > 1:
		return startWorkers(ctx, r)
	}
	return newSerial(ctx, r)
}
