package stream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/tidemark-go/tidemark/internal/broker"
	"github.com/tidemark-go/tidemark/internal/mark"
	"github.com/tidemark-go/tidemark/internal/wire"
)

// tee is a subscription at the broker that several consumers of an Env read: each
// chunk comes once, is checked once, and lies in memory once. Every consumer has
// its own place in the ring of chunks, a queue for answers (its own lease), its
// mark and its name. The tee's flow counts a chunk as held until all consumers
// have given it back.
//
// A consumer that is so slow that another one waits for it is detached: it reads
// on at its place with another tee, which may be a new one. source.mu guards the
// fields from ring on.
type tee struct {
	source *subscription // what the broker knows
	key    teeKey
	spec   wire.OffsetSpec // where source began
	from   uint64          // the offset from which source watches for gaps

	opened      chan struct{} // closed once source has subscribed, or failed
	openError   error         // why it failed; set before opened is closed
	interrupted bool          // it failed because the one who opened it was told to end

	ring    []teeChunk
	base    uint64 // number of the ring's first chunk
	needed  uint64 // number of the first chunk that a member needs
	members map[*teeMember]struct{}
	owed    int        // credit that was granted and could not be sent
	kept    int64      // bytes of the chunks that nobody needs
	lost    []mark.Gap // what retention took in front of source, the newest of it
}

// maxLost bounds tee.lost.
const maxLost = 1000

// teeKey is what the consumers of a tee have in common.
type teeKey struct {
	stream      string
	node        broker.Node
	maxBuffered int
}

// teeChunk is a chunk in a ring. Chunks that nobody needs stay for a moment, for
// consumers that come later.
type teeChunk struct {
	waitingChunk
	first, end uint64 // offsets: of its first message, and the one behind its last
	users      int    // members that have not given it back
	lent       bool   // a detached consumer may still read its memory
}

// teeMember is a consumer's place in a tee. Its consumer alone uses the second
// group.
type teeMember struct {
	tee      *tee
	consumer *subscription
	low      uint64 // number of the first chunk that it has not given back
	next     uint64 // number of the chunk that it takes next
	detached bool

	from         wire.OffsetSpec // where it reads on if it is detached
	returned     int
	returnedCost int64
	// From so much on the tee is told.
	returnAfter     int
	returnAfterCost int64
	waited          time.Duration // for slower ones, since waitedFrom
	waitedFrom      time.Time
}

// tees are those of an Env.
type tees struct {
	mu   sync.Mutex
	open map[teeKey][]*tee
}

// joinTee lets the subscription read from a place on together with others. It
// opens a tee if none holds the chunks of that place. name is shown by the
// broker's management.
func (e *Env) joinTee(ctx context.Context, s *subscription, spec wire.OffsetSpec, name string) error {
	key := teeKey{s.stream, s.node, int(s.flow.limit)}
	var leaves *tee
	if m := s.inTee.Load(); m != nil {
		leaves = m.tee
	}
	for {
		m, first := e.enterTee(key, s, spec, leaves)
		err := m.await(ctx, e, first, name)
		if err == nil {
			s.inTee.Store(m)
			return nil
		}
		if first || ctx.Err() != nil || !m.tee.interrupted {
			return err
		}
	}
}

// await waits until the member's tee is open, and opens it if the member is the
// first. If that fails, the member leaves.
func (m *teeMember) await(ctx context.Context, e *Env, first bool, name string) (err error) {
	open := false
	defer func() { // deferred, because Config.Resolve may panic
		if !open {
			m.leave(ctx, false)
		}
	}()
	if first {
		m.tee.openFor(ctx, e, m.consumer.lease.Contact(), name)
	}
	select {
	case <-m.tee.opened:
		err = m.tee.openError
	case <-ctx.Done():
		err = broker.ContextError(ctx)
	}
	open = err == nil
	return err
}

// enterTee gives a subscription a place. It reports whether the tee is new and
// the caller has to open it.
func (e *Env) enterTee(key teeKey, s *subscription, spec wire.OffsetSpec, except *tee) (m *teeMember, first bool) {
	e.tees.mu.Lock()
	defer e.tees.mu.Unlock()
	for _, t := range e.tees.open[key] {
		if t != except {
			if m := t.enter(s, spec); m != nil {
				return m, false
			}
		}
	}
	t := &tee{key: key, spec: spec, opened: make(chan struct{}), members: map[*teeMember]struct{}{}}
	t.source = newSubscription(key.stream, key.node, key.maxBuffered, e.memory, &e.corruptChunks)
	t.source.tee = t
	jumps := s.nextJumps()
	t.from = jumps.Next()
	t.source.watchJumps(jumps, t.noteLost)
	if e.tees.open == nil {
		e.tees.open = map[teeKey][]*tee{}
	}
	e.tees.open[key] = append(e.tees.open[key], t)
	return t.enter(s, spec), true
}

