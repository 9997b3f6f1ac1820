package stream

import (
	"context"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// dispatcher hands the messages of one session to the handler. Run's goroutine
// calls its methods. An error of dispatch or flush ends the session.
type dispatcher interface {
	// context returns a context that ends when the session has to: with the
	// run, or when a handler's failure was not settled. Its cause is the
	// session's error.
	context() context.Context
	// dispatch handles the messages of a chunk, or queues them, as far as they
	// can be decoded. It blocks while the session holds as much as it may.
	dispatch(chunk *wire.Chunk, d *decoder) error
	// flushDue returns a channel that gets an item when the caller has to call
	// flush, unless it calls dispatch before. A nil channel stands for never.
	flushDue() <-chan time.Time
	// flush returns once every message that dispatch has taken is handled, also
	// those that it has kept back for a batch.
	flush() error
	// end ends the session, which err has ended, and waits for the handlers at
	// work. It returns the session's error: err, or that of a handler.
	end(err error) error
}

// newDispatcher returns a dispatcher for a new session.
func (r *run) newDispatcher(ctx context.Context) dispatcher {
	switch {
	case r.batchHandler != nil:
		return newBatches(ctx, r)
	case r.workers > 1:
		return startWorkers(ctx, r)
	}
	return newSerial(ctx, r)
}
