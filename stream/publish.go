package stream

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidemark-go/tidemark/internal/broker"
)

// Producer publishes to one stream. It is safe for concurrent use; messages
// are in the stream in the order in which they were accepted. A lost
// connection is made again for as long as it takes, and what was not confirmed
// is sent again in order.
//
// It ends by Close, or with an error for every message and call when trying
// again cannot help: [ErrStreamDeleted], [ErrAuthentication], [ErrVirtualHost],
// [ErrAccessRefused], [ErrTLS].
type Producer struct {
	env    *Env
	stream string
	cfg    ProducerConfig

	flight    *inflight
	wake      chan struct{} // wakes the sender
	frameMax  atomic.Int64  // of the current connection
	connected bool          // once at least; the sender's, and NewProducer's before
	// idleLeader is the advertised address of a leader that has confirmed nothing,
	// until another link works; the sender's.
	idleLeader string
	calls      *callbacks

	life   context.Context
	cancel context.CancelFunc
	ended  chan struct{} // closed when the sender has ended
	once   sync.Once
	closed chan struct{} // closed when Close is through
	err    error         // of Close
}

// NewProducer returns once the broker has accepted the producer.
//
// Errors wrap [ErrInvalidConfig], [ErrStreamNotFound], [ErrStreamUnavailable],
// [ErrAccessRefused] or those of [Connect], or are the context's.
func (e *Env) NewProducer(ctx context.Context, stream string, cfg ProducerConfig) (*Producer, error) {
	const op = "new producer on stream"
	cfg, err := cfg.withDefaults()
	if err == nil {
		err = checkStream(stream)
	}
	if err == nil {
		err = e.own()
	}
	if err != nil {
		return nil, opErr(op, stream, cfg.Name, err)
	}
	dialing, done := e.under(ctx)
	defer done()
	p, err := e.startProducer(dialing, stream, cfg, e.adopt)
	return p, opErr(op, stream, cfg.Name, err)
}

// startProducer makes a producer, for which the caller has added 1 to e.owned.
// adopt may refuse it once it is connected.
func (e *Env) startProducer(ctx context.Context, stream string, cfg ProducerConfig, adopt func(*Producer) error) (*Producer, error) {
	life, cancel := context.WithCancel(context.Background())
	p := &Producer{
		env: e, stream: stream, cfg: cfg,
		wake: make(chan struct{}, 1),
		life: life, cancel: cancel, ended: make(chan struct{}), closed: make(chan struct{}),
	}
	p.flight = newInflight(cfg.MaxInFlight, cfg.MaxInFlightBytes, p.outcome)
	l, err := p.connect(ctx)
	if err == nil {
		err = adopt(p)
	}
	if err != nil {
		cancel()
		e.owned.Done()
		if l != nil {
			l.close()
		}
		return nil, err
	}
	p.calls = startCallbacks()
	p.state(StateChange{State: StateConnected})
	go p.run(l)
	return p, nil
}

// adopt lets Close find the producer, unless it has begun already.
func (e *Env) adopt(p *Producer) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closing {
		return fmt.Errorf("%w: the Env is closed", ErrClosed)
	}
	for other := range e.producers {
		if p.cfg.Name != "" && other.cfg.Name == p.cfg.Name && other.stream == p.stream {
			return fmt.Errorf("%w: another producer of this Env has it: the broker would drop the messages of one as the other's repeats", ErrNameInUse)
		}
	}
	e.producers[p] = struct{}{}
	return nil
}

func (e *Env) disown(p *Producer) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.producers, p)
}

// Publish publishes the messages in order and returns when all of them are
// confirmed: they are in the stream. It waits for room while MaxInFlight
// messages are on their way.
//
// An error means that at least one is not confirmed: [ErrRefused] and
// [ErrMessageTooLarge] for a message that is not in the stream,
// [ErrUnconfirmed] if it may be. When ctx ends, its error comes together with
// [ErrUnconfirmed] if something had been accepted, which goes on being sent.
func (p *Producer) Publish(ctx context.Context, msgs ...Message) error {
	w := &waiter{left: int64(len(msgs)) + 1, done: make(chan struct{})}
	accepted, err := 0, error(nil)
	for i := range msgs {
		if err = p.accept(ctx, &msgs[i], slot{waits: w}); err != nil {
			break
		}
		accepted++
	}
	w.add(accepted - len(msgs) - 1) // those never accepted, and the one that kept it open
	if accepted > 0 {
		err = errors.Join(w.wait(ctx), err)
	}
	return opErr("publish to stream", p.stream, p.cfg.Name, err)
}

// PublishAsync accepts a message and returns; done gets its outcome: nil for
// confirmed, else an error as for Publish. It waits for room under ctx while
// MaxInFlight messages, or MaxInFlightBytes, are on their way. With a ctx that
// has ended already nothing is accepted. Either done is called exactly once, or
// an error is returned. done may be nil: see Flush.
//
// Callbacks run one after the other, in the order of the outcomes, on a
// goroutine of the producer. They may publish again. One that blocks holds up
// the callbacks behind it, which are kept, and nobody else.
func (p *Producer) PublishAsync(ctx context.Context, m Message, done func(error)) error {
	return opErr("publish to stream", p.stream, p.cfg.Name, p.accept(ctx, &m, slot{done: done}))
}

// outcome tells who published a message.
func (p *Producer) outcome(s *slot, err error) {
	if s.waits != nil {
		s.waits.settle(err)
	} else if s.done != nil {
		p.calls.outcome(s.done, opErr("publish to stream", p.stream, p.cfg.Name, err))
	}
}

