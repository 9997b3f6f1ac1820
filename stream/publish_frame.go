package stream

import (
	"encoding/binary"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

const (
	// batchBytes is how many bytes of messages share a frame, at the most. A
	// larger message has a frame for itself.
	batchBytes = 64 << 10
	// batchMessages is how many messages share a frame, at the most.
	batchMessages = 1024
	// messageOverhead is what a message adds to its body in a Publish frame:
	// publishing id and length. frameOverhead is the frame's own: size, key,
	// version, publisher id and count.
	messageOverhead = publishingIDBytes + lengthBytes
	frameOverhead   = 4 + 2 + 2 + 1 + 4
	// publishingIDBytes and lengthBytes are the sizes of these fields.
	publishingIDBytes = 8
	lengthBytes       = 4
	// publisherIDAt is where a frame has the publisher's id.
	publisherIDAt = 4 + 2 + 2
	// subBatchOverhead is what a sub-batch adds to its records in a frame, and
	// recordOverhead what a record adds to its message.
	subBatchOverhead = 8 + 11
	recordOverhead   = 4
)

// slot is an accepted message on its way to its outcome. Either waits or done
// is for who published it, or neither.
type slot struct {
	id    uint64 // publishing id
	waits *waiter
	done  func(error)
	nth   int32 // which of the waiter's messages it is
	size  int32 // its bytes, encoded

	settled bool
}

// sameListener returns the first of slots with those behind it that are the same
// Publish's, or have callbacks as it has, or none as it has none.
func sameListener(slots []slot) []slot {
	n := 1
	for n < len(slots) && slots[n].waits == slots[0].waits && (slots[n].done == nil) == (slots[0].done == nil) {
		n++
	}
	return slots[:n]
}

// publishFrame is the messages of one Publish frame, encoded. With sub-batches the frame
// has one entry, and the messages are its records.
type publishFrame struct {
	frame []byte
	slots []slot
	open  int // slots without outcome

	version uint16
	records []byte // of a sub-batch that was not compressed yet; empty otherwise
	sub     bool   // the frame has one entry, a sub-batch
	sealed  bool   // nothing is added any more
	// preparing is set while somebody compresses the records without the producer's
	// lock, or is about to.
	preparing bool
	sends     uint8 // how often its entries were sent: 0, 1, or 2 for more often

	calls int  // runs of slots whose callbacks have not returned; they read the slots
	spent bool // recycle was called meanwhile
}

// publishFrames are kept for reuse: a busy producer needs no new memory. A new one
// has room for some small messages: where many producers have a frame each, growing
// them from nothing costs a third of the time.
var publishFrames = sync.Pool{New: func() any {
	return &publishFrame{frame: make([]byte, 0, 2<<10), slots: make([]slot, 0, 16)}
}}

// maxKept is the largest frame that is kept for reuse.
const maxKept = 2 * batchBytes

func newPublishFrame(version uint16) *publishFrame {
	b := publishFrames.Get().(*publishFrame)
	b.version = version
	b.frame = wire.BeginPublish(withRoom(b.frame[:0], firstRoom), version, 0)
	return b
}

// recycle gives the batch's memory back, once the callbacks of its messages have
// returned. Nobody else may have it.
func (b *publishFrame) recycle() {
	if b.spent = b.calls > 0; b.spent {
		return
	}
	clear(b.slots)
	*b = publishFrame{frame: b.frame[:0], slots: b.slots[:0], records: b.records[:0]}
	if cap(b.frame) <= maxKept && cap(b.records) <= maxKept {
		publishFrames.Put(b)
	}
}

// returned says that the callbacks of a run have returned.
func (b *publishFrame) returned() {
	if b.calls--; b.spent {
		b.recycle()
	}
}

// first and last are the publishing ids at the ends.
func (b *publishFrame) first() uint64 { return b.slots[0].id }
func (b *publishFrame) last() uint64  { return b.slots[len(b.slots)-1].id }

// entries is how many entries the frame has.
func (b *publishFrame) entries() int {
	if b.sub {
		return 1
	}
	return len(b.slots)
}

// entryBytes returns how many bytes an entry has in a frame, given those of what
// follows the filter value, and of that.
func entryBytes(version uint16, raw, filter int) int {
	if version == wire.Version2 {
		return publishingIDBytes + 2 + filter + raw
	}
	return publishingIDBytes + raw
}

// find returns the index of the slot with an id, or -1. Ids ascend, mostly by
// one.
func (b *publishFrame) find(id uint64) int {
	if i := id - b.first(); i < uint64(len(b.slots)) && b.slots[i].id == id {
		return int(i)
	}
	i := sort.Search(len(b.slots), func(i int) bool { return b.slots[i].id >= id })
	if i < len(b.slots) && b.slots[i].id == id {
		return i
	}
	return -1
}

// add appends a message as an entry of its own. encode appends its bytes.
func (b *publishFrame) add(s *slot, filter string, m *outgoing) {
	frame := withRoom(b.frame, entryBytes(b.version, lengthBytes+m.size(), len(filter)))
	frame = binary.BigEndian.AppendUint64(frame, s.id)
	if b.version == wire.Version2 {
		frame = appendFilter(frame, filter)
	}
	b.frame = m.appendWithLength(frame)
	b.addSlot(s)
}

func (b *publishFrame) addSlot(s *slot) {
	if len(b.slots) == cap(b.slots) {
		b.slots = slices.Grow(b.slots, max(8, 3*len(b.slots)))
	}
	b.slots = append(b.slots, *s)
	b.open++
}

// firstRoom is the size of a new frame's memory.
const firstRoom = 1 << 10

// withRoom returns frame with room for n bytes more. It grows fourfold, to 64 KiB: a
// new frame has its size after few allocations, and a small one remains small.
func withRoom(frame []byte, n int) []byte {
	need := len(frame) + n
	if need <= cap(frame) {
		return frame
	}
	room := firstRoom
	for room < need && room < batchBytes {
		room *= 4
	}
	if need > room {
		room = max(need, 2*cap(frame))
	}
	return append(make([]byte, 0, room), frame...)
}

// appendFilter appends a filter value; none is null.
func appendFilter(b []byte, filter string) []byte {
	if filter == "" {
		return append(b, 0xff, 0xff)
	}
	return append(binary.BigEndian.AppendUint16(b, uint16(len(filter))), filter...)
}

// addRecord appends a message as a record of the sub-batch.
func (b *publishFrame) addRecord(s *slot, m *outgoing) {
	b.records = m.appendWithLength(withRoom(b.records, lengthBytes+m.size()))
	b.addSlot(s)
}

// copyEntry appends an entry of another frame, with its slots.
func (b *publishFrame) copyEntry(slots []slot, e *wire.PublishEntry) {
	b.frame = binary.BigEndian.AppendUint64(b.frame, e.PublishingID)
	if b.version == wire.Version2 {
		b.frame = appendFilter(b.frame, string(e.Filter))
	}
	b.frame = append(b.frame, e.Raw...)
	b.slots = append(b.slots, slots...)
	b.open += len(slots)
}

// spans reports whether an id lies between the batch's ends.
func (b *publishFrame) spans(id uint64) bool { return b.first() <= id && id <= b.last() }

// walk iterates over the entries of a batch that was finished.
func (b *publishFrame) walk() wire.Publish {
	p, err := wire.DecodePublish(b.version, b.frame[wire.SizeLen+wire.HeadLen:])
	if err != nil {
		panic("tidemark: a frame of its own: " + err.Error())
	}
	return p
}

// finish makes the frame one of a publisher.
func (b *publishFrame) finish(publisherID uint8) []byte {
	b.frame = wire.FinishPublish(b.frame, 0, b.entries())
	b.frame[publisherIDAt] = publisherID
	return b.frame
}

// outgoing is a message that is ready to be copied into a frame.
type outgoing struct {
	body  []byte // of a plain message
	whole []byte // a message that is encoded already, in place of body
}

// size is how many bytes the message has, encoded.
func (m *outgoing) size() int {
	switch {
	case m.whole != nil:
		return len(m.whole)
	case len(m.body) <= 255:
		return len(m.body) + 5
	}
	return len(m.body) + 8
}

// appendWithLength appends the message behind its length.
func (m *outgoing) appendWithLength(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(m.size()))
	if m.whole != nil {
		return append(b, m.whole...)
	}
	return appendData(b, m.body)
}

// encode makes out of a message. A plain one is encoded later, into its frame.
func (p *Producer) encode(m *Message, out *outgoing) (err error) {
	if m.Raw == nil && !p.cfg.CreationTime && m.plain() && len(m.Body) <= maxEncoded-dataHead {
		*out = outgoing{body: m.Body}
		return nil
	}
	var creation time.Time
	if p.cfg.CreationTime {
		creation = time.Now()
	}
	*out = outgoing{}
	out.whole, err = appendMessage([]byte{}, m, creation)
	return err
}
