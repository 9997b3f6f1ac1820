package stream

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/tidemark-go/tidemark/internal/wire"
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

// try writes f if that can be done at once. Where only a part of it was taken,
// the frame counts as queued, and an empty one has to be sent after it.
func (d *direct) try(f wire.Frame) (done, begun bool) {
	if d.socket == nil || d.queued.Load() > 0 || !d.mu.TryLock() {
		return false, false
	}
	defer d.mu.Unlock()
	if d.queued.Load() > 0 || len(d.rest) > 0 {
		return false, false
	}
	b, err := wire.Append(d.frame[:0], f)
	if err != nil {
		return false, false // the other way says so
	}
	d.frame, d.taken = b, 0
	if err := d.socket.Write(d.attempt); err != nil || d.taken == 0 {
		return false, false // as when the last deadline has passed
	}
	if d.taken == len(b) {
		return true, false
	}
	d.rest = append([]byte(nil), b[d.taken:]...)
	return false, true
}

// direct sends f at once if that is possible. Otherwise it returns what has to
// be sent over the writer for it: f, or the rest of it.
func (c *conn) direct(ctx context.Context, f wire.Frame) (done bool, b []byte, err error) {
	begun := false
	if ctx.Err() == nil && c.alive() {
		done, begun = c.now.try(f)
	}
	if !done && !begun {
		b, err = wire.Append(nil, f)
	}
	return done, b, err
}
