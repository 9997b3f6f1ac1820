package official

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/rabbitmq/rabbitmq-stream-go-client/pkg/message"

	"github.com/tidemark-go/tidemark/internal/broker"
	"github.com/tidemark-go/tidemark/stream"
)

// Publish publishes messages in their order and returns when the broker has
// confirmed all of them. The caller may change them once Publish has returned.
// While 10,000 messages are in flight it waits for room.
//
// A publishing id of the caller's must be larger than those before it. A message
// without one gets the next one. With sub-entries the official client numbers
// messages itself, and none may have an id.
//
// If ctx ends, or the connection is lost, before all have an outcome, the error
// wraps [stream.ErrUnconfirmed]: some messages may be in the stream. An error
// that wraps [stream.ErrUnreachable], [stream.ErrClosed] or the context's error
// without it says that nothing was sent. The producer does not connect again:
// after ErrUnreachable make a new one.
//
// [stream.ErrInvalidMessage] comes before anything is sent. With
// [stream.ErrMessageTooLarge] or [stream.ErrRefused] a message is not in the
// stream, and the others are. If several messages fail, the error is that of the
// first outcome.
func (p *Producer) Publish(ctx context.Context, msgs ...message.StreamMessage) error {
	return opErr("publish to stream", p.stream, p.name, p.publish(ctx, msgs))
}

func (p *Producer) publish(ctx context.Context, msgs []message.StreamMessage) error {
	list := make([]*sent, len(msgs))
	c := &call{pending: 1, done: make(chan struct{})}
	for i, m := range msgs {
		var err error
		if list[i], err = p.encode(m, c); err != nil {
			return fmt.Errorf("message %d of %d: %w", i+1, len(msgs), err)
		}
	}
	accepted, err := p.accept(ctx, list)
	c.settle(nil)
	if accepted == 0 {
		return err
	}
	if waitErr := p.await(ctx, c); waitErr != nil {
		err = waitErr
	} else if err != nil {
		err = fmt.Errorf("%w: %d of %d messages were published, the others were not sent: %w", stream.ErrUnconfirmed, accepted, len(msgs), err)
	}
	return err
}

// await waits for the outcomes of a call. It returns the first error.
func (p *Producer) await(ctx context.Context, c *call) error {
	select {
	case <-c.done:
		return c.err
	default:
	}
	select {
	case <-c.done:
		return c.err
	case <-p.lost:
		p.mu.Lock()
		defer p.mu.Unlock()
		return fmt.Errorf("%w: %w", stream.ErrUnconfirmed, p.reason)
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", stream.ErrUnconfirmed, broker.ContextError(ctx))
	}
}

// sent is a message on its way through the official client, with its bytes. The
// official client gives it back with its confirm.
type sent struct {
	message.StreamMessage // the caller's, which is not written to
	body                  []byte
	filter                string
	id                    int64
	counted               bool // id is the producer's, not the caller's
	call                  *call
	settled               bool // guarded by the producer
}

// The official client encodes and numbers messages by these methods.
func (m *sent) MarshalBinary() ([]byte, error) { return m.body, nil }
func (m *sent) HasPublishingId() bool          { return true }
func (m *sent) GetPublishingId() int64         { return m.id }
func (m *sent) SetPublishingId(int64)          {}

// call is one Publish. It is done when every message and the call itself are
// settled.
type call struct {
	mu      sync.Mutex
	pending int
	err     error
	done    chan struct{}
}

func (c *call) add() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pending++
}

func (c *call) settle(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
	}
	if c.pending--; c.pending == 0 {
		close(c.done)
	}
}

// encode checks and encodes a message on the caller's goroutine.
func (p *Producer) encode(m message.StreamMessage, c *call) (*sent, error) {
	if m == nil {
		return nil, fmt.Errorf("%w: it is nil", stream.ErrInvalidMessage)
	}
	body, err := recovered(m.MarshalBinary)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", stream.ErrInvalidMessage, err)
	}
	s := &sent{StreamMessage: m, body: body, id: m.GetPublishingId(), counted: !m.HasPublishingId(), call: c}
	switch {
	case !s.counted && p.subEntries:
		return nil, fmt.Errorf("%w: it has publishing id %d, and with SubEntrySize the official client numbers messages itself", stream.ErrInvalidMessage, s.id)
	case !s.counted && s.id < 0:
		return nil, fmt.Errorf("%w: publishing id %d is negative", stream.ErrInvalidMessage, s.id)
	case p.filterValue == nil:
		return s, nil
	}
	s.filter, err = recovered(func() (string, error) { return p.filterValue(m), nil })
	if err == nil && s.filter == "" {
		err = errors.New("its filter value is empty, and the official client would write a frame that the broker cannot read: publish it through a producer without a filter")
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", stream.ErrInvalidMessage, err)
	}
	return s, nil
}

// accept hands messages to the sender as there is room, and returns how many.
func (p *Producer) accept(ctx context.Context, list []*sent) (accepted int, err error) {
	if err := p.sending.lock(ctx); err != nil {
		return 0, err
	}
	defer p.sending.unlock()
	if err := p.checkIDs(list); err != nil {
		return 0, err
	}
	for _, m := range list {
		select {
		case p.room <- struct{}{}:
		case <-p.lost:
		case <-ctx.Done():
			return accepted, broker.ContextError(ctx)
		}
		if err := p.take(m); err != nil {
			return accepted, err
		}
		accepted++
	}
	return accepted, nil
}

// checkIDs rejects publishing ids that do not grow, before anything is sent: the
// official client knows messages by them, and loses the confirm of one of two.
// The caller holds p.sending.
func (p *Producer) checkIDs(list []*sent) error {
	highest, newest := p.lastID, p.newest
	for i, m := range list {
		switch {
		case m.counted:
			highest++
			newest = int64(highest)
		case m.id <= newest:
			return fmt.Errorf("%w: message %d of %d has publishing id %d, and %d came before it", stream.ErrInvalidMessage, i+1, len(list), m.id, newest)
		default:
			newest, highest = m.id, max(highest, uint64(m.id))
		}
	}
	return nil
}

// take numbers a message and puts it into the sender's queue, which has room. The
// caller holds p.sending.
func (p *Producer) take(m *sent) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.closing != nil:
		return stream.ErrClosed
	case p.reason != nil:
		return p.reason
	}
	if m.counted {
		p.lastID++
		m.id = int64(p.lastID)
	} else {
		p.lastID = max(p.lastID, uint64(m.id))
	}
	p.newest = m.id
	p.open++
	m.call.add()
	p.queue <- m
	return nil
}

// settle records the outcome of a message. Only the first one counts.
func (p *Producer) settle(m *sent, err error) {
	p.mu.Lock()
	if m.settled {
		p.mu.Unlock()
		return
	}
	m.settled = true
	if p.open--; p.open == 0 && p.closing != nil {
		close(p.idle)
	}
	p.mu.Unlock()
	<-p.room
	m.call.settle(err)
}
