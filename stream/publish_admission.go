package stream

import (
	"slices"
	"sync/atomic"
)

// admission bounds the messages of a producer that have no outcome yet, or whose
// callback has not returned, in number and in bytes. Each stream that it publishes
// to has a quota: one, or those of a super stream's partitions. Half of the places
// are reserved, the same number for each quota, and the others are for whoever
// comes first. So a partition that confirms nothing never takes all of them. A
// quota without a message may always have one.
//
// Who finds no room waits in the line of the quota: what becomes free goes to the
// first in a line, and wakes nobody else. The producer's lock guards it all. It
// does no I/O.
type admission struct {
	most    amount
	used    amount
	beyond  amount // of used, what the quotas have above their reserves
	reserve amount // of each quota
	common  amount // what the quotas may have above their reserves
	env     *envBytes
	quotas  []*quota
	waiting []*quota // those with a line; the first one's turn is next
}

// amount is a number of messages and their bytes.
type amount struct {
	n     int
	bytes int64
}

func amountOf(n, bytes int) amount { return amount{n, int64(bytes)} }

func (a amount) plus(b amount) amount  { return amount{a.n + b.n, a.bytes + b.bytes} }
func (a amount) minus(b amount) amount { return amount{a.n - b.n, a.bytes - b.bytes} }

// above returns what of a is above b.
func (a amount) above(b amount) amount { return amount{max(0, a.n-b.n), max(0, a.bytes-b.bytes)} }

// within reports whether b has room for a, by number and by bytes.
func (a amount) within(b amount) bool { return a.n <= b.n && a.bytes <= b.bytes }

// envBytes bounds the bytes of all producers of an Env together. A quota that has
// no message at all may always have one, so that none waits for another one.
type envBytes struct {
	most int64
	used atomic.Int64
}

func (e *envBytes) left() int64 { return e.most - e.used.Load() }

// quota is one stream's part of an admission.
type quota struct {
	of    *admission
	box   *outbox // the messages without outcome
	used  amount
	line  []*ticket // who waits, the first one first
	ended bool      // nothing counts any more
	back  returns
}

// ticket is a turn in the line, for so many messages.
type ticket struct {
	wants   amount
	granted chan struct{} // closed when the places are the holder's, or nobody's any more
	done    bool          // granted is closed, or the holder has left
	had     bool          // the holder has the places
}

// join returns the quota of one more stream.
func (a *admission) join(box *outbox) *quota {
	q := &quota{of: a, box: box}
	a.quotas = append(a.quotas, q)
	a.divide()
	return q
}

// divide makes the reserves those of the number of quotas. A single one needs none.
func (a *admission) divide() {
	a.reserve, a.beyond, a.common = amount{}, amount{}, a.most
	if n := len(a.quotas); n > 1 {
		a.reserve = amount{a.most.n / (2 * n), a.most.bytes / int64(2*n)}
		a.common = amount{a.most.n - n*a.reserve.n, a.most.bytes - int64(n)*a.reserve.bytes}
	}
	for _, q := range a.quotas {
		a.beyond = a.beyond.plus(q.used.above(a.reserve))
	}
	a.grant()
}

// take takes places for n messages, if there is room and nobody waits in the
// quota's line. What is larger than all the room goes alone.
func (q *quota) take(n, bytes int) bool {
	return len(q.line) == 0 && q.takeIf(amountOf(n, bytes), q.used.n == 0)
}

// takeTogether takes places for n messages if there is room for all of them, and
// nobody waits. Without room they go one by one.
func (q *quota) takeTogether(n, bytes int) bool {
	return len(q.line) == 0 && q.takeIf(amountOf(n, bytes), false)
}

// takeIf takes places if there is room for more, or in any case with anyway. It
// reports whether it did.
func (q *quota) takeIf(more amount, anyway bool) bool {
	grown := q.of.growth(q.used, more)
	if !anyway && !(q.of.allows(q.of.beyond, grown) && more.bytes <= q.of.env.left()) {
		return false
	}
	q.count(more, grown)
	return true
}

// allows reports whether a quota may have so much more above its reserve, where all
// of them have beyond.
func (a *admission) allows(beyond, grown amount) bool {
	return beyond.plus(grown).within(a.common) || grown == amount{}
}

