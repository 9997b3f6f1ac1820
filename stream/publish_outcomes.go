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
	// every returnPause while awaited says that somebody waits for that. It gets the
	// outcomes whose callbacks have all returned since it was called before.
	returned func(through []outcome)
	awaited  func() bool

	mu      sync.Mutex
	queue   []outcome
	running bool          // the goroutine exists
	closing bool          // it ends once the queue is empty
	wake    chan struct{} // wakes it
	ended   chan struct{} // closed when it has ended
	id      atomic.Uint64 // of the goroutine

	// The goroutine uses these.
	list    []outcome // whose callbacks are being called
	at, nth int       // the call in progress, or the next one: place in list, and slot
	through int       // outcomes of list that returned was told of
}

// outcome is that of messages with callbacks that follow one another in a frame.
// Without slots it is a mark that closes reached.
type outcome struct {
	frame   *publishFrame
	slots   []slot
	err     error
	to      *returns
	reached chan struct{}
}

// returns counts messages whose callbacks have returned: their bytes, and in the
// low placeBits bits their number.
type returns struct{ places atomic.Uint64 }

// placeBits is how many bits hold a number of places, up to mostPlaces. Half of
// these are as many as are counted before returned is called.
const (
	placeBits  = 20
	mostPlaces = 1<<placeBits - 1
)

// add counts one more, and reports whether it is time to take them.
func (r *returns) add(bytes int32) (many bool) {
	return r.places.Add(uint64(bytes)<<placeBits|1)&mostPlaces == mostPlaces/2
}

// take returns how many there were since it was last called.
func (r *returns) take() (n, bytes int) {
	if r.places.Load() == 0 {
		return 0, 0
	}
	places := r.places.Swap(0)
	return int(places & mostPlaces), int(places >> placeBits)
}

// returnPause is how long a place may be free before who waits for it learns so.
// To be woken for each place would cost a publisher more than to publish.
const returnPause = 100 * time.Microsecond

func newOutcomeCalls(returned func([]outcome), awaited func() bool) *outcomeCalls {
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
	over := false
	defer func() {
		if over {
			close(c.ended)
		} else {
			c.goOn()
		}
	}()
	c.id.Store(goroutineID())
	pause := pauses{stride: 1}
	for {
		if len(c.list) > 0 {
			pause.begin()
			c.callAll(&pause)
		}
		c.mu.Lock()
		c.list, c.queue = c.queue, c.list[:0]
		over = c.closing && len(c.list) == 0
		c.mu.Unlock()
		switch {
		case over:
			return
		case len(c.list) == 0:
			<-c.wake
		}
	}
}

// goOn begins another goroutine where a callback has ended this one by
// runtime.Goexit, as a test's FailNow does. It goes on behind that call.
func (c *outcomeCalls) goOn() {
	o := &c.list[c.at]
	o.to.add(o.slots[c.nth].size)
	c.nth++
	go c.run()
}

// callAll calls the callbacks of the list, and empties it.
func (c *outcomeCalls) callAll(pause *pauses) {
	for ; c.at < len(c.list); c.at, c.nth = c.at+1, 0 {
		o := &c.list[c.at]
		if o.slots == nil {
			close(o.reached)
		}
		for ; c.nth < len(o.slots); c.nth++ {
			s := &o.slots[c.nth]
			s.done(o.err)
			many := o.to.add(s.size)
			if c.awaited() && pause.isOver() || many {
				c.returned(c.list[c.through:c.at])
				c.through = c.at
			}
		}
	}
	c.returned(c.list[c.through:])
	clear(c.list)
	c.list, c.at, c.through = c.list[:0], 0, 0
}

// pauses tells when returnPause is over, again and again. To look at the clock
// takes longer than a quick callback, so it looks less often where they are quick.
type pauses struct {
	start        time.Time
	looked, over time.Duration // when it last looked, and was over; since start
	stride, left int           // it looks at every stride-th call; and so many are left
}

// maxStride is how many calls are made without a look at the clock, at most.
const maxStride = 64

// begin starts a pause.
func (p *pauses) begin() { p.start, p.looked, p.over = time.Now(), 0, 0 }

// isOver is called after each call.
func (p *pauses) isOver() bool {
	if p.left--; p.left > 0 {
		return false
	}
	now := time.Since(p.start)
	if p.stride = min(2*p.stride, maxStride); now-p.looked > returnPause/4 {
		p.stride = 1
	}
	p.looked, p.left = now, p.stride
	if now-p.over < returnPause {
		return false
	}
	p.over = now
	return true
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
