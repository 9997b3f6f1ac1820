package stream

import (
	"crypto/x509"
	"os"
	"testing"

	official "github.com/rabbitmq/rabbitmq-stream-go-client/pkg/stream"
)

// officialEnvironment is the official client used directly, as a peer.
func officialEnvironment(t testing.TB, uri string) *official.Environment {
	t.Helper()
	env, err := official.NewEnvironment(official.NewEnvironmentOptions().SetUri(uri).SetReadBuffer(-1).SetWriteBuffer(-1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = env.Close() })
	return env
}

func caPool(t testing.TB, file string) *x509.CertPool {
	t.Helper()
	pem, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		t.Fatalf("no certificate in %s", file)
	}
	return pool
}
