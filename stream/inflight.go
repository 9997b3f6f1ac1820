package stream

import (
	"fmt"
	"sync"
)

// slot is an accepted message on its way to its outcome.
type slot struct {
	id      uint64
	body    []byte
	settle  func(error) // called once, with the lock held: it must not block nor ask inflight
	settled bool
}

// inflight holds the messages without outcome in the order of their publishing
// ids, and knows which of them were sent on the current connection.
type inflight struct {
	mu     sync.Mutex
	lastID uint64  // newest accepted
	stored uint64  // newest that the broker had before
	slots  []*slot // may contain settled ones, never at the front
	unsent int     // index of the first one not sent yet
	byID   map[uint64]*slot
	closed error         // once set, nothing is accepted
	moved  chan struct{} // closed and replaced when the front moves
}

func newInflight() *inflight {
	return &inflight{byID: map[uint64]*slot{}, moved: make(chan struct{})}
}

// add accepts a message under the given id, or under the next one for 0.
func (f *inflight) add(id uint64, body []byte, settle func(error)) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.closed != nil:
		return f.closed
	case id == 0:
		id = max(f.lastID, f.stored) + 1
	case id <= f.lastID:
		return fmt.Errorf("%w: publishing id %d is not above the last one, %d", ErrInvalidMessage, id, f.lastID)
	}
	s := &slot{id: id, body: body, settle: settle}
	f.lastID = id
	f.slots = append(f.slots, s)
	f.byID[id] = s
	return nil
}

// take returns up to n messages not sent yet, and at least one of them however
// large, while their frame stays within size bytes.
func (f *inflight) take(n, size int) []*slot {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []*slot
	for ; f.unsent < len(f.slots) && len(out) < n; f.unsent++ {
		s := f.slots[f.unsent]
		if s.settled {
			continue
		}
		if size -= len(s.body) + messageOverhead; size < 0 && len(out) > 0 {
			break
		}
		out = append(out, s)
	}
	return out
}

// resend makes everything without outcome count as not sent.
func (f *inflight) resend() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.unsent = 0
}

// settle gives a message its outcome. Unknown ids are ignored: a broker
// confirms what was sent twice twice. It reports whether it did anything. The
// outcome is given before anybody can see that there is one: Close must not end
// the callbacks while one is on its way to them.
func (f *inflight) settle(id uint64, err error) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.byID[id]
	if s == nil {
		return false
	}
	delete(f.byID, id)
	s.settled = true
	s.settle(err)
	f.advance()
	return true
}

// advance drops settled messages from the front and wakes the waiters.
func (f *inflight) advance() {
	n := 0
	for n < len(f.slots) && f.slots[n].settled {
		f.slots[n] = nil
		n++
	}
	if n == 0 {
		return
	}
	f.slots = f.slots[n:]
	f.unsent = max(0, f.unsent-n)
	close(f.moved)
	f.moved = make(chan struct{})
}

// settleAll gives every message without outcome this one, and returns how many.
func (f *inflight) settleAll(err error) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, s := range f.slots {
		if !s.settled {
			s.settled = true
			delete(f.byID, s.id)
			s.settle(err)
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
	return false, f.moved
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
