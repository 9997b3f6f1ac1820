package broker

import (
	"context"
	"fmt"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// queuedFrame is a frame for the writer. The frame is empty where the socket has
// taken a part of it and directWriter keeps the rest.
type queuedFrame struct {
	frame   []byte
	written chan struct{} // closed once the socket has taken the frame; may be nil
}

// send writes a frame and returns when the socket has taken it.
func (c *Conn) send(ctx context.Context, f wire.Frame) error {
	b, err := encode(f)
	if err != nil {
		return err
	}
	return c.sendBytes(ctx, b)
}

// post writes a frame and does not wait for the socket to take it.
func (c *Conn) post(ctx context.Context, f wire.Frame) error {
	b, err := encode(f)
	if err != nil {
		return err
	}
	return c.put(ctx, b, false)
}

// sendBytes is send for a frame that is encoded already. The caller may use the
// bytes again when it returns.
func (c *Conn) sendBytes(ctx context.Context, frame []byte) error {
	return c.put(ctx, frame, true)
}

func encode(f wire.Frame) ([]byte, error) {
	b, err := wire.Append(nil, f)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrInvalidConfig, err)
	}
	return b, nil
}

// put writes a frame at once if the socket takes it, and otherwise queues it for
// the writer. With await it then waits for the writer. Under a context that has
// ended it does neither.
func (c *Conn) put(ctx context.Context, frame []byte, await bool) error {
	if ctx.Err() != nil {
		return context.Cause(ctx) // enqueue might still take the frame
	}
	taken := takenNone
	if c.Alive() {
		taken = c.direct.try(frame)
	}
	var q queuedFrame
	switch taken {
	case takenAll:
		return nil
	case takenNone:
		q.frame = append([]byte(nil), frame...)
	}
	if await {
		q.written = make(chan struct{})
	}
	if err := c.enqueue(ctx, q); err != nil || !await {
		return err
	}
	select {
	case <-q.written:
		return nil
	case <-c.ended:
		return c.Reason()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (c *Conn) enqueue(ctx context.Context, q queuedFrame) error {
	c.direct.queued.Add(1)
	select {
	case c.queue <- q:
		return nil
	case <-c.ended:
		c.direct.queued.Add(-1)
		return c.Reason()
	case <-ctx.Done():
		c.direct.queued.Add(-1)
		return context.Cause(ctx)
	}
}

// write is the writer. A write that the peer does not take within two heartbeats
// ends the connection.
func (c *Conn) write() {
	defer c.wg.Done()
	for {
		select {
		case <-c.ended:
			return
		case q := <-c.queue:
			err := c.writeOut(q.frame)
			c.direct.queued.Add(-1)
			if err != nil {
				c.fail(fmt.Errorf("%w: connection to %s lost: %v", ErrUnreachable, c.endpoint.Address(), err))
				return
			}
			if q.written != nil {
				close(q.written)
			}
		}
	}
}

// writeOut writes the rest of the frame before, if there is one, and then the
// frame.
func (c *Conn) writeOut(frame []byte) error {
	c.direct.mu.Lock()
	defer c.direct.mu.Unlock()
	_ = c.socket.SetWriteDeadline(time.Now().Add(2 * c.heartbeat))
	if rest := c.direct.rest; len(rest) > 0 {
		frame = append(rest, frame...)
		c.direct.rest = nil
	}
	_, err := c.socket.Write(frame)
	return err
}
