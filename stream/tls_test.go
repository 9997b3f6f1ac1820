package stream

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/check"
	"github.com/tidemark-go/tidemark/streamtest"
)

// authority is a certificate authority of a test's own.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t}
	a.cert, a.key = a.sign(&x509.Certificate{IsCA: true, BasicConstraintsValid: true, Subject: pkix.Name{CommonName: "test authority"}})
	return a
}

// sign returns a certificate of the authority, or its own if it has none yet.
func (a *authority) sign(template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(a.t, err)
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	must(a.t, err)
	cert, err := x509.ParseCertificate(der)
	must(a.t, err)
	return cert, key
}

// certificate is for a host, which may be an IP address.
func (a *authority) certificate(host string) tls.Certificate {
	a.t.Helper()
	template := &x509.Certificate{Subject: pkix.Name{CommonName: host}}
	if ip := net.ParseIP(host); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{host}
	}
	cert, key := a.sign(template)
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// server is what a node with a certificate for a host uses.
func (a *authority) server(host string) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{a.certificate(host)}}
}

// TestTLSServerName: one rule for administration, consumers and producers. A
// name that is set holds for every node. Without one each node is to have a
// certificate for the host at which it is dialed.
func TestTLSServerName(t *testing.T) {
	beside(t)
	a := newAuthority(t)
	for _, test := range []struct {
		name          string
		first, second string // whom the nodes' certificates are for
		serverName    string
		connect, use  error
	}{
		{"a certificate per node", "127.0.0.1", "localhost", "", nil, nil},
		{"a shared certificate", "cluster.example", "cluster.example", "cluster.example", nil, nil},
		{"a shared certificate without the name", "cluster.example", "cluster.example", "", ErrTLS, nil},
		{"a certificate per node and a name", "127.0.0.1", "localhost", "localhost", ErrTLS, nil},
		{"a certificate for another node", "127.0.0.1", "127.0.0.1", "", nil, ErrTLS},
		{"one node without the shared certificate", "cluster.example", "localhost", "cluster.example", nil, ErrTLS},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := startPair(t, a.server(test.first), a.server(test.second))
			env, err := p.connect(t, &tls.Config{RootCAs: a.pool(), ServerName: test.serverName})
			if wantErr(t, err, test.connect); err != nil {
				return
			}
			published, read := publishAndRead(t, env)
			wantErr(t, published, test.use)
			wantErr(t, read, test.use)
			for _, err := range []error{published, read} {
				if err != nil && !strings.Contains(err.Error(), "advertises the address localhost") {
					t.Errorf("%v: does not say where the host comes from", err)
				}
			}
		})
	}
}

// TestOneBadCertificate: the other nodes are used. Where no node is left, that is
// the error, at once.
func TestOneBadCertificate(t *testing.T) {
	beside(t)
	a, other := newAuthority(t), newAuthority(t)
	p := startPair(t, a.server("127.0.0.1"), a.server("localhost"))
	bad := startPair(t, other.server("127.0.0.1"), other.server("localhost"))
	p.replicas = []int{check.Port(t, bad.leader.Addr())}
	good := p.uri
	for range 6 { // the order is random
		p.uri = bad.uri + "," + good
		env, err := p.connect(t, trusting(a))
		must(t, err)
		published, read := publishAndRead(t, env)
		must(t, errors.Join(published, read))
	}
	p.uri = bad.uri + "," + bad.uri
	_, err := p.connect(t, trusting(a))
	wantErr(t, err, ErrTLS)
	if errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "1 more") {
		t.Errorf("%v: would be tried again, or does not mention the other node", err)
	}
	// A node that is down may come back with a certificate that is right.
	p.uri = bad.uri + ",rabbitmq-stream+tls://127.0.0.1:1"
	_, err = p.connect(t, trusting(a))
	wantErr(t, err, ErrTLS, ErrUnreachable)
	if !strings.Contains(err.Error(), "certificate") {
		t.Errorf("%v: hides what a person has to mend", err)
	}
}

