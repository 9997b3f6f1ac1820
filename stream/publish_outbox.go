package stream

import (
	"fmt"
	"sort"

	"github.com/tidemark-go/tidemark/internal/broker"
	"github.com/tidemark-go/tidemark/internal/wire"
)

// outbox holds the messages of a producer that have no outcome yet, in the order
// of their publishing ids and encoded in the frames that carry them. It knows
// which of them the current connection has. The producer's lock guards it. It
// does no I/O.
type outbox struct {
	subEntries int

	lastID    uint64          // newest accepted
	batches   []*publishFrame // those with open slots, and perhaps others
	unsent    int             // index of the first one that was not handed out
	written   int             // index of the first one that may still be read by a connection
	hint      int             // index of the one that the last outcome was for
	open      int             // messages without outcome
	openBytes int             // their bytes
	waiting   int             // entries that were handed out and have no outcome
	limit     int             // of a frame
	noFilters bool            // the broker takes no filter values
}

// tellOutcome passes on the outcome of slots that follow one another in a frame.
type tellOutcome func(b *publishFrame, slots []slot, err error)

// add accepts a message. Its id is above lastID. It returns what seal does if a
// sub-batch became complete.
func (o *outbox) add(s *slot, filter string, m *outgoing) (complete *publishFrame) {
	if o.subEntries > 1 {
		b, complete := o.subBatch(m.size())
		if o.addRecord(b, s, m); len(b.slots) == o.subEntries {
			complete = o.seal()
		}
		return complete
	}
	o.count(s)
	version := wire.Version1
	if filter != "" {
		version = wire.Version2
	}
	o.plainBatch(version, m.size(), len(filter)).add(s, filter, m)
	return nil
}

// addRecord accepts a message into a sub-batch. Its id is above lastID.
func (o *outbox) addRecord(b *publishFrame, s *slot, m *outgoing) {
	o.count(s)
	b.addRecord(s, m)
}

// count counts a message that is accepted.
func (o *outbox) count(s *slot) {
	o.lastID = s.id
	o.open++
	o.openBytes += int(s.size)
}

// tail returns the batch that is still open for messages, or nil.
func (o *outbox) tail() *publishFrame {
	if len(o.batches) == 0 || o.unsent == len(o.batches) {
		return nil
	}
	if b := o.batches[len(o.batches)-1]; !b.sealed {
		return b
	}
	return nil
}

// plainBatch returns the batch for a message and a filter value of so many bytes.
func (o *outbox) plainBatch(version uint16, size, filter int) *publishFrame {
	b := o.tail()
	if b != nil && !b.sub && b.version >= version && o.shares(b, entryBytes(b.version, lengthBytes+size, filter)) {
		return b
	}
	b = newPublishFrame(version)
	o.batches = append(o.batches, b)
	return b
}

// shares reports whether a batch of plain messages takes an entry of n bytes more.
func (o *outbox) shares(b *publishFrame, n int) bool {
	return len(b.slots) < batchMessages && len(b.frame)+n <= min(batchBytes, o.limit)
}

// subBatch returns the sub-batch for a record of n bytes, and what seal does if
// another one became complete.
func (o *outbox) subBatch(n int) (b, complete *publishFrame) {
	b = o.tail()
	if b != nil && b.sub && len(b.records)+n+recordOverhead <= o.subBatchBytes() {
		return b, nil
	}
	return o.newSubBatch()
}

// newSubBatch begins a sub-batch, to which the caller adds a record at once. It
// returns what seal does, too.
func (o *outbox) newSubBatch() (b, complete *publishFrame) {
	complete = o.seal()
	b = newPublishFrame(wire.Version1)
	b.sub = true
	o.batches = append(o.batches, b)
	return b, complete
}

// subBatchBytes is how many bytes the records of a sub-batch have at most. What
// does not become smaller by compression becomes a little larger.
func (o *outbox) subBatchBytes() int { return roomIn(o.limit, true) }

// roomIn returns the room for entries in a frame, before they are compressed.
func roomIn(limit int, sub bool) int {
	if sub {
		return limit - frameOverhead - limit/64 - 1024
	}
	return limit - frameOverhead
}

// seal ends the open batch: what comes goes into another frame. It returns a
// sub-batch that is complete now and that others go before, or nil: the first one
// is compressed when the connection takes it, at the latest.
func (o *outbox) seal() (complete *publishFrame) {
	b := o.tail()
	if b == nil {
		return nil
	}
	b.sealed = true
	if !b.sub || len(b.records) == 0 || o.unsent == len(o.batches)-1 {
		return nil
	}
	return b
}

