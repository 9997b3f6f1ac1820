package broker

import (
	"context"
	"slices"
	"sync"
	"time"
)

// OffsetSource is whose offset an OffsetWriter stores together with others. The
// methods are called on the goroutine of any writer of the batch. They must not
// block.
type OffsetSource interface {
	// Take returns the offset to store. Until Taken, the source stores nothing
	// by another way. ok is false if there is nothing to store now, or if a
	// store is under way; Taken does not follow.
	Take() (offset uint64, ok bool)
	// Taken says that the offset was sent, or why it was not. It reports whether
	// the source wants to store once more with the next batch.
	Taken(err error) (again bool)
	// Doubt says that an offset which was sent may be lost.
	Doubt()
	// Wake makes the source call StoreSoon again, because nobody sends the batch
	// that it waits for. A source that cannot has called Yield.
	Wake()
}

// offsetBatch makes the stores of one stream's references leave together,
// whatever connections to a node the references use. RabbitMQ makes few chunks
// of stores that arrive together, and each chunk costs all readers of the
// stream (PROTOCOL-FACTS, section 20).
//
// The batch has no goroutine. One of the writers that wait is the leader: it
// comes back when the batch is due, and sends what all of them have to store.
// All batches go over the connection of one writer, the carrier, so that an
// older offset never overtakes a newer one. Another writer becomes the carrier
// when that one has left or lost its connection.
type offsetBatch struct {
	mu      sync.Mutex
	writers map[*OffsetWriter]struct{} // all that may join
	waiting []*OffsetWriter            // those that have something to store
	leader  *OffsetWriter              // who sends the next batch; nil: nobody waits
	carrier *OffsetWriter              // whose connection the batches go over; nil: the leader's
	sentAt  time.Time                  // when the last batch was sent
}

// turnGap is how long a store that somebody waits for may be held back for each
// other writer of the batch. Consumers that end together all want one, at about
// the same moment.
const turnGap = time.Millisecond

// shortGap returns the gap for a store that somebody waits for: turnGap for each
// other writer, and longest at most. It is 0 for a writer that is alone.
func (b *offsetBatch) shortGap(longest time.Duration) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return min(longest, turnGap*time.Duration(len(b.writers)-1))
}

// join has a writer wait for the next batch, if wanted. leads says that the
// writer has to come back at that time to send the batch; else another writer
// does, or nobody waits. The batch leaves gap after the one before. A writer
// with an earlier time takes over from the leader.
func (b *offsetBatch) join(w *OffsetWriter, wanted bool, gap time.Duration) (at time.Time, leads bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if wanted {
		b.add(w)
	}
	at = b.sentAt.Add(gap)
	switch {
	case len(b.waiting) == 0:
		if b.leader == w {
			b.leader = nil
		}
		return at, false
	case b.leader == nil, b.leader == w, at.Before(b.leader.due):
		b.leader, w.due = w, at
		return at, true
	}
	return at, false
}

// add adds a writer to those that wait. The caller holds b.mu.
func (b *offsetBatch) add(w *OffsetWriter) {
	if _, ok := b.writers[w]; ok && !w.waiting {
		w.waiting = true
		b.waiting = append(b.waiting, w)
	}
}

// send sends what the waiting writers have to store. The leader calls it. err is
// why nothing was sent.
func (b *offsetBatch) send(ctx context.Context, leader *OffsetWriter) (err error) {
	var frames []byte
	list, over := b.take(leader)
	taken := list[:0]
	for _, w := range list {
		if offset, ok := w.source.Take(); ok {
			frames = w.appendStore(frames, offset)
			taken = append(taken, w)
		}
	}
	if len(frames) > 0 {
		err = over.sendBytes(ctx, frames)
	}
	b.sent(over, taken, err)
	b.doubtIfLost(over, taken)
	return err
}

// take empties the list of those that wait, and returns the connection that the
// batch goes over.
func (b *offsetBatch) take(leader *OffsetWriter) (list []*OffsetWriter, over *Conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	list = b.waiting
	for _, w := range list {
		w.waiting = false
	}
	b.waiting, b.sentAt = nil, time.Now()
	if b.carrier == nil || !b.carrier.conn.Alive() {
		b.carrier = leader
	}
	return list, b.carrier.conn
}

