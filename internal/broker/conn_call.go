package broker

import (
	"context"
	"fmt"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// response is the body of a response, after its key and version.
type response struct{ fields []byte }

// call sends a request and decodes its response into resp. An answer counts
// although the connection is lost right after it. A request that still waits for
// the writer when ctx ends is not sent.
func (c *Conn) call(ctx context.Context, request func(id uint32) wire.Frame, resp wire.Frame) error {
	ctx, cancel := context.WithTimeoutCause(ctx, callTimeout, OwnReason(fmt.Errorf("%w: %s did not answer within %v", ErrUnreachable, c.endpoint.Address(), callTimeout)))
	defer cancel()
	return c.ask(ctx, request).await(ctx, resp)
}

// exchange is a request whose answer has not been read.
type exchange struct {
	conn   *Conn
	id     uint32
	answer chan response
	queued *queuedFrame
	err    error // the request was not sent
}

// ask sends a request. The caller awaits the answer.
func (c *Conn) ask(ctx context.Context, request func(id uint32) wire.Frame) *exchange {
	e := &exchange{conn: c, answer: make(chan response, 1)}
	e.id = c.register(func(r response) { e.answer <- r }) // never blocks: an id has one answer
	e.queued, e.err = c.post(ctx, request(e.id))
	return e
}

// await returns when the answer has come, and decodes it into resp.
func (e *exchange) await(ctx context.Context, resp wire.Frame) error {
	defer e.conn.forget(e.id)
	if e.err != nil {
		return e.err
	}
	select {
	case r := <-e.answer:
		return e.conn.decode(r, resp)
	case <-e.conn.ended:
	case <-ctx.Done():
		e.queued.withdraw()
		return ContextError(ctx)
	}
	select {
	case r := <-e.answer: // the answer came before the end
		return e.conn.decode(r, resp)
	default:
		return e.conn.Reason()
	}
}

// request is call for a request whose response is a code and nothing else. The
// response's key is that of the request.
func (c *Conn) request(ctx context.Context, key wire.Key, frame func(id uint32) wire.Frame) (wire.Code, error) {
	resp := wire.Response{Key: key}
	err := c.call(ctx, frame, &resp)
	return resp.Code, err
}

func (c *Conn) decode(r response, resp wire.Frame) error {
	if err := wire.Decode(r.fields, resp); err != nil {
		return fmt.Errorf("%w: from %s: %v", ErrProtocol, c.endpoint.Address(), err)
	}
	return nil
}

// tell sends a request and does not wait for its response. answered is called
// when that comes, by the reader, or not at all: it must not block. A request for
// which the writer's queue has no room is not sent, which tell reports.
func (c *Conn) tell(request func(id uint32) wire.Frame, answered func()) (sent bool) {
	id := c.register(func(response) { answered() })
	frame, err := encode(request(id))
	if sent = err == nil && c.offer(frame); !sent {
		c.forget(id)
	}
	return sent
}

// register returns a new correlation id. answered is called with the answer, by
// the reader.
func (c *Conn) register(answered func(response)) uint32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lastID++
	c.pending[c.lastID] = answered
	return c.lastID
}

func (c *Conn) forget(id uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.pending, id)
}

// answer hands a response to its caller, if the caller still waits.
func (c *Conn) answer(fields []byte) {
	id, ok := wire.Correlation(fields)
	if !ok {
		return
	}
	c.mu.Lock()
	answered := c.pending[id]
	delete(c.pending, id)
	c.mu.Unlock()
	if answered != nil {
		answered(response{append([]byte(nil), fields...)})
	}
}
