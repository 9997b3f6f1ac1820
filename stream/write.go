package stream

import (
	"net"
	"sync"
	"sync/atomic"
	"syscall"
)

// direct writes a frame from the goroutine that has it, where the socket takes
// it at once. That saves two changes of goroutines and their wake-ups. It never
// waits: what cannot be written at once takes the way over the writer, where
// the wait is under a context.
type direct struct {
	mu     sync.Mutex   // held by whoever writes to the socket
	rest   []byte       // of a frame of which a part is written; the next to be written
	queued atomic.Int64 // frames on the way over the writer, which must not be overtaken

	socket  syscall.RawConn // nil: none, as with TLS
	attempt func(fd uintptr) bool
	frame   []byte // of the attempt
	taken   int    // by the attempt

	hold sync.Mutex // guards held
	held bool       // the kernel keeps what is written, see keep
}

// init prepares for writing to nc.
func (d *direct) init(nc net.Conn) {
	if tcp, ok := nc.(*net.TCPConn); ok {
		d.socket, _ = tcp.SyscallConn() // an error leaves nil
	}
	d.attempt = func(fd uintptr) bool {
		d.taken = writeSome(fd, d.frame)
		return true // in any case: do not wait
	}
}

// try writes a frame if that can be done at once. Where only a part of it was
// taken, the frame counts as queued, and an empty one has to be sent after it.
func (d *direct) try(frame []byte) (done, begun bool) {
	if d.socket == nil || d.queued.Load() > 0 || !d.mu.TryLock() {
		return false, false
	}
	defer d.mu.Unlock()
	if d.queued.Load() > 0 || len(d.rest) > 0 {
		return false, false
	}
	d.frame, d.taken = frame, 0
	err := d.socket.Write(d.attempt)
	d.frame = nil
	if err != nil || d.taken == 0 {
		return false, false // as when the last deadline has passed
	}
	if d.taken == len(frame) {
		return true, false
	}
	d.rest = append([]byte(nil), frame[d.taken:]...)
	return false, true
}

// keep has the kernel keep what is written, in order to send it together, or
// send it now and from now on. What is kept is sent after 200 ms in any case, and
// when the process ends, however it does (tcp(7), TCP_CORK; elsewhere than on
// Linux nothing is kept).
func (d *direct) keep(on bool) {
	d.hold.Lock()
	defer d.hold.Unlock()
	if d.socket == nil || on == d.held {
		return
	}
	d.held = on
	_ = d.socket.Control(func(fd uintptr) { setCork(fd, on) }) // a closed socket keeps nothing
}
