package stream

// job is a message in the hands of the workers.
type job struct {
	d      *Delivery
	ticket uint64
	key    string
}

// lanes is the queue of the workers. Without keys it is first in, first out. With
// keys, one message of a key is out at a time, and the others of that key follow
// it in order. It is pure: no I/O, no clock, no lock.
type lanes struct {
	byKey bool
	ready []job // ready[head] is the next one
	head  int
	// behind holds, for each key with a message that is ready or out, the
	// messages that follow it.
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
	if l.head > 0 && len(l.ready) == cap(l.ready) {
		l.ready = l.ready[:copy(l.ready, l.ready[l.head:])]
		l.head = 0
	}
	l.ready = append(l.ready, j)
}

// pop takes the next message that may be handled now. ok is false if there is
// none.
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

// popBehind takes the message that follows a handled one of its key. ok is false
// if there is none.
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
