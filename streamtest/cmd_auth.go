package streamtest

import (
	"bytes"
	"crypto/subtle"
	"crypto/tls"
	"net"
	"regexp"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// This file handles SaslAuthenticate, both in the handshake and on a ready
// connection, and checks permissions.
//
// Not implemented: AMQPLAIN, OAuth 2 and challenges. Permissions do not change
// while the broker runs, so that re-authentication never removes publishers or
// subscriptions.

const (
	mechanismPlain     = "PLAIN"
	mechanismExternal  = "EXTERNAL"
	mechanismAnonymous = "ANONYMOUS"
)

func (c *conn) mechanisms() []string {
	list := []string{mechanismPlain}
	if c.b.cfg.anonymous != "" {
		list = append(list, mechanismAnonymous)
	}
	if c.external() {
		list = append(list, mechanismExternal)
	}
	return list
}

// external reports whether a client may log in with a TLS certificate.
func (c *conn) external() bool {
	return c.b.cfg.tls != nil && c.b.cfg.tls.ClientAuth >= tls.VerifyClientCertIfGiven
}

func (c *conn) authenticate(req *wire.SaslAuthenticate) {
	user, code := c.identify(req)
	if code != wire.CodeOK {
		c.b.cfg.logger.Info("login refused", "connection", c.name, "mechanism", req.Mechanism, "code", code.String())
		c.fail(wire.KeySaslAuthenticate, req.Correlation, code)
		return
	}
	c.user, c.mechanism = user, req.Mechanism
	c.send(&wire.SaslAuthenticateResponse{Correlation: req.Correlation, Code: wire.CodeOK})
	c.advance(phaseTune)
	c.send(&wire.Tune{FrameMax: c.b.cfg.frameMax, Heartbeat: uint32(c.b.cfg.heartbeat.Seconds())})
}

// reauthenticate renews the login of a ready connection. The mechanism and the
// user must stay the same. During a disk alarm RabbitMQ does not know the command.
func (c *conn) reauthenticate(req *wire.SaslAuthenticate) {
	if c.b.faults.alarm {
		c.refuseFrame(wire.CodeUnknownFrame)
		return
	}
	if req.Mechanism != c.mechanism {
		c.fail(wire.KeySaslAuthenticate, req.Correlation, wire.CodeSaslCannotChangeMechanism)
		return
	}
	user, code := c.identify(req)
	if code == wire.CodeOK && user != c.user {
		code = wire.CodeSaslCannotChangeUsername
	}
	if code != wire.CodeOK {
		c.fail(wire.KeySaslAuthenticate, req.Correlation, code)
		return
	}
	c.send(&wire.SaslAuthenticateResponse{Correlation: req.Correlation, Code: wire.CodeOK})
}

// identify returns the account that the client proves to own.
func (c *conn) identify(req *wire.SaslAuthenticate) (*account, wire.Code) {
	switch {
	case req.Mechanism == mechanismPlain:
		return c.identifyPlain(req.Data)
	case req.Mechanism == mechanismAnonymous && c.b.cfg.anonymous != "":
		return c.b.accountNamed(c.b.cfg.anonymous)
	case req.Mechanism == mechanismExternal && c.external():
		return c.identifyExternal()
	}
	return nil, wire.CodeSaslMechanismNotSupported
}

// identifyPlain checks the data of SASL PLAIN: NUL user NUL password. Like
// RabbitMQ it refuses an authorization identity before the first NUL.
func (c *conn) identifyPlain(data []byte) (*account, wire.Code) {
	parts := bytes.Split(data, []byte{0})
	if len(parts) != 3 || len(parts[0]) > 0 {
		return nil, wire.CodeSaslError
	}
	user := string(parts[1])
	if !c.b.Authenticate(user, string(parts[2])) {
		return nil, wire.CodeAuthenticationFailure
	}
	if user == "guest" && !loopback(c.raw.RemoteAddr()) {
		return nil, wire.CodeAuthenticationLoopback
	}
	return c.b.accounts[user], wire.CodeOK
}

// Authenticate reports whether the broker has a user with this password. How long
// it takes says nothing about the password but its length. The rule that guest
// logs in over the loopback interface only is not part of it.
func (b *Broker) Authenticate(user, password string) bool {
	a := b.accounts[user] // the map never changes after Start
	return a != nil && subtle.ConstantTimeCompare([]byte(a.Password), []byte(password)) == 1
}

func loopback(addr net.Addr) bool {
	tcp, ok := addr.(*net.TCPAddr)
	return ok && tcp.IP.IsLoopback()
}

// identifyExternal returns the account named by the common name of the verified
// client certificate.
func (c *conn) identifyExternal() (*account, wire.Code) {
	tc, ok := c.nc.(*tls.Conn)
	if !ok {
		return nil, wire.CodeSaslMechanismNotSupported
	}
	chains := tc.ConnectionState().VerifiedChains
	if len(chains) == 0 {
		return nil, wire.CodeAuthenticationFailure
	}
	return c.b.accountNamed(chains[0][0].Subject.CommonName)
}

// accountNamed returns the account of a user, without asking for a password.
func (b *Broker) accountNamed(user string) (*account, wire.Code) {
	if a := b.accounts[user]; a != nil {
		return a, wire.CodeOK
	}
	return nil, wire.CodeAuthenticationFailure
}

// mayEnter reports whether the user has any permission in the virtual host.
func (a *account) mayEnter(vhost string) bool {
	return a.permissions == nil || a.permissions[vhost] != nil
}

// These functions select one of the three patterns of a permission, for may.
func configure(p *patterns) *regexp.Regexp { return p.configure }
func write(p *patterns) *regexp.Regexp     { return p.write }
func read(p *patterns) *regexp.Regexp      { return p.read }

// may reports whether the pattern that kind selects lets the user of the
// connection use name. kind is configure, write or read.
func (c *conn) may(kind func(*patterns) *regexp.Regexp, name string) bool {
	if c.user.permissions == nil {
		return true
	}
	p := c.user.permissions[c.vhost.name]
	return p != nil && kind(p).MatchString(name)
}
