package stream

import (
	"errors"
	"fmt"
	"sync"
)

// copies is the outcome of a message that goes to several partitions, a copy to
// each.
type copies struct {
	mu        sync.Mutex
	of        int
	left      int
	confirmed int
	err       error // the first; one that is safe to retry gives way to one that is not
}

func newCopies(n int) *copies { return &copies{of: n, left: n} }

// settle takes the outcome of n copies. done reports that it was the last one, and
// err is then the outcome of the message.
func (c *copies) settle(n int, outcome error) (done bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left -= n; outcome == nil {
		c.confirmed += n
	} else if c.err == nil || SafeToRetry(c.err) && !SafeToRetry(outcome) {
		c.err = outcome
	}
	if c.err != nil && c.confirmed > 0 {
		return c.left == 0, &copiesError{c.confirmed, c.of, c.err}
	}
	return c.left == 0, c.err
}

// copiesError says that some partitions have a message, and others do not.
type copiesError struct {
	confirmed, of int
	err           error
}

func (e *copiesError) Error() string {
	return fmt.Sprintf("%d of the message's %d copies are confirmed: %v", e.confirmed, e.of, e.err)
}

func (e *copiesError) Unwrap() error { return e.err }

// isCopies reports whether a copy of the message is in the stream.
func isCopies(err error) bool {
	var e *copiesError
	return errors.As(err, &e)
}
