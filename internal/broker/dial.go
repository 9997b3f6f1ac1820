package broker

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
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
// or vhost ends the search, because every node of a cluster refuses it. A node
// with a wrong certificate does not: the others may have right ones.
func dialAny(ctx context.Context, o Options, endpoints []Endpoint, name string, h hooks) (*Conn, error) {
	var failed nodeErrors
	for _, e := range shuffled(endpoints) {
		c, err := dial(ctx, o, e, name, h)
		if err == nil {
			return c, nil
		}
		if ctx.Err() != nil || errors.Is(err, ErrAuthentication) || errors.Is(err, ErrVirtualHost) {
			return nil, err
		}
		failed = append(failed, err)
	}
	return nil, failed.asError()
}

// nodeErrors is why each of several nodes could not be used. errors.Is matches
// each of them: as long as one node is unreachable, trying again may help.
type nodeErrors []error

func (n nodeErrors) asError() error {
	switch len(n) {
	case 0:
		return nil
	case 1:
		return n[0]
	}
	return n
}

// Error returns the text of an error that waiting does not mend, if there is
// one, and how many more there are.
func (n nodeErrors) Error() string {
	worst := n[0]
	for _, err := range n {
		if !errors.Is(err, ErrUnreachable) {
			worst = err
			break
		}
	}
	return fmt.Sprintf("%v (and %d more nodes)", worst, len(n)-1)
}

// Unwrap returns the errors.
func (n nodeErrors) Unwrap() []error { return n }

// dial connects, logs in, enters the vhost and starts the connection, all within
// o.DialTimeout. The broker's management shows o.Name and the role.
func dial(ctx context.Context, o Options, e Endpoint, role string, h hooks) (*Conn, error) {
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
	stop := context.AfterFunc(ctx, func() {
		if socket.SetDeadline(time.Unix(1, 0)) != nil {
			_ = socket.Close() // a socket of Options.Dial may have no deadlines
		}
	})
	err = c.handshake(o.ConnectionName(role))
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
	case ok && !time.Now().Before(deadline):
		return lateEnd(caller)
	case errors.Is(err, ErrTLS), errors.Is(err, ErrInvalidConfig), attempt.Err() == nil:
		return err
	}
	return fmt.Errorf("%w: %s did not answer within %v", ErrUnreachable, e.Address(), limit)
}

// timerGrace is how long a context may take to end after its deadline.
const timerGrace = time.Second

// lateEnd is ContextError of a context whose deadline has passed. The dialer has a
// timer of its own, which may come before that of the context, and the cause is not
// known before that.
func lateEnd(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ContextError(ctx)
	case <-time.After(timerGrace):
		return context.DeadlineExceeded
	}
}

// DialRaw makes the connection that TLS and the protocol run over.
func (o Options) DialRaw(ctx context.Context, e Endpoint) (net.Conn, error) {
	if o.Dial != nil {
		return o.dialOwn(ctx, e)
	}
	var d net.Dialer
	socket, err := d.DialContext(ctx, "tcp", e.Address())
	if err != nil {
		return nil, dialError(err, e)
	}
	return socket, nil
}

// dialOwn calls Options.Dial, which is the user's.
func (o Options) dialOwn(ctx context.Context, e Endpoint) (socket net.Conn, err error) {
	defer func() {
		if v := recover(); v != nil {
			socket, err = nil, fmt.Errorf("%w: Config.Dial panicked for %s: %v", ErrInvalidConfig, e.Address(), v)
		}
	}()
	socket, err = o.Dial(ctx, "tcp", e.Address())
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: Config.Dial for %s: %w", ErrUnreachable, e.Address(), err)
	case socket == nil:
		return nil, fmt.Errorf("%w: Config.Dial returned neither a connection nor an error for %s", ErrInvalidConfig, e.Address())
	}
	return socket, nil
}

func dialSocket(ctx context.Context, o Options, e Endpoint) (net.Conn, error) {
	socket, err := o.DialRaw(ctx, e)
	if err != nil {
		return nil, err
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
	case isAlert(err):
		return alertError(err, e)
	case errors.As(err, &system):
		return fmt.Errorf("%w: %s closed the connection: %v", ErrUnreachable, e.Address(), err)
	}
	return fmt.Errorf("%w: with %s: %w: check Config.TLS (RootCAs, ServerName) against the broker's certificate", ErrTLS, e.Address(), err)
}

// isAlert reports whether an error is a TLS alert of the peer's. With TLS 1.3 the
// peer looks at the client's certificate only after the client has finished its
// handshake, so the alert may be the answer to the first frame.
func isAlert(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error"
}

// alertError says what a peer's alert asks for. crypto/tls gives the alert only as
// a text.
func alertError(err error, e Endpoint) error {
	text := err.Error()
	switch {
	case strings.Contains(text, "certificate required"):
		return fmt.Errorf("%w: %s demands a client certificate and got none (%v): set Config.TLS.Certificates to one from an authority that the broker trusts (ssl_options.cacertfile)", ErrTLS, e.Address(), err)
	case strings.Contains(text, "certificate"):
		return fmt.Errorf("%w: %s refuses the client certificate, or demands one (%v): set Config.TLS.Certificates to one that is valid and from an authority that the broker trusts (ssl_options.cacertfile)", ErrTLS, e.Address(), err)
	}
	return fmt.Errorf("%w: %s ends the handshake (%v): set Config.TLS.Certificates if the broker demands a client certificate, or else check MinVersion and CipherSuites", ErrTLS, e.Address(), err)
}
