package stream

import (
	"context"
	"sync/atomic"
)

// handlerRelay has functions called on one goroutine, for others that wait meanwhile.
// The runs on a super stream's partitions have the handler called by it, so that
// the handler runs on the goroutine that called Run, for one partition at a time.
// Whoever has waited longest is next.
type handlerRelay struct {
	calls   chan *relayed
	waiting *atomic.Int32 // how many wait for their turn
}

// relayed is a function that is to be called.
type relayed struct {
	f    func()
	done chan bool // gets whether f has returned

	waiting *atomic.Int32 // of the relay
}

func newHandlerRelay() handlerRelay {
	return handlerRelay{make(chan *relayed), new(atomic.Int32)}
}

// isWanted reports whether somebody waits for a turn.
func (r handlerRelay) isWanted() bool { return r.waiting.Load() > 0 }

// call returns when f has returned. It returns errStopped if ctx ends before f is
// called, and errLoopLeft if f has panicked or has ended its goroutine, which ends
// the run.
func (r handlerRelay) call(ctx context.Context, f func()) error {
	c := &relayed{f, make(chan bool, 1), r.waiting}
	r.waiting.Add(1)
	select {
	case r.calls <- c:
	case <-ctx.Done():
		r.waiting.Add(-1)
		return errStopped
	}
	if !<-c.done {
		return errLoopLeft
	}
	return nil
}

// always is call that waits for its turn however long that takes.
func (r handlerRelay) always(f func()) { _ = r.call(context.Background(), f) }

// refuse answers for a function that is not called any more.
func (c *relayed) refuse() {
	c.waiting.Add(-1)
	c.done <- false
}

// serve calls the function, on the goroutine that has received it.
func (c *relayed) serve() {
	c.waiting.Add(-1)
	returned := false
	defer func() { c.done <- returned }()
	c.f()
	returned = true
}

// inTurn calls f where the run's handlers are called. f returns the error of a
// handler. inTurn returns it, and otherwise what handlerRelay.call does.
func (r *run) inTurn(ctx context.Context, f func() error) (err error) {
	if r.relay.calls == nil {
		return f()
	}
	if turnErr := r.relay.call(ctx, func() { err = f() }); turnErr != nil {
		return turnErr
	}
	return err
}
