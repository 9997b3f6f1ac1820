package broker

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// pool keeps the connections that leases share, by node. The first leases get a
// connection each, up to a number of connections to a node. Later ones join the
// connection with the fewest leases.
type pool struct {
	// perNode returns how many connections to a node the leases spread over. There
	// are more only when all of these are full.
	perNode func(Node) int
	// perStream is how many leases of one stream a connection has, while there
	// are fewer than spreadConns to the node; 0: any number.
	perStream int
	// perConn is how many leases a connection has, while there are fewer than
	// crowdConns to the node; 0: any number.
	perConn int
	// ping returns an error if a connection does not answer: nobody may have
	// noticed its end yet. Nil stands for connections that always answer.
	ping func(context.Context, *Conn) error
	// publishing makes the connections ones for publishing, with a sender.
	publishing bool
	// goodbyes closes connections in the background. It is the cluster's.
	goodbyes *goodbyes

	mu   sync.Mutex
	open map[Node][]*sharedConn
}

func newPool(perNode func(Node) int, ping func(context.Context, *Conn) error) *pool {
	return &pool{perNode: perNode, ping: ping, open: map[Node][]*sharedConn{}}
}

// newPublisherPool returns a pool for publishers.
func newPublisherPool(perNode func(Node) int, ping func(context.Context, *Conn) error, g *goodbyes) *pool {
	p := newPool(perNode, ping)
	p.publishing, p.goodbyes = true, g
	return p
}

// maxIDs is how many subscriptions, and how many publishers, the protocol allows
// on a connection.
const maxIDs = 256

// sharedConn is a connection of a pool. The first lease dials it, on the
// goroutine and under the context of its caller, and the others wait for that.
// The last one to leave closes it.
type sharedConn struct {
	*Conn
	pool      *pool
	node      Node
	dialed    chan struct{} // closed once Conn or dialError is set
	dialError error
	cancelled bool        // the caller who dialed was cancelled, so that another has to dial
	silent    atomic.Bool // the connection did not answer somebody who came later
	sender    *sender     // of a connection for publishing; else nil

	leases   map[*Lease]struct{} // under pool.mu
	ofStream map[string]int      // under pool.mu: how many of the leases are for a stream
	lastID   uint8               // under pool.mu: the id given out last
	// byID finds the lease that a chunk is for. An id stays taken until the broker
	// has answered that its subscription has ended. What comes before is dropped.
	byID [maxIDs]atomic.Pointer[Lease]
	// unflushed has a bit for each id that a chunk came for since the last
	// flush. Only the reader uses it.
	unflushed [maxIDs / 64]uint64
}

// join gives a lease its connection and its id. The caller releases the lease,
// unless join returns an error.
func (p *pool) join(ctx context.Context, l *Lease, dial func(hooks) (*Conn, error)) error {
	for {
		c, first := p.enter(l)
		if first {
			return p.dial(ctx, c, dial)
		}
		select {
		case <-c.dialed:
		case <-ctx.Done():
			c.leave(ctx, l, nothingToSay, false)
			return ContextError(ctx)
		}
		switch {
		case c.dialError != nil && c.cancelled:
			continue
		case c.dialError != nil:
			return c.dialError
		}
		if p.ping == nil || p.ping(ctx, c.Conn) == nil {
			return nil
		}
		cancelled := ctx.Err() != nil
		if !cancelled {
			c.silent.Store(true)
		}
		c.leave(ctx, l, nothingToSay, false)
		if cancelled {
			return ContextError(ctx)
		}
	}
}

// nothingToSay is the goodbye of a lease that never had a subscription.
func nothingToSay() error { return nil }

