package streamtest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// phase is how far a connection has come: which command it must send next.
type phase int

const (
	phasePeerProperties phase = iota
	phaseSaslHandshake
	phaseAuthenticate
	phaseTune
	phaseOpen
	phaseReady
	phaseClosing // the server has sent Close and waits for the answer
)

const (
	maxPreOpenFrame = 8192             // before Open, as RabbitMQ 4.3.5
	stepTimeout     = 10 * time.Second // per step of the handshake, and for the answer to Close
	maxPending      = 1 << 20          // bytes of answers not yet written above which no frame is handled
	maxHeld         = 50_000           // unconfirmed messages above which no frame is handled
)

// conn is a client's connection. Broker.mu guards all fields below the blank line.
type conn struct {
	b        *Broker
	raw      net.Conn // the TCP connection, closed to cut it
	nc       net.Conn // what is read and written: raw, or TLS on top of it
	frames   *wire.FrameReader
	received atomic.Uint64 // bytes
	wake     chan struct{} // the writer looks again
	name     string

	phase      phase
	properties wire.Properties // of the client
	mechanism  string
	user       *account
	vhost      *vhost
	deliver    uint16 // version of Deliver

	publishers map[uint8]*publisher
	subs       []*subscription
	touched    map[*stream]struct{} // streams whose end the client is told of
	updates    map[uint32]*subscription
	nextUpdate uint32
	ids, dups  []uint64 // scratch of publish

	out     []byte     // frames to be written, in order
	room    *sync.Cond // out has been taken, or the connection is gone
	held    []heldConfirm
	nHeld   int
	turn    int // subscription that is served first
	timers  timers
	gone    bool // detached: no state left, nothing is handled
	flush   bool // gone, but what is in out is still to be written
	waiting bool // not read for now: its silence says nothing
	mute    bool // cut without FIN: the socket stays open, nothing moves
}

func newConn(b *Broker, raw, nc net.Conn) *conn {
	b.connSeq++
	c := &conn{
		b: b, raw: raw, nc: nc, wake: make(chan struct{}, 1), deliver: wire.Version1,
		name:       fmt.Sprintf("%s -> %s", raw.RemoteAddr(), raw.LocalAddr()),
		publishers: make(map[uint8]*publisher), touched: make(map[*stream]struct{}),
		updates: make(map[uint32]*subscription), room: sync.NewCond(&b.mu),
	}
	c.frames = wire.NewFrameReader(countingReader{c}, maxPreOpenFrame)
	c.timers.deadline, c.timers.pendingMax = b.beat().Add(stepTimeout), b.cfg.frameMax
	return c
}

// countingReader notes that the client is alive, even in the midst of a frame.
type countingReader struct{ c *conn }

func (r countingReader) Read(p []byte) (int, error) {
	n, err := r.c.nc.Read(p)
	r.c.received.Add(uint64(n))
	return n, err
}

// readLoop handles the client's frames one after the other until the connection ends.
func (c *conn) readLoop() {
	defer c.b.wg.Done()
	for {
		frame, err := c.frames.Next()
		c.b.mu.Lock()
		switch {
		case errors.Is(err, wire.ErrFrameTooLarge):
			c.refuseFrame(wire.CodeFrameTooLarge)
		case err != nil:
			c.end(CutFIN)
		default:
			c.handle(frame)
			c.b.changed()
			c.waitRoom()
		}
		stop := c.gone || errors.Is(err, wire.ErrFrameTooLarge)
		c.b.mu.Unlock()
		if stop {
			c.drain(err)
			return
		}
	}
}

// drain reads what still comes while the last answers are written: closing a socket with unread bytes
// would reset it, and the answers might be lost. A connection cut without FIN reads nothing more.
func (c *conn) drain(err error) {
	c.b.mu.Lock()
	for c.mute && !c.b.closed {
		c.room.Wait()
	}
	c.b.mu.Unlock()
	if err == nil || errors.Is(err, wire.ErrFrameTooLarge) {
		_, _ = io.Copy(io.Discard, c.raw) // ends when the writer closes the socket
	}
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	c.end(CutFIN)
}

