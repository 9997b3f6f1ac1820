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

// phase says how far a connection has come. Up to phaseOpen it names the
// command that the client must send next.
type phase int

const (
	phasePeerProperties phase = iota
	phaseSaslHandshake
	phaseAuthenticate
	phaseTune
	phaseOpen
	phaseReady
	phaseClosing // the broker has sent Close and waits for the answer
)

const (
	// maxPreOpenFrame is the longest frame before Open, as in RabbitMQ
	// 4.3.5.
	maxPreOpenFrame = 8192
	// stepTimeout is how long a client may take for a step of the
	// handshake, and to answer Close.
	stepTimeout = 10 * time.Second
	// While a connection has more than maxPending bytes of answers to
	// write, the broker handles none of its frames.
	maxPending = 1 << 20
)

// conn is a client's connection. Broker.mu guards all fields below the blank
// line.
type conn struct {
	b        *Broker
	raw      net.Conn // the TCP connection; closing it cuts the client off
	nc       net.Conn // the connection to read and write: raw, or TLS over it
	frames   *wire.FrameReader
	received atomic.Uint64 // bytes read so far
	wake     chan struct{} // wakes the writer, see signal
	ended    chan struct{} // closed by detach
	name     string
	slow     bool // subscriptions cost time, see turns

	phase      phase
	properties wire.Properties // sent by the client
	mechanism  string
	user       *account
	vhost      *vhost
	deliver    uint16 // version of Deliver that the client wants

	publishers map[uint8]*publisher
	subs       []*subscription
	touched    map[*stream]struct{} // streams whose end the client is told of
	updates    map[uint32]update    // unanswered updates, by correlation id
	nextUpdate uint32
	unwritten  unwritten

	out     []byte     // frames to write, in order
	room    *sync.Cond // signalled when a reason to wait may have ended
	held    []heldConfirm
	credits int  // entries that the client may publish, see creditLimit
	starved bool // the credit is used up
	spared  bool // reads one more packet although there is an alarm
	stopped bool // a test stopped reading this connection
	// lostAnswers is the number of answers to ConsumerUpdate to lose.
	lostAnswers int
	turn        int // index of the subscription that is served first
	timers      timers
	turns       turns
	// credited is the subscription of the last Credit, while its chunks may have to
	// be sent before the next frame is handled; see mustServe.
	credited *subscription
	gone     bool // detached: without state, handles no frame
	flush    bool // gone, but the writer still has to write out
	waiting  bool // the broker does not read, so the client may be alive
	mute     bool // cut silently: the socket is open, but not read or written
}

func newConn(b *Broker, raw, nc net.Conn) *conn {
	b.connSeq++
	c := &conn{
		b: b, raw: raw, nc: nc, slow: b.cfg.subscriptionDelay > 0, wake: make(chan struct{}, 1), ended: make(chan struct{}), deliver: wire.Version1,
		name:       fmt.Sprintf("%s -> %s", raw.RemoteAddr(), raw.LocalAddr()),
		publishers: make(map[uint8]*publisher), touched: make(map[*stream]struct{}),
		updates: make(map[uint32]update), room: sync.NewCond(&b.mu),
	}
	c.frames = wire.NewFrameReader(countingReader{c}, maxPreOpenFrame)
	c.credits = creditLimit
	c.timers.deadline, c.timers.pendingMax = b.protocolNow().Add(stepTimeout), b.cfg.frameMax
	return c
}

// countingReader counts the bytes that a client sends. They show that it is
// alive, even while a frame is incomplete.
type countingReader struct{ c *conn }

func (r countingReader) Read(p []byte) (int, error) {
	n, err := r.c.nc.Read(p)
	r.c.received.Add(uint64(n))
	return n, err
}