// enter adds a lease to a connection. It reports whether the connection is new,
// in which case the caller dials.
func (p *pool) enter(l *Lease) (c *sharedConn, first bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c = p.choose(l)
	if first = c == nil; first {
		c = &sharedConn{pool: p, node: l.node, dialed: make(chan struct{}), leases: map[*Lease]struct{}{}, ofStream: map[string]int{}}
		if p.publishing {
			c.sender = newSender(c.retire)
		}
		p.open[l.node] = append(p.open[l.node], c)
	}
	id, _ := c.freeID()
	c.add(l, id)
	return c, first
}

// add adds a lease under a free id. The caller holds pool.mu.
func (c *sharedConn) add(l *Lease, id uint8) {
	c.lastID = id
	l.conn, l.id = c, id
	c.leases[l] = struct{}{}
	c.ofStream[l.stream]++
	c.byID[id].Store(l)
}

// errNoPlace is why no further lease fits on a connection.
var errNoPlace = fmt.Errorf("%w: the connection has no place for another subscription", ErrUnreachable)

// admit adds a lease to the connection of another one, which has not left it.
func (c *sharedConn) admit(l, beside *Lease) error {
	c.pool.mu.Lock()
	defer c.pool.mu.Unlock()
	id, ok := c.freeID()
	if _, there := c.leases[beside]; !ok || !there || !c.Alive() {
		return errNoPlace
	}
	c.add(l, id)
	return nil
}

// choose returns the connection for a lease to join, or nil for a new one. The
// caller holds p.mu.
func (p *pool) choose(l *Lease) (best *sharedConn) {
	var roomy *sharedConn // the best of those with fewer leases than perConn
	usable := 0
	for _, c := range p.open[l.node] {
		if c.lost() || c.heldUpFor(l) {
			continue // its leases are about to leave it, or this one would be asked to
		}
		usable++
		if _, ok := c.freeID(); !ok {
			continue
		}
		best = emptier(best, c, l.stream)
		if len(c.leases) < p.perConn {
			roomy = emptier(roomy, c, l.stream)
		}
	}
	wanted := p.perNode(l.node)
	if l.questions {
		if usable < min(wanted, runtime.GOMAXPROCS(0)) {
			return nil
		}
		return best
	}
	if p.perConn > 0 && usable < crowdConns {
		best = roomy
	}
	if usable < wanted || best != nil && p.perStream > 0 && best.ofStream[l.stream] >= p.perStream && usable < spreadConns {
		return nil
	}
	return best
}

// emptier returns the connection with fewer leases of a stream, or with fewer in
// all where these are equal. a may be nil, and comes before b.
func emptier(a, b *sharedConn, stream string) *sharedConn {
	if a == nil {
		return b
	}
	same, other := a.ofStream[stream], b.ofStream[stream]
	if other < same || other == same && len(b.leases) < len(a.leases) {
		return b
	}
	return a
}

// freeID returns the first free id after the one given out last. The caller
// holds pool.mu.
func (c *sharedConn) freeID() (id uint8, ok bool) {
	for i := range maxIDs {
		id = c.lastID + 1 + uint8(i) // wraps around
		if c.byID[id].Load() == nil {
			return id, true
		}
	}
	return 0, false
}

// lost reports whether nobody should join the connection.
func (c *sharedConn) lost() bool {
	select {
	case <-c.dialed:
		return c.dialError != nil || !c.Alive() || c.silent.Load() || c.hearing.missed.Load() || c.sender != nil && c.sender.slow(time.Now())
	default:
		return false // somebody is dialing it
	}
}

// dial makes a connection for everybody who waits for it. If that fails, it sets
// dialError and removes their leases.
func (p *pool) dial(ctx context.Context, c *sharedConn, dial func(hooks) (*Conn, error)) (err error) {
	var conn *Conn
	err = errDialing // remains if Options.Resolve panics
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		c.Conn, c.dialError = conn, err
		if err != nil {
			c.cancelled = ctx.Err() != nil || errors.Is(err, context.DeadlineExceeded) || err == errDialing
			clear(c.leases)
			clear(c.ofStream)
			p.remove(c)
		}
		close(c.dialed)
	}()
	if conn, err = dial(c.hooks()); err == nil && c.sender != nil {
		conn.wg.Go(func() { c.sender.run(conn) })
	}
	return err
}

