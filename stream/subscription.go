package stream

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// firstCredit is the number of chunks asked for before the first one shows how
// large they are. With more than one RabbitMQ would, whenever credit has run out,
// wait until more than half as much is back.
const firstCredit = 1

// subscription is one attempt at reading a stream, on a connection that others
// may share. The next attempt is another one. It ends with its connection, when
// its stream is deleted or moves, when end is called, and with close or abort,
// which it needs in any case.
type subscription struct {
	stream string
	node   node
	conn   *sharedConn
	id     uint8
	chunks chan received

	corrupt *atomic.Uint64 // counts the Env's corrupt chunks

	ring ring
	mu   sync.Mutex
	flow flow
	err  error         // why it ended
	over chan struct{} // closed by end
	left bool          // whatever still comes is dropped
}

// received is a chunk and the buffer that it is in.
type received struct {
	wire.Chunk
	buffer []byte
}

// subscribe connects to a node that has the stream and asks for its chunks
// from where next says; next may use the connection to find out.
func (e *Env) subscribe(ctx context.Context, stream, name string, buffered int, next func(context.Context, *subscription) (position, error)) (*subscription, error) {
	where, err := e.find(ctx, stream)
	if err != nil {
		return nil, err
	}
	var s *subscription
	err = firstOf(ctx, where.forReading(), func(n node) (err error) {
		if s, err = e.open(ctx, where, n, stream, buffered); err != nil {
			return err
		}
		begun := false
		defer func() { // a panic of an OffsetStore included
			if !begun {
				s.abort()
			}
		}()
		p, err := next(ctx, s)
		if err == nil {
			err = s.start(ctx, name, p)
		}
		begun = err == nil
		return err
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// open returns a subscription that has a connection to a node, and has not begun.
func (e *Env) open(ctx context.Context, where whereabouts, n node, stream string, buffered int) (*subscription, error) {
	s := newSubscription(stream, n, buffered, &e.corrupt)
	conn, id, err := e.readers.join(ctx, n, s, func(h hooks) (*conn, error) {
		return e.dialNode(ctx, where.told, n, "tidemark-consumer", h)
	})
	s.conn, s.id = conn, id
	return s, err
}

func newSubscription(stream string, n node, buffered int, corrupt *atomic.Uint64) *subscription {
	return &subscription{
		stream: stream, node: n, corrupt: corrupt, chunks: make(chan received, maxChunks), over: make(chan struct{}),
		flow: flow{limit: buffered, granted: firstCredit},
		ring: ring{size: buffered},
	}
}

func (s *subscription) start(ctx context.Context, name string, p position) error {
	var props wire.Properties
	if name != "" {
		props = wire.Properties{{Key: "name", Value: name}}
	}
	return s.conn.subscribe(ctx, s.id, s.stream, p.spec, firstCredit, props)
}

// peek returns the head of the first chunk that the broker has for spec, before
// the subscription begins; ok is false if none comes soon.
func (s *subscription) peek(ctx context.Context, spec wire.OffsetSpec) (chunk wire.Chunk, ok bool, err error) {
	if err := s.conn.subscribe(ctx, s.id, s.stream, spec, firstCredit, nil); err != nil {
		return chunk, false, err
	}
	soon, cancel := context.WithTimeout(ctx, peekTime)
	defer cancel()
	var got received
	select {
	case got = <-s.chunks:
		ok = true
	case <-s.over:
		return chunk, false, s.reason()
	case <-soon.Done(): // the next call sees whether it is ctx
	}
	if err := s.conn.unsubscribe(ctx, s.id); err != nil {
		return chunk, false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !ok && len(s.chunks) > 0 { // it came at the last moment
		got, ok = <-s.chunks, true
	}
	s.ring.put(got.buffer)
	s.flow = flow{limit: s.flow.limit, granted: firstCredit}
	chunk.ChunkHeader = got.ChunkHeader
	return chunk, ok, nil
}

// peekTime is how long a chunk that is there may take.
const peekTime = time.Second

func (c *conn) subscribe(ctx context.Context, sub uint8, stream string, spec wire.OffsetSpec, credit uint16, props wire.Properties) error {
	resp := wire.Response{Key: wire.KeySubscribe}
	err := c.call(ctx, func(id uint32) wire.Frame {
		return &wire.Subscribe{Correlation: id, SubscriptionID: sub, Stream: stream, Spec: spec, Credit: credit, Properties: props}
	}, &resp)
	if err != nil {
		return err
	}
	return codeError(resp.Code, stream, c.endpoint.user)
}

// unsubscribe returns when the broker sends nothing more for a subscription,
// which may be one that it does not have.
func (c *conn) unsubscribe(ctx context.Context, sub uint8) error {
	resp := wire.Response{Key: wire.KeyUnsubscribe}
	return c.call(ctx, func(id uint32) wire.Frame {
		return &wire.Unsubscribe{Correlation: id, SubscriptionID: sub}
	}, &resp)
}

// forsake is unsubscribe at the end of a session, which does not wait for long.
func (c *conn) forsake(sub uint8) error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	return c.unsubscribe(ctx, sub)
}

// accept is called by the connection's reader. A chunk that does not match its
// checksum ends the subscription, with nothing handed out behind it. The queue has room for every
// chunk that credit was given for, so that it never blocks. It must not use
// s.conn: a broken peer may deliver before there is one.
func (s *subscription) accept(d wire.Deliver, buffer []byte) error {
	chunk, err := wire.ParseChunk(d.Chunk)
	if err != nil {
		return err
	}
	bad := chunk.Check()
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.left:
	case bad != nil:
		s.corrupt.Add(1)
		s.endLocked(fmt.Errorf("%w: %w: from %s: %v", ErrProtocol, ErrCorruptChunk, s.node.address(), bad))
		s.left = true
	case s.flow.arrived(len(buffer)):
		s.chunks <- received{chunk, buffer}
	default:
		return fmt.Errorf("%w: more chunks than there was credit for", wire.ErrMalformed)
	}
	return nil
}

// end ends the subscription and leaves the connection to the others; the first
// reason stays. What has arrived is still handed out.
func (s *subscription) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endLocked(err)
}

func (s *subscription) endLocked(err error) {
	if s.err == nil {
		s.err = err
		close(s.over)
	}
}

// reason returns why the subscription ended, nil while it has not.
func (s *subscription) reason() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	return s.conn.reason()
}

