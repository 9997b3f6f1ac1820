package stream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

const (
	clientProduct = "tidemark"
	// handshakeFrameMax bounds what is believed before the login.
	handshakeFrameMax = 64 << 10
	wantedFrameMax    = 1 << 20
)

// dial connects, logs in and enters the vhost, all within cfg.DialTimeout, and
// starts the connection. name is shown by the broker's management.
func dial(ctx context.Context, cfg Config, e endpoint, name string, h hooks) (*conn, error) {
	caller := ctx
	ctx, cancel := context.WithTimeout(ctx, cfg.DialTimeout)
	defer cancel()
	nc, err := dialSocket(ctx, cfg, e)
	if err != nil {
		return nil, outOfTime(caller, ctx, err, e, cfg.DialTimeout)
	}
	c := &conn{endpoint: e, nc: nc, heartbeat: cfg.Heartbeat, hooks: h}
	c.frames = wire.NewFrameReader(c, handshakeFrameMax)
	if h.buffer != nil {
		c.frames.Give(wire.KeyDeliver, h.buffer)
	}
	// A context that ends cuts every read and write of the handshake short.
	stop := context.AfterFunc(ctx, func() { _ = nc.SetDeadline(time.Unix(1, 0)) })
	err = c.handshake(name)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = nc.Close()
		return nil, outOfTime(caller, ctx, err, e, cfg.DialTimeout)
	}
	c.frames.SetMax(0) // the broker does not limit its Deliver frames
	c.start()
	return c, nil
}

// outOfTime returns the error of the caller's context where that has ended,
// whatever the attempt made of it, and a silent broker where the attempt's own
// time ran out.
func outOfTime(caller, ctx context.Context, err error, e endpoint, limit time.Duration) error {
	switch deadline, ok := caller.Deadline(); {
	case caller.Err() != nil:
		return context.Cause(caller)
	case ok && !time.Now().Before(deadline): // the dialer has a timer of its own, which may come first
		return context.DeadlineExceeded
	case errors.Is(err, ErrTLS), ctx.Err() == nil:
		return err
	}
	return fmt.Errorf("%w: %s did not answer within %v", ErrUnreachable, e.address(), limit)
}

func dialSocket(ctx context.Context, cfg Config, e endpoint) (net.Conn, error) {
	var d net.Dialer
	nc, err := d.DialContext(ctx, "tcp", e.address())
	if err != nil {
		return nil, dialError(err, e)
	}
	if !e.tls {
		return nc, nil
	}
	// A plain port takes the first bytes of TLS for the length of a frame and
	// waits for the rest, so a part of the time must do.
	ctx, cancel := context.WithTimeout(ctx, cfg.DialTimeout*3/5)
	defer cancel()
	secure := tls.Client(nc, cfg.tlsConfig(e))
	if err := secure.HandshakeContext(ctx); err != nil {
		_ = nc.Close()
		return nil, tlsError(err, e)
	}
	return secure, nil
}

func dialError(err error, e endpoint) error {
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns):
		return fmt.Errorf("%w: unknown host %q: check the URI", ErrUnreachable, e.host)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w: nothing listens on %s: is RabbitMQ running there, with the plugin rabbitmq_stream enabled?", ErrUnreachable, e.address())
	}
	return fmt.Errorf("%w: %s: %v", ErrUnreachable, e.address(), err)
}

// tlsError tells a peer that is wrong, which stays so, from one that says
// nothing. That is what a plain port does, and also a broker that is being
// restarted or a proxy without one behind it: it wraps ErrUnreachable too, and
// a run that had a connection before goes on trying.
func tlsError(err error, e endpoint) error {
	const advice = "%s does not answer in TLS: use the broker's TLS port (usually %d), or the scheme %s for a plain one"
	var plain tls.RecordHeaderError
	var system syscall.Errno
	switch {
	case errors.As(err, &plain):
		return fmt.Errorf("%w: "+advice, ErrTLS, e.address(), defaultTLSPort, schemePlain)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("%w: %w: "+advice, ErrUnreachable, ErrTLS, e.address(), defaultTLSPort, schemePlain)
	case errors.Is(err, context.Canceled):
		return err
	case errors.As(err, &system):
		return fmt.Errorf("%w: %s closed the connection: %v", ErrUnreachable, e.address(), err)
	}
	return fmt.Errorf("%w: with %s: %v: check Config.TLS (RootCAs, ServerName) against the broker's certificate", ErrTLS, e.address(), err)
}

// handshake runs the steps of the protocol up to Open (PROTOCOL.adoc,
// "Authentication"), on the caller's goroutine.
func (c *conn) handshake(name string) error {
	for _, step := range []func() error{
		func() error { return c.introduce(name) }, c.checkMechanism, c.login, c.tune, c.open,
	} {
		if err := step(); err != nil {
			return c.handshakeError(err)
		}
	}
	return nil
}

