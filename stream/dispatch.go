package stream

import (
	"context"
	"errors"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// dispatcher hands the messages of one session to the handler. Its methods are
// called on the goroutine of Run.
type dispatcher interface {
	// context ends when the session has to: with the run, or when a handler
	// failed for good; its cause is what the session ends with.
	context() context.Context
	// take hands over the messages of a chunk, as far as they can be decoded. It
	// blocks while as much is in hand as may be.
	take(chunk *wire.Chunk, d *decoder) error
	// due is when flush is to be called, unless take is first; nil for never.
	due() <-chan time.Time
	flush() error
	// end waits for the handlers at work. err is what ended the session; the
	// result is what it ends with in the end.
	end(err error) error
}

// errDue is what waiting for a chunk ends with when a flush is due.
var errDue = errors.New("a flush is due")

// dispatch returns the dispatcher for a session.
func (r *run) dispatch(ctx context.Context) dispatcher {
	switch {
	case r.batch != nil:
		return newBatches(ctx, r)
	case r.workers > 1:
		return startWorkers(ctx, r)
	}
	return &serial{ctx: ctx, r: r}
}

// serial handles one message at a time, on the goroutine of Run.
type serial struct {
	ctx context.Context
	r   *run
}

func (s *serial) context() context.Context { return s.ctx }
func (s *serial) due() <-chan time.Time    { return nil }
func (s *serial) flush() error             { return nil }
func (s *serial) end(err error) error      { return err }

func (s *serial) take(chunk *wire.Chunk, d *decoder) error {
	for {
		list := d.block(blockSize)
		if len(list) == 0 {
			return nil
		}
		if err := s.handle(idOf(chunk), list); err != nil {
			return err
		}
	}
}

// handle handles messages of one chunk, one after the other.
func (s *serial) handle(id chunkID, list []Delivery) error {
	r, handled := s.r, 0
	defer func() { // a handler's panic or Goexit included
		if handled > 0 {
			r.reached(list[handled-1].Offset, id)
		}
	}()
	named := r.c.cfg.Name != ""
	for i := range list {
		if s.ctx.Err() != nil {
			return context.Cause(s.ctx)
		}
		if err := r.handle(s.ctx, &list[i]); err != nil {
			return err
		}
		handled = i + 1
		if named && r.progress.handle(list[i].Offset) {
			if err := r.storer.storeNow(s.ctx); err != nil {
				return err
			}
		}
	}
	return nil
}
