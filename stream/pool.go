package stream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// pool keeps the connections that the subscriptions of an Env share, by the
// node that they lead to. The first of them get a connection each, as many as
// there may be to a node, so that several cores can read; those that follow
// join the one with the fewest users.
type pool struct {
	most int // connections to a node, and more only where these are full
	// answers returns an error if a connection does not answer, as one whose end
	// nobody has noticed yet; nil: they do.
	answers func(context.Context, *conn) error

	mu   sync.Mutex
	open map[node][]*sharedConn
}

func newPool(most int, answers func(context.Context, *conn) error) *pool {
	return &pool{most: most, answers: answers, open: map[node][]*sharedConn{}}
}

// maxIDs is how many subscriptions the protocol has room for on a connection.
const maxIDs = 256

// sharedConn is a connection of a pool. Whoever needs it first dials, on its own
// goroutine and under its own context, and the others wait for that. The last
// one to leave closes it.
type sharedConn struct {
	*conn
	of     *pool
	node   node
	ready  chan struct{} // closed once there is a conn or a failure
	failed error
	again  bool        // the one that dialed was cancelled: another one has to
	silent atomic.Bool // it did not answer a newcomer

	users  map[*subscription]uint8 // with their ids; under of.mu
	lastID uint8                   // under of.mu
	// ids are whom chunks are for. An id is taken until the broker has answered
	// that its subscription has ended: what comes before that is still for it.
	ids [maxIDs]atomic.Pointer[subscription]
}

// join returns a connection to a node and s's id on it, for s to leave when it
// ends.
func (p *pool) join(ctx context.Context, n node, s *subscription, dial func(hooks) (*conn, error)) (*sharedConn, uint8, error) {
	for {
		c, id, first := p.enter(n, s)
		if first {
			return c, id, p.connect(ctx, c, dial)
		}
		select {
		case <-c.ready:
		case <-ctx.Done():
			c.leave(s, func() error { return nil }, false) // alone: the others went meanwhile
			return nil, 0, context.Cause(ctx)
		}
		switch {
		case c.failed != nil && c.again:
			continue
		case c.failed != nil:
			return nil, 0, c.failed
		}
		if p.answers == nil || p.answers(ctx, c.conn) == nil {
			return c, id, nil
		}
		cancelled := ctx.Err() != nil
		if !cancelled {
			c.silent.Store(true)
		}
		c.leave(s, func() error { return nil }, false)
		if cancelled {
			return nil, 0, context.Cause(ctx)
		}
	}
}

// enter makes s a user of a connection to a node. first says that it is new, and
// that s has to dial.
func (p *pool) enter(n node, s *subscription) (c *sharedConn, id uint8, first bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c = p.choose(n)
	if first = c == nil; first {
		c = &sharedConn{of: p, node: n, ready: make(chan struct{}), users: map[*subscription]uint8{}}
		p.open[n] = append(p.open[n], c)
	}
	id, _ = c.freeID()
	c.lastID = id
	c.users[s] = id
	c.ids[id].Store(s)
	return c, id, first
}

// choose returns the connection to use, nil for a new one. p.mu is held.
func (p *pool) choose(n node) (best *sharedConn) {
	open := 0
	for _, c := range p.open[n] {
		if c.lost() {
			continue // its users are about to leave it
		}
		open++
		if _, ok := c.freeID(); ok && (best == nil || len(c.users) < len(best.users)) {
			best = c
		}
	}
	if open < p.most {
		return nil
	}
	return best
}

// freeID returns an id that nobody has, not the one that was used last. of.mu is
// held.
func (c *sharedConn) freeID() (id uint8, ok bool) {
	for i := range maxIDs {
		id = c.lastID + 1 + uint8(i) // wraps around
		if c.ids[id].Load() == nil {
			return id, true
		}
	}
	return 0, false
}

// lost reports whether the connection is of no use to anybody who comes now.
func (c *sharedConn) lost() bool {
	select {
	case <-c.ready:
		return c.failed != nil || !c.alive() || c.silent.Load()
	default:
		return false // being dialed
	}
}

// connect dials for all that wait. Those find failed set if it did not work, and
// are users no more.
func (p *pool) connect(ctx context.Context, c *sharedConn, dial func(hooks) (*conn, error)) (err error) {
	var nc *conn
	err = errDialing // stays with a panic of Config.Resolve
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		c.conn, c.failed = nc, err
		if err != nil {
			c.again = ctx.Err() != nil || errors.Is(err, context.DeadlineExceeded) || err == errDialing
			clear(c.users)
			p.remove(c)
		}
		close(c.ready)
	}()
	nc, err = dial(hooks{deliver: c.deliver, buffer: c.buffer, tick: c.tick, moved: c.moved})
	return err
}

var errDialing = errors.New("dialing did not come to its end")

// remove takes a connection out of the pool. p.mu is held.
func (p *pool) remove(c *sharedConn) {
	list := p.open[c.node]
	for i, other := range list {
		if other == c {
			list = append(list[:i], list[i+1:]...)
			break
		}
	}
	if p.open[c.node] = list; len(list) == 0 {
		delete(p.open, c.node)
	}
}

// leave ends s's use of the connection. Where there are others, goodbye first has
// the broker send s nothing more; if it fails, s's id stays taken for good. The
// last user closes the connection, politely if the peer is to be told.
func (c *sharedConn) leave(s *subscription, goodbye func() error, polite bool) {
	last, stays := c.drop(s, false, false)
	if stays {
		last, _ = c.drop(s, true, goodbye() == nil)
	}
	switch {
	case !last:
	case polite && c.alive():
		c.close()
	default:
		c.abort()
	}
}

// drop makes s a user no more and reports whether it was the last one. Unless
// it is forced, s stays where there are others.
func (c *sharedConn) drop(s *subscription, force, freeID bool) (last, stays bool) {
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	id, user := c.users[s]
	if !user {
		return false, false
	}
	if len(c.users) > 1 && !force {
		return false, true
	}
	delete(c.users, s)
	if freeID {
		c.ids[id].Store(nil)
	} else {
		c.ids[id].Store(&subscription{left: true}) // without its memory
	}
	if last = len(c.users) == 0; last {
		c.of.remove(c)
	}
	return last, false
}

// deliver is the connection's hook for a chunk.
func (c *sharedConn) deliver(d wire.Deliver, buffer []byte) error {
	s := c.ids[d.SubscriptionID].Load()
	if s == nil {
		return fmt.Errorf("%w: a chunk for the subscription %d, which there is not", wire.ErrMalformed, d.SubscriptionID)
	}
	return s.accept(d, buffer)
}

// buffer is the connection's hook for the memory of a chunk.
func (c *sharedConn) buffer(id uint8, n int) []byte {
	if s := c.ids[id].Load(); s != nil {
		return s.ring.get(n)
	}
	return make([]byte, n)
}

// tick lets go of memory that was not used for a while.
func (c *sharedConn) tick() {
	c.each(func(s *subscription) { s.ring.trim() })
}

// moved tells everybody who reads the stream.
func (c *sharedConn) moved(stream string) {
	c.each(func(s *subscription) {
		if s.stream == stream {
			s.end(errMoved)
		}
	})
}

// each calls f for each user; f must not block.
func (c *sharedConn) each(f func(*subscription)) {
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	for s := range c.users {
		f(s)
	}
}