// accept gives a message its slot; s has who is told of its outcome.
func (p *Producer) accept(ctx context.Context, m *Message, s slot) (err error) {
	if s.id = m.PublishingID; s.id > math.MaxInt64 {
		return fmt.Errorf("%w: publishing id %d is beyond the largest possible one, %d", ErrInvalidMessage, s.id, int64(math.MaxInt64))
	}
	if ctx.Err() != nil {
		return broker.ContextError(ctx)
	}
	if s.filter = m.FilterValue; s.filter != "" {
		if err := p.checkFilter(s.filter); err != nil {
			return err
		}
	}
	if s.body, err = p.encode(m); err != nil {
		return err
	}
	if limit := p.largest(); limit > 0 && s.size() > limit {
		return fmt.Errorf("%w: %d bytes encoded; at most %d fit into a frame of this broker (stream.frame_max)", ErrMessageTooLarge, len(s.body), limit-s.size()+len(s.body))
	}
	for {
		wait, err := p.flight.add(s)
		if err != nil {
			return err
		}
		if wait == nil {
			p.poke()
			return nil
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return broker.ContextError(ctx)
		}
	}
}

func (p *Producer) checkFilter(value string) error {
	if p.cfg.SubEntries > 1 {
		return fmt.Errorf("%w: a FilterValue does not go with SubEntries: the broker filters chunks by single messages", ErrInvalidMessage)
	}
	if len(value) > maxName {
		return fmt.Errorf("%w: the FilterValue has %d bytes; at most %d are kept", ErrInvalidMessage, len(value), maxName)
	}
	return nil
}

// encode returns the message as it is sent.
func (p *Producer) encode(m *Message) ([]byte, error) {
	var creation time.Time
	if p.cfg.CreationTime && m.lacksCreationTime() {
		creation = time.Now()
	}
	if creation.IsZero() && m.Raw == nil && m.plain() {
		return p.flight.encodePlain(m.Body), nil
	}
	return appendMessage(nil, m, creation)
}

// largest is what the messages of a frame may have, 0 for any size.
func (p *Producer) largest() int {
	limit := int(p.frameMax.Load())
	if limit == 0 {
		return 0
	}
	return roomIn(limit, p.cfg.SubEntries)
}

// largestMessage is what an encoded message may have, 0 for any size.
func (p *Producer) largestMessage() int { return max(p.largest()-messageOverhead, 0) }

// roomIn returns the room for messages in a frame. What does not become smaller
// by compression becomes a little larger.
func roomIn(frameMax, subEntries int) int {
	if subEntries > 1 {
		return frameMax - frameOverhead - frameMax/64 - 1024
	}
	return frameMax - frameOverhead
}

func (p *Producer) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Flush returns when everything accepted so far has its outcome, whichever it
// is: the callbacks have it. It returns the context's error if that ends first.
func (p *Producer) Flush(ctx context.Context) error {
	return opErr("flush to stream", p.stream, p.cfg.Name, p.flush(ctx, p.flight.last()))
}

func (p *Producer) flush(ctx context.Context, id uint64) error {
	for {
		reached, moved := p.flight.reached(id)
		if reached {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return broker.ContextError(ctx)
		}
	}
}

// LastPublishingID returns the newest publishing id that was accepted, or that
// the broker had stored under the producer's name when it was made; 0 if none.
func (p *Producer) LastPublishingID() uint64 { return p.flight.last() }

// Close accepts nothing more, waits until every message has its outcome and
// its callback has returned, and ends the producer. If ctx ends first, what is
// left gets [ErrUnconfirmed], and Close returns that with the context's error,
// 200 ms later at most if a callback or the connection is stuck; Env.Close
// still waits for the connection. Further calls wait for the first and return
// the same. It must not be called from a callback.
func (p *Producer) Close(ctx context.Context) error {
	p.once.Do(func() {
		p.err = opErr("close producer on stream", p.stream, p.cfg.Name, p.close(ctx))
		close(p.closed)
	})
	<-p.closed
	return p.err
}

func (p *Producer) close(ctx context.Context) error {
	defer p.env.disown(p)
	p.flight.close(fmt.Errorf("%w: the producer is closed", ErrClosed))
	err := p.flush(ctx, math.MaxUint64)
	p.cancel()
	ending, done := withGrace(ctx)
	defer done()
	select {
	case <-p.ended:
	case <-ending.Done():
	}
	if n := p.flight.settleAll(fmt.Errorf("%w: the producer was closed first", ErrUnconfirmed)); n > 0 {
		err = fmt.Errorf("%w: %d messages: %w", ErrUnconfirmed, n, err)
	} else {
		err = nil
	}
	calling, done := withGrace(ctx)
	defer done()
	return errors.Join(err, p.calls.drain(calling))
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

// waiter counts the outcomes that a Publish waits for.
type waiter struct {
	mu   sync.Mutex
	left int64
	err  error
	done chan struct{}
}

func (w *waiter) settle(err error) {
	w.mu.Lock()
	if w.err == nil {
		w.err = err
	}
	w.mu.Unlock()
	w.add(-1)
}

func (w *waiter) add(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.left += int64(n); w.left == 0 {
		close(w.done)
	}
}

// wait returns the first error among the outcomes.
func (w *waiter) wait(ctx context.Context) error {
	select {
	case <-w.done:
	case <-ctx.Done():
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.left > 0 {
		return fmt.Errorf("%w: %d messages: %w", ErrUnconfirmed, w.left, broker.ContextError(ctx))
	}
	return w.err
}