// growth returns how much more above its reserve a quota has that has some, and
// gets more.
func (a *admission) growth(some, more amount) amount {
	if len(a.quotas) == 1 { // it has no reserve, so all that it gets is above that
		return more
	}
	return some.plus(more).above(a.reserve).minus(some.above(a.reserve))
}

// fitsWithoutCallbacks reports whether n messages are within the producer's bounds
// together with those that have no outcome. It leaves out the messages whose
// callbacks have not returned.
func (q *quota) fitsWithoutCallbacks(n, bytes int) bool {
	var beyond amount
	for _, other := range q.of.quotas {
		beyond = beyond.plus(amountOf(other.box.open, other.box.openBytes).above(q.of.reserve))
	}
	grown := q.of.growth(amountOf(q.box.open, q.box.openBytes), amountOf(n, bytes))
	return q.box.open == 0 || q.of.allows(beyond, grown)
}

// force takes places whether there is room or not.
func (q *quota) force(more amount) { q.takeIf(more, true) }

// count changes how many places are taken, by grown of them above the reserve.
func (q *quota) count(change, grown amount) {
	if q.ended {
		return
	}
	a := q.of
	a.beyond = a.beyond.plus(grown)
	q.used = q.used.plus(change)
	a.used = a.used.plus(change)
	a.env.used.Add(change.bytes)
}

// giveBack gives back places.
func (q *quota) giveBack(less amount) {
	change := amount{}.minus(less)
	q.count(change, q.of.growth(q.used, change))
}

// wait joins the line.
func (q *quota) wait(n, bytes int) *ticket {
	t := &ticket{wants: amountOf(n, bytes), granted: make(chan struct{})}
	if q.line = append(q.line, t); len(q.line) == 1 {
		q.of.waiting = append(q.of.waiting, q)
	}
	return t
}

// leave ends a turn. It reports whether the turn had come: the caller then has the
// places.
func (q *quota) leave(t *ticket) (had bool) {
	if t.done {
		return t.had
	}
	if i := slices.Index(q.line, t); i >= 0 {
		q.line = slices.Delete(q.line, i, i+1)
	}
	t.done = true
	q.of.grant() // the next one may need less room
	return false
}

// free gives back places, and hands them to who waits.
func (q *quota) free(n, bytes int) {
	if q.ended {
		return
	}
	q.giveBack(amountOf(n, bytes))
	q.of.grant()
}

// grant hands free places to who waits, to one quota after the other.
func (a *admission) grant() {
	if len(a.waiting) == 0 {
		return
	}
	served := false
	for _, q := range a.waiting {
		served = q.grant() || served
	}
	a.waiting = slices.DeleteFunc(a.waiting, func(q *quota) bool { return len(q.line) == 0 })
	if n := len(a.waiting); n > 1 && served { // another one comes first next time
		first := a.waiting[0]
		copy(a.waiting, a.waiting[1:])
		a.waiting[n-1] = first
	}
}

// ripe reports whether it is time to look at the line. Several quotas get back
// their places few at a time: who were woken for each few would publish as few, in
// small frames. So a quarter of all is to be free, or half of the quota's own
// reserve. With 100 partitions and the usual bounds, frames then had 140 messages
// where they had 95 with a sixteenth.
func (q *quota) ripe() bool {
	a := q.of
	return len(a.quotas) == 1 || a.used.n <= a.most.n-a.most.n/4 || q.used.n <= a.reserve.n/2
}

// grant hands places to the quota's line, and reports whether somebody got one.
func (q *quota) grant() (served bool) {
	if !q.ripe() {
		return false
	}
	n := 0
	for _, t := range q.line {
		if !q.takeIf(t.wants, q.used.n == 0) {
			break
		}
		t.done, t.had = true, true
		close(t.granted)
		n++
	}
	clear(q.line[:n])
	q.line = q.line[n:]
	return n > 0
}

// end ends the waiting in the quota's line, without a place, and gives back all
// that the quota has.
func (q *quota) end() {
	if q.ended {
		return
	}
	q.giveBack(q.used)
	q.ended = true
	q.refuse()
	q.of.quotas = slices.DeleteFunc(q.of.quotas, func(other *quota) bool { return other == q })
	q.of.divide()
}

// refuse ends the waiting in the quota's line, without a place.
func (q *quota) refuse() {
	for _, t := range q.line {
		t.done = true
		close(t.granted)
	}
	q.line = nil
	q.of.waiting = slices.DeleteFunc(q.of.waiting, func(other *quota) bool { return other == q })
}
