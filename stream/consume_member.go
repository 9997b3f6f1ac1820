package stream

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/tidemark-go/tidemark/internal/broker"
	"github.com/tidemark-go/tidemark/internal/member"
	"github.com/tidemark-go/tidemark/internal/wire"
)

// membership is a subscription's part in a group: what the broker says of it, and
// what it answers. The connection's reader calls ordered, and everything else
// happens on Run's goroutine or on that of a timer.
type membership struct {
	s    *subscription
	wake chan struct{} // has an item if the broker may have said something

	mu     sync.Mutex
	core   member.Member
	owed   []*owedAnswer // oldest first, as in core
	term   *term         // nil: none
	closed bool          // what the broker says concerns nobody any more

	// sending is held while an answer or an offset is sent, so that no offset
	// follows the answer to a step-down. It is locked before mu.
	sending sync.Mutex
	begin   wire.OffsetSpec // where the term begins; sending guards it
}

// owedAnswer is something that the broker has said and has no answer to.
type owedAnswer struct {
	update broker.Update
	late   *time.Timer
}

// answerTime is how long the broker waits for an answer at most. It would end the
// connection after 60 s (replyTimeout of streamtest; request_timeout of
// RabbitMQ), and the other consumers' on it.
const answerTime = 50 * time.Second

func newMembership(s *subscription) *membership {
	return &membership{s: s, wake: make(chan struct{}, 1)}
}

// ordered takes what the broker says. It never blocks. It reports whether an
// answer will follow.
func (m *membership) ordered(u broker.Update) (answers bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return false
	}
	a := &owedAnswer{update: u}
	a.late = time.AfterFunc(answerTime, func() { m.late(a) })
	m.owed = append(m.owed, a)
	if m.core.Ordered(u.Active) {
		m.term.stepDown()
	}
	select {
	case m.wake <- struct{}{}:
	default:
	}
	return true
}

// late is called when an answer was owed for answerTime. A step-down is answered
// although handlers are at work. A promotion whose place is not known yet cannot
// be answered, so the member leaves and joins anew.
func (m *membership) late(a *owedAnswer) {
	m.mu.Lock()
	if !m.owes(a) {
		m.mu.Unlock()
		return
	}
	overlap, t := m.core.Late(), m.term
	m.mu.Unlock()
	if a.update.Active {
		m.s.end(fmt.Errorf("%w: the place to begin was not found within %v of the broker's word", ErrUnreachable, answerTime))
		return
	}
	if overlap {
		t.over(fmt.Errorf("%w: its handlers took longer than the %v in which the broker has to be answered", ErrNotActive, answerTime))
	}
	m.answer()
}

// owes reports whether an answer has not left. The caller holds m.mu.
func (m *membership) owes(a *owedAnswer) bool {
	for _, other := range m.owed {
		if other == a {
			return true
		}
	}
	return false
}

// answer sends the answers that may leave. It waits for the socket for
// answerPatience at most; where that does not suffice the connection is at its
// end.
func (m *membership) answer() {
	m.sending.Lock()
	defer m.sending.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), answerPatience)
	defer cancel()
	for {
		a, begins, ok := m.nextAnswer()
		if !ok {
			return
		}
		from := wire.OffsetSpec{}
		if begins {
			from = m.begin
		}
		if err := m.s.lease.Answer(ctx, a.update, from); err != nil {
			m.s.end(err)
			return
		}
	}
}

const answerPatience = 10 * time.Second

// nextAnswer takes the next answer that may leave.
func (m *membership) nextAnswer() (a *owedAnswer, begins, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed { // close answers what is owed
		return nil, false, false
	}
	if begins, ok = m.core.Answer(); !ok {
		return nil, false, false
	}
	a, m.owed = m.owed[0], m.owed[1:]
	a.late.Stop()
	return a, begins, true
}

// beginTerm begins a term if the broker has promoted the member, and reports
// whether it has.
func (m *membership) beginTerm(t *term) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.core.Begin() {
		return false
	}
	m.term = t
	return true
}

// activate answers the promotion with the place at which the term begins. It
// returns false if the term has ended meanwhile.
func (m *membership) activate(from wire.OffsetSpec) bool {
	m.sending.Lock()
	m.begin = from
	m.mu.Lock()
	ok := m.core.Activate()
	m.mu.Unlock()
	m.sending.Unlock()
	if ok {
		m.answer()
	}
	return ok
}

// doubtful reports whether a promotion cannot be trusted.
func (m *membership) doubtful() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.core.Doubtful()
}

// settle makes sure that the broker has acted upon the answers to repeated
// step-downs, before it promotes the member again. It asks for something on the
// connection on which the answers left; whatever the answer is, it comes behind.
func (m *membership) settle(ctx context.Context) {
	m.mu.Lock()
	stops := m.core.Unsettled()
	m.mu.Unlock()
	if stops == 0 {
		return
	}
	if _, err := m.s.lease.Stats(ctx, m.s.stream); err != nil {
		return // then the next promotion is doubtful
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.core.Settle(stops)
}

// endTerm says that no message of the term is in hand any more, and answers the
// step-down.
func (m *membership) endTerm() {
	m.mu.Lock()
	m.core.Close()
	m.term = nil
	m.mu.Unlock()
	m.answer()
}

// stop keeps the term from handing out messages, as the broker's word does.
func (m *membership) stop() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.core.End()
}

// lose says that the subscription has ended without the broker's word, or may
// have.
func (m *membership) lose() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.core.Lose()
}

// store sends an offset, unless the term is over: it returns ErrNotActive then.
func (m *membership) store(send func() error) error {
	m.sending.Lock()
	defer m.sending.Unlock()
	if err := m.mayStore(); err != nil {
		return err
	}
	return send()
}

// mayStore returns ErrNotActive if the term is over.
func (m *membership) mayStore() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.core.MayStore() {
		return fmt.Errorf("%w: another member may have stored a later offset", ErrNotActive)
	}
	return nil
}

// close answers what is owed once the broker has ended the subscription, and
// leaves what it says from now on to the connection. m may be nil.
func (m *membership) close() {
	if m == nil {
		return
	}
	m.mu.Lock()
	owed := m.owed
	m.closed, m.owed = true, nil
	m.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), leaveTime)
	defer cancel()
	for _, a := range owed {
		a.late.Stop()
		if m.s.lease.Reason() == nil {
			_ = m.s.lease.Answer(ctx, a.update, wire.OffsetSpec{})
		}
	}
}
