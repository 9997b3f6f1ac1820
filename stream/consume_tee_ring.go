package stream

import (
	"context"
	"slices"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// This file is the way of a chunk through the ring of a tee: add on the goroutine
// of the connection's reader, then take and giveBack on that of each consumer.

const (
	// teeKeep bounds the bytes that a tee keeps for consumers that come later. It
	// keeps nothing for longer than from one tick of its connection to the next.
	teeKeep = 4 << 20
	// teeTake and teeTakeBytes bound what a consumer takes out of the ring at a
	// time, and so what it keeps in memory when it is detached.
	teeTake, teeTakeBytes = 16, 64 << 10
)

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

// recount finds the first chunk that a member needs, and tells flow of those
// before it that nobody needs any more. The caller holds the lock.
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

// remove gives back all that a member has not. The caller holds the lock.
func (t *tee) remove(m *teeMember) {
	delete(t.members, m)
	for i := range t.ring[m.low-t.base:] {
		t.ring[m.low-t.base+uint64(i)].users--
	}
}
