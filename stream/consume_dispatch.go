package stream

import (
	"context"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// dispatcher hands the messages of one session to the handler. Run's goroutine
// calls its methods.
type dispatcher interface {
	// context ends when the session has to: with the run, or when a handler
	// failed for good. Its cause is what the session ends with.
	context() context.Context
	// dispatch hands over the messages of a chunk, as far as they can be
	// decoded. It blocks while the session holds as much as it may.
	dispatch(chunk *wire.Chunk, d *decoder) error
	// flushDue gets an item when flush is to be called, unless dispatch comes
	// first. A nil channel stands for never.
	flushDue() <-chan time.Time
	// flush hands over what waits for more messages.
	flush() error
	// end waits for the handlers at work. It takes what ended the session, and
	// returns what the session ends with after all.
	end(err error) error
}

// newDispatcher returns the dispatcher for a session.
func (r *run) newDispatcher(ctx context.Context) dispatcher {
	switch {
	case r.batchHandler != nil:
		return newBatches(ctx, r)
	case r.workers > 1:
		return startWorkers(ctx, r)
	}
	return newSerial(ctx, r)
}
