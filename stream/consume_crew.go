package stream

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
)

// crew is the workers of a consumer of a super stream. Each partition has a
// dispatcher of type workers, with a queue of its own, and the goroutines of the
// crew take one message of each partition by turns. MaxAhead and MaxBuffered hold
// for all partitions together: a partition may have in hand half of what the others
// leave, as with budget, and a block of messages whatever they leave.
//
// A workers' lock may be held when that of the crew is taken, and not the other way
// round.
type crew struct {
	size     int // how many workers there are
	maxAhead int
	quarter  int            // of MaxBuffered
	wg       sync.WaitGroup // of the workers, and of those who wait for a store

	messages, bytes atomic.Int64  // that all members have in hand
	finished        atomic.Uint64 // how many messages were handled
	waiting         atomic.Int32  // how many members wait for room

	mu      sync.Mutex
	work    sync.Cond  // signals that ready has grown, or closed
	ready   []*workers // members with messages to handle, each once
	members []*workers
	closed  bool
}

// inHand is what a member has in hand.
type inHand struct{ messages, bytes int }

func startCrew(cfg ConsumerConfig) *crew {
	c := &crew{size: cfg.Workers, maxAhead: cfg.MaxAhead, quarter: (cfg.MaxBuffered + 3) / 4}
	c.work.L = &c.mu
	c.wg.Add(c.size)
	for range c.size {
		go c.handleAll()
	}
	return c
}

// close ends the goroutines. The members have ended.
func (c *crew) close() {
	c.mu.Lock()
	c.closed = true
	c.work.Broadcast()
	c.mu.Unlock()
	c.wg.Wait()
}

// handleAll is the body of a worker.
func (c *crew) handleAll() {
	defer c.wg.Done()
	var kept *originals
	for w := c.next(); w != nil; w = c.next() {
		if kept == nil {
			kept = w.run.originals()
		}
		w.handleShared(kept)
	}
}

// next waits for a member with a message to handle. It returns nil at the end.
func (c *crew) next() *workers {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.ready) == 0 {
		if c.closed {
			return nil
		}
		c.work.Wait()
	}
	w := c.ready[0]
	c.ready[0] = nil
	c.ready = c.ready[1:]
	return w
}

// offer lists a member that has a message to handle.
func (c *crew) offer(w *workers) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ready = append(c.ready, w)
	c.work.Signal()
}

func (c *crew) join(w *workers) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.members = append(c.members, w)
}

// leave forgets a member whose messages nobody handles any more.
func (c *crew) leave(w *workers) {
	w.mu.Lock()
	w.count(inHand{})
	w.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.members = slices.DeleteFunc(c.members, func(m *workers) bool { return m == w })
}

func (c *crew) all() []*workers {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.members)
}

// fail ends the context of every handler, and keeps the crew from beginning another
// message.
func (c *crew) fail(err error) {
	for _, w := range c.all() {
		w.cancelHandling(err)
		w.stop()
	}
}

// hasRoom is the condition of workers.waitForRoom for a member that has so much in
// hand.
func (c *crew) hasRoom(own inHand) bool {
	messages, bytes := int(c.messages.Load()), int(c.bytes.Load())
	allowed := max(c.quarter-(bytes-own.bytes), 0) / 2
	return own.messages == 0 || own.bytes < allowed || messages < 2*c.size && bytes-c.quarter < maxOpened
}

// places returns how many messages a member that has so much in hand may take, and
// how many are worth a wait.
func (c *crew) places(own inHand) (places, enough int) {
	allowed := max(c.maxAhead-(int(c.messages.Load())-own.messages), 0) / 2
	if own.messages == 0 {
		return min(blockSize, max(allowed, 1)), 1
	}
	return min(blockSize, allowed-own.messages), min(blockSize, allowed/8+1)
}

// wakeEvery is how many messages are handled until members that wait for room are
// looked at. One that waits looks itself when one of its own was handled, and has
// room when all were.
const wakeEvery = 16

