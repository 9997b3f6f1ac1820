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

// Broker is a running broker; Start and NewBroker make one. Any goroutine may
// call its methods, except from the handler of a logger given to WithLogger.
// Await and Close wait; all other methods return without waiting for clients.
// Where a method takes the name of a stream, it looks in the virtual host "/".
type Broker struct {
	cfg  config
	done chan struct{}  // closed by Close
	wg   sync.WaitGroup // every goroutine of the broker

	mu       sync.Mutex // guards the fields below and the state of all connections and streams
	ln       net.Listener
	closed   bool
	stopped  bool // Stop was called; the broker does not listen
	clock    clock
	accounts map[string]*account
	vhosts   map[string]*vhost
	stored   int64              // bytes in memory, approximately
	conns    map[*conn]struct{} // connections that still hold state
	sockets  map[*conn]struct{} // connections whose socket is open: conns, and those that end
	connSeq  uint64
	faults   faults
	journal  journal
	change   chan struct{} // closed on the next change; nil while no Await waits
}

// Start starts a broker and returns once it listens. The caller must Close it.
// In a test, use NewBroker instead.
//
// By default the broker listens on a free port of the loopback interface. It
// has the user guest with password guest and the virtual host "/".
//
// Start fails if the broker cannot listen on the address of WithAddr, if a
// permission pattern is not a valid regular expression, or if the address of
// WithAdvertised is invalid.
func Start(opts ...Option) (*Broker, error) {
	b := &Broker{
		cfg: newConfig(opts), done: make(chan struct{}), accounts: make(map[string]*account),
		vhosts: make(map[string]*vhost), conns: make(map[*conn]struct{}),
		sockets: make(map[*conn]struct{}),
	}
	if !b.cfg.start.IsZero() {
		b.clock.data = time.Until(b.cfg.start)
	}
	if _, _, err := splitAdvertised(b.cfg.advertised); err != nil {
		return nil, err
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
	return b, nil
}

// NewBroker starts a broker for a test, with the defaults of Start, and closes
// it when the test ends. It must be called from the goroutine of the test: if
// the broker does not start, NewBroker calls t.Fatalf. The test also fails if
// the broker leaves a goroutine or a connection behind, as Close reports it.
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

// listen opens the listener and starts the goroutine that accepts connections.
// It fails once the broker is closed.
func (b *Broker) listen(addr string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	ln, err := b.openListener(addr)
	if err != nil {
		return fmt.Errorf("listen for streams: %w", err)
	}
	if b.closed { // Close came first and would not wait for the goroutine
		ln.Close()
		return fmt.Errorf("listen for streams: %w", net.ErrClosed)
	}
	b.ln, b.stopped = ln, false
	b.wg.Add(1)
	go b.accept(ln)
	return nil
}

// openListener returns a listener for connections as the broker's options say.
func (b *Broker) openListener(addr string) (net.Listener, error) {
	if b.cfg.inMemory {
		return listenInMemory(addr, b.ln), nil
	}
	return net.Listen("tcp", addr)
}

// accept admits connections until the listener is closed.
func (b *Broker) accept(ln net.Listener) {
	defer b.wg.Done()
	for {
		raw, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// The process is probably out of file descriptors.
			// Without a pause the loop would spin.
			b.cfg.logger.Warn("accept", "error", err)
			time.Sleep(10 * time.Millisecond)
			continue
		}
		b.admit(raw, ln)
	}
}

// admit starts the goroutines of a connection. It resets the connection instead
// if a test refuses connections, or if the broker was stopped or closed in the
// meantime.
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

// Addr returns the address the broker listens on, as host:port. While the
// broker is stopped, Addr returns the address it listened on last.
func (b *Broker) Addr() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ln.Addr().String()
}

// URI returns the URI at which clients reach the broker. It contains the name
// and password of the first user, the advertised host and port, and the virtual
// host "/". The scheme is rabbitmq-stream, or rabbitmq-stream+tls with WithTLS.
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

// closeTimeout is how long Close waits for the goroutines of the broker. They
// have nothing left to wait for, so that one that is still running is a bug.
const closeTimeout = 10 * time.Second

// Close stops the broker for good: it closes its listeners, cuts its
// connections and waits for its goroutines. Restart fails afterwards, so that
// no client can read the stored data again. Methods such as Messages still
// report that data. Further calls change nothing.
//
// Close fails if a goroutine is still running after ten seconds or a connection
// is left, which is a bug of the broker.
func (b *Broker) Close() error {
	b.mu.Lock()
	if !b.closed {
		b.closed = true
		close(b.done)
	}
	ln := b.ln
	for c := range b.sockets {
		c.end(CutFIN)
		c.room.Broadcast()
	}
	b.changed()
	b.mu.Unlock()
	if ln != nil {
		ln.Close() // fails after Stop, which has closed it: nothing to report
	}
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
	return nil
}

// Done returns a channel that is closed as soon as Close is called, for what runs
// beside the broker and has to end with it, such as a server of package
// management. Stop does not close it.
func (b *Broker) Done() <-chan struct{} { return b.done }

// changed makes every Await call its condition again. The caller holds mu.
func (b *Broker) changed() {
	if b.change != nil {
		close(b.change)
		b.change = nil
	}
}

// pollInterval is how often Await calls its condition while the broker does not
// change.
const pollInterval = 10 * time.Millisecond

// Await waits until cond returns true. It calls cond at once and again at least
// after each change in the broker: after each frame from a client, each
// connection that opens or ends, and each method call that changes the broker.
// It also calls cond every ten milliseconds, so that cond may look at what only
// the test knows, such as how many messages a handler has seen. Await returns
// nil as soon as cond returns true, and the error of ctx if ctx ends first. It
// calls cond on the goroutine of its caller; cond may call methods of the
// broker.
func (b *Broker) Await(ctx context.Context, cond func() bool) error {
	poll := time.NewTicker(pollInterval)
	defer poll.Stop()
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
		case <-poll.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// reset ends a connection with RST.
func reset(raw net.Conn) {
	switch end := raw.(type) {
	case *net.TCPConn:
		_ = end.SetLinger(0) // fails only on a closed connection
	case *pipe:
		end.reset()
	}
	raw.Close()
}
