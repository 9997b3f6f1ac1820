package stream

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/tidemark-go/tidemark/internal/mark"
	"github.com/tidemark-go/tidemark/internal/wire"
)

// workers is the dispatcher of Run with ConsumerConfig.Workers. Run's goroutine
// queues messages, and each worker handles them on a goroutine of its own. The
// end of a session does not concern the workers: the next session goes on behind
// the last message that was queued. On a super stream the goroutines are those of a
// crew.
type workers struct {
	lifetime
	inCrew
	run            *run
	cancelTaking   context.CancelCauseFunc
	cancelHandling context.CancelCauseFunc
	unhook         []func() bool // keep the ends of the two contexts from being noticed
	wg             sync.WaitGroup
	jobs           []job // of the block that is being queued

	mu   sync.Mutex
	work sync.Cond // signals that queue or phase has changed
	room sync.Cond // signals that leavesRoom holds, or that phase has changed
	// leavesRoom is what waitUntil waits for; nil: it does not.
	leavesRoom  func(messages, bytes int) bool
	queue       *lanes
	begun       uint64 // the tickets below this one include every one that a worker has had
	phase       phase
	failure     error // the first error of a worker
	storeFailed bool  // a worker waits for a store of the session, which has failed
	reported    bool  // end has logged what comes again
}

// phase is what the workers still begin.
type phase uint8

const (
	open     phase = iota // every message
	draining              // messages that come before one that is begun
	stopped               // none
)

func startWorkers(ctx context.Context, r *run) *workers {
	w := newWorkers(ctx, r)
	w.unhook = []func() bool{context.AfterFunc(w.taking, w.drain), context.AfterFunc(w.handling, w.stop)}
	if w.crew != nil {
		w.crew.join(w)
		return w
	}
	w.wg.Add(r.workers)
	for range r.workers {
		go w.handleAll()
	}
	return w
}

// newWorkers returns workers that do not work yet.
func newWorkers(ctx context.Context, r *run) *workers {
	w := &workers{run: r, queue: newLanes(r.consumer.cfg.KeyOf != nil)}
	w.work.L, w.room.L = &w.mu, &w.mu
	w.lastAttempt, w.crew = true, r.crew
	w.taking, w.cancelTaking = context.WithCancelCause(ctx)
	w.handling, w.cancelHandling = context.WithCancelCause(r.handling)
	return w
}

func (w *workers) flushDue() <-chan time.Time { return nil }

// flush waits until the workers have handled everything that is queued.
func (w *workers) flush() error {
	if !w.waitUntil(func(messages, _ int) bool { return messages == 0 }) {
		return w.noRoom()
	}
	return nil
}

// dispatch waits for room and queues the messages of a chunk.
func (w *workers) dispatch(chunk *wire.Chunk, d *decoder) error {
	if !w.waitForRoom() {
		return w.noRoom()
	}
	for d.unread() {
		places := w.waitForPlaces()
		if places == 0 {
			return w.noRoom()
		}
		list := d.block(places)
		if len(list) == 0 {
			break
		}
		if err := w.push(chunk, list, d.opened); err != nil {
			return err
		}
		if d.more() && !w.waitForRoom() { // the next block may hold as much again
			return w.noRoom()
		}
	}
	return nil
}

// errSessionOver ends the wait for room in a session that has ended.
var errSessionOver = errors.New("the session is over")

// noRoom returns why waitUntil has returned false.
func (w *workers) noRoom() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.phase == open {
		return errSessionOver
	}
	return errStopped
}

// push queues messages of one chunk, which hold opened decompressed bytes. From
// then on they are the workers', and the next session begins behind them.
func (w *workers) push(chunk *wire.Chunk, list []Delivery, opened int) error {
	id := mark.IDOf(chunk)
	w.jobs = w.run.progress.takeInHand(id, max(len(chunk.Data), 1), opened, list, w.jobs[:0])
	w.run.place.HandledTo(list[len(list)-1].Offset, id)
	keyOf := w.run.consumer.cfg.KeyOf
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
	if w.phase != open {
		return errStopped
	}
	for _, j := range w.jobs {
		w.queue.push(j)
	}
	w.work.Broadcast()
	if w.crew != nil {
		w.recount()
		w.list()
	}
	return nil
}

