package broker

import (
	"net"
	"sync"
	"sync/atomic"
	"syscall"
)

// directWriter writes a frame on the goroutine that sends it, if the socket
// takes the frame at once. That saves two switches of goroutines and their
// wake-ups. It never waits. What the socket does not take goes through the
// writer, where the sender waits under its context.
type directWriter struct {
	mu     socketLock   // held by whoever writes to the socket
	rest   []byte       // the end of a frame that is written in part; the next to be written
	frames net.Buffers  // that writeAll writes
	queued atomic.Int64 // frames on their way through the writer, which try must not overtake

	socket  syscall.RawConn // nil where there is none, as with TLS
	attempt func(fd uintptr) bool
	frame   []byte // the frame of the attempt
	written int    // how much of it the attempt has written

	corkMu sync.Mutex
	corked bool // under corkMu: the kernel keeps what is written
}

// socketLock is a lock that is held while a socket takes what it is sent, which
// may be for hours. Those who wait get it in turn. It is a channel so that tests in
// virtual time can wait for it.
type socketLock chan struct{}

func newSocketLock() socketLock { return make(socketLock, 1) }

// Lock waits for the lock.
func (l socketLock) Lock() { l <- struct{}{} }

// Unlock gives the lock back.
func (l socketLock) Unlock() { <-l }

// TryLock takes the lock if it is free.
func (l socketLock) TryLock() bool {
	select {
	case l <- struct{}{}:
		return true
	default:
		return false
	}
}

// taken says how much of a frame the socket took at once.
type taken uint8

const (
	takenNone taken = iota
	takenPart       // the rest is kept and goes first; the sender has to wake the writer
	takenAll
)

// init prepares for writing to a socket.
func (d *directWriter) init(socket net.Conn) {
	d.mu = newSocketLock()
	if tcp, ok := socket.(*net.TCPConn); ok {
		d.socket, _ = tcp.SyscallConn() // an error leaves nil
	}
	d.attempt = func(fd uintptr) bool {
		d.written = writeSome(fd, d.frame)
		return true // so that the runtime does not wait for the socket
	}
}

// try writes as much of a frame as the socket takes at once.
func (d *directWriter) try(frame []byte) taken {
	if d.socket == nil || d.queued.Load() > 0 || !d.mu.TryLock() {
		return takenNone
	}
	defer d.mu.Unlock()
	if d.queued.Load() > 0 || len(d.rest) > 0 {
		return takenNone
	}
	d.frame, d.written = frame, 0
	err := d.socket.Write(d.attempt)
	d.frame = nil
	switch {
	case err != nil || d.written == 0: // as when the deadline of an earlier write has passed
		return takenNone
	case d.written == len(frame):
		return takenAll
	}
	d.rest = append([]byte(nil), frame[d.written:]...)
	return takenPart
}

// cork has the kernel keep what is written, to send it in larger packets, or
// send it now and from now on. The kernel sends what it keeps after 200 ms in any
// case, and when the process ends, however that ends (tcp(7), TCP_CORK). On other
// systems than Linux cork does nothing.
func (d *directWriter) cork(on bool) {
	d.corkMu.Lock()
	defer d.corkMu.Unlock()
	if d.socket == nil || on == d.corked {
		return
	}
	d.corked = on
	_ = d.socket.Control(func(fd uintptr) { setCork(fd, on) }) // a closed socket keeps nothing
}
