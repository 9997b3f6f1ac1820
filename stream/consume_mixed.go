package stream

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/tidemark-go/tidemark/internal/mark"
	"github.com/tidemark-go/tidemark/internal/wire"
)

// mixedBatch is the batch of a RunBatch that mixes a super stream's partitions.
// Only the goroutine that called RunBatch uses it.
type mixedBatch struct {
	lifetime
	size  int           // ConsumerConfig.BatchSize
	wait  time.Duration // ConsumerConfig.BatchWait
	kept  *originals    // of the batch that is being handled
	timer *time.Timer   // runs while something is pending

	pending []Delivery
	parts   []mixedPart // what is pending, by partition
}

// mixedPart is what a partition has in a batch.
type mixedPart struct {
	from *mixed
	n    int
	last uint64 // offset of the last message
}

// add adds messages of a partition, and handles each batch that they fill.
func (m *mixedBatch) add(from *mixed, list []Delivery) error {
	for len(list) > 0 {
		if from.dropped {
			return errStopped
		}
		n := min(m.size-len(m.pending), len(list))
		m.pending = append(m.pending, list[:n]...)
		part := m.partOf(from)
		part.n, part.last = part.n+n, list[n-1].Offset
		list = list[n:]
		if m.timer == nil {
			m.timer = time.NewTimer(m.wait)
		}
		if len(m.pending) < m.size {
			return nil
		}
		if err := m.flush(); err != nil {
			return err
		}
	}
	return nil
}

func (m *mixedBatch) partOf(from *mixed) *mixedPart {
	i := slices.IndexFunc(m.parts, func(p mixedPart) bool { return p.from == from })
	if i < 0 {
		i, m.parts = len(m.parts), append(m.parts, mixedPart{from: from})
	}
	return &m.parts[i]
}

// pass moves the mark of a partition to an offset, once what it has in the batch is
// handled.
func (m *mixedBatch) pass(from *mixed, offset uint64, n int) {
	if from.dropped {
		return
	}
	for i := range m.parts {
		if p := &m.parts[i]; p.from == from {
			p.n, p.last = p.n+n, offset
			return
		}
	}
	from.handled(mixedPart{from: from, n: n, last: offset})
}

// due returns a channel that gets an item when flush is to be called. A nil channel
// stands for never.
func (m *mixedBatch) due() <-chan time.Time {
	if m == nil || m.timer == nil {
		return nil
	}
	return m.timer.C
}

// flush calls the handler for what is pending, and moves the mark of each
// partition over it. A failure is that of the first message's partition. It ends
// the run, and the marks stay before the messages of the batch.
func (m *mixedBatch) flush() error {
	leave := m.enterTerms()
	defer leave()
	batch, parts := m.pending, m.parts
	m.clear()
	if len(batch) == 0 {
		return nil
	}
	err := m.handle(batch, parts[0].from.run)
	for _, p := range parts {
		if err != nil {
			p.from.dropped = true
		} else {
			p.from.handled(p)
		}
	}
	return err
}

// handle calls the handler of a run for a batch, unless no message is to be taken
// any more.
func (m *mixedBatch) handle(batch []Delivery, r *run) error {
	if m.taking.Err() != nil {
		return errStopped
	}
	if m.kept == nil {
		m.kept = r.originals()
	}
	return r.handleBatch(m.lifetime, batch, m.kept)
}

// enterTerms drops the messages of the partitions of which another member of the
// group may be the active one, and enters the terms of the others. The caller calls
// leave after the handler.
func (m *mixedBatch) enterTerms() (leave func()) {
	var entered []*term
	for _, p := range slices.Clone(m.parts) {
		switch t := p.from.term; {
		case p.from.taking.Err() != nil || t != nil && t.enter() != nil:
			m.drop(p.from)
		case t != nil:
			entered = append(entered, t)
		}
	}
	return func() {
		for _, t := range entered {
			t.leave()
		}
	}
}

// drop removes the messages of a partition. Its mark stays before them.
func (m *mixedBatch) drop(from *mixed) {
	there := len(m.parts)
	m.parts = slices.DeleteFunc(m.parts, func(p mixedPart) bool { return p.from == from })
	from.dropped = from.dropped || len(m.parts) < there
	if len(m.parts) == 0 {
		m.clear()
		return
	}
	stream := from.run.consumer.stream
	m.pending = slices.DeleteFunc(m.pending, func(d Delivery) bool { return d.Stream == stream })
}