// hooks returns what the connection calls.
func (c *sharedConn) hooks() hooks {
	if c.sender != nil {
		return hooks{outcomes: c.outcomes, tick: c.tick, moved: c.moved}
	}
	return hooks{
		deliver: c.deliver, flush: c.flush, buffer: c.buffer, tick: c.tick, moved: c.moved,
		creditRefused: c.creditRefused, consumerUpdate: c.consumerUpdate,
	}
}

// errDialing is the outcome of a dial that has panicked.
var errDialing = errors.New("dialing did not come to its end")

// size returns the number of connections.
func (p *pool) size() (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, conns := range p.open {
		n += len(conns)
	}
	return n
}

// remove takes a connection out of the pool. The caller holds p.mu.
func (p *pool) remove(c *sharedConn) {
	rest := slices.DeleteFunc(p.open[c.node], func(other *sharedConn) bool { return other == c })
	if p.open[c.node] = rest; len(rest) == 0 {
		delete(p.open, c.node)
	}
}

// leave ends a lease's use of the connection. Where other leases stay, goodbye
// has the broker send nothing more. If goodbye fails, the id stays taken for
// good. The last lease to leave closes the connection, politely if the peer is
// to be told, for which it waits under ctx.
func (c *sharedConn) leave(ctx context.Context, l *Lease, goodbye func() error, polite bool) {
	switch c.removeUnlessShared(l) {
	case notThere:
		return
	case shared:
		answered := goodbye() == nil
		if last := c.removeShared(l, answered); !last {
			if !answered {
				c.unsubscribeLate(l.id)
			}
			return
		}
	}
	if polite && c.Alive() {
		c.CloseWithin(ctx)
	} else {
		c.Abort()
	}
}

// standing is what a lease is to its connection.
type standing uint8

const (
	notThere standing = iota // it has left
	shared                   // others use the connection too
	alone                    // it was the last one
)

// removeUnlessShared removes a lease that has the connection for itself.
func (c *sharedConn) removeUnlessShared(l *Lease) standing {
	c.pool.mu.Lock()
	defer c.pool.mu.Unlock()
	if _, ok := c.leases[l]; !ok {
		return notThere
	}
	if len(c.leases) > 1 {
		return shared
	}
	c.remove(l, false)
	return alone
}

// removeShared removes a lease and frees its id if the broker has answered its
// goodbye. It reports whether the lease was the last one by now.
func (c *sharedConn) removeShared(l *Lease, answered bool) (last bool) {
	c.pool.mu.Lock()
	defer c.pool.mu.Unlock()
	if _, ok := c.leases[l]; !ok {
		return false
	}
	c.remove(l, answered)
	return len(c.leases) == 0
}

// remove removes a lease, and the connection from the pool with the last one.
// The caller holds pool.mu.
func (c *sharedConn) remove(l *Lease, freeID bool) {
	delete(c.leases, l)
	if c.ofStream[l.stream]--; c.ofStream[l.stream] == 0 {
		delete(c.ofStream, l.stream)
	}
	if freeID {
		c.byID[l.id].Store(nil)
	} else {
		c.byID[l.id].Store(&Lease{subscriber: dropChunks{}}) // a stand-in: l's subscriber may be freed
	}
	if len(c.leases) == 0 {
		c.pool.remove(c)
	}
}

// unsubscribeLate frees the id of a subscription whose end was not answered in time,
// once the broker answers that it has ended, or that there is none.
func (c *sharedConn) unsubscribeLate(id uint8) {
	c.tell(func(correlation uint32) wire.Frame {
		return &wire.Unsubscribe{Correlation: correlation, SubscriptionID: id}
	}, func() { c.byID[id].Store(nil) })
}

