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
	shared  *storeConn // nil: conn is the session's
}

// storeLinkFor returns the link for a policy, connecting if need be.
func (e *Env) storeLinkFor(ctx context.Context, s *subscription, p StorePolicy) (*storeLink, error) {
	if p.Every == 0 {
		return &storeLink{conn: s.conn, session: s}, nil
	}
	shared, err := e.stores.join(ctx, s, func(h hooks) (*conn, error) {
		return dial(ctx, e.cfg, s.endpoint, "tidemark-store", h)
	})
	if err != nil {
		return nil, err
	}
	return &storeLink{shared.conn, s, shared}, nil
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
		l.session.fail(l.reason())
	}
	return err
}

// close lets go of a connection that is not the session's. The last to do so
// ends it.
func (l *storeLink) close() {
	switch {
	case l.shared == nil, !l.shared.of.leave(l.shared, l.session):
	case l.session.alive():
		l.conn.close()
	default:
		l.conn.abort() // the peer may be gone: no time for a goodbye
	}
}
