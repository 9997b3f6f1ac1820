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

	corruptChunks *atomic.Uint64 // of the Env
	memory        *memory        // of the Env
	share         *share

	small smallChunks    // used by the connection's reader, as came
	came  []waitingChunk // what came since the last Flush

	// aside opens another subscription beside this one, which is a member of a
	// group. Nil: it is none.
	aside func(context.Context) (*subscription, error)

	mu       sync.Mutex
	member   *membership // in a group; nil: in none
	flow     flow
	queue    []waitingChunk // what the consumer has not taken
	reason   error          // why end was called; nil: it was not
	ended    chan struct{}  // closed by end
	dropping atomic.Bool    // chunks that still come are dropped
	wake     chan struct{}  // has an item if queue may have grown

	arrivals uint64           // guarded by mu: chunks that have come since Subscribe
	granted  atomic.Uint64    // chunks that credit has left for since Subscribe, that of Subscribe included
	crossed  chan *wire.Chunk // from the lookout; nil: there is none
	upTo     *wire.Chunk      // what came last from crossed; used by the consumer

	taken     takenChunks // used by the consumer
	jumpWatch jumpWatch

	tee   *tee                      // whose source it is; nil: a consumer's own
	inTee atomic.Pointer[teeMember] // its place in a tee, from where it reads; nil: it reads by itself
	env   *Env                      // where it finds tees; nil: it does not share
	name  string                    // of its consumer
}

// receivedChunk is a chunk and the buffer that holds it.
type receivedChunk struct {
	wire.Chunk
	buffer []byte
	shared bool // other consumers get it too
}

// kept reports whether nobody else uses the chunk's memory, now or later.
func (c *receivedChunk) kept() bool { return cap(c.buffer) < minBuffer && !c.shared }

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
		switch {
		case r.frames.alone(r.place.Next()):
			open = c.env.openSubscriptionAlone
		case c.mayShare() && c.env.shares(c.stream):
			open = c.env.openShared
		}
		s, err = open(ctx, location, n, c.stream, c.cfg.MaxBuffered)
		if err != nil {
			return err
		}
		c.env.memory.group(s.share, r.budget)
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
			s.releaseWithin(ctx, false)
			s.member.close()
		}
	}()
	if r.grouped() {
		err := r.joinGroup(ctx, s)
		begun = err == nil
		return err
	}
	from, err := r.findPosition(ctx, s)
	switch {
	case err != nil:
	case s.env != nil:
		s.name = r.consumer.cfg.Name
		err = s.env.joinTee(ctx, s, from.Spec, s.name)
	default:
		err = s.lease.Subscribe(ctx, s.stream, from.Spec, r.subscribeOptions())
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
	return e.openOver(ctx, e.cluster.Lease, l, n, stream, maxBuffered)
}

// openSubscriptionAlone is openSubscription on a connection that nobody else
// uses.
func (e *Env) openSubscriptionAlone(ctx context.Context, l broker.Location, n broker.Node, stream string, maxBuffered int) (*subscription, error) {
	return e.openOver(ctx, e.cluster.LeaseAlone, l, n, stream, maxBuffered)
}

// openShared is openSubscription for a consumer that reads with others: it has a
// place on a connection for its questions and stores.
func (e *Env) openShared(ctx context.Context, l broker.Location, n broker.Node, stream string, maxBuffered int) (*subscription, error) {
	s, err := e.openOver(ctx, e.cluster.LeaseQuestions, l, n, stream, maxBuffered)
	if err == nil {
		s.env = e
	}
	return s, err
}

// mayShare reports whether the consumer wants what others want that read the
// stream: the broker sends it nothing else, and at no other time. The chunks of a
// partition count for the budget of its super stream's consumer, so they are not
// shared.
func (c *Consumer) mayShare() bool {
	return !c.cfg.OwnSubscription && !c.cfg.SingleActive && !c.cfg.Filter.isSet() && c.superStream == ""
}

// shares reports whether consumers of a stream read together: several of them
// run.
func (e *Env) shares(stream string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.readers[stream] > 1
}

// leaseFunc is Cluster.Lease or Cluster.LeaseAlone.
type leaseFunc func(context.Context, broker.Contact, broker.Node, string, broker.Subscriber) (*broker.Lease, error)

