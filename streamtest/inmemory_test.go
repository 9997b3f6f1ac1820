package streamtest

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// TestInMemory: a client in a bubble speaks to a broker in it, and virtual time
// passes: the heartbeats of a minute come at once.
func TestInMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBroker(t, InMemory(), WithHeartbeat(10*time.Second))
		nc, err := b.Dial(t.Context(), "tcp", "ignored:1")
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		for _, step := range session[:5] {
			if _, err := nc.Write(step.send); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		list := b.Connections()
		if len(list) != 1 || !list[0].Ready || list[0].Name != nc.LocalAddr().String()+" -> "+b.Addr() {
			t.Fatalf("connections %+v", list)
		}
		begin := time.Now()
		if _, err := io.Copy(io.Discard, nc); err != nil { // until the broker misses our heartbeats
			t.Fatal(err)
		}
		if took := time.Since(begin); took < 2*time.Minute {
			t.Errorf("the broker cut us off after %v, want the heartbeat of a minute that we chose", took)
		}
	})
}

// TestInMemoryFaults: Stop, Restart, RefuseConnections and resets act as they do
// on sockets.
func TestInMemoryFaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBroker(t, InMemory())
		dial := func() net.Conn {
			nc, err := b.Dial(t.Context(), "tcp", b.Addr())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { nc.Close() })
			synctest.Wait()
			return nc
		}
		readErr := func(nc net.Conn) error { _, err := nc.Read(make([]byte, 1)); return err }

		nc := dial()
		b.DropConnections(CutRST)
		if err := readErr(nc); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("after a reset: %v", err)
		}
		b.RefuseConnections(true)
		if err := readErr(dial()); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("while connections are refused: %v", err)
		}
		b.ClearFaults()
		nc = dial()
		b.Stop()
		if err := readErr(nc); err != io.EOF {
			t.Errorf("after Stop: %v", err)
		}
		if _, err := b.Dial(t.Context(), "tcp", b.Addr()); !errors.Is(err, errStopped) {
			t.Errorf("Dial after Stop: %v", err)
		}
		was := b.Addr()
		if err := b.RestartOnNewPort(); err != nil || b.Addr() == was {
			t.Errorf("%v, the address %s was %s", err, b.Addr(), was)
		}
		if err := b.Restart(); err != nil || len(b.Connections()) > 0 {
			t.Errorf("%v, %d connections", err, len(b.Connections()))
		}
		dial()
		if n := len(b.Connections()); n != 1 {
			t.Errorf("%d connections after Restart", n)
		}
	})
	if _, err := NewBroker(t).Dial(t.Context(), "tcp", "x:1"); err == nil {
		t.Error("Dial reached a broker that listens with TCP")
	}
}

// TestPipe: bytes come in order, a write waits only when the pipe is full, and
// deadlines end what waits.
func TestPipe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newPipe(&net.TCPAddr{Port: 1})
		if n, err := a.Write(make([]byte, pipeRoom)); n != pipeRoom || err != nil {
			t.Fatal(n, err)
		}
		a.SetWriteDeadline(time.Now().Add(time.Second))
		if n, err := a.Write([]byte("x")); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("wrote %d to a full pipe, %v", n, err)
		}
		a.SetWriteDeadline(time.Time{})
		go func() { _, _ = a.Write([]byte("hello")); a.Close() }()
		got, err := io.ReadAll(b)
		if err != nil || string(got[pipeRoom:]) != "hello" {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		if _, err := b.Write([]byte("x")); err == nil {
			t.Error("wrote to an end that is closed")
		}
		if _, err := a.Read(got); !errors.Is(err, net.ErrClosed) {
			t.Errorf("read from a closed end: %v", err)
		}

		c, _ := newPipe(&net.TCPAddr{Port: 1})
		go func() { time.Sleep(time.Minute); c.SetReadDeadline(time.Now()) }() // as a context that ends does
		if _, err := c.Read(got); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a read whose deadline was set later: %v", err)
		}
	})
}
