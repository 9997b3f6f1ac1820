package stream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/tidemark-go/tidemark/internal/broker"
)

// flushing waits until every message up to an id has its outcome.
type flushing struct {
	upTo uint64
	done chan struct{}
}

// Flush returns when everything accepted so far has its outcome, whichever it
// is, and the callbacks have returned. It returns the context's error if that
// ends first. Within a callback of the producer it is an error at once.
func (p *Producer) Flush(ctx context.Context) error {
	if p.calls.mine() {
		return opErr("flush to stream", p.stream, p.cfg.Name, errWithinCallback)
	}
	err := p.flushAll(ctx)
	if err == nil {
		select {
		case <-p.calls.caughtUp():
		case <-ctx.Done():
			err = broker.ContextError(ctx)
		}
	}
	return opErr("flush to stream", p.stream, p.cfg.Name, err)
}

// errWithinCallback is the error of a call that waits for its own caller.
var errWithinCallback = errors.New("a callback has called what waits until it returns: call it on another goroutine")

// flushAll is flush for everything accepted so far.
func (p *Producer) flushAll(ctx context.Context) error {
	if p.super != nil {
		return p.super.flush(ctx)
	}
	return p.flush(ctx, p.lastAccepted())
}

func (p *Producer) lastAccepted() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.box.lastID
}

// flush waits for the outcomes of the messages up to an id.
func (p *Producer) flush(ctx context.Context, upTo uint64) error {
	p.offer(false)
	p.mu.Lock()
	if p.box.settledUpTo(upTo) {
		p.mu.Unlock()
		return nil
	}
	done := make(chan struct{})
	p.flushes = append(p.flushes, flushing{upTo, done})
	p.mu.Unlock()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.flushes {
		if p.flushes[i].done == done {
			p.flushes = append(p.flushes[:i:i], p.flushes[i+1:]...)
			return broker.ContextError(ctx)
		}
	}
	return nil // in the nick of time
}

// reached wakes the Flushes whose messages have their outcomes. The caller holds
// the lock.
func (p *Producer) reached() {
	if len(p.flushes) == 0 {
		return
	}
	rest := p.flushes[:0]
	for _, f := range p.flushes {
		if p.box.settledUpTo(f.upTo) {
			close(f.done)
		} else {
			rest = append(rest, f)
		}
	}
	clear(p.flushes[len(rest):])
	p.flushes = rest
}

// Close accepts nothing more, waits until every message has its outcome and
// its callback has returned, and ends the producer. If ctx ends first, what is
// left gets [ErrUnconfirmed], and Close returns that with the context's error,
// 200 ms later at most if a callback or the connection is stuck. Further calls
// wait for the first, under their own contexts, and return the same; one whose ctx
// ends before that of the first ends the waiting of both. Within a callback of the
// producer Close is an error at once, and closes nothing.
func (p *Producer) Close(ctx context.Context) error {
	if p.calls.mine() {
		return opErr("close producer on stream", p.stream, p.cfg.Name, errWithinCallback)
	}
	if p.closing.CompareAndSwap(false, true) {
		p.err = opErr("close producer on stream", p.stream, p.cfg.Name, p.closeAny(ctx))
		close(p.closed)
		return p.err
	}
	select {
	case <-p.closed:
		return p.err
	case <-ctx.Done():
	}
	p.abandon(errClosedFirst)
	ending, done := withGrace(ctx)
	defer done()
	select {
	case <-p.closed:
		return p.err
	case <-ending.Done():
	}
	return opErr("close producer on stream", p.stream, p.cfg.Name, fmt.Errorf("another Close waits for a callback: %w", broker.ContextError(ctx)))
}

func (p *Producer) closeAny(ctx context.Context) error {
	if p.super != nil {
		return p.super.close(ctx)
	}
	return p.close(ctx)
}

func (p *Producer) close(ctx context.Context) error {
	p.refuse(fmt.Errorf("%w: the producer is closed", ErrClosed))
	err := p.flush(ctx, math.MaxUint64)
	p.giveBackName(ctx, err == nil)
	p.env.disown(p) // before run reports the end: who hears of it may use the name
	p.abandon(errClosedFirst)
	err = p.leftError(err)
	ending, done := withGrace(ctx)
	defer done()
	select {
	case <-p.ended:
	case <-ending.Done():
	}
	if p.part == nil { // the callbacks are its own
		calling, done := withGrace(ctx)
		defer done()
		err = errors.Join(err, p.calls.drain(calling))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.quota.end()
	return err
}

// refuse keeps further messages from being accepted. Only the first reason
// counts.
func (p *Producer) refuse(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.refusal == nil {
		p.refusal = err
		close(p.refused)
	}
	p.quota.refuse()
	p.told() // whoever waits for room is to see it
}

// errClosedFirst is why a Close that does not wait any longer leaves messages.
var errClosedFirst = errors.New("the producer was closed first")

// leftError returns an error if messages were left without outcome. flushed is why
// Close did not wait for them, or nil: it did, and something else has left them.
func (p *Producer) leftError(flushed error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.left.n == 0 {
		return nil
	}
	return fmt.Errorf("%w: %d messages: %w", ErrUnconfirmed, p.left.n, cmp.Or(flushed, p.left.reason))
}

// left is messages that a producer has given up.
type left struct {
	n      int
	reason error // of the first ones
}

// abandon gives what is left its outcome, ErrUnconfirmed with the reason, and ends
// run.
func (p *Producer) abandon(reason error) {
	if p.super != nil {
		p.super.abandon(reason)
		return
	}
	p.cancel()
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := p.box.settleAll(fmt.Errorf("%w: %w", ErrUnconfirmed, reason), p.tell); n > 0 {
		p.left = left{p.left.n + n, cmp.Or(p.left.reason, reason)}
	}
	p.told()
}

// closeGrace is what is left for each last step when ctx has ended already.
const closeGrace = 100 * time.Millisecond

// withGrace returns a context that ends closeGrace after ctx.
func withGrace(ctx context.Context) (context.Context, context.CancelFunc) {
	later, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		time.AfterFunc(closeGrace, func() { cancel(broker.OwnReason(broker.ContextError(ctx))) })
	})
	return later, func() { stop(); cancel(context.Canceled) }
}
