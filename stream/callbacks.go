package stream

import (
	"context"
	"fmt"
	"sync"
)

// callbacks runs callbacks one after the other, on a goroutine of its own. Adding
// one never blocks, so that a slow callback delays no confirm.
type callbacks struct {
	mu      sync.Mutex
	queue   []callback
	closing bool
	wake    chan struct{}
	ended   chan struct{}
}

// callback is a call of f, or else a call of done with err.
type callback struct {
	f    func()
	done func(error)
	err  error
}

func startCallbacks() *callbacks {
	c := &callbacks{wake: make(chan struct{}, 1), ended: make(chan struct{})}
	go c.run()
	return c
}

func (c *callbacks) add(f func()) { c.push(callback{f: f}) }

func (c *callbacks) outcome(done func(error), err error) { c.push(callback{done: done, err: err}) }

func (c *callbacks) push(f callback) {
	c.mu.Lock()
	c.queue = append(c.queue, f)
	first := len(c.queue) == 1
	c.mu.Unlock()
	if first {
		c.poke()
	}
}

func (c *callbacks) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// drain runs what is queued and waits for it under ctx. If ctx ends first, a
// callback is still at work, and the others run after it.
func (c *callbacks) drain(ctx context.Context) error {
	c.mu.Lock()
	c.closing = true
	c.mu.Unlock()
	c.poke()
	select {
	case <-c.ended:
		return nil
	default:
	}
	select {
	case <-c.ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("a callback has not returned: %w", context.Cause(ctx))
	}
}

func (c *callbacks) run() {
	defer close(c.ended)
	var batch []callback
	for {
		c.mu.Lock()
		clear(batch)
		spare, closing := batch[:0], c.closing
		batch, c.queue = c.queue, spare
		c.mu.Unlock()
		for _, b := range batch {
			if b.f != nil {
				b.f()
			} else {
				b.done(b.err)
			}
		}
		if len(batch) > 0 {
			continue
		}
		if closing {
			return
		}
		<-c.wake
	}
}