// wakeWaiting wakes the members for which there is room now.
func (c *crew) wakeWaiting() {
	n := c.finished.Add(1)
	if c.waiting.Load() == 0 || n%wakeEvery != 0 && c.messages.Load() > 0 {
		return
	}
	for _, w := range c.all() {
		w.mu.Lock()
		w.wakeIfRoom()
		w.mu.Unlock()
	}
}

// What follows are the parts of workers that only members of a crew have.

// inCrew is what the workers of a partition have in a crew. workers.mu guards it.
type inCrew struct {
	crew    *crew // nil: the workers have goroutines of their own
	counted inHand
	listed  bool // crew.ready has the workers, or a goroutine is about to take from them
	busy    int  // messages that a goroutine has, or whose store is awaited
	storing int  // those of them whose store is awaited
}

// count tells the crew what the workers have in hand. The caller holds w.mu.
func (w *workers) count(now inHand) {
	w.crew.messages.Add(int64(now.messages - w.counted.messages))
	w.crew.bytes.Add(int64(now.bytes - w.counted.bytes))
	w.counted = now
}

// recount is count for what the progress says. It returns that.
func (w *workers) recount() (messages, bytes int) {
	messages, bytes = w.run.progress.inHand()
	if w.crew != nil {
		w.count(inHand{messages, bytes})
	}
	return messages, bytes
}

// wakeIfRoom wakes the run if it waits for room and there is some. The caller holds
// w.mu.
func (w *workers) wakeIfRoom() {
	if w.leavesRoom != nil && w.leavesRoom(w.recount()) {
		w.room.Signal()
	}
}

// list has the crew take a message, if there is one that may begin. The caller
// holds w.mu.
func (w *workers) list() {
	if !w.listed && w.phase != stopped && w.queue.hasReady() && w.storing < w.crew.size {
		w.listed = true
		w.crew.offer(w)
	}
}

// takeShared takes the next message that may begin.
func (w *workers) takeShared() (j job, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.listed = false
	if w.taking.Err() != nil {
		w.drainLocked() // which its hook may not have called yet
	}
	if w.phase == stopped || w.storing >= w.crew.size {
		return j, false
	}
	if j, ok = w.queue.pop(); ok {
		w.busy++
		w.begun = max(w.begun, j.ticket+1)
		w.list()
	}
	return j, ok
}

// handleShared handles one message, on a goroutine of the crew. If the policy wants
// a store, another goroutine waits for it, because a partition without leader would
// keep the crew from the others.
func (w *workers) handleShared(kept *originals) {
	j, ok := w.takeShared()
	if !ok {
		return
	}
	completed := false
	defer func() {
		if !completed {
			w.fail(w.handlerError(j, errors.New("it ended its goroutine with runtime.Goexit")))
			w.finishShared(j, false)
		}
	}()
	err := w.run.handleOne(w.lifetime, j.d, kept)
	completed = true
	switch {
	case err != nil:
		w.fail(err)
		w.finishShared(j, false)
	case w.run.progress.markFinished(j.ticket) && w.run.named():
		w.addStoring(1)
		w.crew.wg.Go(func() { w.storeShared(j) })
	default:
		w.finishShared(j, true)
	}
}

// storeShared waits for a store after a message.
func (w *workers) storeShared(j job) {
	if err := w.store(); err != nil {
		w.fail(err)
	}
	w.addStoring(-1)
	w.finishShared(j, true)
}

func (w *workers) addStoring(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.storing += n
}

// finishShared is called when a message that takeShared has returned is done.
func (w *workers) finishShared(j job, handled bool) {
	w.mu.Lock()
	w.busy--
	if handled {
		w.queue.release(j)
	}
	w.recount()
	w.wakeIfRoom()
	w.list()
	if w.idle() {
		w.room.Broadcast()
	}
	w.mu.Unlock()
	w.crew.wakeWaiting()
}

// idle reports whether no message is at work, and none is to begin. The caller
// holds w.mu.
func (w *workers) idle() bool { return w.busy == 0 && (w.phase == stopped || !w.queue.hasReady()) }

// waitIdle waits until the crew has no more to do for the workers.
func (w *workers) waitIdle() {
	w.mu.Lock()
	for !w.idle() {
		w.room.Wait()
	}
	w.mu.Unlock()
	w.crew.leave(w)
}
