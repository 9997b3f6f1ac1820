package broker

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

const (
	// callTimeout bounds a call on a peer that is alive, where the caller's
	// context has no earlier deadline.
	callTimeout = 10 * time.Second
	// closeTimeout bounds each polite message that ends something.
	closeTimeout = time.Second
	// lastWords bounds such a message of somebody who has no time left.
	lastWords = 20 * time.Millisecond
	// writeQueueLen is how many frames may wait for the writer.
	writeQueueLen = 64
)

// hooks are what a connection calls when a frame arrives that answers nothing.
// They must not block. Every hook may be nil.
type hooks struct {
	// deliver takes a Deliver frame and the buffer that holds it. The hook may
	// keep the buffer if there is a buffer hook; without one the next frame
	// overwrites it. An error ends the connection. The reader calls it.
	deliver func(d wire.Deliver, buffer []byte) error
	// creditRefused takes the broker's answer to a Credit that it did not take.
	// The reader calls it.
	creditRefused func(id uint8, code wire.Code)
	// buffer returns n bytes, whatever they contain, for the next Deliver frame
	// of a subscription. It is not asked for a frame of more than 4 MiB, which
	// comes in new memory. The reader calls it.
	buffer func(id uint8, n int) []byte
	// flush follows deliver when no further whole Deliver frame has been read,
	// so that many chunks can be passed on at a time. An error ends the
	// connection. The reader calls it.
	flush func() error
	// moved takes the name of a stream that was deleted or has moved. The reader
	// calls it.
	moved func(stream string)
	// outcomes takes the broker's confirms and refusals of published messages. A
	// connection with this hook is for publishing: see Conn.patient. The reader
	// calls it.
	outcomes func(o wire.Outcomes)
	// consumerUpdate takes the broker's word that a member of a group is the
	// active one, or no longer, which Conn.answerUpdate answers. Without the hook
	// the connection answers at once. The reader calls it.
	consumerUpdate func(u wire.ConsumerUpdate)
	// tick comes twice in a heartbeat. The keeper calls it.
	tick func()
}

// Conn is one connection to a broker, past its handshake. It owns three
// goroutines. The reader hands responses to their callers and everything else to
// the hooks. The writer writes what the socket does not take at once. The keeper
// sends heartbeats and ends the connection of a silent peer. Close and Abort
// wait for all three.
type Conn struct {
	endpoint   Endpoint
	advertised string               // host:port by which the cluster knows this node
	version    string               // of the peer, such as 4.0.5
	filters    atomic.Pointer[bool] // whether the peer keeps filter values; nil: it was not asked
	frameMax   int                  // bytes of the largest frame, with its size prefix
	heartbeat  time.Duration
	hooks      hooks

	renewed atomic.Pointer[string] // the newest secret of RenewSecret, or nil

	socket  net.Conn
	frames  *wire.FrameReader
	reads   atomic.Uint64 // grows with each read from the socket
	hearing hearing
	queue   chan *queuedFrame
	direct  directWriter

	mu      sync.Mutex
	pending map[uint32]func(response) // by correlation id
	lastID  uint32                    // the newest correlation id
	reason  error                     // why the connection ended

	// peersReason is what the peer gave as its reason in a Close. It is the
	// reason of the end, whatever fails on the way there.
	peersReason error

	ended chan struct{} // closed by fail
	wg    sync.WaitGroup
}

// start begins the connection's goroutines, after the handshake.
func (c *Conn) start() {
	c.pending = map[uint32]func(response){}
	c.queue = make(chan *queuedFrame, writeQueueLen)
	c.ended = make(chan struct{})
	c.direct.init(c.socket)
	c.hearing.init(silentHeartbeats * c.heartbeat)
	c.wg.Add(3)
	go c.read()
	go c.write()
	go c.keepAlive()
}

// fail ends the connection with a reason. Only the first reason counts.
func (c *Conn) fail(reason error) {
	c.mu.Lock()
	first := c.reason == nil
	if first {
		if c.peersReason != nil {
			reason = c.peersReason
		}
		c.reason = reason
		close(c.ended)
	}
	c.mu.Unlock()
	if first {
		_ = closeSocket(c.socket)
	}
}

// closeSocket closes a socket at once. Over TLS, Close would wait for up to 5 s
// for a peer that does not read to take a goodbye; the stream protocol has its
// own.
func closeSocket(socket net.Conn) error {
	if secure, ok := socket.(*tls.Conn); ok {
		return secure.NetConn().Close()
	}
	return socket.Close()
}

// Reason returns why the connection ended, and nil while it has not.
func (c *Conn) Reason() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reason
}

// Alive reports whether the connection has not ended, as far as is known.
func (c *Conn) Alive() bool { return c.Reason() == nil }

// goodbyeContext bounds a message that ends something: by ctx and closeTimeout.
// If ctx has ended already, the message is sent all the same, and a peer at work
// answers it within lastWords.
func goodbyeContext(ctx context.Context) (context.Context, context.CancelFunc) {
	if ctx.Err() != nil {
		return context.WithTimeout(context.WithoutCancel(ctx), lastWords)
	}
	return context.WithTimeout(ctx, closeTimeout)
}

// Close says goodbye, ends the connection and waits for its goroutines. It waits
// for the peer's answer for closeTimeout at most.
func (c *Conn) Close() { c.CloseWithin(context.Background()) }

// CloseWithin is Close that waits for the peer's answer under ctx.
func (c *Conn) CloseWithin(ctx context.Context) {
	if c.Alive() {
		ctx, cancel := goodbyeContext(ctx)
		defer cancel()
		_ = c.call(ctx, func(id uint32) wire.Frame {
			return &wire.Close{Correlation: id, Code: wire.CodeOK, Reason: "OK"}
		}, &wire.Response{Key: wire.KeyClose})
	}
	c.Abort()
}

// Abort ends the connection without a goodbye and waits for its goroutines.
func (c *Conn) Abort() {
	c.fail(ErrClosed)
	c.wg.Wait()
}

// Contact is a way to a node that has worked, with the login that it took.
type Contact struct {
	Endpoint   Endpoint
	Advertised string // host:port by which the cluster knows the node
	FrameMax   int    // bytes of the largest frame that the node takes
}

// Contact returns the way by which this connection was made, with the newest
// secret.
func (c *Conn) Contact() Contact {
	e := c.endpoint
	if secret := c.renewed.Load(); secret != nil {
		e.Password = *secret
	}
	return Contact{e, c.advertised, c.frameMax}
}
