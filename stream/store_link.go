package stream

import (
	"context"
	"encoding/binary"
	"errors"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// storeLink is where a session's storer stores: the connection that delivers,
// or one beside it.
//
// The stores of StorePolicy.Every have one beside it. When a process is killed
// while deliveries lie unread in its socket, as they usually do, the operating
// system resets the connection, and the broker drops the stores that it has not
// read yet: hundreds, when messages are handled quickly. A connection on which
// nothing is unread is ended in order, and every store that was written
// arrives. It is shared by all such sessions of the Env that read from the same
// node.
//
// On it each session has a subscription that is given no credit and so never
// gets anything: without one RabbitMQ 4.0 to 4.3 checks the permission for each
// store, and reads 40,000 a second in place of 400,000
// (handle_frame_post_auth, store_offset in rabbit_stream_reader.erl).
type storeLink struct {
	*conn
	session *subscription
	name    string
	frame   []byte      // of a store, at whose end the offset stands
	shared  *sharedConn // nil: conn is the session's
	id      uint8       // of the subscription on shared
	since   time.Time   // when that was made
	renewal time.Duration
	last    time.Time // when the last offset was stored
}

// storeLinkFor returns the link for a policy, connecting if need be.
func (e *Env) storeLinkFor(ctx context.Context, s *subscription, name string, p StorePolicy) (*storeLink, error) {
	frame, err := encode(&wire.StoreOffset{Reference: name, Stream: s.stream})
	if err != nil {
		return nil, err
	}
	l := &storeLink{session: s, name: name, frame: frame, renewal: e.storeRenewal}
	if p.Every == 0 {
		l.conn = s.conn.conn
		return l, nil
	}
	l.shared, l.id, err = e.stores.join(ctx, s.node, s, func(h hooks) (*conn, error) {
		return e.dialNode(ctx, s.conn.conn, s.node, "tidemark-store", hooks{moved: h.moved})
	})
	if err != nil {
		return nil, err
	}
	l.conn = l.shared.conn
	if err := l.permit(ctx); err != nil {
		l.close(false)
		return nil, err
	}
	return l, nil
}

// permit makes the subscription without credit. If the broker refuses it, as it
// does while it is busy with an election, stores are slow until the next attempt.
func (l *storeLink) permit(ctx context.Context) error {
	l.now.keep(false)
	resp := wire.Response{Key: wire.KeySubscribe}
	err := l.call(ctx, func(id uint32) wire.Frame {
		return &wire.Subscribe{
			Correlation: id, SubscriptionID: l.id, Stream: l.session.stream,
			Spec: wire.OffsetSpec{Type: wire.OffsetNext}, Properties: wire.Properties{{Key: "name", Value: l.name}},
		}
	}, &resp)
	if l.since = time.Now(); resp.Code != wire.CodeOK {
		l.since = l.since.Add(permitRetry - l.renewal)
	}
	return err
}

const (
	// storeRenewal is how old that subscription gets where offsets are stored. It
	// keeps a file of the stream open on the broker, which retention may have
	// removed.
	storeRenewal = time.Minute
	// permitRetry is when one that was refused is asked for again.
	permitRetry = time.Second
	// together is how soon a store has to follow the one before to be sent with it.
	together = 50 * time.Microsecond
)

// store stores nothing once the stream is gone: what is buffered is still
// handled, and its marks are stored on the next connection if it is the same.
func (l *storeLink) store(ctx context.Context, offset uint64, more bool) error {
	return l.attempt(ctx, func() error {
		binary.BigEndian.PutUint64(l.frame[len(l.frame)-8:], offset)
		return l.send(ctx, more)
	})
}

func (l *storeLink) verify(ctx context.Context, offset uint64) error {
	l.now.keep(false)
	return l.attempt(ctx, func() error {
		return l.readBack(ctx, l.name, l.session.stream, offset, func() error { return l.store(ctx, offset, false) })
	})
}

// attempt does something on the link. If that fails for the link's sake, the
// session ends: the next one has another link.
func (l *storeLink) attempt(ctx context.Context, do func() error) error {
	if l.session.gone() {
		return errMoved
	}
	err := do()
	switch {
	case !l.alive():
		l.session.end(l.reason())
	case err != nil && ctx.Err() == nil && errors.Is(err, ErrUnreachable):
		l.session.end(err)
	}
	return err
}

// send writes the frame. In a burst the kernel sends it together with those that
// follow: with a packet for each the broker is three times as slow.
func (l *storeLink) send(ctx context.Context, more bool) error {
	if l.shared == nil {
		return l.put(ctx, l.frame, true)
	}
	now := time.Now()
	if now.Sub(l.since) > l.renewal {
		if err := l.renew(ctx); err != nil {
			return err
		}
	}
	burst := more && now.Sub(l.last) < together
	l.last = now
	if burst {
		l.now.keep(true)
		return l.put(ctx, l.frame, true)
	}
	defer l.now.keep(false)
	return l.put(ctx, l.frame, true)
}

func (l *storeLink) renew(ctx context.Context) error {
	l.now.keep(false)
	if err := l.unsubscribe(ctx, l.id); err != nil {
		return err
	}
	return l.permit(ctx)
}

// close lets go of a connection that is not the session's. there says that the
// broker is still there to say goodbye to.
func (l *storeLink) close(there bool) {
	if l.shared != nil {
		l.now.keep(false)
		l.shared.leave(l.session, func() error { return l.forsake(l.id) }, there)
	}
}
