package fence

import (
	"slices"
	"time"
)

// This file is the broker of the model: leaders with their logs, and connections
// that are read late.

type frameKind uint8

const (
	fDeclare frameKind = iota
	fStore
	fQuery
	fSequence
	fPublish
)

// frame is what a process sends, and, but for stores and publishes, its answer.
type frame struct {
	kind  frameKind
	entry Entry
	value uint64 // a number, an id, an answer
	uid   int    // a message
	round int
	gone  bool // the publisher has no leader any more
	fault bool // the query was not answered
}

type record struct {
	entry Entry
	value uint64
	uid   int // 0: a store
}

type duplicate struct {
	conn *conn
	id   uint64
	at   int // committed when so many records are
}

// leader is one time of a leader in office.
type leader struct {
	log       []record
	committed int
	dead      bool
	owners    []*conn // of the records, for their confirms
	dups      []duplicate
}

func (l *leader) entry(e Entry) uint64 {
	for _, r := range slices.Backward(l.log) {
		if r.uid == 0 && r.entry == e {
			return r.value
		}
	}
	return Nobody
}

// sequence returns the highest id and how long the log is with it.
func (l *leader) sequence() (id uint64, length int) {
	for i, r := range slices.Backward(l.log) {
		if r.uid != 0 {
			return r.value, i + 1
		}
	}
	return 0, 0
}

func (l *leader) write(c *conn, r record) {
	l.log, l.owners = append(l.log, r), append(l.owners, c)
}

func (l *leader) publish(c *conn, f frame) {
	if id, length := l.sequence(); f.value <= id {
		l.dups = append(l.dups, duplicate{c, f.value, length})
		return
	}
	l.write(c, record{value: f.value, uid: f.uid})
}

func (l *leader) commit(to int) {
	for ; l.committed < to; l.committed++ {
		if r := l.log[l.committed]; r.uid != 0 {
			l.owners[l.committed].confirm(r.value)
		}
	}
	l.dups = slices.DeleteFunc(l.dups, func(d duplicate) bool {
		if d.at > l.committed {
			return false
		}
		d.conn.confirm(d.id)
		return true
	})
}

type conn struct {
	in, out      []frame
	blockedUntil time.Duration
	lost         bool
	publisher    *leader // what DeclarePublisher has tied to it
	cached       *leader
	home         *leader // a leader that was cut off together with this connection
}

func (c *conn) confirm(id uint64) { c.out = append(c.out, frame{kind: fPublish, value: id}) }

// leaderOf returns whom a connection's node takes for the leader.
func (w *world) leaderOf(c *conn) *leader {
	if c.home != nil && !c.home.dead {
		return c.home
	}
	return w.leader
}

func (w *world) handle(c *conn) {
	f := c.in[0]
	c.in = c.in[1:]
	if c.cached == nil || c.cached.dead {
		c.cached = w.leaderOf(c)
	}
	switch f.kind {
	case fDeclare:
		c.publisher = c.cached
	case fStore:
		c.cached.write(c, record{entry: f.entry, value: f.value})
		return
	case fQuery:
		f.value = c.cached.entry(f.entry)
		f.fault = w.fault(200)
	case fSequence:
		f.value, _ = w.leaderOf(c).sequence()
	case fPublish:
		if c.publisher != nil && !c.publisher.dead {
			c.publisher.publish(c, f)
		}
		return
	}
	c.out = append(c.out, f)
}

// lead makes another leader, which has all that was committed and perhaps more.
func (w *world) lead() {
	old := w.leader
	keep := old.committed + w.IntN(len(old.log)-old.committed+1)
	w.leader = &leader{log: slices.Clone(old.log[:keep]), owners: make([]*conn, keep), committed: old.committed}
	for i := range w.leader.owners {
		w.leader.owners[i] = &conn{} // confirms of these go nowhere
	}
	old.dups, old.committed = nil, len(old.log)+1 // it commits nothing more
	if w.chance(2) {
		w.end(old)
		return
	}
	w.cutOff = append(w.cutOff, old)
	for _, c := range w.conns {
		if c.cached == old && w.chance(2) {
			c.home = old
		}
	}
}

func (w *world) end(l *leader) {
	l.dead = true
	for _, c := range w.conns {
		if c.publisher == l {
			c.publisher = nil
			c.out = append(c.out, frame{kind: fDeclare, gone: true})
		}
	}
}

// broker does something on the broker's side.
func (w *world) broker() {
	for _, c := range w.conns {
		for n := w.IntN(6); n > 0 && len(c.in) > 0 && w.now >= c.blockedUntil; n-- {
			w.handle(c)
		}
		if w.fault(1000) {
			c.blockedUntil = w.now + time.Duration(w.IntN(6000))*time.Millisecond
		}
	}
	w.conns = slices.DeleteFunc(w.conns, func(c *conn) bool { return c.lost && len(c.in) == 0 })
	if w.now >= w.stuck && w.chance(2) {
		w.leader.commit(w.leader.committed + w.IntN(len(w.leader.log)-w.leader.committed+1))
	}
	for len(w.cutOff) > 0 && (w.chance(100) || w.quiet) {
		w.end(w.cutOff[0])
		w.cutOff = w.cutOff[1:]
	}
	if w.fault(1000) {
		w.stuck = w.now + time.Duration(w.IntN(3000))*time.Millisecond
	}
	if w.fault(1500) {
		w.lead()
	}
}
