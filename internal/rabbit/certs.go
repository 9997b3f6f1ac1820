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
	certDir    = "tls"
	caFile     = "ca.pem"
	certFile   = "server.pem"
	keyFile    = "server-key.pem"
	certLife   = 365 * 24 * time.Hour
	clockDrift = time.Hour
)

// ensureCerts writes the certificates unless they are there already.
func ensureCerts(dir string) error {
	if _, err := os.Stat(filepath.Join(dir, keyFile)); err == nil { // the last to be written
		return nil
	}
	return writeCerts(dir)
}

// writeCerts makes a certificate authority that exists for this instance only
// (its key is thrown away) and a server certificate for localhost, in dir.
func writeCerts(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	caKey, err1 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	key, err2 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err := errors.Join(err1, err2); err != nil {
		return fmt.Errorf("generate keys: %w", err)
	}
	ca := template(1, "tidemark test CA")
	ca.IsCA, ca.KeyUsage = true, x509.KeyUsageCertSign|x509.KeyUsageDigitalSignature
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
	if err != nil {
		return fmt.Errorf("create the CA certificate: %w", err)
	}
	leaf := template(2, "localhost")
	leaf.DNSNames = []string{"localhost"}
	leaf.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	leaf.KeyUsage = x509.KeyUsageDigitalSignature
	leaf.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, ca, &key.PublicKey, caKey)
	if err != nil {
		return fmt.Errorf("create the server certificate: %w", err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return errors.Join(
		writePEM(filepath.Join(dir, caFile), "CERTIFICATE", caDER),
		writePEM(filepath.Join(dir, certFile), "CERTIFICATE", leafDER),
		writePEM(filepath.Join(dir, keyFile), "PRIVATE KEY", keyDER),
	)
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
