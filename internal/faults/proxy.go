// Package faults stands between a client and a broker and breaks what tests
// want broken. It is for tests.
package faults

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// Proxy forwards stream connections on loopback to one broker. It rewrites the
// addresses that the broker advertises, so that clients come back to the proxy
// and not to the broker itself.
type Proxy struct {
	target string // host:port
	port   int    // of target, as the broker advertises it
	ln     net.Listener
	wg     sync.WaitGroup

	mu     sync.Mutex
	seen   map[wire.Key]int
	open   map[*link]struct{}
	gate   chan struct{} // closed while bytes may pass
	refuse bool
	closed bool
	plain  bool          // leaves addresses as they are
	breaks int           // chunks to corrupt
	loses  int           // stores to swallow
	held   chan struct{} // closed while confirms may pass; nil: they may
	delay  time.Duration // each way
}

// link is one client's connection with its counterpart at the broker.
type link struct{ client, broker net.Conn }

func (l *link) close() {
	reset(l.client)
	reset(l.broker)
}

// reset ends a connection as a crash does.
func reset(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = c.Close()
}

// Start listens on a free port and forwards to the broker at target, whose
// port has to be the one it advertises.
func Start(target string) (*Proxy, error) {
	_, text, err := net.SplitHostPort(target)
	if err != nil {
		return nil, err
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		return nil, fmt.Errorf("port of %q: %w", target, err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &Proxy{target: target, port: port, ln: ln, open: map[*link]struct{}{}, seen: map[wire.Key]int{}, gate: make(chan struct{})}
	close(p.gate)
	p.wg.Add(1)
	go p.accept()
	return p, nil
}

// KeepAddresses leaves what the broker advertises as it is: for clients that are
// told otherwise how to come back.
func (p *Proxy) KeepAddresses() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.plain = true
}

// Delay holds what passes through connections that are made from now on for so
// long each way, so that a round trip takes twice as long. It does not limit
// bandwidth.
func (p *Proxy) Delay(eachWay time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = eachWay
}

// CorruptChunks changes a byte in each of the next n chunks.
func (p *Proxy) CorruptChunks(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.breaks = n
}

// LoseStores swallows the next n stored offsets on their way to the broker.
func (p *Proxy) LoseStores(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.loses = n
}

// HoldConfirms keeps confirms back, and whatever the broker sends behind them on
// the same connection, until it is called with false.
func (p *Proxy) HoldConfirms(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held != nil {
		close(p.held)
		p.held = nil
	}
	if on {
		p.held = make(chan struct{})
	}
}

// awaitConfirms waits while confirms are held.
func (p *Proxy) awaitConfirms(body []byte) {
	key, _, _, err := wire.SplitHead(body)
	if err != nil || key != wire.KeyPublishConfirm {
		return
	}
	p.mu.Lock()
	held := p.held
	p.mu.Unlock()
	if held != nil {
		<-held
	}
}

// Addr is where clients connect.
func (p *Proxy) Addr() string { return p.ln.Addr().String() }

// Port is the port of Addr.
func (p *Proxy) Port() int { return p.ln.Addr().(*net.TCPAddr).Port }

// Drop resets every connection and returns how many there were.
func (p *Proxy) Drop() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.open {
		l.close()
	}
	return len(p.open)
}

// Seen returns how many frames of a kind the broker has sent through the proxy.
func (p *Proxy) Seen(key wire.Key) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen[key]
}

// Silence stops forwarding in both directions, keeping the connections and
// accepting new ones; Silence(false) goes on where it stopped.
func (p *Proxy) Silence(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.gate:
		if on {
			p.gate = make(chan struct{})
		}
	default:
		if !on {
			close(p.gate)
		}
	}
}

// Forsake resets the connections to the broker and is silent to the clients, until
// Silence(false): the broker learns at once that they are gone, and they hear
// nothing.
func (p *Proxy) Forsake() {
	p.Silence(true)
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.open {
		reset(l.broker)
	}
}

// Refuse closes new connections at once, for as long as it is on.
func (p *Proxy) Refuse(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse = on
}

// Close ends everything and waits for it.
func (p *Proxy) Close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.Silence(false)
	p.HoldConfirms(false)
	_ = p.ln.Close()
	p.Drop()
	p.wg.Wait()
}