// held reports whether somebody compresses what is to be sent next, or will.
func (o *outbox) held() bool {
	return o.unsent < len(o.batches) && o.batches[o.unsent].preparing
}

// next returns the batch to send next, and nil with the reason if there is none,
// or none that is allowed.
func (o *outbox) next(may broker.Allowance) (*publishFrame, broker.Rest) {
	for o.unsent < len(o.batches) && o.batches[o.unsent].open == 0 { // settled without being sent
		o.unsent++
	}
	if o.unsent == len(o.batches) {
		return nil, broker.TookAll
	}
	b := o.batches[o.unsent]
	if b.entries() > may.Room {
		return nil, broker.NoRoom
	}
	if may.Full && b == o.tail() {
		return nil, broker.NotFull
	}
	return b, broker.TookSome
}

// uncompressed fills list with the sub-batches that are to be sent next, as far as
// nobody has compressed them: the next one, and those behind it that are complete,
// as long as these have no more than batchBytes together. It returns how many those
// are.
func (o *outbox) uncompressed(list []*publishFrame) (n int) {
	bytes := 0
	for _, b := range o.batches[o.unsent:] {
		bytes += len(b.records)
		if n == len(list) || b.preparing || len(b.records) == 0 || n > 0 && (!b.sealed || bytes > batchBytes) {
			break
		}
		list[n] = b
		n++
	}
	return n
}

// hand makes the next batch one that a publisher sends, and returns its frame.
func (o *outbox) hand(b *publishFrame, id uint8) []byte {
	b.sealed, b.sends = true, min(b.sends+1, 2)
	o.unsent++
	o.waiting += b.entries()
	return b.finish(id)
}

// prepared takes the frame of a sub-batch whose records are compressed, or the
// error that came of it.
func (o *outbox) prepared(b *publishFrame, frame []byte, err error, tell tellOutcome) {
	b.frame, b.records, b.preparing = frame, b.records[:0], false
	if err == nil && len(frame) > o.limit {
		err = o.tooLarge()
	}
	if err != nil {
		o.end(b, b.slots, err, tell)
	}
}

// tooLarge is the outcome of what was accepted before there was this connection.
func (o *outbox) tooLarge() error {
	return fmt.Errorf("%w: the connection that was made since takes frames of %d bytes only (stream.frame_max)", ErrMessageTooLarge, o.limit)
}

// sent says that everything handed out is written: its memory may be used again
// once it is settled.
func (o *outbox) sent() {
	o.written = o.unsent
	o.advance()
}

// batchOf returns the batch with an id among those that were handed out, or nil.
func (o *outbox) batchOf(id uint64) *publishFrame {
	handed := o.batches[:o.unsent]
	if o.hint >= len(handed) || !handed[o.hint].spans(id) {
		o.hint = sort.Search(len(handed), func(i int) bool { return handed[i].last() >= id })
		if o.hint == len(handed) || !handed[o.hint].spans(id) {
			return nil
		}
	}
	return handed[o.hint]
}

// settle gives the message, or the sub-batch, with an id its outcome. It returns
// how many entries that settles: 0 or 1. An id that the connection was not sent,
// or that has its outcome already, is ignored.
func (o *outbox) settle(id uint64, err error, tell tellOutcome) int {
	b := o.batchOf(id)
	if b == nil {
		return 0
	}
	if b.sub {
		if id != b.last() || b.open == 0 {
			return 0
		}
		o.end(b, b.slots, err, tell)
	} else {
		i := b.find(id)
		if i < 0 || b.slots[i].settled {
			return 0
		}
		o.end(b, b.slots[i:i+1], err, tell)
	}
	o.waiting--
	return 1
}

// confirmed settles the messages that a list of confirms names from its i-th on, as
// far as they follow one another in a frame. It returns how many those are. The
// rest, which is 0 of sub-batches and refusals, is for settle.
func (o *outbox) confirmed(list *wire.Outcomes, i int, tell tellOutcome) (n int) {
	id, _ := list.At(i)
	b := o.batchOf(id)
	if b == nil || b.sub {
		return 0
	}
	first := b.find(id)
	if first < 0 {
		return 0
	}
	slots := b.slots[first:]
	for most := min(len(slots), list.Len()-i); n < most; n++ {
		id, code := list.At(i + n)
		if s := &slots[n]; s.id != id || s.settled || code != wire.CodeOK {
			break
		}
	}
	o.end(b, slots[:n], nil, tell)
	o.waiting -= n
	return n
}

// sentOnce reports whether the entry with an id was sent, and once in all.
func (o *outbox) sentOnce(id uint64) (sent, once bool) {
	b := o.batchOf(id)
	if b == nil {
		return false, false
	}
	return true, b.sends == 1
}