// TestClientCertificates: a broker that demands one, and refuses it, is ErrTLS,
// with TLS 1.3 as well, where that shows only after the client's handshake.
func TestClientCertificates(t *testing.T) {
	beside(t)
	a, other := newAuthority(t), newAuthority(t)
	demanding := func(host string, version uint16) *tls.Config {
		cfg := a.server(host)
		cfg.ClientAuth, cfg.ClientCAs = tls.RequireAndVerifyClientCert, a.pool()
		cfg.MinVersion, cfg.MaxVersion = version, version
		return cfg
	}
	refused := other.certificate("client")
	for name, version := range map[string]uint16{"TLS 1.2": tls.VersionTLS12, "TLS 1.3": tls.VersionTLS13} {
		t.Run(name, func(t *testing.T) {
			// The first node, where everybody begins.
			p := startPair(t, demanding("127.0.0.1", version), demanding("localhost", version))
			_, err := p.connect(t, trusting(a))
			wantMissing(t, err)
			_, err = p.connect(t, &tls.Config{RootCAs: a.pool(), GetClientCertificate: always(refused)})
			wantMissing(t, err)
			env, err := p.connect(t, &tls.Config{RootCAs: a.pool(), Certificates: []tls.Certificate{a.certificate("client")}})
			must(t, err)
			published, read := publishAndRead(t, env)
			must(t, errors.Join(published, read))
			// Another node, where only consumers and producers come.
			p = startPair(t, a.server("127.0.0.1"), demanding("localhost", version))
			env, err = p.connect(t, trusting(a))
			must(t, err)
			published, read = publishAndRead(t, env)
			wantMissing(t, published)
			wantMissing(t, read)
		})
	}
}

// wantMissing wants an error that says what is missing and is not tried again.
func wantMissing(t *testing.T, err error) {
	t.Helper()
	wantErr(t, err, ErrTLS)
	if !isFatal(err) || err == nil || !strings.Contains(err.Error(), "Config.TLS.Certificates") {
		t.Errorf("%v: is tried again, or does not say what to do", err)
	}
}

// always gives a certificate even to a server that does not name its authority.
func always(c tls.Certificate) func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	return func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &c, nil }
}

// TestClientCertificateOfARunningProducer: a broker that comes back and demands a
// certificate ends the producer and the consumer, which cannot help it.
func TestClientCertificateLater(t *testing.T) {
	beside(t)
	a := newAuthority(t)
	server := a.server("localhost")
	demand := make(chan bool, 1)
	demand <- false
	server.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		d := <-demand
		demand <- d
		if !d {
			return nil, nil
		}
		cfg := server.Clone()
		cfg.GetConfigForClient, cfg.ClientAuth = nil, tls.RequireAnyClientCert
		return cfg, nil
	}
	b := streamtest.NewBroker(t, streamtest.WithTLS(server))
	b.CreateStream(testStream)
	cfg := testConfig()
	cfg.URIs, cfg.TLS = []string{b.URI()}, trusting(a)
	env, err := Connect(soon(t), cfg)
	must(t, err)
	t.Cleanup(func() { _ = env.Close() })
	p, err := env.NewProducer(soon(t), testStream, ProducerConfig{})
	must(t, err)
	must(t, p.Publish(soon(t), Message{Body: []byte("x")}))
	c, err := env.NewConsumer(testStream, ConsumerConfig{})
	must(t, err)
	handled, ended := make(chan struct{}, 1), make(chan error, 1)
	go func() {
		ended <- c.Run(soon(t), func(context.Context, *Delivery) error { handled <- struct{}{}; return nil })
	}()
	recv(t, handled, "the message")
	<-demand
	demand <- true
	b.DropConnections(streamtest.CutFIN)
	wantMissing(t, recv(t, ended, "the end of Run"))
	wantMissing(t, p.Publish(soon(t), Message{Body: []byte("y")}))
}

// trusting returns the configuration of a client that trusts an authority.
func trusting(a *authority) *tls.Config { return &tls.Config{RootCAs: a.pool()} }
