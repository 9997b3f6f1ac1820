package stream

import (
	"slices"
	"sync/atomic"
)

// admission bounds the messages of a producer that have no outcome yet, or whose
// callback has not returned, in number and in bytes. Who finds no room waits in
// turn: what becomes free goes to the first in the line, and wakes nobody else.
// The producer's lock guards it. It does no I/O.
type admission struct {
	most, mostBytes int
	used, usedBytes int
	env             *envBytes
	line            []*ticket // who waits, the first one first
	ended           bool      // nothing counts any more
}

// envBytes bounds the bytes of all producers of an Env together. A producer that
// has no message at all may always have one, so that none waits for another one.
type envBytes struct {
	most int64
	used atomic.Int64
}

// ticket is a turn in the line, for n messages.
type ticket struct {
	n, bytes int
	granted  chan struct{} // closed when the places are the holder's, or nobody's any more
	done     bool          // granted is closed, or the holder has left
	had      bool          // the holder has the places
}

// take takes places for n messages, if there is room and nobody waits. What is
// larger than all the room goes alone.
func (p *admission) take(n, bytes int) bool {
	if len(p.line) > 0 || !p.fits(n, bytes) {
		return false
	}
	p.force(n, bytes)
	return true
}

// takeTogether takes places for n messages if there is room for all of them, and
// nobody waits. Without room they go one by one.
func (p *admission) takeTogether(n, bytes int) bool {
	if len(p.line) > 0 || n > p.most-p.used || bytes > p.mostBytes-p.usedBytes || int64(bytes) > p.env.most-p.env.used.Load() {
		return false
	}
	p.force(n, bytes)
	return true
}

func (p *admission) fits(n, bytes int) bool {
	return p.used == 0 ||
		p.fitsBeside(p.used, p.usedBytes, n, bytes) && int64(bytes) <= p.env.most-p.env.used.Load()
}

// fitsBeside reports whether n messages are within the producer's bounds together
// with others.
func (p *admission) fitsBeside(others, theirBytes, n, bytes int) bool {
	return others == 0 || n <= p.most-others && bytes <= p.mostBytes-theirBytes
}

// force takes places whether there is room or not.
func (p *admission) force(n, bytes int) {
	if p.ended {
		return
	}
	p.used += n
	p.usedBytes += bytes
	p.env.used.Add(int64(bytes))
}

// wait joins the line.
func (p *admission) wait(n, bytes int) *ticket {
	t := &ticket{n: n, bytes: bytes, granted: make(chan struct{})}
	p.line = append(p.line, t)
	return t
}

// leave ends a turn. It reports whether the turn had come: the caller then has the
// places.
func (p *admission) leave(t *ticket) (had bool) {
	if t.done {
		return t.had
	}
	if i := slices.Index(p.line, t); i >= 0 {
		p.line = slices.Delete(p.line, i, i+1)
	}
	t.done = true
	p.grant() // the next one may need less room
	return false
}

// free gives back places, and hands them to who waits.
func (p *admission) free(n, bytes int) {
	if p.ended {
		return
	}
	p.used -= n
	p.usedBytes -= bytes
	p.env.used.Add(int64(-bytes))
	p.grant()
}

func (p *admission) grant() {
	n := 0
	for _, t := range p.line {
		if !p.fits(t.n, t.bytes) {
			break
		}
		p.force(t.n, t.bytes)
		t.done, t.had = true, true
		close(t.granted)
		n++
	}
	clear(p.line[:n])
	p.line = p.line[n:]
}

// end ends the waiting of everybody, without a place, and gives back all bytes
// that count for the Env.
func (p *admission) end() {
	p.env.used.Add(int64(-p.usedBytes))
	p.used, p.usedBytes, p.ended = 0, 0, true
	p.refuse()
}

// refuse ends the waiting of everybody, without a place.
func (p *admission) refuse() {
	for _, t := range p.line {
		t.done = true
		close(t.granted)
	}
	p.line = nil
}
