package stream

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

const (
	// firstCredit is the number of chunks asked for before the first one shows
	// how large they are. With more than one RabbitMQ would, whenever credit has
	// run out, wait until more than half as much is back.
	firstCredit = 1

	subscriptionID = 1
)

// subscription is one attempt at reading a stream: a connection of its own, on
// which chunks come in. The next attempt gets a new one.
type subscription struct {
	*conn
	stream string
	chunks chan received
	moved  chan struct{} // closed when the broker says that the stream is gone or has moved
	once   sync.Once

	ring ring
	mu   sync.Mutex
	flow flow
}

// received is a chunk and the buffer that it is in.
type received struct {
	wire.Chunk
	buffer []byte
}

// subscribe connects to a node that has the stream and asks for its chunks
// from where next says; next may use the connection to find out.
func (e *Env) subscribe(ctx context.Context, stream, name string, buffered int, next func(context.Context, *conn) (position, error)) (*subscription, error) {
	label := "tidemark-consumer"
	if name != "" {
		label += "-" + name
	}
	var s *subscription
	err := e.reach(ctx, stream, label, location.forReading, func() hooks {
		s = newSubscription(stream, buffered)
		return hooks{deliver: s.accept, moved: s.left, buffer: s.ring.get, tick: s.ring.trim}
	}, func(c *conn) error {
		s.conn = c
		p, err := next(ctx, c)
		if err != nil {
			return err
		}
		return s.start(ctx, name, p)
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

func newSubscription(stream string, buffered int) *subscription {
	return &subscription{
		stream: stream, chunks: make(chan received, maxChunks), moved: make(chan struct{}),
		flow: flow{limit: buffered, granted: firstCredit},
		ring: ring{size: buffered},
	}
}

func (s *subscription) start(ctx context.Context, name string, p position) error {
	var props wire.Properties
	if name != "" {
		props = wire.Properties{{Key: "name", Value: name}}
	}
	resp := wire.Response{Key: wire.KeySubscribe}
	err := s.call(ctx, func(id uint32) wire.Frame {
		return &wire.Subscribe{
			Correlation: id, SubscriptionID: subscriptionID, Stream: s.stream,
			Spec: p.spec, Credit: firstCredit, Properties: props,
		}
	}, &resp)
	if err != nil {
		return err
	}
	return codeError(resp.Code, s.stream, s.endpoint.user)
}

// accept is the connection's deliver hook. The queue has room for every chunk
// that credit was given for, so that it never blocks. It must not use s.conn: a
// broken peer may deliver before there is one.
func (s *subscription) accept(d wire.Deliver, buffer []byte) error {
	chunk, err := wire.ParseChunk(d.Chunk)
	if err == nil {
		err = chunk.Check()
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	asked := s.flow.arrived(len(buffer))
	s.mu.Unlock()
	if !asked {
		return fmt.Errorf("%w: more chunks than there was credit for", wire.ErrMalformed)
	}
	s.chunks <- received{chunk, buffer}
	return nil
}

func (s *subscription) left(stream string) {
	if stream == s.stream {
		s.once.Do(func() { close(s.moved) })
	}
}

// gone reports whether the stream was deleted or has moved. There may be a new
// one under its name, in which an offset of the old one means something else.
func (s *subscription) gone() bool {
	select {
	case <-s.moved:
		return true
	default:
		return false
	}
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
	case <-s.moved:
		return received{}, errMoved
	case <-s.closed:
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
		_ = s.post(ctx, &wire.Credit{SubscriptionID: subscriptionID, Credit: int16(credit)})
	}
}