func (m *mixedBatch) clear() {
	m.pending, m.parts = nil, nil
	if m.timer != nil {
		m.timer.Stop()
		m.timer = nil
	}
}

// mixed is the dispatcher of a partition whose messages go into a mixedBatch. From
// then on they are the batch's: the next session goes on behind them.
type mixed struct {
	lifetime
	run      *run
	batch    *mixedBatch
	term     *term     // in which the run is a member of a group; nil: it is in none
	progress *progress // of the stream: one that is created again has another one
	dropped  bool      // messages were in a batch and were not handled; set in the relay's turn
	ended    bool      // end was called; likewise

	mu        sync.Mutex     // held while both of these change
	mustStore bool           // the policy wants a store
	stores    chan time.Time // has an item only while mustStore
}

// mixesBatches reports whether the run's messages go to a mixedBatch: there is one
// for Run and All too, which they do not use.
func (r *run) mixesBatches() bool { return r.batchHandler != nil && r.mixed != nil }

func newMixed(ctx context.Context, r *run) *mixed {
	return &mixed{lifetime: lifetime{taking: ctx, handling: r.handling}, run: r, batch: r.mixed, term: r.term.Load(), progress: r.progress, stores: make(chan time.Time, 1)}
}

// dispatch adds the messages of a chunk to the batch, and waits meanwhile.
func (m *mixed) dispatch(chunk *wire.Chunk, d *decoder) error {
	for err := m.storeIfDue(); ; err = m.storeIfDue() {
		if err != nil {
			return err
		}
		list := d.block(blockSize)
		if len(list) == 0 {
			return nil
		}
		m.run.place.HandledTo(list[len(list)-1].Offset, mark.IDOf(chunk))
		if err := m.run.inTurn(m.taking, func() error { return m.batch.add(m, list) }); err != nil {
			return err
		}
	}
}

// pass moves the mark over what the filter has left out, together with what the
// batch has of the partition. After end the batch has nothing of it, and may be at
// work for others.
func (m *mixed) pass(offset uint64, chunk mark.ChunkID, n int) error {
	m.run.place.HandledTo(offset, chunk)
	switch {
	case m.ended && m.dropped:
		return nil
	case m.ended:
		m.handled(mixedPart{from: m, n: n, last: offset})
		return nil
	}
	if err := m.run.inTurn(m.taking, func() error { m.batch.pass(m, offset, n); return nil }); err != nil {
		return err
	}
	return m.storeIfDue()
}

// handled moves the mark over the messages of a batch that was handled. The
// partition's own goroutine stores it, so that a store that waits holds up no
// other partition.
func (m *mixed) handled(p mixedPart) {
	if m.progress.markMany(p.last, p.n) && m.run.named() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.mustStore = true
		select {
		case m.stores <- time.Time{}:
		default:
		}
	}
}

// takeStore reports whether a store is due, and forgets that it is: an item that
// stayed in stores would have flush hand out a batch that is not full.
func (m *mixed) takeStore() (due bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	due, m.mustStore = m.mustStore, false
	select {
	case <-m.stores:
	default:
	}
	return due
}

// flushDue says when a store is due: the batch has a timer of its own.
func (m *mixed) flushDue() <-chan time.Time { return m.stores }

// flush stores, or has the batch handled. If a store is due, a batch with all that
// the partition had in it was handled.
func (m *mixed) flush() error {
	if m.takeStore() {
		return m.store()
	}
	if err := m.run.inTurn(m.taking, m.batch.flush); err != nil {
		return err
	}
	return m.storeIfDue()
}

func (m *mixed) storeIfDue() error {
	if !m.takeStore() {
		return nil
	}
	return m.store()
}

func (m *mixed) store() error {
	return unlessStopped(m.taking, m.run.requests.ask(m.taking, storeSent, nil))
}

func (m *mixed) endSession(err error) error { return err }

// end waits for the batch at work, and takes back what waits for the next one.
func (m *mixed) end(err error) error {
	m.run.relay.always(func() {
		m.batch.drop(m)
		m.ended = true
	})
	return err
}

func (m *mixed) abandon() error { return m.end(nil) }
