package stream

import (
	"context"
	"sync"
)

// storeConns are the connections on which the sessions of an Env with
// StorePolicy.Every store, one for each node.
type storeConns struct {
	mu   sync.Mutex
	open map[endpoint]*storeConn
}

// storeConn is one of them. Whoever needs it first dials, on its own goroutine
// and under its own context, and the others wait for that.
type storeConn struct {
	*conn
	of    *storeConns
	users map[*subscription]struct{} // under of.mu
	ready chan struct{}              // closed once there is a conn or an err
	err   error
	again bool // the one that dialed was cancelled: another one has to
}

// join returns the connection for a session, which leaves it when it ends.
func (p *storeConns) join(ctx context.Context, s *subscription, dial func(hooks) (*conn, error)) (*storeConn, error) {
	for {
		c, first := p.enter(s)
		if first {
			return c, p.dialed(ctx, s, c, dial)
		}
		select {
		case <-c.ready:
		case <-ctx.Done():
			if p.leave(c, s) { // the others went meanwhile
				c.conn.abort()
			}
			return nil, context.Cause(ctx)
		}
		if c.err == nil || !c.again {
			return c, c.err
		}
	}
}

// enter makes a session a user of the connection to its node. first says that
// there is none, and that this session has to dial.
func (p *storeConns) enter(s *subscription) (c *storeConn, first bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c = p.open[s.endpoint]
	if first = c == nil || c.lost(); first {
		c = &storeConn{of: p, users: map[*subscription]struct{}{}, ready: make(chan struct{})}
		if p.open == nil {
			p.open = map[endpoint]*storeConn{}
		}
		p.open[s.endpoint] = c
	}
	c.users[s] = struct{}{}
	return c, first
}

// lost reports whether the connection is of no use to anybody who comes now.
func (c *storeConn) lost() bool {
	select {
	case <-c.ready:
		return c.err != nil || !c.conn.alive()
	default:
		return false // being dialed
	}
}

// dialed dials for all that wait. Those find err set if it failed, and are
// users no more.
func (p *storeConns) dialed(ctx context.Context, s *subscription, c *storeConn, dial func(hooks) (*conn, error)) error {
	nc, err := dial(hooks{moved: c.moved})
	p.mu.Lock()
	defer p.mu.Unlock()
	c.conn, c.err = nc, err
	if err != nil {
		c.again = ctx.Err() != nil
		clear(c.users)
		if p.open[s.endpoint] == c {
			delete(p.open, s.endpoint)
		}
	}
	close(c.ready)
	return err
}

// leave ends a session's use and reports whether it was the last one, which has
// to close the connection.
func (p *storeConns) leave(c *storeConn, s *subscription) (last bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, user := c.users[s]; !user {
		return false
	}
	delete(c.users, s)
	if last = len(c.users) == 0; last && p.open[s.endpoint] == c {
		delete(p.open, s.endpoint)
	}
	return last
}

// moved tells every session that reads the stream.
func (c *storeConn) moved(stream string) {
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	for s := range c.users {
		s.left(stream)
	}
}
