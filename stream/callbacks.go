package stream

import (
	"context"
	"fmt"
	"sync"

	"github.com/tidemark-go/tidemark/internal/broker"
)

// callbacks calls the user's callbacks one after the other, on a goroutine of
// its own. Adding one never blocks, so a slow callback delays nobody else.
type callbacks struct {
	mu      sync.Mutex
	queue   []func()
	closing bool          // drain was called: the goroutine ends once the queue is empty
	wake    chan struct{} // wakes the goroutine
	ended   chan struct{} // closed when the goroutine has ended
}

func startCallbacks() *callbacks {
	c := &callbacks{wake: make(chan struct{}, 1), ended: make(chan struct{})}
	go c.run()
	return c
}

// add queues a call of f.
func (c *callbacks) add(f func()) {
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

// drain waits under ctx until all callbacks have returned, and ends the
// goroutine. If ctx ends first, drain returns an error, and the goroutine still
// makes the calls that are left. A callback added after drain may not be
// called.
func (c *callbacks) drain(ctx context.Context) error {
	c.mu.Lock()
	c.closing = true
	c.mu.Unlock()
	c.poke()
	return awaitCalls(ctx, c.ended)
}

// awaitCalls waits under ctx until the goroutine of callbacks has ended.
func awaitCalls(ctx context.Context, ended <-chan struct{}) error {
	select { // first, because ctx may have ended as well
	case <-ended:
		return nil
	default:
	}
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("a callback has not returned: %w", broker.ContextError(ctx))
	}
}

func (c *callbacks) run() {
	defer close(c.ended)
	var batch []func()
	for {
		c.mu.Lock()
		clear(batch)
		spare, closing := batch[:0], c.closing
		batch, c.queue = c.queue, spare
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
