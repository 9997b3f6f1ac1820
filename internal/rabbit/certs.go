package rabbit

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

const (
	certDir       = "tls"
	caFile        = "ca.pem"
	certFile      = "server.pem"
	keyFile       = "server-key.pem"
	clientFile    = "client.pem"
	clientKeyFile = "client-key.pem"
	certLife      = 365 * 24 * time.Hour
	clockDrift    = time.Hour
)

// ensureCerts writes the certificates unless they are there already.
func ensureCerts(dir string) error {
	if _, err := os.Stat(filepath.Join(dir, keyFile)); err == nil { // the last to be written
		return nil
	}
	return writeCerts(dir)
}

// writeCerts makes, in dir, a certificate authority that exists for this instance
// only (its key is thrown away), a server certificate for localhost, and a client
// certificate.
func writeCerts(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	a, err := newAuthority()
	if err != nil {
		return err
	}
	client := template(3, user)
	client.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	server := template(2, "localhost")
	server.DNSNames = []string{"localhost"}
	server.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	server.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	return errors.Join(
		writePEM(filepath.Join(dir, caFile), "CERTIFICATE", a.der),
		a.write(client, filepath.Join(dir, clientFile), filepath.Join(dir, clientKeyFile)),
		a.write(server, filepath.Join(dir, certFile), filepath.Join(dir, keyFile)),
	)
}

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	der  []byte
	key  *ecdsa.PrivateKey
}

func newAuthority() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate the CA's key: %w", err)
	}
	ca := template(1, "tidemark test CA")
	ca.IsCA, ca.KeyUsage = true, x509.KeyUsageCertSign|x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("create the CA certificate: %w", err)
	}
	return &authority{ca, der, key}, nil
}

// write signs a certificate and writes it and its key.
func (a *authority) write(leaf *x509.Certificate, certPath, keyPath string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("generate a key: %w", err)
	}
	leaf.KeyUsage = x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, leaf, a.cert, &key.PublicKey, a.key)
	if err != nil {
		return fmt.Errorf("create the certificate for %s: %w", leaf.Subject.CommonName, err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return errors.Join(writePEM(certPath, "CERTIFICATE", der), writePEM(keyPath, "PRIVATE KEY", keyDER))
}

func template(serial int64, name string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber:          big.NewInt(serial),
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             time.Now().Add(-clockDrift),
		NotAfter:              time.Now().Add(certLife),
		BasicConstraintsValid: true,
	}
}

// writePEM writes one block. The key is readable by all: the broker runs as a
// user of its own, and the certificate is worth nothing outside the instance.
func writePEM(path, kind string, der []byte) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o644)
}