func (e *Env) openOver(ctx context.Context, lease leaseFunc, l broker.Location, n broker.Node, stream string, maxBuffered int) (s *subscription, err error) {
	s = newSubscription(stream, n, maxBuffered, e.memory, &e.corruptChunks)
	if s.lease, err = lease(ctx, l.Contact, n, stream, s); err != nil {
		e.memory.leave(s.share)
		return nil, err
	}
	return s, nil
}

func newSubscription(stream string, n broker.Node, maxBuffered int, m *memory, corruptChunks *atomic.Uint64) *subscription {
	s := &subscription{
		stream: stream, node: n, corruptChunks: corruptChunks,
		memory: m, share: m.join(), flow: newFlow(maxBuffered),
		ended: make(chan struct{}), wake: make(chan struct{}, 1),
	}
	s.granted.Store(broker.FirstCredit)
	return s
}

// peekTime is how long peek waits for a chunk.
const peekTime = time.Second

// peek returns the header of the first chunk that the broker has for spec, or
// nil if none comes within peekTime. For that it subscribes, without a name,
// and unsubscribes again; the caller has not subscribed yet. A member of a group
// has, so it peeks beside its subscription.
func (s *subscription) peek(ctx context.Context, spec wire.OffsetSpec) (*wire.Chunk, error) {
	if s.aside != nil {
		return s.peekAside(ctx, spec)
	}
	if err := s.lease.Subscribe(ctx, s.stream, spec, broker.SubscribeOptions{}); err != nil {
		return nil, err
	}
	soon, cancel := context.WithTimeout(ctx, peekTime)
	defer cancel()
	select {
	case <-s.wake:
	case <-s.ended:
		return nil, s.whyEnded()
	case <-soon.Done(): // if ctx has ended, Unsubscribe returns its error
	}
	if err := s.lease.Unsubscribe(ctx); err != nil {
		return nil, err
	}
	// A chunk may have come after the wait and before the broker's answer to
	// Unsubscribe. None comes after that answer.
	return s.discard(), nil
}

// openAside returns another subscription to the same node, for a look. It is where
// questions are asked: a connection for it alone would take longer than the look.
func (r *run) openAside(ctx context.Context, s *subscription) (*subscription, error) {
	env := r.consumer.env
	return env.openOver(ctx, env.cluster.LeaseQuestions, broker.Location{Contact: s.lease.Contact()}, s.node, s.stream, r.consumer.cfg.MaxBuffered)
}

// peekAside is peek on a subscription beside one that is a member of a group.
func (s *subscription) peekAside(ctx context.Context, spec wire.OffsetSpec) (*wire.Chunk, error) {
	beside, err := s.aside(ctx)
	if err != nil {
		return nil, err
	}
	defer beside.releaseWithin(ctx, true)
	return beside.peek(ctx, spec)
}

// park drops what has come, and claims no memory until the next term. The broker
// keeps the credit that it has.
func (s *subscription) park() {
	s.parkJumps()
	s.mu.Lock()
	defer s.mu.Unlock()
	t := &s.taken
	for _, w := range append(t.list[t.next:], s.queue...) {
		s.memory.put(w.buffer)
	}
	s.queue, s.taken = nil, takenChunks{}
	s.flow.park()
	s.memory.update(s.share, &s.flow)
}

// Update takes what the broker says of a member of a group.
func (s *subscription) Update(u broker.Update) (answers bool) {
	s.mu.Lock()
	m := s.member
	s.mu.Unlock()
	return m != nil && m.ordered(u)
}

// discard returns the header of the chunk that waits, or nil, and leaves the
// subscription as it was before it asked for chunks.
func (s *subscription) discard() (header *wire.Chunk) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.queue {
		header = &wire.Chunk{ChunkHeader: w.chunk().ChunkHeader}
		s.memory.put(w.buffer)
	}
	s.queue, s.flow, s.arrivals = nil, newFlow(int(s.flow.limit)), 0
	s.memory.update(s.share, &s.flow)
	return header
}

// Tick gives up memory that was not used lately.
func (s *subscription) Tick() {
	s.mu.Lock()
	s.flow.tick()
	if s.tee != nil {
		s.tee.trim(0)
	}
	s.memory.update(s.share, &s.flow)
	s.mu.Unlock()
	s.memory.tick(time.Now())
}

