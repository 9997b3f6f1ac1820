package stream

import (
	"fmt"
	"sort"
	"sync"
)

// slot is an accepted message on its way to its outcome. Either waits or done
// is for who published it.
type slot struct {
	id     uint64 // publishing id
	body   []byte // encoded
	filter string
	waits  *waiter
	done   func(error)

	settled bool
}

// inflight holds the messages without outcome in the order of their publishing
// ids, bounds their number and size, and knows which of them were sent on the
// current connection. It does no I/O.
type inflight struct {
	most, mostBytes int
	outcome         func(*slot, error) // called once for each, with the lock held: it must not block nor ask inflight

	mu     sync.Mutex
	lastID uint64  // newest accepted
	stored uint64  // newest that the broker had before
	slots  []*slot // may contain settled ones, never at the front
	unsent int     // index of the first one not sent yet
	open   int     // messages without outcome
	bytes  int     // of these
	closed error   // once set, nothing is accepted
	moved  chan struct{}

	slab  []slot // slots to come: one allocation for many
	arena []byte // room for bodies to come, likewise
}

const (
	slabSlots  = 64
	arenaBytes = 16 << 10
	// slabBody is the largest body that shares memory with others, which keep it
	// as long as any of them is open.
	slabBody = 1 << 10
)

func newInflight(most, mostBytes int, outcome func(*slot, error)) *inflight {
	return &inflight{most: most, mostBytes: mostBytes, outcome: outcome}
}

// add accepts a message under the given id, or under the next one for 0. If
// there is no room it returns a channel that is closed when it is worth trying
// again.
func (f *inflight) add(s slot) (wait <-chan struct{}, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.closed != nil:
		return nil, f.closed
	case f.open > 0 && (f.open >= f.most || len(s.body) > f.mostBytes-f.bytes):
		return f.await(), nil
	case s.id == 0:
		s.id = max(f.lastID, f.stored) + 1
	case s.id <= f.lastID:
		return nil, fmt.Errorf("%w: publishing id %d is not above the last one, %d", ErrInvalidMessage, s.id, f.lastID)
	}
	f.lastID = s.id
	f.open++
	f.bytes += len(s.body)
	f.slots = append(f.slots, f.keep(s))
	return nil, nil
}

// keep gives a slot its place in memory.
func (f *inflight) keep(s slot) *slot {
	if len(s.body) > slabBody {
		p := new(slot) // &s would move every s to the heap
		*p = s
		return p
	}
	if len(f.slab) == 0 {
		f.slab = make([]slot, slabSlots)
	}
	p := &f.slab[0]
	f.slab = f.slab[1:]
	*p = s
	return p
}

// encodePlain encodes the usual message, into memory that it shares with others.
func (f *inflight) encodePlain(body []byte) []byte {
	need := len(body) + 8
	if need > slabBody {
		return appendData(nil, body)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if cap(f.arena)-len(f.arena) < need {
		f.arena = make([]byte, 0, arenaBytes)
	}
	start := len(f.arena)
	f.arena = appendData(f.arena, body)
	return f.arena[start:len(f.arena):len(f.arena)]
}

// takeInto appends messages not sent yet to out, up to n of them and as many as
// fit into a frame of size bytes; at least one, however large. All of them have a
// filter value or none has.
func (f *inflight) takeInto(out []*slot, n, size int) []*slot {
	f.mu.Lock()
	defer f.mu.Unlock()
	for ; f.unsent < len(f.slots) && len(out) < n; f.unsent++ {
		s := f.slots[f.unsent]
		if s.settled {
			continue
		}
		if len(out) > 0 && (s.filter == "") != (out[0].filter == "") {
			break
		}
		if size -= s.size(); size < 0 && len(out) > 0 {
			break
		}
		out = append(out, s)
	}
	return out
}

// size is what a message adds to its frame.
func (s *slot) size() int {
	n := len(s.body) + messageOverhead
	if s.filter != "" {
		n += 2 + len(s.filter)
	}
	return n
}

// resend makes everything without outcome count as not sent.
func (f *inflight) resend() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.unsent = 0
}

// settle gives messages their outcome and returns how many had none. Unknown
// ids are ignored: a broker confirms what was sent twice twice. The outcome is
// given before anybody can see that there is one: Close must not end the
// callbacks while one is on its way to them.
func (f *inflight) settle(err error, ids ...uint64) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, id := range ids {
		if s := f.find(id); s != nil && !s.settled {
			f.end(s, err)
			n++
		}
	}
	f.advance()
	return n
}

// find returns the message with an id. Ids ascend, mostly by one.
func (f *inflight) find(id uint64) *slot {
	if len(f.slots) == 0 || id < f.slots[0].id {
		return nil
	}
	if i := id - f.slots[0].id; i < uint64(len(f.slots)) && f.slots[i].id == id {
		return f.slots[i]
	}
	i := sort.Search(len(f.slots), func(i int) bool { return f.slots[i].id >= id })
	if i < len(f.slots) && f.slots[i].id == id {
		return f.slots[i]
	}
	return nil
}

func (f *inflight) end(s *slot, err error) {
	s.settled = true
	f.open--
	f.bytes -= len(s.body)
	f.outcome(s, err)
}

// advance drops settled messages from the front and wakes the waiters.
func (f *inflight) advance() {
	n := 0
	for n < len(f.slots) && f.slots[n].settled {
		f.slots[n] = nil
		n++
	}
	f.slots = f.slots[n:]
	f.unsent = max(0, f.unsent-n)
	if f.moved != nil {
		close(f.moved)
		f.moved = nil
	}
}

// await returns a channel that is closed when something has its outcome.
func (f *inflight) await() <-chan struct{} {
	if f.moved == nil {
		f.moved = make(chan struct{})
	}
	return f.moved
}

// settleAll gives every message without outcome this one, and returns how many.
func (f *inflight) settleAll(err error) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, s := range f.slots {
		if !s.settled {
			f.end(s, err)
			n++
		}
	}
	f.advance()
	return n
}

// close refuses further messages with err; the first call counts.
func (f *inflight) close(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed == nil {
		f.closed = err
	}
	f.advance() // whoever waits for room is to see it
}

// refusal is why nothing is accepted any more.
func (f *inflight) refusal() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.closed
}

// last is the newest id accepted, or that the broker had before.
func (f *inflight) last() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return max(f.lastID, f.stored)
}

// raise makes the ids that are given out continue after one that the broker
// has. The caller's own may be lower: the broker drops those that it has.
func (f *inflight) raise(id uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stored = max(f.stored, id)
}

// reached reports whether everything up to id has its outcome, and otherwise
// returns a channel that is closed when it is worth asking again.
func (f *inflight) reached(id uint64) (bool, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.slots) == 0 || f.slots[0].id > id {
		return true, nil
	}
	return false, f.await()
}

// sent returns how many sent messages wait for their outcome.
func (f *inflight) sent() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, s := range f.slots[:min(f.unsent, len(f.slots))] {
		if !s.settled {
			n++
		}
	}
	return n
}