// waitRoom keeps a client that does not read its answers from making the broker hold more and more of
// them, stops reading while a test withholds too many confirms, and keeps publishers out while the memory
// is full.
func (c *conn) waitRoom() {
	for !c.gone && c.mustWait() {
		c.waiting = true
		c.room.Wait()
	}
	c.waiting = false
}

func (c *conn) mustWait() bool {
	return c.b.faults.stopReading || len(c.out) > maxPending || c.nHeld > maxHeld || len(c.publishers) > 0 && c.b.full()
}

// handle decodes and executes one frame. Called with mu held.
func (c *conn) handle(frame []byte) {
	c.waitRoom()
	if c.gone {
		return
	}
	key, version, fields, err := wire.SplitHead(frame)
	if err != nil {
		c.refuseFrame(wire.CodeUnknownFrame) // not even a key
		return
	}
	c.b.journal.add(c, key)
	if key == wire.KeyHeartbeat && version == wire.Version1 && len(fields) == 0 {
		return
	}
	if c.phase == phaseClosing {
		if key == wire.KeyClose.Response() {
			c.finish()
		}
		return
	}
	if err := c.dispatch(key, version, fields); err != nil {
		c.b.cfg.logger.Debug("bad frame", "connection", c.name, "command", key.String(), "error", err)
		if errors.Is(err, wire.ErrOffsetType) || errors.Is(err, errCrash) {
			c.end(CutFIN)
			return
		}
		c.refuseFrame(wire.CodeUnknownFrame)
	}
}

// errCrash marks frames on which RabbitMQ's connection process dies without a word.
var errCrash = errors.New("frame that ends the connection")

// refuseFrame asks the client to close, or before Open ends the connection without a word.
func (c *conn) refuseFrame(code wire.Code) {
	if c.gone || c.phase != phaseReady {
		c.end(CutFIN)
		return
	}
	c.phase = phaseClosing
	c.timers.deadline = c.b.beat().Add(stepTimeout)
	c.send(&wire.Close{Correlation: 1, Code: code, Reason: code.String()})
}

// finish lets the writer write what is pending and then close the connection.
func (c *conn) finish() {
	if c.gone {
		return
	}
	c.detach()
	c.flush = true
	_ = c.raw.SetWriteDeadline(time.Now().Add(stepTimeout)) // fails only on a closed socket
	c.signal()
}

// end cuts the connection at once.
func (c *conn) end(how Cut) {
	c.detach()
	c.flush = false
	c.mute = how == CutSilent
	switch how {
	case CutSilent:
	case CutRST:
		reset(c.raw)
	default:
		// The TCP connection, not the TLS one: its farewell might wait for a peer that does not read.
		c.raw.Close()
	}
	c.signal()
}

// detach removes all that the connection holds in the broker. SAC groups are rebalanced only after all
// its members have left, as RabbitMQ 4.1.2 and later do.
func (c *conn) detach() {
	if c.gone {
		return
	}
	c.gone = true
	delete(c.b.conns, c)
	var groups []*group
	for _, s := range c.subs {
		delete(s.stream.readers, s)
		if s.group != nil {
			s.group.remove(s)
			groups = append(groups, s.group)
		}
	}
	for _, g := range groups {
		g.rebalance()
	}
	c.subs, c.held = nil, nil
	c.publishers, c.touched, c.updates = nil, nil, nil
	c.room.Broadcast()
	c.b.changed()
}

// send queues a frame for the writer. Strings that do not fit do not occur: all were read from a frame.
func (c *conn) send(f wire.Frame) {
	key, _ := f.Head()
	b, err := wire.Append(c.out, f)
	if err != nil {
		c.b.cfg.logger.Error("encode", "command", key.String(), "error", err)
		return
	}
	c.push(key, b)
}

// push makes b, which is out with one more frame of that key, the new out.
func (c *conn) push(key wire.Key, b []byte) {
	if c.gone {
		return
	}
	if c.b.faults.truncateNext(key) {
		b = b[:len(c.out)+(len(b)-len(c.out))/2]
		c.out = b
		c.finish()
		return
	}
	c.out = b
	c.signal()
}

// signal wakes the writer.
func (c *conn) signal() {
	select {
	case c.wake <- struct{}{}:
	default: // it is going to look anyway
	}
}