// enter makes a subscription a member, unless the tee has ended or its ring does
// not have the chunk to begin with.
func (t *tee) enter(s *subscription, spec wire.OffsetSpec) *teeMember {
	t.source.mu.Lock()
	defer t.source.mu.Unlock()
	at, ok := t.seek(spec)
	if !ok || t.source.reason != nil || t.source.dropping.Load() {
		return nil
	}
	select {
	case <-t.opened:
		if t.openError != nil || t.source.lease.Reason() != nil {
			return nil
		}
	default:
	}
	m := &teeMember{tee: t, consumer: s, low: at, next: at, from: spec}
	t.members[m] = struct{}{}
	for i := range t.ring[at-t.base:] {
		t.ring[at-t.base+uint64(i)].users++
	}
	t.reclaim(at)
	return m
}

// openFor subscribes for all members, under the context of one.
func (t *tee) openFor(ctx context.Context, e *Env, by broker.Contact, name string) {
	defer close(t.opened)
	t.openError, t.interrupted = errNotOpened, true // remains after a panic
	lease, err := e.cluster.Lease(ctx, by, t.key.node, t.key.stream, t.source)
	if err == nil {
		t.source.mu.Lock()
		t.source.lease = lease
		t.source.mu.Unlock()
		err = lease.Subscribe(ctx, t.key.stream, t.spec, broker.SubscribeOptions{Name: name})
	}
	t.openError, t.interrupted = err, err != nil && ctx.Err() != nil
}

// errNotOpened is the outcome of an attempt to open a tee that has panicked.
var errNotOpened = errors.New("subscribing did not come to its end")

// leave ends a consumer's membership. The last member ends the subscription, for
// which it waits under ctx; see [subscription.release] for polite.
func (m *teeMember) leave(ctx context.Context, polite bool) {
	last, credit := m.drop()
	t := m.tee
	if !last {
		if credit > 0 { // it is open
			t.credit(ctx, credit)
		}
		return
	}
	<-t.opened // the one who opens it is a member until then
	t.source.dropping.Store(true)
	t.source.endJumps()
	t.source.memory.leave(t.source.share)
	if t.source.lease != nil {
		t.source.lease.ReleaseWithin(ctx, polite)
	}
}

// noteLost takes note of what retention took in front of the tee. It runs on the
// goroutine that asks.
func (t *tee) noteLost(gap mark.Gap) {
	t.source.mu.Lock()
	defer t.source.mu.Unlock()
	if t.lost = append(t.lost, gap); len(t.lost) > maxLost {
		t.lost = slices.Delete(t.lost, 0, 1)
	}
}

// lostOf returns what retention has taken of gaps that a member has come to. It
// waits until the tee knows.
func (t *tee) lostOf(ctx context.Context, gaps []mark.Gap) ([]mark.Gap, error) {
	for {
		t.source.mu.Lock()
		more, lost := t.source.jumpWatch.unjudged(gaps), mark.Common(gaps, t.lost)
		t.source.mu.Unlock()
		if more == nil {
			return lost, nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// errAllLeft ends the subscription of a detached consumer whose tee nobody reads.
var errAllLeft = fmt.Errorf("%w: the others with which the consumer shared a subscription have left it", ErrStreamUnavailable)

// over returns why the tee has ended, and nil while it goes on. While it does, the
// broker tells it if the stream is deleted.
func (t *tee) over() error {
	t.source.mu.Lock()
	defer t.source.mu.Unlock()
	switch {
	case t.source.reason != nil:
		return t.source.reason
	case len(t.members) == 0:
		return errAllLeft
	}
	return t.source.lease.Reason()
}

// drop removes the member. It reports whether it was the last one, in which case
// nobody joins the tee any more.
func (m *teeMember) drop() (last bool, credit int) {
	t := m.tee
	tees := &m.consumer.env.tees
	tees.mu.Lock()
	defer tees.mu.Unlock()
	t.source.mu.Lock()
	defer t.source.mu.Unlock()
	if _, ok := t.members[m]; !ok {
		return false, 0
	}
	m.returned = 0
	t.remove(m)
	t.recount()
	if len(t.members) > 0 {
		return false, m.settle(time.Now())
	}
	rest := slices.DeleteFunc(tees.open[t.key], func(other *tee) bool { return other == t })
	if tees.open[t.key] = rest; len(rest) == 0 {
		delete(tees.open, t.key)
	}
	return true, 0
}
