package stream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// workers handle the messages of one session in parallel. The goroutine of Run
// feeds them; each worker is a goroutine that end waits for.
type workers struct {
	r      *run
	ctx    context.Context // what the handlers get
	cancel context.CancelCauseFunc
	unhook func() bool
	wg     sync.WaitGroup
	jobs   []job // of the block that is being taken

	mu      sync.Mutex
	work    sync.Cond // there is something to handle, or stopped
	room    sync.Cond // something was handled, or stopped
	queue   *lanes
	stopped bool  // nothing new is handled
	failure error // the first
}

func startWorkers(ctx context.Context, r *run) *workers {
	w := &workers{r: r, queue: newLanes(r.c.cfg.KeyOf != nil)}
	w.work.L, w.room.L = &w.mu, &w.mu
	w.ctx, w.cancel = context.WithCancelCause(ctx)
	w.unhook = context.AfterFunc(w.ctx, w.stop)
	w.wg.Add(r.workers)
	for range r.workers {
		go w.run()
	}
	return w
}

func (w *workers) context() context.Context { return w.ctx }
func (w *workers) due() <-chan time.Time    { return nil }
func (w *workers) flush() error             { return nil }

// take waits for room and queues the messages of a chunk.
func (w *workers) take(chunk *wire.Chunk, d *decoder) error {
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
	keyOf := w.r.c.cfg.KeyOf
	w.jobs = w.r.progress.begin(idOf(chunk), max(len(chunk.Data), 1), list, w.jobs[:0])
	for i := range w.jobs {
		if keyOf == nil {
			break
		}
		if err := keyInto(&w.jobs[i], keyOf); err != nil {
			return &HandlerError{Stream: w.r.c.stream, Offset: w.jobs[i].d.Offset, Attempts: 1, Err: err}
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

// keyInto turns a panic of KeyOf into an error.
func keyInto(j *job, keyOf func(*Delivery) string) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("KeyOf: %w", panicError(v))
		}
	}()
	j.key = keyOf(j.d)
	return nil
}

// waitForRoom waits until another chunk may be taken in hand, false if the
// session has to end. What is in hand reaches from the first message that is
// not handled, so that a slow one bounds how far the others run ahead of it.
func (w *workers) waitForRoom() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for !w.stopped {
		messages, bytes := w.r.progress.inHand()
		if bytes < w.r.c.cfg.MaxBuffered || messages < 2*w.r.workers {
			return true
		}
		w.room.Wait()
	}
	return false
}

// run is a worker.
func (w *workers) run() {
	defer w.wg.Done()
	completed := false
	j, ok := w.next(nil)
	defer func() {
		if !completed {
			err := errors.New("it ended its goroutine with runtime.Goexit")
			w.fail(&HandlerError{Stream: w.r.c.stream, Offset: j.d.Offset, Attempts: 1, Err: err})
		}
	}()
	for ok {
		if err := w.handle(j); err != nil {
			w.fail(err)
			break
		}
		j, ok = w.next(&j)
	}
	completed = true
}

// next waits for a message to handle, after the one before if there was one.
func (w *workers) next(before *job) (j job, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if before != nil {
		w.room.Signal()
		j, ok = w.queue.follow(*before)
	}
	for !ok && !w.stopped {
		if j, ok = w.queue.pop(); !ok {
			w.work.Wait()
		}
	}
	return j, ok && !w.stopped
}

// handle handles one message and, as the policy says, waits for a store.
func (w *workers) handle(j job) error {
	if err := w.r.one(w.ctx, j.d); err != nil {
		return err
	}
	if w.r.progress.finish(j.ticket) && w.r.c.cfg.Name != "" {
		return request(w.ctx, w.r.requests, false, nil)
	}
	return nil
}

// fail ends the session with the first error; the handlers' contexts end.
func (w *workers) fail(err error) {
	w.mu.Lock()
	if w.failure == nil {
		w.failure = err
	}
	w.mu.Unlock()
	w.cancel(err) // first: whoever finds the workers stopped asks for the cause
	w.stop()
}

// stop lets nothing new be handled.
func (w *workers) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stopped = true
	w.work.Broadcast()
	w.room.Broadcast()
}

// end waits for the handlers at work. What was not begun comes again, and what
// was handled above the mark is remembered.
func (w *workers) end(err error) error {
	w.stop()
	w.wg.Wait()
	w.unhook()
	w.cancel(nil)
	if last, moved := w.r.progress.restart(); moved {
		w.r.reached(last.offset, last.id)
	}
	// The end of the run, as a worker waiting for a store sees it, is no failure.
	var h *HandlerError
	if w.failure != nil && (err == nil || errors.As(w.failure, &h)) {
		return w.failure
	}
	return err
}
