package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

const (
	// rpcTimeout bounds the wait for an answer of a peer that is alive, where
	// the caller's context has no earlier deadline.
	rpcTimeout = 10 * time.Second
	// closeTimeout bounds the polite part of closing a connection.
	closeTimeout = time.Second
	// writeQueue is how many frames may wait for the writer.
	writeQueue = 64
)

// hooks are called by a connection's reader and must not block.
type hooks struct {
	// deliver gets a Deliver frame, and the buffer that it is in, which is its to
	// keep if it comes from the next hook. An error ends the connection.
	deliver func(d wire.Deliver, buffer []byte) error
	// buffer returns n bytes of anything for a Deliver frame of a subscription;
	// nil: new ones.
	buffer func(id uint8, n int) []byte
	// tick is called twice in a heartbeat; nil: not.
	tick func()
	// moved gets the name of a stream that was deleted or has moved.
	moved func(stream string)
}

// conn is one connection to a broker, past its handshake. Three goroutines
// belong to it: the reader, which hands responses to their callers and the
// rest to the hooks, the writer, and the keeper, which sends heartbeats and
// ends the connection of a silent peer. close waits for all three.
type conn struct {
	endpoint   endpoint
	advertised string // host:port by which the cluster knows this node
	frameMax   int    // largest frame in bytes with its size prefix; 0: any
	heartbeat  time.Duration
	hooks      hooks

	nc     net.Conn
	frames *wire.FrameReader
	reads  atomic.Uint64 // grows with each read, for the keeper
	out    chan outgoing
	now    direct

	mu      sync.Mutex
	pending map[uint32]chan response
	lastID  uint32
	err     error // why it ended

	closed chan struct{} // closed by fail
	wg     sync.WaitGroup
}

// outgoing is a frame for the writer, which closes written once the socket has
// taken it.
type outgoing struct {
	frame   []byte
	written chan struct{}
}

// response is the body of a response, after key and version.
type response struct{ fields []byte }

// start begins the connection's goroutines, after the handshake.
func (c *conn) start() {
	c.pending = map[uint32]chan response{}
	c.out = make(chan outgoing, writeQueue)
	c.closed = make(chan struct{})
	c.now.init(c.nc)
	c.wg.Add(3)
	go c.read()
	go c.write()
	go c.keepAlive()
}

// fail ends the connection; the first reason stays.
func (c *conn) fail(err error) {
	c.mu.Lock()
	first := c.err == nil
	if first {
		c.err = err
		close(c.closed)
	}
	c.mu.Unlock()
	if first {
		_ = c.nc.Close() // over TLS it may take seconds
	}
}

// reason returns why the connection ended, nil while it has not.
func (c *conn) reason() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

func (c *conn) alive() bool { return c.reason() == nil }

// close says goodbye if the peer still listens, ends the connection and waits
// for its goroutines. It takes a second at most.
func (c *conn) close() {
	if c.alive() {
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		_ = c.call(ctx, func(id uint32) wire.Frame {
			return &wire.Close{Correlation: id, Code: wire.CodeOK, Reason: "OK"}
		}, &wire.Response{Key: wire.KeyClose})
	}
	c.fail(ErrClosed)
	c.wg.Wait()
}

// abort ends the connection without goodbye and waits for its goroutines.
func (c *conn) abort() {
	c.fail(ErrClosed)
	c.wg.Wait()
}

// call sends a request and decodes its response into resp.
func (c *conn) call(ctx context.Context, request func(id uint32) wire.Frame, resp wire.Frame) error {
	ctx, cancel := context.WithTimeoutCause(ctx, rpcTimeout, fmt.Errorf("%w: %s did not answer within %v", ErrUnreachable, c.endpoint.address(), rpcTimeout))
	defer cancel()
	id, answer := c.register()
	defer c.forget(id)
	if err := c.post(ctx, request(id)); err != nil {
		return err
	}
	select {
	case r := <-answer:
		return c.decode(r, resp)
	case <-c.closed:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case r := <-answer: // it came before the end
		return c.decode(r, resp)
	default:
		return c.reason()
	}
}

func (c *conn) decode(r response, resp wire.Frame) error {
	if err := wire.Decode(r.fields, resp); err != nil {
		return fmt.Errorf("%w: from %s: %v", ErrProtocol, c.endpoint.address(), err)
	}
	return nil
}

func (c *conn) register() (uint32, chan response) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lastID++
	answer := make(chan response, 1)
	c.pending[c.lastID] = answer
	return c.lastID, answer
}

func (c *conn) forget(id uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.pending, id)
}

// send returns when the socket has taken the frame.
func (c *conn) send(ctx context.Context, f wire.Frame) error {
	b, err := encode(f)
	if err != nil {
		return err
	}
	return c.put(ctx, b, true)
}

// post is send without waiting for the socket.
func (c *conn) post(ctx context.Context, f wire.Frame) error {
	b, err := encode(f)
	if err != nil {
		return err
	}
	return c.put(ctx, b, false)
}

func encode(f wire.Frame) ([]byte, error) {
	b, err := wire.Append(nil, f)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrInvalidConfig, err)
	}
	return b, nil
}

