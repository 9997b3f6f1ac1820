package stream

import "time"

// This file is the patience of a member of a tee with slower ones.

const (
	// teePatience is how long a consumer waits for slower ones within
	// teePatienceWindow.
	teePatience       = 100 * time.Millisecond
	teePatienceWindow = time.Second
)

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
