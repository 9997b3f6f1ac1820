package stream

import "slices"

// job is a message that the workers have to handle.
type job struct {
	d      *Delivery
	ticket uint64 // see mark.LowWater
	key    string // from KeyOf
}

// lanes is the queue of the workers. Without keys it is first in, first out.
// With keys, one message of a key is ready or with a worker at a time, and the
// others of that key wait behind it, in order. It is pure: no I/O, no clock, no
// lock.
type lanes struct {
	byKey bool
	ready []job // ready[head] is the next one
	head  int
	// behind has an entry for each key with a message that is ready or with a
	// worker: the messages that wait behind that one.
	behind map[string][]job
}

func newLanes(byKey bool) *lanes { return &lanes{byKey: byKey, behind: map[string][]job{}} }

// push queues a message behind those of its key.
func (l *lanes) push(j job) {
	if l.byKey {
		if waiting, busy := l.behind[j.key]; busy {
			l.behind[j.key] = append(waiting, j)
			return
		}
		l.behind[j.key] = nil
	}
	l.append(j)
}

// append makes a message ready.
func (l *lanes) append(j job) {
	if l.head > 0 && len(l.ready) == cap(l.ready) {
		l.ready = l.ready[:copy(l.ready, l.ready[l.head:])]
		l.head = 0
	}
	l.ready = append(l.ready, j)
}

// pop removes and returns the next message that is ready. ok is false if there
// is none.
func (l *lanes) pop() (j job, ok bool) {
	if l.head == len(l.ready) {
		return j, false
	}
	j, l.ready[l.head] = l.ready[l.head], job{}
	if l.head++; l.head == len(l.ready) {
		l.ready, l.head = l.ready[:0], 0
	}
	return j, true
}

// hasReady reports whether pop returns a message.
func (l *lanes) hasReady() bool { return l.head < len(l.ready) }

// release makes the message that waits behind a handled one of the same key ready.
func (l *lanes) release(handled job) {
	if j, ok := l.popBehind(handled); ok {
		l.append(j)
	}
}

// cut removes the messages with tickets from a limit on.
func (l *lanes) cut(limit uint64) {
	late := func(j job) bool { return j.ticket >= limit }
	l.ready, l.head = slices.DeleteFunc(l.ready[l.head:], late), 0
	for key, waiting := range l.behind {
		l.behind[key] = slices.DeleteFunc(waiting, late)
	}
}

// popBehind removes and returns the message that waits behind a handled one of
// the same key. ok is false if there is none.
func (l *lanes) popBehind(handled job) (j job, ok bool) {
	if !l.byKey {
		return j, false
	}
	waiting := l.behind[handled.key]
	if len(waiting) == 0 {
		delete(l.behind, handled.key)
		return j, false
	}
	l.behind[handled.key] = waiting[1:]
	return waiting[0], true
}