// put writes a frame at once if the socket takes it, and else by way of the
// writer, for which await has it wait. The frame is the caller's again.
func (c *conn) put(ctx context.Context, frame []byte, await bool) error {
	begun := false
	if ctx.Err() == nil && c.alive() {
		var done bool
		if done, begun = c.now.try(frame); done {
			return nil
		}
	}
	var o outgoing // with nothing in it for the rest of one that is begun
	if !begun {
		o.frame = append([]byte(nil), frame...)
	}
	if await {
		o.written = make(chan struct{})
	}
	if err := c.enqueue(ctx, o); err != nil || !await {
		return err
	}
	select {
	case <-o.written:
		return nil
	case <-c.closed:
		return c.reason()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (c *conn) enqueue(ctx context.Context, o outgoing) error {
	c.now.queued.Add(1)
	select {
	case c.out <- o:
		return nil
	case <-c.closed:
		c.now.queued.Add(-1)
		return c.reason()
	case <-ctx.Done():
		c.now.queued.Add(-1)
		return context.Cause(ctx)
	}
}

// write is the writer: the only one to write to the socket but for what it takes
// at once (see put). A write that the peer does not take within two
// heartbeats ends the connection.
func (c *conn) write() {
	defer c.wg.Done()
	for {
		select {
		case <-c.closed:
			return
		case o := <-c.out:
			err := c.writeOut(o.frame)
			c.now.queued.Add(-1)
			if err != nil {
				c.fail(fmt.Errorf("%w: connection to %s lost: %v", ErrUnreachable, c.endpoint.address(), err))
				return
			}
			if o.written != nil {
				close(o.written)
			}
		}
	}
}

// writeOut writes a frame, after the rest of the one before it.
func (c *conn) writeOut(frame []byte) error {
	c.now.mu.Lock()
	defer c.now.mu.Unlock()
	_ = c.nc.SetWriteDeadline(time.Now().Add(2 * c.heartbeat))
	if rest := c.now.rest; len(rest) > 0 {
		frame = append(rest, frame...)
		c.now.rest = nil
	}
	_, err := c.nc.Write(frame)
	return err
}

// keepAlive is the keeper. It works with ticks and not with time stamps: three
// half heartbeats in a row without a byte read are a silent peer, which is
// noticed after 1.5 to 2 heartbeats.
func (c *conn) keepAlive() {
	defer c.wg.Done()
	tick := time.NewTicker(c.heartbeat / 2)
	defer tick.Stop()
	beat := outgoing{frame: mustAppend(&wire.Heartbeat{})}
	var seen uint64
	for silent := 0; ; {
		select {
		case <-c.closed:
			return
		case <-tick.C:
		}
		if c.hooks.tick != nil {
			c.hooks.tick()
		}
		// A full queue means that the writer is stuck: its own deadline ends it.
		c.now.queued.Add(1)
		select {
		case c.out <- beat:
		default:
			c.now.queued.Add(-1)
		}
		if n := c.reads.Load(); n != seen {
			seen, silent = n, 0
		} else if silent++; silent >= 3 {
			c.fail(fmt.Errorf("%w: %s has been silent for %v", ErrUnreachable, c.endpoint.address(), 3*c.heartbeat/2))
			return
		}
	}
}

// Read counts reads for the keeper; the frame reader reads through it.
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.nc.Read(p)
	c.reads.Add(1)
	return n, err
}

// read is the reader.
func (c *conn) read() {
	defer c.wg.Done()
	for {
		frame, err := c.frames.Next()
		if err == nil {
			err = c.dispatch(frame)
		}
		if err != nil {
			c.fail(c.readError(err))
			return
		}
	}
}

func (c *conn) readError(err error) error {
	switch {
	case errors.Is(err, io.EOF):
		return fmt.Errorf("%w: %s closed the connection", ErrUnreachable, c.endpoint.address())
	case errors.Is(err, wire.ErrMalformed), errors.Is(err, wire.ErrFrameTooLarge):
		return fmt.Errorf("%w: from %s: %v", ErrProtocol, c.endpoint.address(), err)
	case errors.Is(err, ErrUnreachable):
		return err
	}
	return fmt.Errorf("%w: connection to %s lost: %v", ErrUnreachable, c.endpoint.address(), err)
}

// dispatch hands one frame to whom it is for. An error ends the connection.
func (c *conn) dispatch(frame []byte) error {
	key, version, fields, err := wire.SplitHead(frame)
	if err != nil {
		return err
	}
	switch key {
	case wire.KeyDeliver:
		d, err := wire.DecodeDeliver(version, fields)
		if err == nil && c.hooks.deliver != nil {
			err = c.hooks.deliver(d, frame)
		}
		return err
	case wire.KeyMetadataUpdate:
		var m wire.MetadataUpdate
		if err := wire.Decode(fields, &m); err != nil {
			return err
		}
		if c.hooks.moved != nil {
			c.hooks.moved(m.Stream)
		}
	case wire.KeyClose:
		return c.closedByPeer(fields)
	default:
		// Heartbeats need no answer, and a CreditResponse tells of a
		// subscription that is gone already.
		if key.IsResponse() && key != wire.KeyCredit.Response() {
			c.answer(fields)
		}
	}
	return nil
}

func (c *conn) answer(fields []byte) {
	id, ok := wire.Correlation(fields)
	if !ok {
		return
	}
	c.mu.Lock()
	answer := c.pending[id]
	delete(c.pending, id)
	c.mu.Unlock()
	if answer != nil {
		answer <- response{append([]byte(nil), fields...)} // never blocks: one answer per id
	}
}

func (c *conn) closedByPeer(fields []byte) error {
	var f wire.Close
	if err := wire.Decode(fields, &f); err != nil {
		return err
	}
	c.post(context.Background(), &wire.Response{Key: wire.KeyClose, Correlation: f.Correlation, Code: wire.CodeOK})
	return fmt.Errorf("%w: %s closed the connection: %s (%v)", ErrUnreachable, c.endpoint.address(), f.Reason, f.Code)
}

// mustAppend encodes a frame that has no strings and so cannot fail.
func mustAppend(f wire.Frame) []byte {
	b, err := wire.Append(nil, f)
	if err != nil {
		panic("tidemark: " + err.Error())
	}
	return b
}
