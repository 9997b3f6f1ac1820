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

// subscription reads a stream over one connection, which others may share. It
// ends with its connection, when its stream is deleted or moves, and when end
// is called. The next session has another subscription. The caller of
// openSubscription releases it, also after it has ended.
type subscription struct {
	stream string
	node   broker.Node
	lease  *broker.Lease
	chunks chan receivedChunk

	corruptChunks *atomic.Uint64 // of the Env

	ring     ring
	mu       sync.Mutex
	flow     flow
	reason   error         // why end was called; nil: it was not
	ended    chan struct{} // closed by end
	dropping bool          // chunks that still come are dropped
}

// receivedChunk is a chunk and the buffer that holds it.
type receivedChunk struct {
	wire.Chunk
	buffer []byte
}

// subscribe finds a node that has the stream, connects to it and asks for the
// chunks from the run's place on. The caller releases the subscription.
func (r *run) subscribe(ctx context.Context) (*subscription, error) {
	c := r.consumer
	location, err := c.env.cluster.Find(ctx, c.stream)
	if err != nil {
		return nil, err
	}
	var s *subscription
	nodes := location.ForReading()
	if c.cfg.FromLeader {
		nodes = []broker.Node{location.Leader}
	}
	err = firstOf(ctx, nodes, func(n broker.Node) (err error) {
		open := c.env.openSubscription
		if r.frames.alone(r.place.Next()) {
			open = c.env.openSubscriptionAlone
		}
		s, err = open(ctx, location, n, c.stream, c.cfg.MaxBuffered)
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

// beginSubscription finds where the session begins and asks for the chunks. It
// releases the subscription if that fails.
func (r *run) beginSubscription(ctx context.Context, s *subscription) error {
	begun := false
	defer func() { // deferred, because an OffsetStore may panic
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

// firstOf calls use for one node after the other, until it works, or fails for
// a reason that no other node could mend. A node's wrong certificate is its own.
func firstOf(ctx context.Context, nodes []broker.Node, use func(broker.Node) error) error {
	var errs []error
	for _, n := range nodes {
		err := use(n)
		if err == nil || isFatal(err) && !errors.Is(err, ErrTLS) || ctx.Err() != nil {
			return err
		}
		errs = append(errs, fmt.Errorf("%s: %w", n.Address(), err))
	}
	return errors.Join(errs...)
}

// openSubscription returns a subscription that has a connection to a node and
// has not asked for chunks yet. The caller releases it.
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

// peekTime is how long peek waits for a chunk.
const peekTime = time.Second

// peek returns the header of the first chunk that the broker has for spec, or
// nil if none comes within peekTime. For that it subscribes, without a name,
// and unsubscribes again; the caller has not subscribed yet.
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
	case <-soon.Done(): // if ctx has ended, Unsubscribe returns its error
	}
	if err := s.lease.Unsubscribe(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// A chunk may have come after the wait and before the broker's answer to
	// Unsubscribe. None comes after that answer.
	if !came && len(s.chunks) > 0 {
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
// openSubscription has set s.lease. A chunk that does not match its checksum
// ends the subscription, and Deliver drops it and what comes behind it. The
// queue has room for every chunk that credit was given for, so Deliver never
// blocks.
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

// Buffer returns memory for the next chunk. The connection's reader calls it.
func (s *subscription) Buffer(n int) []byte { return s.ring.get(n) }

// Tick gives up memory that was not used since the last Tick.
func (s *subscription) Tick() { s.ring.trim() }

// errMoved ends a subscription whose stream was deleted or has moved.
var errMoved = fmt.Errorf("%w: the broker reports that the stream was deleted or has moved", ErrStreamUnavailable)

// Moved ends the subscription if the stream is its own.
func (s *subscription) Moved(stream string) {
	if stream == s.stream {
		s.end(errMoved)
	}
}

// end ends the subscription, and not the connection. The first reason counts.
// receive still returns the chunks that have come before.
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
// may have the name by now, and an offset of the old one means another message
// there.
func (s *subscription) streamGone() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reason == errMoved
}

// release gives up the subscription's place on its connection, which takes two
// seconds at most. If nobody else uses the connection, it is closed, and polite
// says goodbye to the broker first. Only the first call counts.
func (s *subscription) release(polite bool) {
	s.mu.Lock()
	s.dropping = true
	s.mu.Unlock()
	s.lease.Release(polite)
}

// errFlushDue ends a receive that has waited until a flush is due.
var errFlushDue = errors.New("a flush is due")

// receive waits for the next chunk and gives credit for further ones. It
// returns errFlushDue if flushDue gets an item first. After the connection is
// lost it still returns the chunks that have come before. The caller passes
// each chunk to giveBack.
func (s *subscription) receive(ctx context.Context, flushDue <-chan time.Time) (receivedChunk, error) {
	select {
	case chunk := <-s.chunks:
		return s.take(ctx, chunk)
	default:
	}
	select {
	case chunk := <-s.chunks:
		return s.take(ctx, chunk)
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

// take counts a chunk as taken from the queue and gives credit for further
// ones.
func (s *subscription) take(ctx context.Context, chunk receivedChunk) (receivedChunk, error) {
	if ctx.Err() != nil {
		return chunk, context.Cause(ctx)
	}
	s.mu.Lock()
	credit := s.flow.taken(len(chunk.buffer))
	s.mu.Unlock()
	s.giveCredit(ctx, credit)
	return chunk, nil
}

// giveBack takes the memory of a chunk back from the caller of receive, and
// gives credit for further chunks.
func (s *subscription) giveBack(ctx context.Context, chunk receivedChunk) {
	s.ring.put(chunk.buffer)
	s.mu.Lock()
	credit := s.flow.returned()
	s.mu.Unlock()
	s.giveCredit(ctx, credit)
}

// giveCredit asks the broker for n more chunks. It ignores an error: if the
// connection is lost, receive reports that after the chunks that came before.
func (s *subscription) giveCredit(ctx context.Context, n int) {
	if n > 0 {
		_ = s.lease.Credit(ctx, n)
	}
}

var _ broker.Subscriber = (*subscription)(nil)
