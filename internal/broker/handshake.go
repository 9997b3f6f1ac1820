package broker

import (
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// clientProduct is the client's name in the broker's management.
const clientProduct = "tidemark"

// handshake takes the steps of the protocol up to Open, on the caller's
// goroutine (PROTOCOL.adoc, "Authentication").
func (c *Conn) handshake(name string) error {
	for _, step := range []func() error{
		func() error { return c.introduce(name) }, c.checkMechanism, c.login, c.tune, c.open,
	} {
		if err := step(); err != nil {
			return c.handshakeError(err)
		}
	}
	return nil
}

func (c *Conn) introduce(name string) error {
	props := wire.Properties{
		{Key: "connection_name", Value: name}, {Key: "product", Value: clientProduct}, {Key: "platform", Value: "Go"},
	}
	var peer wire.PeerPropertiesResponse
	err := c.exchange(&wire.PeerProperties{Correlation: 1, Properties: props}, &peer)
	c.version, _ = peer.Properties.Get("version")
	return err
}

func (c *Conn) checkMechanism() error {
	var offer wire.SaslHandshakeResponse
	if err := c.exchange(&wire.SaslHandshake{Correlation: 2}, &offer); err != nil {
		return err
	}
	for _, m := range offer.Mechanisms {
		if m == "PLAIN" {
			return nil
		}
	}
	return fmt.Errorf("%w: %s offers the mechanisms %q and not PLAIN", ErrAuthentication, c.endpoint.Address(), offer.Mechanisms)
}

func (c *Conn) login() error {
	e := c.endpoint
	var answer wire.SaslAuthenticateResponse
	if err := c.exchange(plainLogin(3, e.User, e.Password), &answer); err != nil {
		return err
	}
	switch answer.Code {
	case wire.CodeOK:
		return nil
	case wire.CodeAuthenticationLoopback:
		return fmt.Errorf("%w: user %q may log in from the broker's own machine only: create another user", ErrAuthentication, e.User)
	}
	return fmt.Errorf("%w: for user %q at %s: check user and password in the URI (%v)", ErrAuthentication, e.User, e.Address(), answer.Code)
}

// plainLogin is the login of SASL PLAIN (RFC 4616).
func plainLogin(correlation uint32, user, password string) *wire.SaslAuthenticate {
	return &wire.SaslAuthenticate{Correlation: correlation, Mechanism: "PLAIN", Data: []byte("\x00" + user + "\x00" + password)}
}

func (c *Conn) tune() error {
	var offer wire.Tune
	if err := c.readFrame(&offer); err != nil {
		return err
	}
	limit := uint32(wantedFrameMax)
	if offer.FrameMax != 0 {
		limit = min(limit, offer.FrameMax)
	}
	c.frameMax = int(limit)
	if c.hooks.deliver != nil {
		// A broker may close a connection in place of sending a chunk above its
		// limit, so where chunks come the limit is the broker's own.
		limit = offer.FrameMax
	}
	seconds := uint32((c.heartbeat + time.Second - 1) / time.Second)
	return c.writeFrame(&wire.Tune{FrameMax: limit, Heartbeat: seconds, Response: true})
}

func (c *Conn) open() error {
	e := c.endpoint
	var answer wire.OpenResponse
	if err := c.exchange(&wire.Open{Correlation: 4, VHost: e.VHost}, &answer); err != nil {
		return err
	}
	if answer.Code != wire.CodeOK {
		return fmt.Errorf("%w: %q for user %q at %s: check that the vhost in the URI exists and that the user has permissions in it (%v)", ErrVirtualHost, e.VHost, e.User, e.Address(), answer.Code)
	}
	host, _ := answer.Properties.Get("advertised_host")
	port, _ := answer.Properties.Get("advertised_port")
	c.advertised = net.JoinHostPort(host, port)
	return nil
}

// handshakeError says what it means that a connection breaks during the
// handshake.
func (c *Conn) handshakeError(err error) error {
	address := c.endpoint.Address()
	switch {
	case isAlert(err):
		return alertError(err, c.endpoint)
	case errors.Is(err, ErrAuthentication), errors.Is(err, ErrVirtualHost), errors.Is(err, ErrInvalidConfig):
		return err
	case errors.Is(err, wire.ErrMalformed), errors.Is(err, wire.ErrFrameTooLarge):
		return fmt.Errorf("%w: %s: is it the stream port (usually %d), and not AMQP's (5672), HTTP's or TLS's (scheme %s)?", ErrProtocol, address, defaultPort, SchemeTLS)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET):
		return fmt.Errorf("%w: %s closed the connection during the handshake: is it the stream port (usually %d)?", ErrUnreachable, address, defaultPort)
	}
	return fmt.Errorf("%w: %s: %v", ErrUnreachable, address, err)
}

func (c *Conn) exchange(request, resp wire.Frame) error {
	if err := c.writeFrame(request); err != nil {
		return c.alertBehind(err)
	}
	return c.readFrame(resp)
}

// alertBehind returns the peer's TLS alert, if it has hung up with one and a
// write failed therefore, and else the write's error.
func (c *Conn) alertBehind(err error) error {
	if c.endpoint.TLS {
		if _, alert := c.frames.Next(); isAlert(alert) {
			return alert
		}
	}
	return err
}

func (c *Conn) writeFrame(f wire.Frame) error {
	b, err := encode(f)
	if err != nil {
		return err
	}
	_, err = c.socket.Write(b)
	return err
}

// readFrame reads the next frame into f and skips heartbeats.
func (c *Conn) readFrame(f wire.Frame) error {
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