func (p *Proxy) accept() {
	defer p.wg.Done()
	for {
		client, err := p.ln.Accept()
		if err != nil {
			return
		}
		if l := p.connect(client); l != nil {
			p.wg.Add(2)
			go p.forward(l, l.broker, func(to io.Writer) error { return p.toBroker(to, l.client) })
			go p.forward(l, l.client, func(to io.Writer) error { return p.rewrite(to, l.broker) })
		}
	}
}

func (p *Proxy) connect(client net.Conn) *link {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.refuse || p.closed {
		_ = client.Close()
		return nil
	}
	broker, err := net.Dial("tcp", p.target)
	if err != nil {
		_ = client.Close()
		return nil
	}
	l := &link{client, broker}
	p.open[l] = struct{}{}
	return l
}

func (p *Proxy) forward(l *link, to io.Writer, run func(to io.Writer) error) {
	defer p.wg.Done()
	p.mu.Lock()
	delay := p.delay
	p.mu.Unlock()
	if delay == 0 {
		_ = run(to)
	} else {
		line := newDelayLine(to, delay)
		_ = run(line)
		_ = line.Close()
	}
	p.pass() // whoever is kept in silence does not learn of the other's end
	l.close()
	p.mu.Lock()
	delete(p.open, l)
	p.mu.Unlock()
}

// pass waits while the proxy is silent.
func (p *Proxy) pass() {
	p.mu.Lock()
	gate := p.gate
	p.mu.Unlock()
	<-gate
}

// toBroker forwards the client's frames, without the stores that are to be lost.
func (p *Proxy) toBroker(to io.Writer, from io.Reader) error {
	frames := wire.NewFrameReader(from, 0)
	var out []byte
	for {
		body, err := frames.Next()
		if err != nil {
			return err
		}
		p.pass()
		if p.swallows(body) {
			continue
		}
		out = appendFrame(out[:0], body)
		if _, err := to.Write(out); err != nil {
			return err
		}
	}
}

func (p *Proxy) swallows(body []byte) bool {
	key, _, _, err := wire.SplitHead(body)
	if err != nil || key != wire.KeyStoreOffset {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.loses == 0 {
		return false
	}
	p.loses--
	return true
}

// rewrite forwards the broker's frames, with the addresses in them changed.
func (p *Proxy) rewrite(to io.Writer, from io.Reader) error {
	frames := wire.NewFrameReader(from, 0)
	var out []byte
	for {
		body, err := frames.Next()
		if err != nil {
			return err
		}
		p.pass()
		p.awaitConfirms(body)
		if out, err = p.rewritten(out[:0], body); err != nil {
			return err
		}
		if _, err := to.Write(out); err != nil {
			return err
		}
	}
}

func (p *Proxy) rewritten(out, body []byte) ([]byte, error) {
	key, _, fields, err := wire.SplitHead(body)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	p.seen[key]++
	plain := p.plain
	if key == wire.KeyDeliver && p.breaks > 0 {
		p.breaks--
		body[len(body)-1] ^= 0xff
	}
	p.mu.Unlock()
	switch {
	case plain:
	case key == wire.KeyOpen.Response():
		var f wire.OpenResponse
		if err := wire.Decode(fields, &f); err != nil {
			return nil, err
		}
		p.rewriteOpen(&f)
		return wire.Append(out, &f)
	case key == wire.KeyMetadata.Response():
		var f wire.MetadataResponse
		if err := wire.Decode(fields, &f); err != nil {
			return nil, err
		}
		for i := range f.Brokers {
			if int(f.Brokers[i].Port) == p.port {
				f.Brokers[i].Port = uint32(p.Port())
			}
		}
		return wire.Append(out, &f)
	}
	return appendFrame(out, body), nil
}

func appendFrame(out, body []byte) []byte {
	return append(binary.BigEndian.AppendUint32(out, uint32(len(body))), body...)
}

func (p *Proxy) rewriteOpen(f *wire.OpenResponse) {
	for i := range f.Properties {
		if f.Properties[i].Key == "advertised_port" {
			f.Properties[i].Value = strconv.Itoa(p.Port())
		}
	}
}
