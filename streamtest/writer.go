package streamtest

import (
	"net"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

const (
	// A batch takes no further chunk after maxBatchBytes bytes of chunks or
	// maxBatchChunks chunks.
	maxBatchBytes  = 1 << 20
	maxBatchChunks = 512
	// A batch ends after filters have skipped maxSkips chunks, to release
	// the mutex.
	maxSkips = 8192
	// Chunks of less than copyBelow bytes are copied, which costs less than
	// an iovec.
	copyBelow = 4096
)

// batch is what one write sends: answers, then chunks. The next batch reuses
// its slices.
type batch struct {
	out    []byte      // answers; swapped with conn.out
	flat   []byte      // heads of Deliver frames, and small chunks
	bufs   net.Buffers // everything to write, in order
	from   int         // where the part of flat that is not yet in bufs begins
	bytes  int         // total length of the chunks
	chunks int
	skips  int           // chunks that filters have skipped
	last   bool          // the connection ends after this batch
	sleep  time.Duration // the connection sleeps after this batch, see turns
}

// writeLoop writes answers and chunks until the connection ends. No other
// goroutine writes, so that frames do not mix.
func (c *conn) writeLoop() {
	defer c.b.wg.Done()
	defer c.release()
	var w batch
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		wait, ok := c.fillBatch(&w)
		if !ok {
			return
		}
		if len(w.bufs) > 0 {
			bufs := w.bufs // WriteTo consumes its receiver
			if _, err := bufs.WriteTo(c.nc); err != nil {
				c.writeFailed()
				return
			}
		}
		if w.last {
			return
		}
		if w.sleep > 0 {
			c.sleep(w.sleep)
			continue
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

// release closes the socket and removes the connection from the open ones. Over
// TLS it says farewell first.
func (c *conn) release() {
	c.nc.Close()
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	delete(c.b.sockets, c)
	c.b.changed()
}

// writeFailed ends the connection after a failed write.
func (c *conn) writeFailed() {
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	c.end(CutFIN)
}

// fillBatch fills w with what is to be written now. If that is nothing, the
// caller waits until wait is over or wake wakes it. ok is false if the
// connection has ended.
func (c *conn) fillBatch(w *batch) (wait time.Duration, ok bool) {
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
		w.last = c.flush // a client that said Close is disconnected, without an answer
		return wait, true
	}
	c.takeOut(w)
	if c.flush {
		w.last = true
	} else if c.slow {
		wait = min(wait, c.takeTurns(w))
		w.closeFlat()
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

// takeOut moves the queued answers to the batch.
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

// takeChunks adds the chunks for which the subscriptions have credit, one
// subscription after the other. It returns how long until the first new
// subscription may get its first chunk, see firstChunkAfter.
func (c *conn) takeChunks(w *batch) time.Duration {
	wait := time.Hour
	if len(c.subs) == 0 {
		return wait
	}
	for i := range c.subs {
		s := c.subs[(c.turn+i)%len(c.subs)]
		if rest := s.untilFirstChunk(); rest > 0 {
			wait = min(wait, rest)
			continue
		}
		for !c.gone && w.room() && s.deliverNext(w) {
		}
		if c.gone { // a test truncated a frame, which ended the connection
			w.last = c.flush
			break
		}
	}
	c.turn++
	c.served()
	w.closeFlat()
	return wait
}

// reset empties the batch.
func (w *batch) reset() {
	clear(w.bufs)
	*w = batch{out: w.out[:0], flat: w.flat[:0], bufs: w.bufs[:0]}
}

// room reports whether the batch may take another chunk.
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

// closeFlat appends the part of flat that is not yet in bufs to bufs. A later
// append may move flat, but the slice in bufs keeps the old bytes.
func (w *batch) closeFlat() {
	if w.from < len(w.flat) {
		w.bufs = append(w.bufs, w.flat[w.from:])
		w.from = len(w.flat)
	}
}
