package broker

import (
	"context"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// queuedFrame is a frame for the writer. The frame is empty where the socket has
// taken a part of it and directWriter keeps the rest.
type queuedFrame struct {
	frame   []byte
	written chan struct{} // closed once the socket has taken the frame; may be nil
	claimed atomic.Bool   // by the writer, which writes it, or by its sender, who has given up
}

// withdraw keeps the writer from writing a frame that it has not begun. A frame
// of which the socket has a part is written to its end. q may be nil.
func (q *queuedFrame) withdraw() {
	if q != nil && len(q.frame) > 0 {
		q.claimed.Store(true)
	}
}

// claim reports whether the writer is to write the frame.
func (q *queuedFrame) claim() bool {
	return len(q.frame) == 0 || q.claimed.CompareAndSwap(false, true)
}

// send writes a frame and returns when the socket has taken it.
func (c *Conn) send(ctx context.Context, f wire.Frame) error {
	b, err := encode(f)
	if err != nil {
		return err
	}
	return c.sendBytes(ctx, b)
}

// post writes a frame and does not wait for the socket to take it. It returns
// the frame if that waits for the writer.
func (c *Conn) post(ctx context.Context, f wire.Frame) (*queuedFrame, error) {
	b, err := encode(f)
	if err != nil {
		return nil, err
	}
	return c.put(ctx, b, false)
}

// sendBytes is send for a frame that is encoded already. The caller may use the
// bytes again when it returns. A frame that still waits for the writer when ctx
// ends is not sent.
func (c *Conn) sendBytes(ctx context.Context, frame []byte) error {
	queued, err := c.put(ctx, frame, true)
	if err != nil || queued == nil {
		return err
	}
	select {
	case <-queued.written:
		return nil
	case <-c.ended:
		return c.Reason()
	case <-ctx.Done():
		queued.withdraw()
		return ContextError(ctx)
	}
}

func encode(f wire.Frame) ([]byte, error) {
	b, err := wire.Append(nil, f)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrInvalidConfig, err)
	}
	return b, nil
}

// put writes a frame at once if the socket takes it, and otherwise queues it for
// the writer and returns it. With notify the writer closes its written. Under a
// context that has ended put does neither.
func (c *Conn) put(ctx context.Context, frame []byte, notify bool) (*queuedFrame, error) {
	if ctx.Err() != nil {
		return nil, ContextError(ctx) // enqueue might still take the frame
	}
	taken := takenNone
	if c.Alive() {
		taken = c.direct.try(frame)
	}
	if taken == takenAll {
		return nil, nil
	}
	q := &queuedFrame{}
	if taken == takenNone {
		q.frame = append([]byte(nil), frame...)
	}
	if notify {
		q.written = make(chan struct{})
	}
	return q, c.enqueue(ctx, q)
}

func (c *Conn) enqueue(ctx context.Context, q *queuedFrame) error {
	c.direct.queued.Add(1)
	select {
	case c.queue <- q:
		return nil
	case <-c.ended:
		c.direct.queued.Add(-1)
		return c.Reason()
	case <-ctx.Done():
		c.direct.queued.Add(-1)
		return ContextError(ctx)
	}
}

// offer queues a frame for the writer if the queue has room, and never waits.
func (c *Conn) offer(frame []byte) bool {
	c.direct.queued.Add(1)
	select {
	case c.queue <- &queuedFrame{frame: frame}:
		return true
	default:
		c.direct.queued.Add(-1)
		return false
	}
}

// write is the writer. A write that the peer does not take within two heartbeats
// ends the connection, unless that is patient.
func (c *Conn) write() {
	defer c.wg.Done()
	for {
		select {
		case <-c.ended:
			return
		case q := <-c.queue:
			var err error
			if q.claim() {
				err = c.writeOut(q.frame)
			}
			c.direct.queued.Add(-1)
			if err != nil {
				c.fail(c.lost(err))
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
	defer c.limitWrite()()
	if rest := c.direct.rest; len(rest) > 0 {
		frame = append(rest, frame...)
		c.direct.rest = nil
	}
	_, err := c.socket.Write(frame)
	return err
}

// writeAll writes frames on the caller's goroutine, after the rest of the frame
// before. It waits for the socket. The connection is for publishing.
func (c *Conn) writeAll(frames net.Buffers) error {
	c.direct.mu.Lock()
	defer c.direct.mu.Unlock()
	if rest := c.direct.rest; len(rest) > 0 {
		if _, err := c.socket.Write(rest); err != nil {
			return err
		}
		c.direct.rest = nil
	}
	if len(frames) == 1 {
		_, err := c.socket.Write(frames[0])
		return err
	}
	c.direct.frames = frames // WriteTo's receiver would be allocated otherwise
	_, err := c.direct.frames.WriteTo(c.socket)
	c.direct.frames = nil
	return err
}

// patient reports whether a write may take any time. A broker that takes no
// messages, as with a disk alarm, does not read a connection for publishing, and
// its heartbeats go on: so only their absence ends such a connection.
func (c *Conn) patient() bool { return c.hooks.outcomes != nil }

// limitWrite bounds the write that follows, until the caller calls the function
// that it returns.
func (c *Conn) limitWrite() func() {
	if c.patient() {
		return func() {}
	}
	if c.socket.SetWriteDeadline(time.Now().Add(2*c.heartbeat)) == nil {
		return func() {}
	}
	// A socket of Options.Dial may have no deadlines.
	timer := time.AfterFunc(2*c.heartbeat, func() { c.fail(c.lost(os.ErrDeadlineExceeded)) })
	return func() { timer.Stop() }
}
