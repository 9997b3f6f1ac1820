// Package script plays the broker's part on a real socket, frame by frame, for
// tests that decide every move of the broker.
package script

import (
	"net"
	"sync"
	"testing"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// The login that Peer.Welcome expects.
const (
	User     = "me"
	Password = "se:cr@t"
)

// Listen accepts connections on loopback and has serve play the broker's part on
// each. It returns the port. The end of the test closes everything and waits for
// it.
func Listen(t testing.TB, serve func(*Peer)) (port int) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &listener{ln: ln}
	l.wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			l.keep(conn)
			l.wg.Go(func() {
				defer conn.Close()
				serve(NewPeer(t, conn))
			})
		}
	})
	t.Cleanup(l.close)
	return ln.Addr().(*net.TCPAddr).Port
}

type listener struct {
	ln net.Listener
	wg sync.WaitGroup

	mu     sync.Mutex
	conns  []net.Conn
	closed bool
}

func (l *listener) keep(conn net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns = append(l.conns, conn)
	if l.closed {
		_ = conn.Close()
	}
}

func (l *listener) close() {
	_ = l.ln.Close()
	l.mu.Lock()
	l.closed = true
	for _, conn := range l.conns {
		_ = conn.Close()
	}
	l.mu.Unlock()
	l.wg.Wait()
}

// Peer is the broker's end of a connection.
type Peer struct {
	Conn   net.Conn
	Frames *wire.FrameReader

	t       testing.TB
	writing sync.Mutex
}

// NewPeer returns the broker's end of a connection.
func NewPeer(t testing.TB, conn net.Conn) *Peer {
	return &Peer{t: t, Conn: conn, Frames: wire.NewFrameReader(conn, 0)}
}

// Next returns the next frame that is not a heartbeat. ok is false at the end of
// the connection, and after a frame without a key, which fails the test.
func (p *Peer) Next() (key wire.Key, fields []byte, ok bool) {
	for {
		frame, err := p.Frames.Next()
		if err != nil {
			return 0, nil, false
		}
		key, _, fields, err := wire.SplitHead(frame)
		if err != nil {
			p.t.Errorf("the client sent %x: %v", frame, err)
			return 0, nil, false
		}
		if key != wire.KeyHeartbeat {
			return key, fields, true
		}
	}
}

// Expect reads the next frame into f and reports whether it could. A frame of
// another key fails the test; the end of the connection does not.
func (p *Peer) Expect(f wire.Frame) bool {
	want, _ := f.Head()
	key, fields, ok := p.Next()
	if !ok {
		return false
	}
	if key != want {
		p.t.Errorf("the client sent %v, want %v", key, want)
		return false
	}
	return p.Decode(fields, f)
}

// Decode decodes a frame's fields and reports whether it could. If not, the test
// fails.
func (p *Peer) Decode(fields []byte, f wire.Frame) bool {
	if err := wire.Decode(fields, f); err != nil {
		p.t.Error(err)
		return false
	}
	return true
}

// Send writes frames. A client that is gone is no fault.
func (p *Peer) Send(frames ...wire.Frame) {
	for _, f := range frames {
		b, err := wire.Append(nil, f)
		if err != nil {
			p.t.Error(err)
		}
		p.Write(b)
	}
}

// Write writes bytes, which other calls do not cut in two. A client that is gone
// is no fault.
func (p *Peer) Write(b []byte) {
	p.writing.Lock()
	defer p.writing.Unlock()
	_, _ = p.Conn.Write(b)
}

// Stall says nothing more until the client hangs up.
func (p *Peer) Stall() {
	for {
		if _, _, ok := p.Next(); !ok {
			return
		}
	}
}