// pass lets the mark pass what the filter has left out, together with the last
// message in hand.
func (w *workers) pass(offset uint64, chunk mark.ChunkID, n int) error {
	w.run.place.HandledTo(offset, chunk)
	if w.run.progress.pass(offset, n) && w.run.named() {
		return unlessStopped(w.taking, w.run.requests.ask(w.taking, storeSent, nil))
	}
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

// waitForRoom waits until the workers may take more in hand: until the chunks in
// hand, with what is decompressed of them, have less than a quarter of
// MaxBuffered, or fewer than two messages a worker are in hand, with maxOpened
// bytes more. It returns false if nothing more is to be taken. In hand is
// everything from the first message on that is not handled, so a slow message
// bounds how far the others run ahead.
func (w *workers) waitForRoom() bool {
	return w.waitUntil(func(messages, bytes int) bool {
		if w.crew != nil {
			return w.crew.hasRoom(inHand{messages, bytes})
		}
		over := bytes - (w.run.consumer.cfg.MaxBuffered+3)/4
		return over < 0 || messages < 2*w.run.workers && over < maxOpened
	})
}

// waitForPlaces waits until MaxAhead leaves room for a block of messages, or for
// an eighth of MaxAhead if that is less. It returns how many messages of a chunk may
// be taken in hand, and 0 if nothing more is to be taken.
func (w *workers) waitForPlaces() (places int) {
	limit := w.run.consumer.cfg.MaxAhead
	enough := min(blockSize, (limit+7)/8)
	w.waitUntil(func(messages, bytes int) bool {
		places = min(blockSize, limit-messages)
		if w.crew != nil {
			places, enough = w.crew.places(inHand{messages, bytes})
		}
		return places >= enough
	})
	return max(places, 0)
}

// waitUntil waits until what is in hand leaves room. It returns false if nothing
// more is to be taken, or if the session has ended and a worker waits for a store:
// the next session can store.
func (w *workers) waitUntil(leavesRoom func(messages, bytes int) bool) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.leavesRoom = leavesRoom
	defer func() { w.leavesRoom = nil }()
	if w.crew != nil {
		w.crew.waiting.Add(1)
		defer w.crew.waiting.Add(-1)
	}
	for w.phase == open {
		if leavesRoom(w.recount()) {
			return true
		}
		if w.storeFailed && !w.run.reads() {
			break
		}
		w.room.Wait()
	}
	leavesRoom(math.MaxInt, math.MaxInt)
	return false
}

// handleAll is the body of a worker: it handles messages until the run ends.
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
		err := w.handle(j, kept)
		if err != nil {
			w.fail(err)
			break
		}
		j, ok = w.next(&j)
	}
	completed = true
}

// next waits for a message to handle. handled is the message that the worker
// has just handled, or nil. ok is false if the worker has to end. A worker that
// finds nothing while the others drain has to end too: what waits behind a
// message of the same key is for the worker that has this one.
func (w *workers) next(handled *job) (j job, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.taking.Err() != nil {
		w.drainLocked() // which its hook may not have called yet
	}
	if handled != nil {
		// Waking the run for each message would cost more than the message.
		if w.leavesRoom != nil && w.leavesRoom(w.run.progress.inHand()) {
			w.room.Signal()
		}
		j, ok = w.queue.popBehind(*handled)
	}
	for !ok && w.phase != stopped {
		if j, ok = w.queue.pop(); ok || w.phase == draining {
			break
		}
		w.work.Wait()
	}
	if !ok || w.phase == stopped {
		return j, false
	}
	w.begun = max(w.begun, j.ticket+1)
	return j, true
}

