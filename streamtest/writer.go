package streamtest

import (
	"net"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

const (
	maxBatchBytes  = 1 << 20 // of chunks per write
	maxBatchChunks = 512
	maxSkips       = 8192 // chunks looked at and skipped by filters per turn, so that the lock is released
	copyBelow      = 4096 // chunks smaller than this are copied: an iovec costs more
)

// batch is what one write sends: answers, then chunks. The slices are used again.
type batch struct {
	out    []byte      // answers; swapped with conn.out
	flat   []byte      // heads of Deliver frames, and small chunks
	bufs   net.Buffers // what is written, in order
	from   int         // where in flat the part not yet in bufs starts
	bytes  int         // of chunks
	chunks int
	skips  int
	last   bool // close the connection after it
}

// writeLoop writes what there is until the connection ends. Only it writes, so that frames do not mix.
func (c *conn) writeLoop() {
	defer c.b.wg.Done()
	defer c.release()
	var w batch
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		wait, ok := c.take(&w)
		if !ok {
			return
		}
		if len(w.bufs) > 0 {
			bufs := w.bufs // WriteTo consumes its receiver
			if _, err := bufs.WriteTo(c.nc); err != nil {
				c.lost()
				return
			}
		}
		if w.last {
			return
		}
		if len(w.bufs) > 0 {
			continue
		}
		timer.Reset(wait)
		select {
		case <-c.wake:
		case <-timer.C:
		}
	}
}

// release closes the socket, with TLS's farewell where there is TLS.
func (c *conn) release() {
	c.nc.Close()
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	delete(c.b.sockets, c)
	c.b.changed()
}

// lost ends a connection that cannot be written to.
func (c *conn) lost() {
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	c.end(CutFIN)
}

// take fills w with what is to be written now. With nothing to write, the caller waits that long or until
// woken. ok is false when the connection is over.
func (c *conn) take(w *batch) (wait time.Duration, ok bool) {
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	w.reset()
	if c.mute && !c.b.closed {
		return time.Hour, true
	}
	if c.gone && !c.flush {
		return 0, false
	}
	if wait, ok = c.keepTime(); !ok {
		c.end(CutFIN)
		return 0, false
	}
	wait = min(wait, c.releaseConfirms())
	if c.b.faults.stopAnswering {
		c.out = c.out[:0]
		c.room.Broadcast()
		return wait, true
	}
	c.takeOut(w)
	if c.flush {
		w.last = true
	} else {
		wait = min(wait, c.takeChunks(w))
	}
	if len(w.bufs) > 0 {
		c.timers.sent = true
	} else if w.skips >= maxSkips {
		wait = 0
	}
	return wait, true
}

// takeOut moves the answers to the batch.
func (c *conn) takeOut(w *batch) {
	if len(c.out) == 0 {
		return
	}
	w.out, c.out = c.out, w.out[:0]
	if cap(c.out) > 2*maxPending {
		c.out = nil
	}
	w.bufs = append(w.bufs, w.out)
	c.room.Broadcast()
}

// takeChunks adds chunks that the subscriptions have credit for, one subscription after the other, and
// returns how long the first of those waits that are too young for any.
func (c *conn) takeChunks(w *batch) time.Duration {
	wait := time.Hour
	if len(c.subs) == 0 {
		return wait
	}
	for i := range c.subs {
		s := c.subs[(c.turn+i)%len(c.subs)]
		if rest := s.rest(); rest > 0 {
			wait = min(wait, rest)
			continue
		}
		for !c.gone && w.room() && s.deliverNext(w) {
		}
		if c.gone { // a fault has cut the connection in the midst of a frame
			w.last = c.flush
			break
		}
	}
	c.turn++
	w.closeFlat()
	return wait
}

func (w *batch) reset() {
	clear(w.bufs)
	*w = batch{out: w.out[:0], flat: w.flat[:0], bufs: w.bufs[:0]}
}

func (w *batch) room() bool {
	return w.bytes < maxBatchBytes && w.chunks < maxBatchChunks && w.skips < maxSkips
}

// add appends a Deliver frame.
func (w *batch) add(version uint16, id uint8, committed uint64, chunk []byte) {
	w.flat = wire.AppendDeliverHead(w.flat, version, id, committed, len(chunk))
	w.bytes += len(chunk)
	w.chunks++
	if len(chunk) < copyBelow {
		w.flat = append(w.flat, chunk...)
		return
	}
	w.closeFlat()
	w.bufs = append(w.bufs, chunk)
}

// closeFlat puts what was appended to flat since the last time into bufs. That flat may move later does
// not matter: the bytes in bufs stay where they are.
func (w *batch) closeFlat() {
	if w.from < len(w.flat) {
		w.bufs = append(w.bufs, w.flat[w.from:])
		w.from = len(w.flat)
	}
}