// errMoved ends a subscription whose stream was deleted or has moved.
var errMoved = fmt.Errorf("%w: the broker reports that the stream was deleted or has moved", ErrStreamUnavailable)

// Moved ends the subscription if the stream is its own.
func (s *subscription) Moved(stream string) {
	if stream == s.stream {
		s.end(errMoved)
	}
}

// errDropped ends a subscription that the broker does not have (any more).
var errDropped = fmt.Errorf("%w: the broker has dropped the subscription", ErrStreamUnavailable)

// CreditRefused ends the subscription if the broker does not have it: the chunks
// that the credit was for would never come. An inactive consumer keeps the
// credit.
func (s *subscription) CreditRefused(code wire.Code) {
	if code != wire.CodePreconditionFailed {
		s.end(fmt.Errorf("%w: its answer to a Credit is: %v", errDropped, code))
	}
}

// end ends the subscription, and not the connection. The first reason counts.
// receive still returns the chunks that have come before. What comes after is
// dropped: else a busy stream would hide the end.
func (s *subscription) end(reason error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endLocked(reason)
}

func (s *subscription) endLocked(reason error) {
	if s.reason == nil {
		s.reason = reason
		s.dropping.Store(true)
		close(s.ended)
	}
}

// whyEnded returns why the subscription or its connection ended, and nil while
// neither has.
func (s *subscription) whyEnded() error {
	if reason := s.endReason(); reason != nil {
		return reason
	}
	if m := s.inTee.Load(); m != nil {
		if reason := m.tee.source.whyEnded(); reason != nil {
			return reason
		}
	}
	return s.lease.Reason()
}

// endReason returns why end was called, and nil if it was not.
func (s *subscription) endReason() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reason
}

func (s *subscription) alive() bool { return s.whyEnded() == nil }

// streamGone reports whether the stream was deleted or has moved, which may also
// be why the broker has dropped the subscription. A new stream may have the name
// by now, and an offset of the old one means another message there.
func (s *subscription) streamGone() bool {
	reason := s.endReason()
	if m := s.inTee.Load(); reason == nil && m != nil {
		reason = m.tee.source.endReason()
	}
	return errors.Is(reason, errMoved) || errors.Is(reason, errDropped)
}

// leave ends the delivery of chunks, and drops those that still come. The
// connection stays in use. leave waits for the broker's answer under ctx, for a
// second at most.
//
// A run leaves before it stores its last mark: below 4.2.2 RabbitMQ sleeps 1 ms
// for each subscription when a stream grows, and a store makes it grow.
func (s *subscription) leave(ctx context.Context) {
	s.dropping.Store(true)
	ctx, cancel := context.WithTimeout(ctx, leaveTime)
	defer cancel()
	if m := s.inTee.Load(); m != nil {
		m.leave(ctx, true)
		return
	}
	_ = s.lease.Unsubscribe(ctx) // release tries again
}

// leaveTime is how long leave waits for the broker.
const leaveTime = time.Second

// release gives up the subscription's place on its connection, which takes two
// seconds at most, and its memory. If nobody else uses the connection, it is
// closed, and polite says goodbye to the broker first. Only the first call
// counts.
func (s *subscription) release(polite bool) { s.releaseWithin(context.Background(), polite) }

// releaseWithin is release that waits for the broker under ctx.
func (s *subscription) releaseWithin(ctx context.Context, polite bool) {
	s.dropping.Store(true)
	s.endJumps()
	if m := s.inTee.Load(); m != nil {
		m.leave(ctx, polite)
	}
	s.memory.leave(s.share)
	s.lease.ReleaseWithin(ctx, polite)
}

// errFlushDue ends a receive that has waited until a flush is due.
var errFlushDue = errors.New("a flush is due")

// giveCredit asks the broker for n more chunks. It ignores an error: if the
// connection is lost, receive reports that after the chunks that came before. The
// credit of a member of a group outlives the term, which ends ctx.
func (s *subscription) giveCredit(ctx context.Context, n int) {
	if s.aside != nil {
		ctx = context.WithoutCancel(ctx)
	}
	if n > 0 && s.lease.Credit(ctx, n) == nil {
		s.granted.Add(uint64(n)) // now, because a look counts what has left before it
	}
}

var _ broker.Subscriber = (*subscription)(nil)
