package fence

import (
	"slices"
	"time"
)

// This file is the processes of the model: they publish under one name, and are
// stopped, killed and closed at any step.

type message struct {
	id   uint64
	uid  int
	sent bool
}

// proc is a process with a producer, as an engine would drive it.
type proc struct {
	w        *world
	name     int
	lease    *Lease
	seq      Sequence
	conn     *conn
	stopped  time.Duration
	starts   time.Duration
	ended    bool
	linked   bool
	ready    bool // the sequence is known
	goal     int  // so many messages, then Close
	flight   []message
	held     []uint64
	decided  []frame // written in the next step
	round    int
	sentAt   time.Time
	holder   uint64
	newcom   uint64
	seqAns   uint64
	failed   bool
	left     int // answers to come
	closing  bool
	active   time.Duration // since a younger one began
	was      time.Duration
	progress time.Duration // when a message was last confirmed
}

func (p *proc) write(f frame) { p.conn.in = append(p.conn.in, f) }

func (p *proc) unlink() {
	p.linked, p.ready, p.held, p.decided, p.left = false, false, nil, nil, 0
	p.lease.Unlink()
	for i := range p.flight {
		p.flight[i].sent = false
	}
}

func (p *proc) drop() {
	if p.conn != nil {
		p.conn.lost = true
		if p.w.chance(3) { // it is not read any more
			p.conn.in = nil
		}
	}
	p.conn = nil
	p.unlink()
}

func (p *proc) sure(now time.Time) bool {
	return p.lease.Sure(now) || !p.w.lookFirst && p.lease.began && p.linked && p.lease.phase != lost
}

func (p *proc) end(why string) {
	p.ended = true
	p.w.said[p.name] = why
	p.drop()
}

// step does the next thing that the process does, or a few of them.
func (p *proc) step() {
	w := p.w
	p.active += w.now - p.was
	switch p.was = w.now; {
	case p.ended || w.now < p.starts:
		return
	case w.now < p.stopped:
		p.active = 0
		return
	case w.fault(500):
		p.stopped = w.now + time.Duration(1+w.IntN(5000))*time.Millisecond
		return
	case w.fault(1200):
		if p.conn != nil && w.chance(2) {
			p.conn.blockedUntil = w.now + time.Duration(w.IntN(6000))*time.Millisecond
		}
		p.end("killed")
		return
	case w.fault(2500):
		p.drop()
		return
	}
	for _, f := range p.decided { // after any stop between the decision and the write
		p.write(f)
	}
	p.decided = nil
	if p.conn == nil {
		p.conn = &conn{}
		w.conns = append(w.conns, p.conn)
		p.round++
		p.write(frame{kind: fDeclare, round: p.round})
		return
	}
	for n := w.IntN(8); n > 0 && p.conn != nil && len(p.conn.out) > 0; n-- {
		f := p.conn.out[0]
		p.conn.out = p.conn.out[1:]
		p.receive(f)
	}
	if p.conn != nil && p.linked && !w.chance(3) {
		p.act()
	}
}

func (p *proc) receive(f frame) {
	switch {
	case f.kind == fPublish:
		p.held = append(p.held, f.value)
		p.count()
	case f.gone:
		p.unlink()
		p.round++
		if p.w.chance(2) {
			p.drop()
			return
		}
		p.write(frame{kind: fDeclare, round: p.round})
	case f.round != p.round:
	case f.kind == fDeclare:
		p.linked, p.held = true, nil
		if p.w.link {
			p.lease.Link()
		} else {
			p.lease.linked, p.lease.asked = true, false
			if p.lease.began {
				p.lease.own, p.ready = p.w.at(), true
			}
		}
	case f.kind == fQuery && f.entry == Holder:
		p.holder, p.failed = f.value, f.fault
		p.left--
	case f.kind == fQuery:
		p.newcom, p.failed = f.value, p.failed || f.fault
		p.left--
	case f.kind == fSequence:
		p.seqAns = f.value
		p.left--
		p.answer()
	}
}