// sent tells the writers how the send over a connection went. Those that have
// more to store wait for the next batch.
func (b *offsetBatch) sent(over *Conn, taken []*OffsetWriter, err error) {
	b.mu.Lock()
	for _, w := range taken {
		w.noteSentOver(over) // before Taken, after which the source may call Settle
	}
	b.mu.Unlock()
	for _, w := range taken {
		if w.source.Taken(err) {
			b.mu.Lock()
			b.add(w)
			b.mu.Unlock()
		}
	}
}

// doubtIfLost tells the writers that what was just sent over a connection may be
// lost, if the connection has ended: its writer may have left before Taken.
func (b *offsetBatch) doubtIfLost(over *Conn, taken []*OffsetWriter) {
	if over.Alive() {
		return
	}
	for _, w := range taken {
		w.source.Doubt()
	}
}

// leave removes a writer. If it led, another one that waits leads from then on.
// What was sent over the writer's connection is in doubt unless the connection
// is in order. leave reports whether the batch has no writer any more.
func (b *offsetBatch) leave(w *OffsetWriter, inOrder bool) (empty bool) {
	doubtful, next, empty := b.remove(w, inOrder)
	for _, other := range doubtful {
		other.source.Doubt()
	}
	if next != nil {
		next.source.Wake()
	}
	return empty
}

// remove removes a writer. It returns those whose last offset went over its
// connection, unless that is in order, and one that has to lead now.
func (b *offsetBatch) remove(w *OffsetWriter, inOrder bool) (doubtful []*OffsetWriter, next *OffsetWriter, empty bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.writers[w]; !ok {
		return nil, nil, false // it has left, and its key may have another batch by now
	}
	delete(b.writers, w)
	for other := range b.writers {
		if !inOrder && other.lastSentOver() == w.conn {
			doubtful = append(doubtful, other)
		}
	}
	if b.carrier == w {
		b.carrier = nil
	}
	return doubtful, b.pass(w), len(b.writers) == 0
}

// yield takes a writer out of those that wait, and wakes one of the others if
// nobody leads them.
func (b *offsetBatch) yield(w *OffsetWriter) {
	b.mu.Lock()
	next := b.pass(w)
	b.mu.Unlock()
	if next != nil {
		next.source.Wake()
	}
}

// retire is yield of a writer whose connection is going to end: no later batch
// goes over it.
func (b *offsetBatch) retire(w *OffsetWriter) {
	b.mu.Lock()
	if b.carrier == w {
		b.carrier = nil
	}
	b.mu.Unlock()
	b.yield(w)
}

// pass takes a writer out of those that wait and ends its leadership. It returns
// one that waits, to be woken, if nobody leads. The caller holds b.mu.
func (b *offsetBatch) pass(w *OffsetWriter) (next *OffsetWriter) {
	if w.waiting {
		w.waiting = false
		b.waiting = slices.DeleteFunc(b.waiting, func(other *OffsetWriter) bool { return other == w })
	}
	if b.leader == w {
		b.leader = nil
	}
	if b.leader == nil && len(b.waiting) > 0 {
		next = b.waiting[0]
	}
	return next
}

// carriedBy returns the connections over which batches have sent offsets of the
// writer since the last call, without the writer's own and those that have ended.
// What was sent over the last of them stays in doubt until that is in order.
func (b *offsetBatch) carriedBy(w *OffsetWriter) (list []*Conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range w.sentOver {
		if c != w.conn && c.Alive() {
			list = append(list, c)
		}
	}
	w.sentOver = w.sentOver[max(0, len(w.sentOver)-1):]
	return list
}

// batches are the batches of a cluster, by node and stream.
type batches struct {
	mu   sync.Mutex
	open map[batchKey]*offsetBatch
}

type batchKey struct {
	node   Node
	stream string
}

// enter gives a writer its batch.
func (b *batches) enter(w *OffsetWriter) {
	b.mu.Lock()
	defer b.mu.Unlock()
	batch := b.open[w.key]
	if batch == nil {
		if b.open == nil {
			b.open = map[batchKey]*offsetBatch{}
		}
		batch = &offsetBatch{writers: map[*OffsetWriter]struct{}{}}
		b.open[w.key] = batch
	}
	batch.mu.Lock()
	batch.writers[w] = struct{}{}
	batch.mu.Unlock()
	w.batch = batch
}

// leave takes a writer out of its batch, and forgets a batch without writers.
func (b *batches) leave(w *OffsetWriter, inOrder bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if w.batch.leave(w, inOrder) {
		delete(b.open, w.key)
	}
}