// drop gives the message, or the sub-batch, with an id its outcome. The
// connection must not have it, and resend must follow, which leaves it out.
func (o *outbox) drop(id uint64, err error, tell tellOutcome) {
	for _, b := range o.batches {
		switch {
		case !b.spans(id):
		case b.sub:
			o.end(b, b.slots, err, tell)
		default:
			if i := b.find(id); i >= 0 {
				o.end(b, b.slots[i:i+1], err, tell)
			}
		}
	}
}

// end gives the open ones among slots their outcome.
func (o *outbox) end(b *publishFrame, slots []slot, err error, tell tellOutcome) {
	for len(slots) > 0 {
		n := 0
		for ; n < len(slots) && !slots[n].settled; n++ {
			slots[n].settled = true
			o.openBytes -= int(slots[n].size)
		}
		if n > 0 {
			b.open -= n
			o.open -= n
			tell(b, slots[:n], err)
		}
		slots = slots[min(n+1, len(slots)):]
	}
}

// settleAll gives everything its outcome, and returns how many messages that were.
func (o *outbox) settleAll(err error, tell tellOutcome) (n int) {
	n = o.open
	for _, b := range o.batches {
		o.end(b, b.slots, err, tell)
	}
	o.batches, o.unsent, o.written, o.waiting = nil, 0, 0, 0
	return n
}

// advance drops what has its outcome from the front.
func (o *outbox) advance() {
	n := 0
	for n < o.written && o.batches[n].open == 0 {
		o.batches[n].recycle()
		o.batches[n] = nil
		n++
	}
	o.batches = o.batches[n:]
	o.unsent -= n
	o.written -= n
	o.hint = max(0, o.hint-n)
}

// settledUpTo reports whether every message up to an id has its outcome.
func (o *outbox) settledUpTo(id uint64) bool {
	for _, b := range o.batches {
		if b.first() > id {
			break
		}
		for i := range b.slots {
			if s := &b.slots[i]; s.id <= id && !s.settled {
				return false
			}
		}
	}
	return true
}

// resend makes everything without outcome count as not sent, for a connection
// that takes frames of limit bytes. What was sent goes out again as the same
// entries with the same ids.
func (o *outbox) resend(limit int, tell tellOutcome) {
	old, unsent, written := o.batches, o.unsent, o.written
	o.limit = limit
	o.batches, o.unsent, o.written, o.waiting, o.hint = nil, 0, 0, 0, 0
	for i, b := range old {
		switch {
		case b.open == 0:
			if i < written {
				b.recycle()
			}
		case b.sends == 0 && len(b.frame) <= limit && (b.version == wire.Version1 || !o.noFilters):
			o.batches = append(o.batches, b)
		default:
			o.repack(b, i < unsent, tell)
			if i < written {
				b.recycle()
			}
		}
	}
	o.seal()
}

// repack copies what is open in a batch. If it was handed out, the connection
// before may still be writing its memory.
func (o *outbox) repack(b *publishFrame, handed bool, tell tellOutcome) {
	if !handed {
		b.finish(0) // for walk
	}
	entries := b.walk()
	var e wire.PublishEntry
	for i := 0; entries.Next(&e); i++ {
		slots := b.slots
		if !b.sub {
			slots = slots[i : i+1]
		}
		if slots[0].settled {
			continue
		}
		o.copyEntry(b, slots, &e, tell)
	}
}

// withoutFilters is the outcome of a message with a filter value that was accepted
// before the producer had a connection to a broker without filters. An earlier
// broker may have got it.
func withoutFilters(sent bool) error {
	if sent {
		return fmt.Errorf("%w: the stream's leader is a broker without filters now: %w", ErrUnconfirmed, errNoFilters)
	}
	return errNoFilters
}

// copyEntry adds an entry of another batch.
func (o *outbox) copyEntry(from *publishFrame, slots []slot, e *wire.PublishEntry, tell tellOutcome) {
	version := from.version
	if o.noFilters {
		version = wire.Version1
	}
	n := entryBytes(version, len(e.Raw), len(e.Filter))
	switch {
	case o.noFilters && len(e.Filter) > 0:
		o.end(from, slots, withoutFilters(from.sends > 0), tell)
		return
	case n+frameOverhead > o.limit:
		o.end(from, slots, o.tooLarge(), tell)
		return
	}
	to := o.tail()
	if to == nil || to.sub || from.sub || to.version != version || !o.shares(to, n) {
		to = newPublishFrame(version)
		to.sub = from.sub
		o.batches = append(o.batches, to)
	}
	to.sends = max(to.sends, from.sends)
	to.copyEntry(slots, e)
}