// leavePublisher ends a publisher's use of the connection without waiting for the
// peer. Its id is free once the broker has answered. The last one to leave has the
// connection closed.
func (c *sharedConn) leavePublisher(l *Lease) {
	c.pool.mu.Lock()
	_, there := c.leases[l]
	if there {
		c.remove(l, false)
	}
	last := there && len(c.leases) == 0
	c.pool.mu.Unlock()
	switch {
	case last:
		c.pool.goodbyes.say(c.Conn)
	case there:
		c.sender.afterFrames(l.publisher, func() { c.deletePublisher(l.id) })
	}
}

// deletePublisher has the broker forget a publisher, whose id is free once it has
// answered. Where that cannot be sent, nobody should come to the connection: the
// broker would refuse the publisher's reference there.
func (c *sharedConn) deletePublisher(id uint8) {
	told := c.tell(func(correlation uint32) wire.Frame {
		return &wire.DeletePublisher{Correlation: correlation, PublisherID: id}
	}, func() { c.byID[id].Store(nil) })
	if !told {
		c.silent.Store(true)
	}
}

// outcomes is the connection's hook for confirms and refusals.
func (c *sharedConn) outcomes(o wire.Outcomes) {
	if l := c.byID[o.PublisherID].Load(); l != nil && l.publisher != nil {
		l.publisher.source.Outcomes(o)
	}
}

// retire asks the publishers to leave whose streams go on.
func (c *sharedConn) retire() {
	c.pool.mu.Lock()
	defer c.pool.mu.Unlock()
	for l := range c.leases {
		if !c.sender.isStill(l.publisher) {
			l.publisher.source.Retire()
		}
	}
}

// deliver is the connection's hook for a chunk.
func (c *sharedConn) deliver(d wire.Deliver, buffer []byte) error {
	l := c.byID[d.SubscriptionID].Load()
	if l == nil {
		return unknownSubscription(d.SubscriptionID)
	}
	c.unflushed[d.SubscriptionID/64] |= 1 << (d.SubscriptionID % 64)
	return l.subscriber.Deliver(d, buffer)
}

// flush is the connection's hook for the end of what was read at a time.
func (c *sharedConn) flush() (err error) {
	for i, set := range c.unflushed {
		for c.unflushed[i] = 0; set != 0; set &= set - 1 {
			l := c.byID[64*i+bits.TrailingZeros64(set)].Load()
			if l != nil {
				err = errors.Join(err, l.subscriber.Flush())
			}
		}
	}
	return err
}

// buffer is the connection's hook for the memory of a chunk.
func (c *sharedConn) buffer(id uint8, n int) []byte {
	if l := c.byID[id].Load(); l != nil {
		return l.subscriber.Buffer(n)
	}
	return make([]byte, n)
}

// creditRefused is the connection's hook for a Credit that was not taken.
func (c *sharedConn) creditRefused(id uint8, code wire.Code) {
	if l := c.byID[id].Load(); l != nil {
		l.subscriber.CreditRefused(code)
	}
}

// consumerUpdate is the connection's hook for what the broker says of a member of
// a group. A member that has left answers nothing, so the connection does.
func (c *sharedConn) consumerUpdate(u wire.ConsumerUpdate) {
	l := c.byID[u.SubscriptionID].Load()
	if l == nil || !l.subscriber.Update(Update{Active: u.Active, correlation: u.Correlation}) {
		c.declineUpdate(u.Correlation)
	}
}

// tick is the connection's hook for half a heartbeat.
func (c *sharedConn) tick() { c.each(Subscriber.Tick) }

// moved is the connection's hook for a stream that was deleted or has moved.
func (c *sharedConn) moved(stream string) {
	c.each(func(s Subscriber) { s.Moved(stream) })
}

// each calls f for each subscriber.
func (c *sharedConn) each(f func(Subscriber)) {
	c.pool.mu.Lock()
	defer c.pool.mu.Unlock()
	for l := range c.leases {
		f(l.subscriber)
	}
}
