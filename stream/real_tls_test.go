package stream

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/tidemark-go/tidemark/internal/rabbit"
)

// demandCertificates makes a node verify its clients until the end of the test.
func demandCertificates(t *testing.T, b *rabbit.Instance, node string) {
	t.Helper()
	conf := filepath.Join(b.Dir(), node, "conf.d", "verify.conf")
	t.Cleanup(func() {
		if err := errors.Join(os.Remove(conf), restart(b, node)); err != nil {
			t.Error(err)
		}
	})
	must(t, os.WriteFile(conf, []byte("ssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = true\n"), 0o644))
	must(t, restart(b, node))
}

// caOf returns the authority that signs an instance's certificates.
func caOf(t *testing.T, b *rabbit.Instance) *x509.CertPool {
	t.Helper()
	pem, err := os.ReadFile(b.CAFile())
	must(t, err)
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		t.Fatalf("%s has no certificate", b.CAFile())
	}
	return pool
}

// TestRealClientCertificates: RabbitMQ demands a client certificate. With one
// everything works. Without one, or with one of another authority, the error says
// what is missing.
func TestRealClientCertificates(t *testing.T) {
	b := mortalBroker(t)
	demandCertificates(t, b, "n1")
	cert, err := tls.LoadX509KeyPair(b.ClientCertificate())
	must(t, err)
	ca := caOf(t, b)
	foreign := newAuthority(t).certificate("client")
	for name, version := range map[string]uint16{"TLS 1.2": tls.VersionTLS12, "TLS 1.3": tls.VersionTLS13} {
		t.Run(name, func(t *testing.T) {
			connect := func(c *tls.Config) (*Env, error) {
				c.RootCAs, c.MinVersion, c.MaxVersion = ca, version, version
				return Connect(inTime(t), Config{URIs: []string{b.StreamTLSURL()}, TLS: c})
			}
			env, err := connect(&tls.Config{Certificates: []tls.Certificate{cert}})
			must(t, err)
			stream := newStream(t, env)
			publish(t, env, stream, 0, 10)
			bodies, _ := readN(t, env, stream, ConsumerConfig{Name: "c"}, 10)
			wantNumbers(t, bodies, 0, 10)
			must(t, env.Close())
			_, err = connect(&tls.Config{})
			wantMissing(t, err)
			_, err = connect(&tls.Config{GetClientCertificate: always(foreign)})
			wantMissing(t, err)
		})
	}
}
