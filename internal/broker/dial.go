package broker

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

const (
	// handshakeFrameMax bounds a frame that comes before the login.
	handshakeFrameMax = 64 << 10
	// wantedFrameMax is the largest frame that this client asks for.
	wantedFrameMax = 1 << 20
)

// dialAny dials the endpoints in random order until one answers. A refused login
// or vhost ends the search, because every node of a cluster refuses it.
func dialAny(ctx context.Context, o Options, endpoints []Endpoint, name string, h hooks) (*Conn, error) {
	var first error
	for _, e := range shuffled(endpoints) {
		c, err := dial(ctx, o, e, name, h)
		if err == nil {
			return c, nil
		}
		if ctx.Err() != nil || errors.Is(err, ErrAuthentication) || errors.Is(err, ErrVirtualHost) {
			return nil, err
		}
		if first == nil {
			first = err
		}
	}
	if len(endpoints) > 1 {
		first = fmt.Errorf("%w (and %d more nodes)", first, len(endpoints)-1)
	}
	return nil, first
}

// dial connects, logs in, enters the vhost and starts the connection, all within
// o.DialTimeout. The broker's management shows name.
func dial(ctx context.Context, o Options, e Endpoint, name string, h hooks) (*Conn, error) {
	caller := ctx
	ctx, cancel := context.WithTimeout(ctx, o.DialTimeout)
	defer cancel()
	socket, err := dialSocket(ctx, o, e)
	if err != nil {
		return nil, dialFailure(caller, ctx, err, e, o.DialTimeout)
	}
	c := &Conn{endpoint: e, socket: socket, heartbeat: o.Heartbeat, hooks: h}
	c.frames = wire.NewFrameReader(c, handshakeFrameMax)
	if h.buffer != nil {
		c.frames.Give(wire.KeyDeliver, h.buffer)
	}
	// The end of the context cuts every read and write of the handshake short.
	stop := context.AfterFunc(ctx, func() { _ = socket.SetDeadline(time.Unix(1, 0)) })
	err = c.handshake(name)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = socket.Close()
		return nil, dialFailure(caller, ctx, err, e, o.DialTimeout)
	}
	c.frames.SetMax(0) // the broker does not limit its Deliver frames
	c.start()
	return c, nil
}

// dialFailure says what the error of an attempt means. The end of the caller's
// context comes first, whatever the attempt made of it. The end of the attempt's
// own time means that the broker is silent.
func dialFailure(caller, attempt context.Context, err error, e Endpoint, limit time.Duration) error {
	switch deadline, ok := caller.Deadline(); {
	case caller.Err() != nil:
		return ContextError(caller)
	case ok && !time.Now().Before(deadline): // the dialer's own timer may come first
		return context.DeadlineExceeded
	case errors.Is(err, ErrTLS), attempt.Err() == nil:
		return err
	}
	return fmt.Errorf("%w: %s did not answer within %v", ErrUnreachable, e.Address(), limit)
}

func dialSocket(ctx context.Context, o Options, e Endpoint) (net.Conn, error) {
	var d net.Dialer
	socket, err := d.DialContext(ctx, "tcp", e.Address())
	if err != nil {
		return nil, dialError(err, e)
	}
	if !e.TLS {
		return socket, nil
	}
	// A plain port takes the first bytes of TLS for the length of a frame and
	// waits for that frame. TLS gets a part of the time, so that this shows.
	ctx, cancel := context.WithTimeout(ctx, o.DialTimeout*3/5)
	defer cancel()
	secure := tls.Client(socket, o.TLSConfig(e))
	if err := secure.HandshakeContext(ctx); err != nil {
		_ = socket.Close()
		return nil, tlsError(err, e)
	}
	return secure, nil
}

func dialError(err error, e Endpoint) error {
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns):
		return fmt.Errorf("%w: unknown host %q: check the URI", ErrUnreachable, e.Host)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w: nothing listens on %s: is RabbitMQ running there, with the plugin rabbitmq_stream enabled?", ErrUnreachable, e.Address())
	}
	return fmt.Errorf("%w: %s: %v", ErrUnreachable, e.Address(), err)
}

// tlsError tells a peer that answers wrongly from a peer that says nothing. A
// wrong answer stays wrong. A plain port says nothing, but so does a broker that
// restarts, or a proxy without a broker behind it. Such an error wraps
// ErrUnreachable too, so that a run that was connected before tries again.
func tlsError(err error, e Endpoint) error {
	const advice = "%s does not answer in TLS: use the broker's TLS port (usually %d), or the scheme %s for a plain one"
	var plain tls.RecordHeaderError
	var system syscall.Errno
	switch {
	case errors.As(err, &plain):
		return fmt.Errorf("%w: "+advice, ErrTLS, e.Address(), defaultTLSPort, SchemePlain)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("%w: %w: "+advice, ErrUnreachable, ErrTLS, e.Address(), defaultTLSPort, SchemePlain)
	case errors.Is(err, context.Canceled):
		return err
	case errors.As(err, &system):
		return fmt.Errorf("%w: %s closed the connection: %v", ErrUnreachable, e.Address(), err)
	}
	return fmt.Errorf("%w: with %s: %v: check Config.TLS (RootCAs, ServerName) against the broker's certificate", ErrTLS, e.Address(), err)
}
