package member

// phase is how far a term is.
type phase uint8

const (
	waiting   phase = iota // there is no term
	preparing              // the promotion is not answered: the place is looked up
	active                 // messages are handed out
	ending                 // no message is handed out; some may be in hand
)

// order is what the broker has said and has no answer to.
type order struct {
	active bool
	taken  bool // the term is that of the order
	ready  bool // the answer may leave
}

// Member is one member of a group, from its Subscribe to its end. The zero value
// waits. The caller answers what the broker says in its order, by Answer, and
// stores an offset only while MayStore.
type Member struct {
	orders []order // oldest first
	phase  phase
	over   bool // of the term: nothing of it is stored any more
	lost   bool // the subscription has ended without the broker's word

	stops   int // step-downs since the last promotion
	settled int // so many of them the broker has surely acted upon
	doubt   bool
}

// Ordered takes note of what the broker says. It reports whether that ends a term:
// no message is to be handed out any more, and the caller calls Close once those
// in hand are handled.
func (m *Member) Ordered(toBeActive bool) (endsTerm bool) {
	m.orders = append(m.orders, order{active: toBeActive})
	m.count(toBeActive)
	if m.phase == waiting {
		m.release()
		return false
	}
	return m.End()
}

// count notes whether a promotion can be trusted. The broker repeats a step-down
// that is not answered when others join or leave. It acts upon the first answer. If
// it then promotes the same member again, it takes the answer to the repetition for
// that to the promotion, and sends chunks from where Subscribe said, of which nobody
// can tell on arrival that they are not those of the term.
func (m *Member) count(promotion bool) {
	if !promotion {
		m.stops++
		return
	}
	m.doubt = m.doubt || m.stops > max(1, m.settled)
	m.stops, m.settled = 0, 0
}

// Doubtful reports whether a promotion cannot be trusted. The caller leaves the
// group and joins anew.
func (m *Member) Doubtful() bool { return m.doubt }

// Unsettled returns how many step-downs were answered, if it is not known that the
// broker has acted upon the last: the caller asks the broker anything on the same
// connection, and calls Settle with it once that is answered. It returns 0 if there
// is nothing to ask for.
func (m *Member) Unsettled() int {
	if m.stops < 2 || m.stops == m.settled || len(m.orders) > 0 {
		return 0
	}
	return m.stops
}

// Settle says that the broker has acted upon the answers to so many step-downs.
func (m *Member) Settle(stops int) {
	if m.stops > 0 {
		m.settled = max(m.settled, min(stops, m.stops))
	}
}

// release makes the answers ready that no term is for: step-downs without one,
// and promotions that another word has followed.
func (m *Member) release() {
	for i := range m.orders {
		if o := &m.orders[i]; !o.active || i+1 < len(m.orders) {
			o.ready = true
		}
	}
}

// Begin begins a term if the broker has promoted the member, and reports whether
// it has.
func (m *Member) Begin() bool {
	if m.phase != waiting || m.lost || len(m.orders) != 1 || m.orders[0].ready {
		return false
	}
	m.orders[0].taken = true
	m.phase, m.over = preparing, false
	return true
}

// Activate says that the term's place is known, with which the promotion is to be
// answered. It returns false if the term has ended meanwhile.
func (m *Member) Activate() bool {
	if m.phase != preparing {
		return false
	}
	m.phase, m.orders[0].ready = active, true
	return true
}

// End ends a term: it hands out no message any more. It reports whether there is
// one that did.
func (m *Member) End() bool {
	if m.phase == waiting || m.phase == ending {
		return false
	}
	m.phase = ending
	return true
}

// Late says that the broker waits for the answer to a step-down no longer. The
// answer leaves although the term is not closed. It reports whether another member
// may be active beside this one from now on.
func (m *Member) Late() (overlap bool) {
	last := -1
	for i, o := range m.orders {
		if !o.active && !o.ready {
			last = i
		}
	}
	if last < 0 || m.lost {
		return false
	}
	for i := range m.orders[:last+1] {
		m.orders[i].ready = true
	}
	overlap = m.phase != waiting && !m.over
	m.over = true
	return overlap
}

// Lose says that the subscription has ended without the broker's word, or may
// have. It reports whether another member may be active beside this one from now
// on.
func (m *Member) Lose() (overlap bool) {
	overlap = m.phase != waiting && !m.over
	m.lost, m.over = true, true
	m.End()
	return overlap
}

// Close ends the end of a term: no message is in hand any more.
func (m *Member) Close() {
	for i := range m.orders {
		if o := &m.orders[i]; o.taken || !o.active {
			o.ready = true
		}
	}
	m.phase = waiting
	m.over = false
	if len(m.orders) > 1 {
		m.release()
	}
}

// Answer takes the next answer that is to leave. begins says that it carries the
// place of the term: else none. ok is false if none is to leave now.
func (m *Member) Answer() (begins, ok bool) {
	if m.lost || len(m.orders) == 0 || !m.orders[0].ready {
		return false, false
	}
	begins = m.orders[0].taken && m.phase == active
	m.orders = m.orders[1:]
	return begins, true
}

// Serves reports whether the member is active: messages may be handed out.
func (m *Member) Serves() bool { return m.phase == active }

// Waits reports whether the member has no term.
func (m *Member) Waits() bool { return m.phase == waiting }

// MayStore reports whether an offset of the term may be sent now.
func (m *Member) MayStore() bool { return m.phase != waiting && !m.over && !m.lost }
