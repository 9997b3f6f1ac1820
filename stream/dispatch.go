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
		if err := s.handle(idOf(chunk), list, d.unread()); err != nil {
			return err
		}
	}
}

// handle handles messages of one chunk, one after the other. more says that there
// are others behind them.
func (s *serial) handle(id chunkID, list []Delivery, more bool) error {
	done := 0
	defer func() { // a handler's Goexit, or the panic of a loop's body, included
		if done > 0 {
			s.r.reached(list[done-1].Offset, id)
		}
	}()
	for done < len(list) {
		failed, err := s.some(list, &done, more)
		if failed {
			d := &list[done]
			if err = s.r.settleOne(s.ctx, err, d); err == nil {
				done++
				err = s.handled(d.Offset, false)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// some handles list from done on until the handler fails or the session has to
// end. The protection from panics is there once for all of them: for each, it
// and what it goes through cost as much as decoding.
func (s *serial) some(list []Delivery, done *int, more bool) (failed bool, err error) {
	if s.r.h != nil {
		defer func() {
			if v := recover(); v != nil {
				failed, err = true, panicError(v)
			}
		}()
	}
	h := s.r.h
	if h == nil {
		h = s.r.loop
	}
	named, counted := s.r.c.cfg.Name != "", s.r.c.cfg.Store.Every > 0
	for i := *done; i < len(list); i++ {
		if s.ctx.Err() != nil {
			return false, context.Cause(s.ctx)
		}
		if err := h(s.ctx, &list[i]); err != nil {
			return s.r.h != nil, err
		}
		*done = i + 1
		switch {
		case !named:
		case !counted:
			s.r.progress.reach(list[i].Offset + 1)
		default:
			if err := s.handled(list[i].Offset, more || i+1 < len(list)); err != nil {
				return false, err
			}
		}
	}
	return false, nil
}

// handled moves the mark, and stores it if the policy says so. more says that
// the next message is at hand.
func (s *serial) handled(offset uint64, more bool) error {
	if s.r.c.cfg.Name != "" && s.r.progress.handle(offset) {
		return s.r.storer.storeNow(s.ctx, more)
	}
	return nil
}
