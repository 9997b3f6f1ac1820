package stream

import (
	"context"
	"fmt"
	"sync"

	"github.com/tidemark-go/tidemark/internal/broker"
)

// waiter collects the outcomes of the messages of one Publish.
type waiter struct {
	mu      sync.Mutex
	left    int
	errs    []error // by message; nil while none has failed
	settled []bool  // by message; nil for a single one
	n       int     // how many messages there are
	done    chan struct{}
}

// newWaiter returns a waiter for n messages. It is open until release.
func newWaiter(n int) *waiter {
	w := &waiter{left: n + 1, n: n, done: make(chan struct{})}
	if n > 1 {
		w.settled = make([]bool, n)
	}
	return w
}

// settle is the outcome of messages.
func (w *waiter) settle(slots []slot, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range slots {
		w.note(int(slots[i].nth), err)
	}
	w.add(-len(slots))
}

// settleOne is the outcome of a message.
func (w *waiter) settleOne(nth int32, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.note(int(nth), err)
	w.add(-1)
}

func (w *waiter) note(nth int, err error) {
	if w.settled != nil {
		w.settled[nth] = true
	}
	if err == nil {
		return
	}
	if w.errs == nil {
		w.errs = make([]error, w.n)
	}
	w.errs[nth] = err
}

// refuse gives the messages from nth on, which were not accepted, their outcome.
func (w *waiter) refuse(nth int, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := nth; i < w.n; i++ {
		w.note(i, err)
	}
	w.add(nth - w.n)
}

// release ends the accepting. The waiter is done when the last outcome has come.
func (w *waiter) release() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.add(-1)
}

func (w *waiter) add(n int) {
	if w.left += n; w.left == 0 {
		close(w.done)
	}
}

// wait returns nil once every message is confirmed, and the error of one message
// or a [PublishError] otherwise. What has no outcome when ctx ends gets
// ErrUnconfirmed.
func (w *waiter) wait(ctx context.Context) error {
	select {
	case <-w.done:
	case <-ctx.Done():
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.left > 0 {
		return w.unsettled(ctx)
	}
	return publishError(w.errs)
}

// unsettled returns the error of a call that ends with ctx, before all outcomes.
// It leaves errs to the outcomes that follow.
func (w *waiter) unsettled(ctx context.Context) error {
	err := fmt.Errorf("%w: %w", ErrUnconfirmed, broker.ContextError(ctx))
	outcomes := make([]error, w.n)
	copy(outcomes, w.errs)
	for i := range outcomes {
		if w.settled == nil || !w.settled[i] {
			outcomes[i] = err
		}
	}
	return publishError(outcomes)
}