func (c *conn) introduce(name string) error {
	props := wire.Properties{
		{Key: "connection_name", Value: name}, {Key: "product", Value: clientProduct}, {Key: "platform", Value: "Go"},
	}
	return c.exchange(&wire.PeerProperties{Correlation: 1, Properties: props}, &wire.PeerPropertiesResponse{})
}

func (c *conn) checkMechanism() error {
	var offer wire.SaslHandshakeResponse
	if err := c.exchange(&wire.SaslHandshake{Correlation: 2}, &offer); err != nil {
		return err
	}
	for _, m := range offer.Mechanisms {
		if m == "PLAIN" {
			return nil
		}
	}
	return fmt.Errorf("%w: %s offers the mechanisms %q and not PLAIN", ErrAuthentication, c.endpoint.address(), offer.Mechanisms)
}

func (c *conn) login() error {
	e := c.endpoint
	var answer wire.SaslAuthenticateResponse
	secret := []byte("\x00" + e.user + "\x00" + e.password)
	if err := c.exchange(&wire.SaslAuthenticate{Correlation: 3, Mechanism: "PLAIN", Data: secret}, &answer); err != nil {
		return err
	}
	switch answer.Code {
	case wire.CodeOK:
		return nil
	case wire.CodeAuthenticationLoopback:
		return fmt.Errorf("%w: user %q may log in from the broker's own machine only: create another user", ErrAuthentication, e.user)
	}
	return fmt.Errorf("%w: for user %q at %s: check user and password in the URI (%v)", ErrAuthentication, e.user, e.address(), answer.Code)
}

func (c *conn) tune() error {
	var offer wire.Tune
	if err := c.receive(&offer); err != nil {
		return err
	}
	limit := uint32(wantedFrameMax)
	if offer.FrameMax != 0 {
		limit = min(limit, offer.FrameMax)
	}
	c.frameMax = int(limit)
	seconds := uint32((c.heartbeat + time.Second - 1) / time.Second)
	return c.transmit(&wire.Tune{FrameMax: limit, Heartbeat: seconds, Response: true})
}

func (c *conn) open() error {
	e := c.endpoint
	var answer wire.OpenResponse
	if err := c.exchange(&wire.Open{Correlation: 4, VHost: e.vhost}, &answer); err != nil {
		return err
	}
	if answer.Code != wire.CodeOK {
		return fmt.Errorf("%w: %q for user %q at %s: check that the vhost in the URI exists and that the user has permissions in it (%v)", ErrVirtualHost, e.vhost, e.user, e.address(), answer.Code)
	}
	host, _ := answer.Properties.Get("advertised_host")
	port, _ := answer.Properties.Get("advertised_port")
	c.advertised = net.JoinHostPort(host, port)
	return nil
}

// handshakeError says what a connection that breaks during the handshake means.
func (c *conn) handshakeError(err error) error {
	address := c.endpoint.address()
	switch {
	case errors.Is(err, ErrAuthentication), errors.Is(err, ErrVirtualHost):
		return err
	case errors.Is(err, wire.ErrMalformed), errors.Is(err, wire.ErrFrameTooLarge):
		return fmt.Errorf("%w: %s: is it the stream port (usually %d), and not AMQP's (5672), HTTP's or TLS's (scheme %s)?", ErrProtocol, address, defaultPort, schemeTLS)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET):
		return fmt.Errorf("%w: %s closed the connection during the handshake: is it the stream port (usually %d)?", ErrUnreachable, address, defaultPort)
	}
	return fmt.Errorf("%w: %s: %v", ErrUnreachable, address, err)
}

func (c *conn) exchange(request, resp wire.Frame) error {
	if err := c.transmit(request); err != nil {
		return err
	}
	return c.receive(resp)
}

func (c *conn) transmit(f wire.Frame) error {
	b, err := wire.Append(nil, f)
	if err != nil {
		return err
	}
	_, err = c.nc.Write(b)
	return err
}

// receive reads the next frame that is not a heartbeat into f.
func (c *conn) receive(f wire.Frame) error {
	want, _ := f.Head()
	for {
		frame, err := c.frames.Next()
		if err != nil {
			return err
		}
		key, _, fields, err := wire.SplitHead(frame)
		switch {
		case err != nil:
			return err
		case key == wire.KeyHeartbeat:
			continue
		case key != want:
			return fmt.Errorf("%w: %v instead of %v", wire.ErrMalformed, key, want)
		}
		return wire.Decode(fields, f)
	}
}

// dialAny tries the endpoints in random order. A refused login or vhost ends
// the search: every node of a cluster gives the same answer.
func dialAny(ctx context.Context, cfg Config, list []endpoint, name string, h hooks) (*conn, error) {
	var first error
	for _, e := range shuffled(list) {
		c, err := dial(ctx, cfg, e, name, h)
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
	if len(list) > 1 {
		first = fmt.Errorf("%w (and %s more nodes)", first, strconv.Itoa(len(list)-1))
	}
	return nil, first
}
