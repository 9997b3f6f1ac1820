package stream

import (
	"sync"
	"time"
)

// memory is what the subscriptions of an Env share: the budget, and the
// buffers for their chunks.
type memory struct {
	mu      sync.Mutex
	budget  budget
	buffers buffers
	shares  int // how many there are
	trimmed time.Time
}

// share is a subscription's part of the memory. memory.mu guards it.
type share struct {
	claim int64
	of    *budget // of a super stream's consumer, besides the Env's; nil: none
	left  bool
}

// change replaces what a share claims.
func (m *memory) change(s *share, to int64) {
	if s.of != nil {
		s.of.claimed += to - s.claim
	}
	m.budget.change(&s.claim, to)
}

// allowance returns how many bytes a share may claim.
func (m *memory) allowance(s *share) int64 {
	allowed := m.budget.allowance(s.claim)
	if s.of != nil {
		allowed = min(allowed, s.of.allowance(s.claim))
	}
	return allowed
}

func newMemory(total int) *memory {
	return &memory{budget: budget{total: int64(total)}, buffers: buffers{}}
}

// join adds a subscription, which leaves in the end.
func (m *memory) join() *share {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.shares++
	return &share{}
}

// group puts a share, which has claimed nothing yet, under a further budget: that
// of a consumer with several subscriptions. nil stands for none.
func (m *memory) group(s *share, of *budget) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.change(s, 0)
	s.of = of
}

// leave gives back what a subscription has claimed. With the last one the free
// buffers go too. Only the first call counts.
func (m *memory) leave(s *share) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s.left {
		return
	}
	s.left = true
	m.change(s, 0)
	if m.shares--; m.shares == 0 {
		clear(m.buffers)
	}
}

// grant returns the credit that a subscription gives now, and claims the memory
// for it. The caller holds the lock of the flow.
func (m *memory) grant(s *share, f *flow, now time.Time) (credit int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s.left {
		return 0
	}
	credit = f.grant(m.allowance(s), now)
	m.change(s, f.claim())
	return credit
}

// update claims what a subscription holds and expects. The caller holds the
// lock of the flow.
func (m *memory) update(s *share, f *flow) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !s.left {
		m.change(s, f.claim())
	}
}

// get returns n bytes with any content, at least minBuffer.
func (m *memory) get(n int) []byte {
	if n > maxBuffer {
		return make([]byte, n)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.buffers.get(n)
}

// put takes back what get has returned, and ignores other memory.
func (m *memory) put(buffer []byte) {
	if cap(buffer) < minBuffer {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.shares > 0 {
		m.buffers.put(buffer)
	}
}

// trimPause is how long a buffer is kept that is not used, at least.
const trimPause = time.Second

// tick gives up the buffers that were not used for a while. Every subscription
// calls it every few seconds.
func (m *memory) tick(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if now.Sub(m.trimmed) >= trimPause {
		m.trimmed = now
		m.buffers.trim()
	}
}
