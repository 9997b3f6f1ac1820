package stream

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// outcomeCalls calls the callbacks of PublishAsync, one after the other and on a
// goroutine of its own, which begins with the first of them. Adding one never
// blocks. The places of the messages bound how many wait.
type outcomeCalls struct {
	// returned is called when callbacks have returned: at the end of a list, and
	// every returnPause while awaited says that somebody waits for that.
	returned func()
	awaited  func() bool

	mu      sync.Mutex
	queue   []outcome
	running bool          // the goroutine exists
	closing bool          // it ends once the queue is empty
	wake    chan struct{} // wakes it
	ended   chan struct{} // closed when it has ended
	id      atomic.Uint64 // of the goroutine
}

// outcome is one call. With done nil it is a mark that closes reached.
type outcome struct {
	done    func(error)
	err     error
	size    int
	to      *returns
	reached chan struct{}
}

// returns counts messages whose callbacks have returned.
type returns struct{ count, bytes atomic.Int64 }

func (r *returns) add(bytes int) {
	r.bytes.Add(int64(bytes)) // first: take reads count before it
	r.count.Add(1)
}

// take returns how many there were since it was last called.
func (r *returns) take() (n, bytes int) {
	if r.count.Load() == 0 {
		return 0, 0
	}
	n = int(r.count.Swap(0))
	return n, int(r.bytes.Swap(0))
}

// returnPause is how long a place may be free before who waits for it learns so.
// To be woken for each place would cost a publisher more than to publish.
const returnPause = 100 * time.Microsecond

func newOutcomeCalls(returned func(), awaited func() bool) *outcomeCalls {
	return &outcomeCalls{returned: returned, awaited: awaited, wake: make(chan struct{}, 1), ended: make(chan struct{})}
}

// add queues calls.
func (c *outcomeCalls) add(list ...outcome) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.running {
		c.running = true
		go c.run()
	}
	c.queue = append(c.queue, list...)
	c.poke()
}

func (c *outcomeCalls) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// caughtUp returns a channel that is closed when every call so far has returned.
func (c *outcomeCalls) caughtUp() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running && c.closing {
		return c.ended
	}
	reached := make(chan struct{})
	if c.running {
		c.queue = append(c.queue, outcome{reached: reached})
		c.poke()
	} else {
		close(reached)
	}
	return reached
}

// end ends the goroutine once all calls have returned, and does not wait for that.
// None may be added after it.
func (c *outcomeCalls) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closing = true
	c.poke()
}

// drain waits under ctx until all calls have returned, and ends the goroutine. If
// ctx ends first, drain returns an error, and the goroutine still makes the calls
// that are left.
func (c *outcomeCalls) drain(ctx context.Context) error {
	c.end()
	c.mu.Lock()
	running := c.running
	c.mu.Unlock()
	if !running {
		return nil
	}
	return awaitCalls(ctx, c.ended)
}

func (c *outcomeCalls) run() {
	defer close(c.ended)
	c.id.Store(goroutineID())
	var list []outcome
	for {
		c.mu.Lock()
		clear(list)
		list, c.queue = c.queue, list[:0]
		closing := c.closing
		c.mu.Unlock()
		begin, told := time.Now(), time.Duration(0)
		for i := range list {
			c.call(&list[i])
			if last := i == len(list)-1; last || c.awaited() && isDue(begin, &told) {
				c.returned()
			}
		}
		switch {
		case len(list) > 0:
		case closing:
			return
		default:
			<-c.wake
		}
	}
}

// isDue reports whether last is returnPause ago, and makes it now then. Both are
// counted from begin, which takes half the time of time.Now.
func isDue(begin time.Time, last *time.Duration) bool {
	now := time.Since(begin)
	if now-*last < returnPause {
		return false
	}
	*last = now
	return true
}

func (c *outcomeCalls) call(o *outcome) {
	if o.done == nil {
		close(o.reached)
		return
	}
	o.done(o.err)
	o.to.add(o.size)
}

// mine reports whether the caller runs within a callback.
func (c *outcomeCalls) mine() bool {
	id := c.id.Load()
	return id != 0 && id == goroutineID()
}

// goroutineID returns the number of the caller's goroutine, which Go shows
// nowhere but in a stack. It takes about a microsecond, so it is asked for only
// where the caller would wait.
func goroutineID() (id uint64) {
	stack := make([]byte, 32)
	const head = len("goroutine ")
	for _, c := range stack[head:max(head, runtime.Stack(stack, false))] {
		if c < '0' || c > '9' {
			break
		}
		id = 10*id + uint64(c-'0')
	}
	return id
}