// answer is told when all of a round is answered.
func (p *proc) answer() {
	now := p.w.at()
	if p.failed {
		p.lease.Failed(now)
		return
	}
	if !p.w.announce {
		p.newcom = p.lease.number
		if p.lease.phase == reading {
			p.newcom = p.holder
			if p.holder != Nobody {
				p.newcom |= heldBit
			}
		}
	}
	sent := p.sentAt
	if !p.w.sentTime {
		sent = now
	}
	if !p.w.lateStore && p.lease.phase != announcing {
		p.lease.looked = now
	}
	p.lease.Answer(sent, now, Seen{p.holder, p.newcom, p.seqAns}, Given{p.seq.last, p.w.open && len(p.flight) > 0})
	if p.seq.Look(p.seqAns) != nil && p.w.outranked {
		p.end("outranked")
		return
	}
	if p.lease.began && p.lease.phase == holding && !p.ready {
		if _, err := p.seq.Answer(p.seqAns); err != nil && p.w.outranked {
			p.end("outranked")
			return
		}
		p.ready = true
		p.w.holders++
		for _, o := range p.w.procs {
			if o != p {
				o.active = 0
			}
		}
	}
	p.count()
}

// count counts the confirms that may be counted.
func (p *proc) count() {
	now := p.w.at()
	if p.w.trust && !p.lease.Sure(now) {
		return
	}
	for _, id := range p.held {
		i := slices.IndexFunc(p.flight, func(m message) bool { return m.id == id && m.sent })
		if i >= 0 {
			p.w.confirmed(p.flight[i].uid, p.name)
			p.flight = slices.Delete(p.flight, i, i+1)
			p.seq.Confirm()
			p.progress = p.w.now
		}
	}
	p.held = nil
}

func (p *proc) act() {
	w, now := p.w, p.w.at()
	if p.goal == 0 && len(p.flight) == 0 && !p.closing && !w.chance(3) || p.closing {
		p.closing = true
		p.lease.Close(len(p.flight) == 0 || !w.settled, p.seq.Confirmed() || !w.settled)
		if !w.lateClose {
			p.lease.began = true
			if p.lease.phase < holding && p.lease.stored {
				p.lease.phase, p.lease.own = holding, now
			}
		}
	} else if w.fault(w.hurry) {
		p.closing = true // with messages in flight
	}
	if p.ready && p.sure(now) && !p.closing {
		p.send()
	}
	switch s := p.lease.Next(now, p.goal > 0 || len(p.flight) > 0); s.Do {
	case Lost:
		p.end("lost")
	case Gone:
		p.end("gone")
	case Done:
		p.end("closed")
	case Redeclare:
		p.unlink()
		p.round++
		p.write(frame{kind: fDeclare, round: p.round})
	case Ask:
		p.ask(s)
	}
}

func (p *proc) ask(s Step) {
	p.sentAt, p.left = p.w.at(), 3
	p.round++
	var fs []frame
	if s.Store != NoEntry {
		fs = append(fs, frame{kind: fStore, entry: s.Store, value: s.Number})
	}
	fs = append(fs, frame{kind: fQuery, entry: Holder, round: p.round}, frame{kind: fQuery, entry: Newcomer, round: p.round}, frame{kind: fSequence, round: p.round})
	p.decided = append(p.decided, fs...)
}

// alone reports whether no other process may send to the same leader.
func (p *proc) alone() bool {
	for _, q := range p.w.procs {
		if q != p && !q.ended && q.ready && q.conn != nil && q.lease.Sure(p.w.at()) && q.conn.publisher == p.conn.publisher && !p.conn.lost {
			return false
		}
	}
	return true
}

// send decides to send what has no outcome, and some more.
func (p *proc) send() {
	if p.conn.publisher != nil && !p.alone() {
		p.w.together = true
	}
	for n := p.w.IntN(3); n > 0 && p.goal > 0 && p.w.chance(2); n-- {
		floor := p.lease.Floor()
		switch {
		case !p.w.jump:
			floor = 0
		case !p.w.epochs && floor > 0:
			floor = max(p.seq.answer, p.seq.last)&^(1<<epochShift-1) + 1<<epochShift
			if p.seq.counted {
				floor = 0
			}
		}
		id, err := p.seq.Next(floor)
		if err != nil {
			p.end("outranked")
			return
		}
		p.goal--
		p.w.uids++
		p.flight = append(p.flight, message{id: id, uid: p.w.uids})
	}
	for i := range p.flight {
		if m := &p.flight[i]; !m.sent {
			m.sent = true
			p.decided = append(p.decided, frame{kind: fPublish, value: m.id, uid: m.uid})
		}
	}
}
