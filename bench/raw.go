package main

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// address is where the broker is, taken from its URI.
type address struct{ host, user, password, vhost string }

// parseURI reads a URI. An error does not show it: it has a password in it.
func parseURI(uri string) (address, error) {
	u, err := url.Parse(uri)
	if err != nil || u.Scheme != "rabbitmq-stream" || u.Hostname() == "" {
		return address{}, errors.New("-uri: want rabbitmq-stream://user:password@host:port/vhost, without TLS")
	}
	a := address{host: net.JoinHostPort(u.Hostname(), "5552"), user: "guest", password: "guest", vhost: "/"}
	if u.Port() != "" {
		a.host = u.Host
	}
	if u.User != nil {
		a.user = u.User.Username()
		a.password, _ = u.User.Password()
	}
	if v := strings.TrimPrefix(u.Path, "/"); v != "" {
		a.vhost = v
	}
	return a, nil
}

// raw is a bare connection: no reconnect, no goroutine, no deadline but
// rawTimeout for everything together.
type raw struct {
	nc      net.Conn
	frames  *wire.FrameReader
	product string // name and version of the broker
}

const rawTimeout = maxTimeout

func dialRaw(uri string) (*raw, error) {
	a, err := parseURI(uri)
	if err != nil {
		return nil, err
	}
	nc, err := net.Dial("tcp", a.host)
	if err != nil {
		return nil, err
	}
	c := &raw{nc: nc, frames: wire.NewFrameReader(nc, 0)}
	if err := nc.SetDeadline(time.Now().Add(rawTimeout)); err != nil {
		return nil, errors.Join(err, nc.Close())
	}
	if err := c.handshake(a); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", a.host, err), nc.Close())
	}
	return c, nil
}

func (c *raw) close() { _ = c.nc.Close() }

func (c *raw) handshake(a address) error {
	var peer wire.PeerPropertiesResponse
	if err := c.call(&wire.PeerProperties{Properties: wire.Properties{{Key: "connection_name", Value: "tidemark-bench"}}}, &peer); err != nil {
		return err
	}
	product, _ := peer.Properties.Get("product")
	version, _ := peer.Properties.Get("version")
	c.product = strings.TrimSpace(product + " " + version)
	if err := c.call(&wire.SaslHandshake{}, &wire.SaslHandshakeResponse{}); err != nil {
		return err
	}
	var login wire.SaslAuthenticateResponse
	err := c.call(&wire.SaslAuthenticate{Mechanism: "PLAIN", Data: []byte("\x00" + a.user + "\x00" + a.password)}, &login)
	if err != nil || login.Code != wire.CodeOK {
		return errors.Join(err, fmt.Errorf("login: %v", login.Code))
	}
	var tune wire.Tune
	if err := c.await(&tune); err != nil {
		return err
	}
	// No heartbeats: what is measured is shorter than anything they would tell.
	if err := c.write(&wire.Tune{FrameMax: tune.FrameMax, Heartbeat: 0, Response: true}); err != nil {
		return err
	}
	var open wire.OpenResponse
	err = c.call(&wire.Open{VHost: a.vhost}, &open)
	if err == nil && open.Code != wire.CodeOK {
		err = fmt.Errorf("open vhost: %v", open.Code)
	}
	return err
}

func (c *raw) write(f wire.Frame) error {
	b, err := wire.Append(nil, f)
	if err == nil {
		_, err = c.nc.Write(b)
	}
	return err
}

// call sends a request and waits for resp, passing over everything else. There
// is one call at a time, so that correlation ids may all be 0.
func (c *raw) call(f, resp wire.Frame) error {
	if err := c.write(f); err != nil {
		return err
	}
	return c.await(resp)
}

func (c *raw) await(resp wire.Frame) error {
	want, _ := resp.Head()
	for {
		key, _, fields, err := c.next()
		if err != nil {
			return err
		}
		if key == want {
			return wire.Decode(fields, resp)
		}
	}
}

// next returns the next frame. If it is a Close of the broker, next returns an
// error.
func (c *raw) next() (wire.Key, uint16, []byte, error) {
	frame, err := c.frames.Next()
	if err != nil {
		return 0, 0, nil, err
	}
	key, version, fields, err := wire.SplitHead(frame)
	if err == nil && key == wire.KeyClose {
		var f wire.Close
		err = wire.Decode(fields, &f)
		err = errors.Join(err, fmt.Errorf("the broker closed the connection: %s (%v)", f.Reason, f.Code))
	}
	return key, version, fields, err
}

// ask is call for a command that the broker answers with a code.
func (c *raw) ask(f wire.Frame) error {
	key, _ := f.Head()
	resp := wire.Response{Key: key}
	if err := c.call(f, &resp); err != nil {
		return err
	}
	if resp.Code != wire.CodeOK {
		return fmt.Errorf("%v: %v", key, resp.Code)
	}
	return nil
}

func (c *raw) create(stream string) error {
	return c.ask(&wire.Create{Stream: stream, Arguments: wire.Properties{{Key: "queue-leader-locator", Value: "client-local"}}})
}

func (c *raw) delete(stream string) error { return c.ask(&wire.Delete{Stream: stream}) }

func (c *raw) declare(stream string) error { return c.declareAs(1, stream, "") }

// declareAs declares a publisher, with a name unless it is empty.
func (c *raw) declareAs(id uint8, stream, name string) error {
	return c.ask(&wire.DeclarePublisher{PublisherID: id, Stream: stream, Reference: name})
}

// subscribe asks for the stream's chunks from its beginning.
func (c *raw) subscribe(stream string, credit uint16) error {
	return c.ask(&wire.Subscribe{SubscriptionID: 1, Stream: stream, Spec: wire.OffsetSpec{Type: wire.OffsetFirst}, Credit: credit})
}

// confirms reads the next confirms and returns how many messages they are of.
func (c *raw) confirms() (int, error) {
	for {
		key, _, fields, err := c.next()
		if err != nil {
			return 0, err
		}
		switch key {
		case wire.KeyPublishConfirm:
			o, err := wire.DecodePublishConfirm(fields)
			return o.Len(), err
		case wire.KeyPublishError:
			return 0, errors.New("the broker refused a message")
		}
	}
}
