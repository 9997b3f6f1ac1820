package streamtest

import (
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// pipeRoom is how many bytes a pipe holds in each direction before a write
// waits.
const pipeRoom = 256 << 10

// clientPorts counts the pipes of the process, for ports from 20,001 on: each
// connection has a name of its own.
var clientPorts atomic.Uint32

// pipe is one end of a connection inside the process. Unlike that of net.Pipe,
// a write does not wait for its reader, as with a socket.
type pipe struct {
	in, out       *half
	local, remote net.Addr
	read, write   deadline // of Read and of Write
}

// newPipe returns the two ends of a connection to a server at addr.
func newPipe(addr net.Addr) (client, server *pipe) {
	port := 20_000 + int(clientPorts.Add(1)%40_000)
	from := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port}
	a, b := newHalf(), newHalf()
	client = &pipe{in: a, out: b, local: from, remote: addr}
	server = &pipe{in: b, out: a, local: addr, remote: from}
	return client, server
}

func (p *pipe) Read(buf []byte) (int, error)       { return p.in.read(buf, &p.read) }
func (p *pipe) Write(buf []byte) (int, error)      { return p.out.write(buf, &p.write) }
func (p *pipe) LocalAddr() net.Addr                { return p.local }
func (p *pipe) RemoteAddr() net.Addr               { return p.remote }
func (p *pipe) SetReadDeadline(t time.Time) error  { p.read.set(t); return nil }
func (p *pipe) SetWriteDeadline(t time.Time) error { p.write.set(t); return nil }

func (p *pipe) SetDeadline(t time.Time) error {
	p.read.set(t)
	p.write.set(t)
	return nil
}

// Close lets the peer read what was written, and then io.EOF.
func (p *pipe) Close() error {
	p.out.end(io.EOF, net.ErrClosed)
	p.in.abandon()
	return nil
}

// reset makes the next read and write of the peer fail.
func (p *pipe) reset() {
	p.out.discard()
	p.out.end(syscall.ECONNRESET, net.ErrClosed)
	p.in.abandon()
}

// half is one direction of a pipe.
type half struct {
	mu       sync.Mutex
	data     []byte
	readErr  error         // once set, what a read returns after the data
	writeErr error         // once set, what a write returns
	change   chan struct{} // closed at the next change
}

func newHalf() *half { return &half{change: make(chan struct{})} }

// changed wakes those who wait. The caller holds mu.
func (h *half) changed() {
	close(h.change)
	h.change = make(chan struct{})
}

func (h *half) read(buf []byte, d *deadline) (n int, err error) {
	err = h.await(d, func() (bool, error) {
		if len(h.data) == 0 && h.readErr != nil {
			return false, h.readErr
		}
		n = copy(buf, h.data)
		h.data = h.data[n:]
		return n > 0 || len(buf) == 0, nil
	})
	return n, err
}

func (h *half) write(buf []byte, d *deadline) (n int, err error) {
	err = h.await(d, func() (bool, error) {
		if h.writeErr != nil {
			return false, h.writeErr
		}
		taken := min(len(buf)-n, pipeRoom-len(h.data))
		h.data = append(h.data, buf[n:n+taken]...)
		n += taken
		if taken > 0 && n < len(buf) {
			h.changed() // the reader can go on
		}
		return n == len(buf), nil
	})
	return n, err
}

// await calls try until it is done or fails, and at each change.
func (h *half) await(d *deadline, try func() (done bool, err error)) error {
	for {
		passed := d.passed()
		select {
		case <-passed:
			return os.ErrDeadlineExceeded
		default:
		}
		h.mu.Lock()
		done, err := try()
		if done {
			h.changed()
		}
		change := h.change
		h.mu.Unlock()
		if done || err != nil {
			return err
		}
		select {
		case <-change:
		case <-passed:
		case <-d.moved():
		}
	}
}

// end makes reads fail after the data, and writes at once. The first call
// counts.
func (h *half) end(read, write error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.readErr == nil {
		h.readErr = read
	}
	if h.writeErr == nil {
		h.writeErr = write
	}
	h.changed()
}

// abandon ends the half whose reader has gone.
func (h *half) abandon() {
	h.discard()
	h.end(net.ErrClosed, syscall.ECONNRESET)
}

func (h *half) discard() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.data = nil
}

// deadline is when reads, or writes, have to end. The zero value is never.
type deadline struct {
	mu     sync.Mutex
	timer  *time.Timer
	over   chan struct{} // closed when the deadline has passed
	change chan struct{} // closed at the next call of set
}

func (d *deadline) init() {
	if d.over == nil {
		d.over, d.change = make(chan struct{}), make(chan struct{})
	}
}

func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.init()
	if d.timer != nil {
		d.timer.Stop()
	}
	close(d.change)
	over := make(chan struct{})
	d.over, d.change, d.timer = over, make(chan struct{}), nil
	if t.IsZero() {
		return
	}
	if left := time.Until(t); left > 0 {
		d.timer = time.AfterFunc(left, func() { close(over) })
	} else {
		close(over)
	}
}

// passed returns a channel that is closed when the deadline has passed.
func (d *deadline) passed() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.init()
	return d.over
}

// moved returns a channel that is closed when another deadline is set.
func (d *deadline) moved() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.init()
	return d.change
}
