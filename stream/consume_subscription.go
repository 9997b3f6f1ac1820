package stream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidemark-go/tidemark/internal/broker"
	"github.com/tidemark-go/tidemark/internal/wire"
)

// subscription is one attempt at reading a stream, on a connection that others
// may share. The next attempt is another subscription. It ends with its
// connection, when its stream is deleted or moves, and when end is called.
// Whoever opened it releases it in any case.
type subscription struct {
	stream string
	node   broker.Node
	lease  *broker.Lease
	chunks chan receivedChunk

	corruptChunks *atomic.Uint64 // of the Env

	ring     ring
	mu       sync.Mutex
	flow     flow
	reason   error         // why the subscription ended
	ended    chan struct{} // closed by end
	dropping bool          // whatever still comes is dropped
}

// receivedChunk is a chunk and the buffer that holds it.
type receivedChunk struct {
	wire.Chunk
	buffer []byte
}

// subscribe connects to a node that has the stream and asks for its chunks from
// the run's place on.
func (r *run) subscribe(ctx context.Context) (*subscription, error) {
	c := r.consumer
	location, err := c.env.cluster.Find(ctx, c.stream)
	if err != nil {
		return nil, err
	}
	var s *subscription
	err = firstOf(ctx, location.ForReading(), func(n broker.Node) (err error) {
		s, err = c.env.openSubscription(ctx, location, n, c.stream, c.cfg.MaxBuffered)
		if err != nil {
			return err
		}
		return r.beginSubscription(ctx, s)
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// beginSubscription asks for the chunks, and releases the subscription if that
// fails.
func (r *run) beginSubscription(ctx context.Context, s *subscription) error {
	begun := false
	defer func() { // after a panic of an OffsetStore too
		if !begun {
			s.release(false)
		}
	}()
	from, err := r.findPosition(ctx, s)
	if err == nil {
		err = s.lease.Subscribe(ctx, s.stream, from.Spec, r.consumer.cfg.Name)
	}
	begun = err == nil
	return err
}

// firstOf tries one node after the other, until use works with one or fails for a
// reason that no other node could mend.
func firstOf(ctx context.Context, nodes []broker.Node, use func(broker.Node) error) error {
	var errs []error
	for _, n := range nodes {
		err := use(n)
		if err == nil || isFatal(err) || ctx.Err() != nil {
			return err
		}
		errs = append(errs, fmt.Errorf("%s: %w", n.Address(), err))
	}
	return errors.Join(errs...)
}

// openSubscription returns a subscription that has a connection to a node and
// that asks for nothing yet.
func (e *Env) openSubscription(ctx context.Context, l broker.Location, n broker.Node, stream string, maxBuffered int) (*subscription, error) {
	s := newSubscription(stream, n, maxBuffered, &e.corruptChunks)
	lease, err := e.cluster.Lease(ctx, l.Contact, n, s)
	if err != nil {
		return nil, err
	}
	s.lease = lease
	return s, nil
}

func newSubscription(stream string, n broker.Node, maxBuffered int, corruptChunks *atomic.Uint64) *subscription {
	return &subscription{
		stream: stream, node: n, corruptChunks: corruptChunks,
		chunks: make(chan receivedChunk, maxChunks), ended: make(chan struct{}),
		flow: newFlow(maxBuffered),
		ring: ring{size: maxBuffered},
	}
}

// peekTime is how long a chunk that exists may take to come.
const peekTime = time.Second

// peek returns the head of the first chunk that the broker has for spec, before
// the subscription begins. It returns nil if none comes within peekTime.
func (s *subscription) peek(ctx context.Context, spec wire.OffsetSpec) (*wire.Chunk, error) {
	if err := s.lease.Subscribe(ctx, s.stream, spec, ""); err != nil {
		return nil, err
	}
	soon, cancel := context.WithTimeout(ctx, peekTime)
	defer cancel()
	var got receivedChunk
	came := false
	select {
	case got = <-s.chunks:
		came = true
	case <-s.ended:
		return nil, s.whyEnded()
	case <-soon.Done(): // if ctx has ended, Unsubscribe says so
	}
	if err := s.lease.Unsubscribe(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !came && len(s.chunks) > 0 { // it came at the last moment
		got, came = <-s.chunks, true
	}
	s.ring.put(got.buffer)
	s.flow = newFlow(s.flow.limit)
	if !came {
		return nil, nil
	}
	return &wire.Chunk{ChunkHeader: got.ChunkHeader}, nil
}

// Deliver queues a chunk. The connection's reader calls it, possibly before
// s.lease is set. A chunk that does not match its checksum ends the subscription,
// and nothing behind it is handed out. The queue has room for every chunk that
// credit was given for, so Deliver never blocks.
func (s *subscription) Deliver(d wire.Deliver, buffer []byte) error {
	chunk, err := wire.ParseChunk(d.Chunk)
	if err != nil {
		return err
	}
	checksumErr := chunk.Check()
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.dropping:
	case checksumErr != nil:
		s.corruptChunks.Add(1)
		s.endLocked(fmt.Errorf("%w: %w: from %s: %v", ErrProtocol, ErrCorruptChunk, s.node.Address(), checksumErr))
		s.dropping = true
	case s.flow.arrived(len(buffer)):
		s.chunks <- receivedChunk{chunk, buffer}
	default:
		return fmt.Errorf("%w: more chunks than there was credit for", wire.ErrMalformed)
	}
	return nil
}

// Buffer returns memory for the next chunk.
func (s *subscription) Buffer(n int) []byte { return s.ring.get(n) }

// Tick lets go of memory that was not used for a while.
func (s *subscription) Tick() { s.ring.trim() }

// errMoved ends a subscription whose stream was deleted or has moved.
var errMoved = fmt.Errorf("%w: the broker reports that the stream was deleted or has moved", ErrStreamUnavailable)

// Moved ends the subscription if the stream is its own.
func (s *subscription) Moved(stream string) {
	if stream == s.stream {
		s.end(errMoved)
	}
}

// end ends the subscription and leaves the connection to the others. The first
// reason counts. What has arrived is still handed out.
func (s *subscription) end(reason error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endLocked(reason)
}

func (s *subscription) endLocked(reason error) {
	if s.reason == nil {
		s.reason = reason
		close(s.ended)
	}
}

// whyEnded returns why the subscription or its connection ended, and nil while
// neither has.
func (s *subscription) whyEnded() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reason != nil {
		return s.reason
	}
	return s.lease.Reason()
}

func (s *subscription) alive() bool { return s.whyEnded() == nil }

// streamGone reports whether the stream was deleted or has moved. A new stream
// may have its name, in which an offset of the old one means something else.
func (s *subscription) streamGone() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reason == errMoved
}

// release ends the use of the connection, which takes two seconds at most. polite
// says goodbye even where nobody else needs the connection. Only the first call
// counts.
func (s *subscription) release(polite bool) {
	s.mu.Lock()
	s.dropping = true
	s.mu.Unlock()
	s.lease.Release(polite)
}

// errFlushDue ends a receive that has waited until a flush is due.
var errFlushDue = errors.New("a flush is due")

// receive waits for the next chunk and gives the credit for further ones. It
// returns errFlushDue if flushDue comes first. Once the connection is lost it
// still hands out what has arrived before. The caller passes the chunk to
// finished.
func (s *subscription) receive(ctx context.Context, flushDue <-chan time.Time) (receivedChunk, error) {
	select {
	case chunk := <-s.chunks:
		return s.received(ctx, chunk)
	default:
	}
	select {
	case chunk := <-s.chunks:
		return s.received(ctx, chunk)
	case <-s.ended:
		return receivedChunk{}, s.whyEnded()
	case <-s.lease.Ended():
		return receivedChunk{}, s.whyEnded()
	case <-flushDue:
		return receivedChunk{}, errFlushDue
	case <-ctx.Done():
		return receivedChunk{}, context.Cause(ctx)
	}
}

func (s *subscription) received(ctx context.Context, chunk receivedChunk) (receivedChunk, error) {
	if ctx.Err() != nil {
		return chunk, context.Cause(ctx)
	}
	s.mu.Lock()
	credit := s.flow.taken(len(chunk.buffer))
	s.mu.Unlock()
	s.giveCredit(ctx, credit)
	return chunk, nil
}

// finished gives back a chunk that was received, whose memory is used again.
func (s *subscription) finished(ctx context.Context, chunk receivedChunk) {
	s.ring.put(chunk.buffer)
	s.mu.Lock()
	credit := s.flow.finished()
	s.mu.Unlock()
	s.giveCredit(ctx, credit)
}

// giveCredit asks for more chunks. It ignores a lost connection, which the next
// receive reports after what came before.
func (s *subscription) giveCredit(ctx context.Context, n int) {
	if n > 0 {
		_ = s.lease.Credit(ctx, n)
	}
}

var _ broker.Subscriber = (*subscription)(nil)
