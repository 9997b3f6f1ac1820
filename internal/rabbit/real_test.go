package rabbit

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestReal takes one node through its whole life.
func TestReal(t *testing.T) {
	if os.Getenv("TIDEMARK_REAL") != "1" {
		t.Skip("needs a real RabbitMQ: run make test, or set TIDEMARK_REAL=1 (the first run downloads one)")
	}
	if os.Getenv("RABBITMQ_STREAM_URL") != "" {
		t.Skip("RABBITMQ_STREAM_URL names a broker that is not ours to kill")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	dir := t.TempDir()
	i, err := Up(ctx, dir, 1, testWriter{t})
	must(t, err)
	t.Cleanup(func() { must(t, i.Down(context.WithoutCancel(ctx))) })
	n := i.Nodes()[0]

	t.Run("up again changes nothing", func(t *testing.T) {
		before := pidOf(t, i)
		_, err := Up(ctx, dir, 0, nil)
		must(t, err)
		if after := pidOf(t, i); after != before {
			t.Errorf("process id %d became %d", before, after)
		}
		if _, err := Up(ctx, dir, 3, nil); err == nil {
			t.Error("up with three nodes of an instance with one: no error")
		}
	})
	t.Run("TLS", func(t *testing.T) { checkTLS(t, i) })
	t.Run("drop connections", func(t *testing.T) { checkDrop(t, i) })
	t.Run("kill and start", func(t *testing.T) {
		before := pidOf(t, i)
		must(t, i.Kill(ctx, "n1"))
		if pid := pidOf(t, i); pid != 0 {
			t.Fatalf("process %d runs after kill", pid)
		}
		if i.Provider().Kind != Container { // whose engine holds the ports
			must(t, n.portsFree())
		}
		must(t, i.Start(ctx, "n1"))
		if after := pidOf(t, i); after == 0 || after == before {
			t.Errorf("process id is %d, was %d before the kill", after, before)
		}
	})
	t.Run("ctl", func(t *testing.T) {
		out, err := i.Ctl(ctx, "n1", "list_users")
		must(t, err)
		if !strings.Contains(out, user) {
			t.Errorf("list_users printed %q", out)
		}
		if _, err := i.Ctl(ctx, "n2", "list_users"); !errors.Is(err, ErrUnknownNode) {
			t.Errorf("ctl n2: %v, want ErrUnknownNode", err)
		}
	})
	t.Run("stop and start", func(t *testing.T) {
		must(t, i.Stop(ctx, "n1"))
		must(t, i.Stop(ctx, "n1"))
		if _, err := i.Ctl(ctx, "n1", "status"); !errors.Is(err, ErrNodeDown) {
			t.Errorf("ctl of a node that is down: %v, want ErrNodeDown", err)
		}
		must(t, i.Start(ctx, "n1"))
	})
	t.Run("down", func(t *testing.T) {
		must(t, i.Down(ctx))
		must(t, i.Down(ctx))
		must(t, n.portsFree())
		must(t, portFree(i.state.EpmdPort))
		if _, err := Open(dir); !errors.Is(err, ErrNoInstance) {
			t.Errorf("Open after Down: %v, want ErrNoInstance", err)
		}
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func pidOf(t *testing.T, i *Instance) int {
	t.Helper()
	pid, err := i.backend.pid(t.Context(), i.state.Nodes[0])
	must(t, err)
	return pid
}

func checkTLS(t *testing.T, i *Instance) {
	pem, err := os.ReadFile(i.CAFile())
	must(t, err)
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		t.Fatal("no certificate in CAFile")
	}
	for _, name := range []string{"localhost", "127.0.0.1"} {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(i.Nodes()[0].StreamTLSPort))
		conn, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: roots, ServerName: name})
		must(t, err)
		must(t, conn.Close())
	}
}

func checkDrop(t *testing.T, i *Instance) {
	drop, keep := openStream(t, i.Nodes()[0]), openStream(t, i.Nodes()[0])
	port := drop.LocalAddr().(*net.TCPAddr).Port
	n, err := i.DropConnections(t.Context(), func(c Connection) bool { return c.PeerPort == port && c.User == user })
	must(t, err)
	if n != 1 {
		t.Errorf("dropped %d connections, want 1", n)
	}
	if _, err := io.Copy(io.Discard, drop); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the connection is still open")
	}
	left, err := i.Connections(t.Context())
	must(t, err)
	if len(left) != 1 || left[0].PeerPort != keep.LocalAddr().(*net.TCPAddr).Port {
		t.Errorf("connections left: %+v, want the other one", left)
	}
}

// openStream opens a stream connection and logs in, as far as the broker needs
// to list it.
func openStream(t *testing.T, n Node) net.Conn {
	conn, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(n.StreamPort)))
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	must(t, conn.SetDeadline(time.Now().Add(30*time.Second)))
	sasl := "\x00" + user + "\x00" + password
	send(t, conn, 0x11, []byte{0, 0, 0, 1, 0, 0, 0, 0}) // PeerProperties
	receive(t, conn)
	send(t, conn, 0x12, []byte{0, 0, 0, 4}) // SaslHandshake
	receive(t, conn)
	send(t, conn, 0x13, append([]byte{0, 0, 0, 2, 0, 5, 'P', 'L', 'A', 'I', 'N', 0, 0, 0, byte(len(sasl))}, sasl...))
	receive(t, conn)                                   // SaslAuthenticate's answer
	tune := receive(t, conn)                           // the broker's Tune,
	send(t, conn, 0x14, tune[4:])                      // accepted as it is
	send(t, conn, 0x15, []byte{0, 0, 0, 3, 0, 1, '/'}) // Open
	receive(t, conn)
	return conn
}

func send(t *testing.T, conn net.Conn, key uint16, body []byte) {
	frame := binary.BigEndian.AppendUint32(nil, uint32(4+len(body)))
	frame = binary.BigEndian.AppendUint16(frame, key)
	frame = binary.BigEndian.AppendUint16(frame, 1)
	_, err := conn.Write(append(frame, body...))
	must(t, err)
}

func receive(t *testing.T, conn net.Conn) []byte {
	var size [4]byte
	_, err := io.ReadFull(conn, size[:])
	must(t, err)
	frame := make([]byte, binary.BigEndian.Uint32(size[:]))
	_, err = io.ReadFull(conn, frame)
	must(t, err)
	return frame
}

// testWriter sends progress to the test's log.
type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}
