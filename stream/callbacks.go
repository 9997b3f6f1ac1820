package stream

import (
	"context"
	"fmt"
	"sync"
)

// callbacks runs a producer's callbacks one after the other on a goroutine of
// its own. Adding never blocks, so that a slow callback holds up no confirm.
type callbacks struct {
	mu      sync.Mutex
	queue   []func()
	closing bool
	wake    chan struct{}
	ended   chan struct{}
}

func startCallbacks() *callbacks {
	c := &callbacks{wake: make(chan struct{}, 1), ended: make(chan struct{})}
	go c.run()
	return c
}

func (c *callbacks) add(f func()) {
	c.mu.Lock()
	c.queue = append(c.queue, f)
	c.mu.Unlock()
	c.poke()
}

func (c *callbacks) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// close runs what is queued and waits for it under ctx. If ctx ends first, a
// callback is still at work and the rest follows it.
func (c *callbacks) close(ctx context.Context) error {
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
	for {
		c.mu.Lock()
		batch, closing := c.queue, c.closing
		c.queue = nil
		c.mu.Unlock()
		for _, f := range batch {
			f()
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
