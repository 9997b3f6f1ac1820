package stream

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/tidemark-go/tidemark/internal/broker"
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

	opened      chan struct{} // closed once source has subscribed, or failed
	openError   error         // why it failed; set before opened is closed
	interrupted bool          // it failed because the one who opened it was told to end

	ring    []teeChunk
	base    uint64 // number of the ring's first chunk
	needed  uint64 // number of the first chunk that a member needs
	members map[*teeMember]struct{}
	owed    int   // credit that was granted and could not be sent
	kept    int64 // bytes of the chunks that nobody needs
}

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

const (
	// teeKeep bounds the bytes that a tee keeps for consumers that come later. It
	// keeps nothing for longer than from one tick of its connection to the next.
	teeKeep = 4 << 20
	// teeTake and teeTakeBytes bound what a consumer takes out of the ring at a
	// time, and so what it keeps in memory when it is detached.
	teeTake, teeTakeBytes = 16, 64 << 10
	// teePatience is how long a consumer waits for slower ones within
	// teePatienceWindow.
	teePatience       = 100 * time.Millisecond
	teePatienceWindow = time.Second
)

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

// seek returns the number of the chunk with which a subscription to a place
// begins. The caller holds the lock.
func (t *tee) seek(spec wire.OffsetSpec) (number uint64, ok bool) {
	if t.base == 0 && spec == t.spec {
		return 0, true
	}
	if spec.Type != wire.OffsetAt {
		return 0, false
	}
	i, found := slices.BinarySearchFunc(t.ring, spec.Value, func(c teeChunk, offset uint64) int {
		switch {
		case c.end <= offset:
			return -1
		case c.first > offset:
			return 1
		}
		return 0
	})
	return t.base + uint64(i), found
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

// add puts a chunk that came into the ring. The caller holds the lock.
func (t *tee) add(w waitingChunk, now time.Time) {
	c := w.chunk()
	t.ring = append(t.ring, teeChunk{waitingChunk: w, first: c.FirstOffset, end: c.FirstOffset + uint64(c.Records), users: len(t.members)})
	t.source.flow.resumes(now)
	t.recount() // nobody may be there any more
}

// wake wakes the members that may wait. The caller holds the lock.
func (t *tee) wake() {
	for m := range t.members {
		m.consumer.wakeUp()
	}
}

// reclaim tells flow that chunks from a number on are needed again. The caller
// holds the lock.
func (t *tee) reclaim(from uint64) {
	for ; t.needed > from; t.needed-- {
		cost := t.ring[t.needed-1-t.base].cost()
		t.kept -= cost
		t.source.taken.returned--
		t.source.taken.returnedCost -= cost
	}
	t.source.flow.kept = t.kept
}

// recount finds the first chunk that a member needs, and tells flow of those that
// nobody needs any more, or that somebody needs again. The caller holds the lock.
func (t *tee) recount() {
	end := t.base + uint64(len(t.ring))
	for t.needed < end && t.ring[t.needed-t.base].users == 0 {
		cost := t.ring[t.needed-t.base].cost()
		t.kept += cost
		t.source.taken.returned++
		t.source.taken.returnedCost += cost
		t.needed++
	}
	t.trim(int64(min(teeKeep, t.key.maxBuffered/8)))
}

// trim gives up chunks that nobody needs, until those that stay have most bytes.
// The caller holds the lock.
func (t *tee) trim(most int64) {
	n := 0
	for t.base+uint64(n) < t.needed && t.kept > most {
		c := &t.ring[n]
		t.kept -= c.cost()
		if !c.lent {
			t.source.memory.put(c.buffer)
		}
		*c = teeChunk{}
		n++
	}
	t.ring, t.base = t.ring[n:], t.base+uint64(n)
	t.source.flow.kept = t.kept
}

// take adds the next chunks to a list of the member's consumer, and returns what
// to ask the broker for. It returns none if the ring has none. The caller passes
// them to giveBack.
func (m *teeMember) take(list []waitingChunk) (_ []waitingChunk, detached bool, credit int) {
	t, now := m.tee, time.Now()
	t.source.mu.Lock()
	defer t.source.mu.Unlock()
	if m.detached {
		return list, true, 0
	}
	m.giveBackLocked()
	end, bytes := t.base+uint64(len(t.ring)), 0
	for m.next < end && len(list) < teeTake && bytes < teeTakeBytes {
		c := &t.ring[m.next-t.base]
		m.next++
		m.from = wire.OffsetSpec{Type: wire.OffsetAt, Value: c.end}
		list = append(list, c.waitingChunk)
		bytes += len(c.buffer)
	}
	if len(list) == 0 {
		t.source.flow.waits(now)
	}
	return list, false, m.settle(now)
}

// giveBack takes a chunk back, and returns what to ask the broker for.
func (m *teeMember) giveBack(cost int64) (credit int) {
	m.returned++
	m.returnedCost += cost
	if m.returned < m.returnAfter && m.returnedCost < m.returnAfterCost {
		return 0
	}
	m.tee.source.mu.Lock()
	defer m.tee.source.mu.Unlock()
	if m.detached {
		return 0
	}
	m.giveBackLocked()
	return m.settle(time.Now())
}

// giveBackLocked tells the tee what the consumer has given back. The caller holds
// the lock.
func (m *teeMember) giveBackLocked() {
	t := m.tee
	for range m.returned {
		t.ring[m.low-t.base].users--
		m.low++
	}
	m.returned, m.returnedCost = 0, 0
	t.recount()
}

// settle returns the credit to give. The caller holds the lock.
func (m *teeMember) settle(now time.Time) (credit int) {
	source := m.tee.source
	credit = source.settle(now) + m.tee.owed
	m.tee.owed = 0
	m.returnAfter, m.returnAfterCost = source.taken.returnAfter, source.taken.returnAfterCost
	return credit
}

// credit asks the broker for chunks. If ctx ends before that, another member
// asks.
func (t *tee) credit(ctx context.Context, n int) {
	if n == 0 {
		return
	}
	if t.source.lease.Credit(ctx, n) != nil && t.source.lease.Reason() == nil {
		t.source.mu.Lock()
		defer t.source.mu.Unlock()
		t.owed += n
		t.wake()
	}
}

// blocked reports whether the member waits for others: no chunk is to come until
// they give theirs back.
func (m *teeMember) blocked() bool {
	t := m.tee
	t.source.mu.Lock()
	defer t.source.mu.Unlock()
	return m.blockedLocked()
}

func (m *teeMember) blockedLocked() bool {
	end := m.tee.base + uint64(len(m.tee.ring))
	return !m.detached && m.low == end && m.tee.needed < end && m.tee.source.flow.granted == 0
}

// teeWait is what a member waits for besides its wake. Without a member it waits
// for nothing.
type teeWait struct {
	*teeMember
	ended, lost <-chan struct{}
	late        <-chan time.Time // when it has waited too long for slower ones
	since       time.Time        // when it began to wait for these; zero: it does not
}

// waitShared begins to wait.
func (s *subscription) waitShared() (w teeWait) {
	m := s.inTee.Load()
	if m == nil {
		return w
	}
	w.teeMember, w.ended, w.lost = m, m.tee.source.ended, m.tee.source.lease.Ended()
	if !m.blocked() {
		return w
	}
	w.since = time.Now()
	if w.since.Sub(m.waitedFrom) > teePatienceWindow {
		m.waited, m.waitedFrom = 0, w.since
	}
	w.late = time.After(teePatience - m.waited)
	return w
}

// woken ends a wait that was not too long.
func (w *teeWait) woken() {
	if !w.since.IsZero() {
		w.waited += time.Since(w.since)
	}
}

// detachSlow detaches those that the member waits for, and returns what to ask
// the broker for.
func (m *teeMember) detachSlow() (credit int) {
	t := m.tee
	t.source.mu.Lock()
	defer t.source.mu.Unlock()
	if m.waited = 0; !m.blockedLocked() {
		return 0
	}
	for slow := range t.members {
		if slow.low == t.needed {
			for i := slow.low; i < slow.next; i++ {
				t.ring[i-t.base].lent = true
			}
			slow.detached = true
			t.remove(slow)
			slow.consumer.wakeUp()
		}
	}
	t.recount()
	return m.settle(time.Now())
}

// remove gives back all that a member has not. The caller holds the lock.
func (t *tee) remove(m *teeMember) {
	delete(t.members, m)
	for i := range t.ring[m.low-t.base:] {
		t.ring[m.low-t.base+uint64(i)].users--
	}
}

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
	t.source.memory.leave(t.source.share)
	if t.source.lease != nil {
		t.source.lease.ReleaseWithin(ctx, polite)
	}
}

// drop removes the member. It reports whether it was the last one, in which case
// nobody joins the tee any more.
func (m *teeMember) drop() (last bool, credit int) {
	t := m.tee
	tees := m.consumer.tees
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
