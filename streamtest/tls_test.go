package streamtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// authority is a certificate authority for a test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{pool: x509.NewCertPool()}
	pair := a.issue(t, "authority")
	a.cert, a.key = pair.Leaf, pair.PrivateKey.(*ecdsa.PrivateKey)
	a.pool.AddCert(a.cert)
	return a
}

// issue returns a certificate for the common name and for localhost. The first
// one signs itself.
func (a *authority) issue(t *testing.T, name string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: a.cert == nil, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = tmpl, key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func tlsBroker(t *testing.T, a *authority) *Broker {
	t.Helper()
	return NewBroker(t, WithTLS(&tls.Config{
		Certificates: []tls.Certificate{a.issue(t, "localhost")}, ClientCAs: a.pool, ClientAuth: tls.VerifyClientCertIfGiven,
	}))
}

func dialTLS(t *testing.T, b *Broker, a *authority, certs ...tls.Certificate) *rawClient {
	t.Helper()
	c := dialRaw(t, b)
	c.nc = tls.Client(c.nc, &tls.Config{RootCAs: a.pool, ServerName: "localhost", Certificates: certs})
	c.frames = wire.NewFrameReader(c.nc, 0)
	return c
}

func TestTLS(t *testing.T) {
	a := newAuthority(t)
	b := tlsBroker(t, a)
	if !strings.HasPrefix(b.URI(), "rabbitmq-stream+tls://") {
		t.Errorf("URI %s", b.URI())
	}
	c := dialTLS(t, b, a)
	c.login("guest", "guest")
	c.open("/")
	c.create("s")
	c.declare(1, "", "s")
	c.subscribe(1, "s", fromFirst, 100)
	ids := make([]uint64, 10_000) // enough for large and small chunks
	c.publish(1, ids...)
	c.confirmed()
	for n := 0; n < len(ids); {
		_, chunk := c.chunk()
		n += int(chunk.Records)
	}
	c.must(&wire.Close{Correlation: c.next(), Code: wire.CodeOK})
	c.expectEnd()
	plain := dialRaw(t, b)
	plain.send(&wire.PeerProperties{})
	plain.readToEnd()
}

func TestExternal(t *testing.T) {
	a := newAuthority(t)
	b := tlsBroker(t, a)
	for name, want := range map[string]wire.Code{"guest": wire.CodeOK, "nobody": wire.CodeAuthenticationFailure, "": wire.CodeAuthenticationFailure} {
		t.Run("certificate of "+name, func(t *testing.T) {
			var certs []tls.Certificate
			if name != "" {
				certs = append(certs, a.issue(t, name))
			}
			c := dialTLS(t, b, a, certs...)
			c.send(&wire.PeerProperties{}, &wire.SaslHandshake{})
			c.expect(wire.KeyPeerProperties.Response())
			var sasl wire.SaslHandshakeResponse
			if c.decode(&sasl); len(sasl.Mechanisms) != 2 || sasl.Mechanisms[1] != "EXTERNAL" {
				t.Errorf("mechanisms %q", sasl.Mechanisms)
			}
			c.send(&wire.SaslAuthenticate{Mechanism: "EXTERNAL"})
			var resp wire.SaslAuthenticateResponse
			if c.decode(&resp); resp.Code != want {
				t.Errorf("%v, want %v", resp.Code, want)
			}
		})
	}
}

func TestAnonymous(t *testing.T) {
	b := NewBroker(t, WithAnonymous("guest"))
	c := dialRaw(t, b)
	c.send(&wire.PeerProperties{}, &wire.SaslHandshake{})
	c.expect(wire.KeyPeerProperties.Response())
	c.expect(wire.KeySaslHandshake.Response())
	c.send(&wire.SaslAuthenticate{Mechanism: "ANONYMOUS", Data: []byte("whatever")})
	c.expect(wire.KeySaslAuthenticate.Response())
	c.open("/")
	if got := b.Connections()[0].User; got != "guest" {
		t.Errorf("user %q", got)
	}
}

func TestVHosts(t *testing.T) {
	b := NewBroker(t, WithVHost("other"))
	c := openRaw(t, b)
	c.create("s")
	c2 := dialRaw(t, b)
	c2.login("guest", "guest")
	c2.open("other")
	if code := c2.call(&wire.Delete{Correlation: c2.next(), Stream: "s"}); code != wire.CodeStreamDoesNotExist {
		t.Errorf("a stream of another virtual host: %v", code)
	}
	c2.create("s")
	if got := b.Streams(); len(got) != 1 {
		t.Errorf("streams %q", got)
	}
}
