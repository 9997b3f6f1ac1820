package streamtest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"
)

const defaultVHost = "/"

// Broker is a running broker. Its methods may be called from any goroutine.
type Broker struct {
	cfg  config
	mgmt *management
	wg   sync.WaitGroup // every goroutine of the broker

	mu       sync.Mutex // guards everything below and all state of connections and streams
	ln       net.Listener
	closed   bool
	stopped  bool // by Stop, until it listens again
	clock    clock
	accounts map[string]*account
	vhosts   map[string]*vhost
	stored   int64              // bytes, roughly
	conns    map[*conn]struct{} // alive
	sockets  map[*conn]struct{} // open, also those that only write their last answers
	connSeq  uint64
	faults   faults
	journal  journal
	change   chan struct{} // closed on the next change; nil while nobody waits
}

// Start starts a broker. Callers close it. It fails when an address cannot be listened on or a
// permission pattern does not compile. In tests, NewBroker is shorter.
func Start(opts ...Option) (*Broker, error) {
	b := &Broker{
		cfg: newConfig(opts), accounts: make(map[string]*account),
		vhosts: make(map[string]*vhost), conns: make(map[*conn]struct{}),
		sockets: make(map[*conn]struct{}),
	}
	if !b.cfg.start.IsZero() {
		b.clock.data = time.Until(b.cfg.start)
	}
	for _, u := range b.cfg.users {
		a, err := newAccount(u)
		if err != nil {
			return nil, err
		}
		b.accounts[u.Name] = a
	}
	for _, name := range b.cfg.vhosts {
		b.vhosts[name] = newVHost(b, name)
	}
	if err := b.listen(b.cfg.addr); err != nil {
		return nil, err
	}
	if err := b.startManagement(); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

// NewBroker starts a broker that is closed at the end of the test. The test fails when the broker cannot
// be started, or when it leaves a goroutine or a connection behind.
func NewBroker(t testing.TB, opts ...Option) *Broker {
	t.Helper()
	b, err := Start(opts...)
	if err != nil {
		t.Fatalf("streamtest: %v", err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("streamtest: %v", err)
		}
	})
	return b
}

// listen opens the listener and starts accepting.
func (b *Broker) listen(addr string) error {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("listen for streams: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed { // meanwhile: nobody would wait for the goroutine
		ln.Close()
		return fmt.Errorf("listen for streams: %w", net.ErrClosed)
	}
	b.ln, b.stopped = ln, false
	b.wg.Add(1)
	go b.accept(ln)
	return nil
}

// accept hands each connection to its goroutines until the listener is closed.
func (b *Broker) accept(ln net.Listener) {
	defer b.wg.Done()
	for {
		raw, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// Out of file descriptors, most likely: without a pause this would spin.
			b.cfg.logger.Warn("accept", "error", err)
			time.Sleep(10 * time.Millisecond)
			continue
		}
		b.admit(raw, ln)
	}
}

// admit starts a connection, unless the broker refuses or has been stopped meanwhile.
func (b *Broker) admit(raw net.Conn, ln net.Listener) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || b.stopped || b.ln != ln || b.faults.refuse {
		reset(raw)
		return
	}
	nc := raw
	if b.cfg.tls != nil {
		nc = tls.Server(raw, b.cfg.tls)
	}
	c := newConn(b, raw, nc)
	b.conns[c], b.sockets[c] = struct{}{}, struct{}{}
	b.wg.Add(2)
	go c.readLoop()
	go c.writeLoop()
	b.changed()
}

// Addr returns the address the broker listens on, host:port. While it is stopped, the last one.
func (b *Broker) Addr() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ln.Addr().String()
}

// URI returns the URI of the broker: with its first user, password included, and the virtual host "/".
func (b *Broker) URI() string { return b.uri(b.cfg.users[0]) }

func (b *Broker) uri(u User) string {
	b.mu.Lock()
	host, port := b.cfg.advertise(b.ln.Addr())
	b.mu.Unlock()
	scheme := "rabbitmq-stream"
	if b.cfg.tls != nil {
		scheme = "rabbitmq-stream+tls"
	}
	at := url.URL{Scheme: scheme, User: url.UserPassword(u.Name, u.Password), Host: net.JoinHostPort(host, port)}
	return at.String() + "/%2f"
}

// closeTimeout is how long Close waits for goroutines that have nothing left to wait for.
const closeTimeout = 10 * time.Second

// Close stops the broker, cuts its connections and waits for its goroutines. What was stored is gone.
// Further calls do nothing. It fails when a goroutine does not end within ten seconds, which is a
// fault of the broker.
func (b *Broker) Close() error {
	b.mu.Lock()
	b.closed = true
	ln := b.ln
	for c := range b.sockets {
		c.end(CutFIN)
		c.room.Broadcast()
	}
	b.changed()
	b.mu.Unlock()
	if ln != nil {
		ln.Close() // already closed after Stop: nothing to report
	}
	err := b.mgmt.close()
	done := make(chan struct{})
	go func() { b.wg.Wait(); close(done) }()
	timer := time.NewTimer(closeTimeout)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
		return errors.New("close: goroutines of the broker are still running")
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if n := len(b.sockets); n > 0 {
		return fmt.Errorf("close: %d connections are still there", n)
	}
	return err
}

// changed wakes those who wait for a condition. Called with mu held.
func (b *Broker) changed() {
	if b.change != nil {
		close(b.change)
		b.change = nil
	}
}

// Await returns nil as soon as cond is true, asking again after everything that happens in the broker,
// and the context's error when ctx ends first. cond may call the broker's methods.
func (b *Broker) Await(ctx context.Context, cond func() bool) error {
	for {
		b.mu.Lock()
		if b.change == nil {
			b.change = make(chan struct{})
		}
		change := b.change
		b.mu.Unlock()
		if cond() {
			return nil
		}
		select {
		case <-change:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// reset ends a connection with RST.
func reset(raw net.Conn) {
	if tcp, ok := raw.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // fails only on a connection that is gone already
	}
	raw.Close()
}
