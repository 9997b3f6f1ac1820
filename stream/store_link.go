package stream

import "context"

// storeLink is where a session's storer stores: the connection that delivers,
// or one beside it.
//
// The stores of StorePolicy.Every have one beside it. When a process is killed
// while deliveries lie unread in its socket, as they usually do, the operating
// system resets the connection, and the broker drops the stores that it has not
// read yet: hundreds, when messages are handled quickly. A connection on which
// nothing is unread is ended in order, and every store that was written
// arrives.
//
// It is shared by all such sessions of the Env that read from the same node: it
// carries nothing but stores and what is read back of them.
type storeLink struct {
	*conn
	session *subscription
	shared  *sharedConn // nil: conn is the session's
}

// storeLinkFor returns the link for a policy, connecting if need be.
func (e *Env) storeLinkFor(ctx context.Context, s *subscription, p StorePolicy) (*storeLink, error) {
	if p.Every == 0 {
		return &storeLink{conn: s.conn.conn, session: s}, nil
	}
	c, _, err := e.stores.join(ctx, s.conn.node, s, func(h hooks) (*conn, error) {
		return dial(ctx, e.cfg, s.conn.endpoint, "tidemark-store", hooks{moved: h.moved})
	})
	if err != nil {
		return nil, err
	}
	return &storeLink{c.conn, s, c}, nil
}

// storeOffset stores nothing once the stream is gone: what is buffered is still
// handled, and its marks are stored on the next connection if it is the same.
// A lost link ends the session.
func (l *storeLink) storeOffset(ctx context.Context, consumer, stream string, offset uint64) error {
	if l.session.gone() {
		return errMoved
	}
	err := l.conn.storeOffset(ctx, consumer, stream, offset)
	if !l.alive() {
		l.session.end(l.reason())
	}
	return err
}

// close lets go of a connection that is not the session's.
func (l *storeLink) close() {
	if l.shared != nil {
		// No goodbye where the session was lost: the peer may be gone.
		l.shared.leave(l.session, func() error { return nil }, l.session.alive())
	}
}
