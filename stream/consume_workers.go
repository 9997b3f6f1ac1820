package stream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tidemark-go/tidemark/internal/mark"
	"github.com/tidemark-go/tidemark/internal/wire"
)

// workers is the dispatcher of Run with ConsumerConfig.Workers. Run's goroutine
// queues the messages of one session, and each worker handles them on a
// goroutine of its own. end waits for all workers.
type workers struct {
	run    *run
	ctx    context.Context // of the handlers
	cancel context.CancelCauseFunc
	unhook func() bool // keeps the end of ctx from calling stop
	wg     sync.WaitGroup
	jobs   []job // of the block that is being queued

	mu      sync.Mutex
	work    sync.Cond // signals that queue or stopped has changed
	room    sync.Cond // signals that a message was handled, or that stopped has changed
	queue   *lanes
	stopped bool  // no worker begins another message
	failure error // the first error of a worker
}

func startWorkers(ctx context.Context, r *run) *workers {
	w := &workers{run: r, queue: newLanes(r.consumer.cfg.KeyOf != nil)}
	w.work.L, w.room.L = &w.mu, &w.mu
	w.ctx, w.cancel = context.WithCancelCause(ctx)
	w.unhook = context.AfterFunc(w.ctx, w.stop)
	w.wg.Add(r.workers)
	for range r.workers {
		go w.handleAll()
	}
	return w
}

func (w *workers) context() context.Context   { return w.ctx }
func (w *workers) flushDue() <-chan time.Time { return nil }
func (w *workers) flush() error               { return nil }

// dispatch waits for room and queues the messages of a chunk.
func (w *workers) dispatch(chunk *wire.Chunk, d *decoder) error {
	if !w.waitForRoom() {
		return context.Cause(w.ctx)
	}
	for {
		list := d.block(blockSize)
		if len(list) == 0 {
			return nil
		}
		if err := w.push(chunk, list); err != nil {
			return err
		}
	}
}

// push queues messages of one chunk.
func (w *workers) push(chunk *wire.Chunk, list []Delivery) error {
	keyOf := w.run.consumer.cfg.KeyOf
	w.jobs = w.run.progress.takeInHand(mark.IDOf(chunk), max(len(chunk.Data), 1), list, w.jobs[:0])
	for i := range w.jobs {
		if keyOf == nil {
			break
		}
		if err := w.jobs[i].setKey(keyOf); err != nil {
			return w.handlerError(w.jobs[i], err)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, j := range w.jobs {
		w.queue.push(j)
	}
	w.work.Broadcast()
	return nil
}

// setKey sets the key that KeyOf returns, and returns a panic of KeyOf as an
// error.
func (j *job) setKey(keyOf func(*Delivery) string) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("KeyOf: %w", panicError(v))
		}
	}()
	j.key = keyOf(j.d)
	return nil
}

func (w *workers) handlerError(j job, err error) error {
	return &HandlerError{Stream: w.run.consumer.stream, Offset: j.d.Offset, Attempts: 1, Err: err}
}

// waitForRoom waits until the workers may take another chunk in hand: until the
// chunks in hand have less than MaxBuffered bytes, or fewer than two messages a
// worker are in hand. It returns false if the session has to end. In hand is
// everything from the first message on that is not handled, so a slow message
// bounds how far the others run ahead.
func (w *workers) waitForRoom() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for !w.stopped {
		messages, bytes := w.run.progress.inHand()
		if bytes < w.run.consumer.cfg.MaxBuffered || messages < 2*w.run.workers {
			return true
		}
		w.room.Wait()
	}
	return false
}

// handleAll is the body of a worker: it handles messages until stop is called.
func (w *workers) handleAll() {
	defer w.wg.Done()
	completed, kept := false, w.run.originals()
	j, ok := w.next(nil)
	defer func() {
		if !completed {
			w.fail(w.handlerError(j, errors.New("it ended its goroutine with runtime.Goexit")))
		}
	}()
	for ok {
		if err := w.handle(j, kept); err != nil {
			w.fail(err)
			break
		}
		j, ok = w.next(&j)
	}
	completed = true
}

// next waits for a message to handle. handled is the message that the worker
// has just handled, or nil. ok is false if the worker has to end.
func (w *workers) next(handled *job) (j job, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if handled != nil {
		w.room.Signal()
		j, ok = w.queue.popBehind(*handled)
	}
	for !ok && !w.stopped {
		if j, ok = w.queue.pop(); !ok {
			w.work.Wait()
		}
	}
	return j, ok && !w.stopped
}

// handle handles one message and waits for a store if the policy says so.
func (w *workers) handle(j job, kept *originals) error {
	if err := w.run.handleOne(w.ctx, j.d, kept); err != nil {
		return err
	}
	if w.run.progress.markFinished(j.ticket) && w.run.named() {
		return w.run.requests.ask(w.ctx, false, nil)
	}
	return nil
}

// fail ends the session, and the context of the handlers with it. The first
// error counts. fail calls cancel before stop: when stop wakes dispatch,
// dispatch returns the context's cause, which has to be there by then.
func (w *workers) fail(err error) {
	w.mu.Lock()
	if w.failure == nil {
		w.failure = err
	}
	w.mu.Unlock()
	w.cancel(err)
	w.stop()
}

// stop keeps the workers from beginning another message.
func (w *workers) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stopped = true
	w.work.Broadcast()
	w.room.Broadcast()
}

// end waits for the handlers at work. The next session gets the messages above
// the mark again, and handles those of them that no worker has finished.
func (w *workers) end(err error) error {
	w.stop()
	w.wg.Wait()
	w.unhook()
	w.cancel(nil)
	if last, ok := w.run.progress.endSession(); ok {
		w.run.place.HandledTo(last.Offset, last.Chunk)
	}
	// When ctx ends the run, a worker that waits for a store returns the
	// context's error. It must not replace err, which says the same. A
	// handler's failure does.
	var h *HandlerError
	if w.failure != nil && (err == nil || errors.As(w.failure, &h)) {
		return w.failure
	}
	return err
}