// handle handles one message and waits for a store if the policy says so.
func (w *workers) handle(j job, kept *originals) error {
	if err := w.run.handleOne(w.lifetime, j.d, kept); err != nil {
		return err
	}
	if w.run.progress.markFinished(j.ticket) && w.run.named() {
		return w.store()
	}
	return nil
}

// storeAgain is the pause after a store that failed with its session.
const storeAgain = 20 * time.Millisecond

// store has the storer of the session store the mark, or that of the next
// session if this one ends meanwhile. A run that is told to end needs no store
// here: it stores its mark at last. The error is that of an OffsetStore.
func (w *workers) store() error {
	for {
		err := w.run.requests.ask(w.taking, storeSent, nil)
		switch {
		case err == nil, w.taking.Err() != nil:
			return nil
		case errors.Is(err, ErrOffsetStore):
			return err
		}
		w.noteStoreFailed()
		_ = sleep(w.taking, storeAgain)
	}
}

// noteStoreFailed has the run look whether its session has ended.
func (w *workers) noteStoreFailed() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.storeFailed = true
	w.room.Broadcast()
}

// fail ends the run, and if the handler has failed, the context of the other
// handlers too. The first error counts. errStopped is no failure: the message of
// this worker comes again in the next run.
func (w *workers) fail(err error) {
	if err == errStopped {
		return
	}
	w.mu.Lock()
	if w.failure == nil {
		w.failure = err
	}
	w.mu.Unlock()
	w.cancelTaking(err)
	if endedByHandler(err) {
		w.cancelHandling(err)
		w.stop()
		if w.crew != nil {
			w.crew.fail(err)
		}
	}
	w.drain()
	if w.run.isPartition() {
		w.run.endAll(err)
	}
}

// drain keeps the workers from beginning a message behind those that are begun.
func (w *workers) drain() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.drainLocked()
}

func (w *workers) drainLocked() {
	if w.phase == open {
		w.queue.cut(w.begun)
		w.enter(draining)
	}
}

// stop keeps the workers from beginning another message.
func (w *workers) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.enter(stopped)
}

// enter begins a phase. The caller holds w.mu.
func (w *workers) enter(p phase) {
	w.phase = p
	w.work.Broadcast()
	w.room.Broadcast()
}

// endSession returns the error of a worker, which may have ended the session.
func (w *workers) endSession(err error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.storeFailed = false
	return w.because(err)
}

// end has the workers handle what comes before a message that is begun, and
// waits for them.
func (w *workers) end(err error) error {
	w.drain()
	err = w.wait(err)
	if n := w.run.progress.finishedAhead(); n > 0 && w.run.named() && !w.reported {
		w.reported = true
		w.run.log("messages that were handled come again in the next run, because one before them was not", "messages", n)
	}
	return err
}

func (w *workers) abandon() error {
	w.stop()
	return w.wait(nil)
}

// errRunGone is what the handlers at work learn when nobody waits for them.
var errRunGone = errors.New("the run was ended by a panic or by runtime.Goexit")

// dropWorkers ends the run's workers and waits for them, if nobody has: because a
// function of the user's that the run calls itself, such as Match or KeyOf, has ended
// the goroutine, or has panicked where that is not caught.
func (r *run) dropWorkers() {
	if w, ok := r.dispatcher.(*workers); ok {
		w.cancelTaking(errRunGone)
		w.cancelHandling(errRunGone)
		_ = w.abandon()
	}
}

// wait waits for the workers. It returns why the run ended.
func (w *workers) wait(err error) error {
	if w.crew != nil {
		w.waitIdle()
	}
	w.wg.Wait()
	for _, unhook := range w.unhook {
		unhook()
	}
	w.cancelTaking(nil)
	w.cancelHandling(nil)
	return w.because(err)
}

// because returns err, which has ended a session or the run, or the error of a
// worker. A worker's error stops the session too, so it explains errStopped. A
// handler's failure counts more than what else has ended the session.
func (w *workers) because(err error) error {
	if w.failure != nil && (err == nil || err == errStopped || endedByHandler(w.failure)) {
		return w.failure
	}
	return err
}
