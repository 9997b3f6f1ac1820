package streamtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
)

// InMemory makes the broker serve connections inside the process, in place of
// sockets. Clients reach it by Broker.Dial alone, whatever address they dial.
// The default is to listen with TCP.
//
// Without sockets a test can run in virtual time: in a bubble of
// testing/synctest, a goroutine that waits for a socket keeps the clock from
// moving, and one that waits for such a connection does not. The broker must be
// started inside the bubble. An address of WithAddr is not used. Package
// management would open a socket.
func InMemory() Option { return func(c *config) { c.inMemory = true } }

// Dial makes a connection to a broker that was started with InMemory. It has the
// signature of a dial function of a client, such as Config.Dial of package
// stream. network and address are not looked at. Dial fails while the broker is
// stopped, if the broker listens with TCP, and when ctx ends first.
//
// The connection holds 256 KiB in each direction, as a socket would, before a
// write waits. It has deadlines. Its ends have addresses on 127.0.0.1.
func (b *Broker) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	b.mu.Lock()
	ln, ok := b.ln.(*memoryListener)
	b.mu.Unlock()
	if !ok {
		return nil, fmt.Errorf("dial %s: the broker listens with TCP: start it with InMemory", address)
	}
	client, server := newPipe(ln.addr)
	select {
	case ln.arrivals <- server:
		return client, nil
	case <-ln.closed:
		return nil, fmt.Errorf("dial %s: %w", address, errStopped)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

var errStopped = errors.New("the broker is stopped")

// memoryListener is a net.Listener for Dial.
type memoryListener struct {
	addr     *net.TCPAddr
	arrivals chan net.Conn
	closed   chan struct{}
	once     sync.Once
}

// memoryPort is the port that an in-memory broker is at.
const memoryPort = 5552

// listenInMemory returns a listener on addr, whose port 0 stands for another
// port than the one before.
func listenInMemory(addr string, before net.Listener) net.Listener {
	at := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: memoryPort}
	if old, ok := before.(*memoryListener); ok {
		at.Port = old.addr.Port
		if _, port, _ := net.SplitHostPort(addr); port == "0" {
			at.Port++
		}
	}
	return &memoryListener{addr: at, arrivals: make(chan net.Conn), closed: make(chan struct{})}
}

func (l *memoryListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.arrivals:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *memoryListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *memoryListener) Addr() net.Addr { return l.addr }