func (s *subscription) alive() bool { return s.reason() == nil }

// gone reports whether the stream was deleted or has moved. There may be a new
// one under its name, in which an offset of the old one means something else.
func (s *subscription) gone() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err == errMoved
}

// close ends the subscription in order and leaves the connection. It takes two
// seconds at most.
func (s *subscription) close() { s.leave(true) }

// abort is close without a goodbye where nobody else needs the connection. After
// close it does nothing.
func (s *subscription) abort() { s.leave(false) }

func (s *subscription) leave(polite bool) {
	s.mu.Lock()
	s.left = true
	s.mu.Unlock()
	s.conn.leave(s, func() error { return s.conn.forsake(s.id) }, polite)
}

// receive waits for the next chunk and gives the credit for another one, or
// returns errDue when due comes first. Once the connection is lost, what has
// arrived before is still handed out.
func (s *subscription) receive(ctx context.Context, due <-chan time.Time) (received, error) {
	select {
	case chunk := <-s.chunks:
		return s.taken(ctx, chunk)
	default:
	}
	select {
	case chunk := <-s.chunks:
		return s.taken(ctx, chunk)
	case <-s.over:
		return received{}, s.reason()
	case <-s.conn.closed:
		return received{}, s.reason()
	case <-due:
		return received{}, errDue
	case <-ctx.Done():
		return received{}, context.Cause(ctx)
	}
}

// errMoved ends a subscription whose stream was deleted or has moved.
var errMoved = fmt.Errorf("%w: the broker reports that the stream was deleted or has moved", ErrStreamUnavailable)

func (s *subscription) taken(ctx context.Context, chunk received) (received, error) {
	if ctx.Err() != nil {
		return chunk, context.Cause(ctx)
	}
	s.mu.Lock()
	credit := s.flow.taken(len(chunk.buffer))
	s.mu.Unlock()
	s.give(ctx, credit)
	return chunk, nil
}

// done gives a chunk that was received back.
func (s *subscription) done(ctx context.Context, chunk received) {
	s.ring.put(chunk.buffer)
	s.mu.Lock()
	credit := s.flow.done()
	s.mu.Unlock()
	s.give(ctx, credit)
}

// give sends credit. A lost connection shows at the next receive: what came
// before is good.
func (s *subscription) give(ctx context.Context, credit int) {
	if credit > 0 {
		_ = s.conn.post(ctx, &wire.Credit{SubscriptionID: s.id, Credit: int16(credit)})
	}
}