// readLoop handles the frames of the client, one at a time, until the
// connection ends.
func (c *conn) readLoop() {
	defer c.b.wg.Done()
	for {
		frame, err := c.frames.Next()
		c.b.mu.Lock()
		if err != nil {
			c.writePublished()
		}
		switch {
		case errors.Is(err, wire.ErrFrameTooLarge):
			c.refuseFrame(wire.CodeFrameTooLarge)
		case err != nil:
			c.end(CutFIN)
		default:
			c.handle(frame)
			if !c.frames.Ready() {
				c.endPacket()
			}
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

// drain discards what the client still sends while the writer writes the last
// answers. Closing a socket with unread bytes would reset it, and the client
// might lose the answers. A silently cut connection reads nothing until the
// broker closes.
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

// waitRoom waits, with mu released, while mustWait is true and the connection
// lives. Meanwhile the reader reads nothing.
func (c *conn) waitRoom() {
	for !c.gone && c.mustWait() {
		c.writePublished()
		c.waiting = true
		c.room.Wait()
	}
	c.waiting = false
}

// mustWait reports whether the broker must not handle a frame of the
// connection: it is blocked, it is not the turn of the client's frames, or it has
// chunks to send for a Credit.
func (c *conn) mustWait() bool { return c.blocked() || c.mustWaitItsTurn() || c.mustServe() }

// blocked reports whether the broker handles no frame of the connection,
// however long it waits: a test stopped reading, the client does not read its
// answers, it has published all that it may, or the connection has a publisher
// and the memory is full or there is an alarm.
func (c *conn) blocked() bool {
	return c.b.faults.stopReading || c.stopped || len(c.out) > maxPending || c.starved ||
		len(c.publishers) > 0 && (c.b.full() || c.b.faults.alarm && !c.spared)
}

// handle decodes and executes one frame. The caller holds mu.
func (c *conn) handle(frame []byte) {
	c.beginPacket()
	key, version, fields, err := wire.SplitHead(frame)
	if !unaware[key] {
		c.writePublished()
	}
	c.waitRoom()
	if c.gone {
		return
	}
	if err != nil {
		c.refuseFrame(wire.CodeUnknownFrame) // too short to hold a key and a version
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
		c.writePublished()
		c.b.cfg.logger.Debug("bad frame", "connection", c.name, "command", key.String(), "error", err)
		if errors.Is(err, wire.ErrOffsetType) || errors.Is(err, errCrash) {
			c.end(CutFIN)
			return
		}
		c.refuseFrame(wire.CodeUnknownFrame)
	}
}

// unaware are the commands that do not notice whether what was published before
// them is written yet.
var unaware = map[wire.Key]bool{wire.KeyPublish: true, wire.KeyStoreOffset: true, wire.KeyCredit: true}

// errCrash marks a frame on which RabbitMQ's connection process dies: it ends
// the connection without a Close.
var errCrash = errors.New("frame that ends the connection")

// refuseFrame sends Close with code. On a connection that is not ready it cuts
// the connection instead.
func (c *conn) refuseFrame(code wire.Code) {
	if c.gone || c.phase != phaseReady {
		c.end(CutFIN)
		return
	}
	c.phase = phaseClosing
	c.timers.deadline = c.b.protocolNow().Add(stepTimeout)
	c.send(&wire.Close{Correlation: 1, Code: code, Reason: code.String()})
}

// finish detaches the connection. The writer still writes out and then closes
// the socket.
func (c *conn) finish() {
	if c.gone {
		return
	}
	c.detach()
	c.flush = true
	_ = c.raw.SetWriteDeadline(time.Now().Add(stepTimeout)) // fails only on a closed socket
	c.signal()
}

// end detaches the connection and cuts it at once, as how says. Answers that
// are not yet written are lost.
func (c *conn) end(how Cut) {
	c.detach()
	c.flush = false
	c.mute = how == CutSilent
	switch how {
	case CutSilent:
	case CutRST:
		reset(c.raw)
	default:
		// Closing nc would write the farewell of TLS, which might wait
		// for a peer that does not read.
		c.raw.Close()
	}
	c.signal()
}

// detach removes the state of the connection from the broker.
func (c *conn) detach() {
	if c.gone {
		return
	}
	c.gone = true
	c.writePublished()
	close(c.ended)
	delete(c.b.conns, c)
	var members []*subscription
	for _, s := range c.subs {
		delete(s.stream.readers, s)
		if s.group != nil {
			members = append(members, s)
		}
	}
	c.b.leave(members)
	c.subs, c.held = nil, nil
	c.publishers, c.touched, c.updates = nil, nil, nil
	c.turns = turns{}
	c.room.Broadcast()
	c.b.changed()
}

// send queues a frame for the writer. It logs and drops a frame with a string
// too long for the protocol. Such a string cannot come from a client, only from
// an option or CreateStream.
func (c *conn) send(f wire.Frame) {
	key, _ := f.Head()
	b, err := wire.Append(c.out, f)
	if err != nil {
		c.b.cfg.logger.Error("encode", "command", key.String(), "error", err)
		return
	}
	c.push(key, b)
}

// push replaces out by b, which is out with one more frame appended. key is the
// key of that frame. If a test asked for it, push truncates the frame and ends
// the connection.
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

// signal makes the writer look for work. It never blocks.
func (c *conn) signal() {
	select {
	case c.wake <- struct{}{}:
	default: // an earlier signal is still pending
	}
}
