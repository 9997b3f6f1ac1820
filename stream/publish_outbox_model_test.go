package stream

import (
	"bytes"
	"encoding/binary"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/tidemark-go/tidemark/internal/broker"
	"github.com/tidemark-go/tidemark/internal/wire"
)

// boxed plays an outbox, and holds what it does against a model of it.
type boxed struct {
	*testing.T
	o      outbox
	random *rand.Rand

	lastID uint64
	bodies map[uint64]string // of every message that was accepted
	filter map[uint64]string
	got    map[uint64][]error
	open   []uint64 // without outcome, in order

	handed  map[uint64]bool   // messages that the connection has, with an outcome or not
	onWire  uint64            // last id that the connection has
	entries map[uint64]int    // by the id of an entry that is unconfirmed: its messages
	first   map[uint64]string // what was sent of an entry the first time, by its id
	turn    []lent            // what the connection writes now
	orphans []lent            // what connections before may still write

	compressing []*publishFrame // that somebody compresses beside the connection
}

// lent is a frame that a connection reads, and what it must be.
type lent struct{ frame, want []byte }

func newBoxed(t *testing.T, subEntries, limit int) *boxed {
	b := &boxed{
		T: t, o: outbox{subEntries: subEntries, limit: limit}, random: rand.New(rand.NewPCG(1, 2)),
		bodies: map[uint64]string{}, filter: map[uint64]string{}, got: map[uint64][]error{}, first: map[uint64]string{},
	}
	b.connect()
	return b
}

func (b *boxed) connect() {
	b.handed, b.onWire, b.entries = map[uint64]bool{}, 0, map[uint64]int{}
}

func (b *boxed) tell(_ *publishFrame, slots []slot, err error) {
	for _, s := range slots {
		b.got[s.id] = append(b.got[s.id], err)
		if len(b.got[s.id]) > 1 {
			b.Fatalf("message %d has the outcomes %v", s.id, b.got[s.id])
		}
		b.open = slices.DeleteFunc(b.open, func(id uint64) bool { return id == s.id })
	}
}

// add accepts a message of n bytes, whose id is skip+1 above the last one.
func (b *boxed) add(n int, filter string, skip uint64) uint64 {
	b.lastID += 1 + skip
	id := b.lastID
	body := bytes.Repeat([]byte{byte(id)}, n)
	binary.BigEndian.PutUint64(append(body, make([]byte, 8)...)[:8], id)
	b.bodies[id], b.filter[id] = string(body), filter
	b.open = append(b.open, id)
	complete := b.o.add(&slot{id: id, size: int32(n)}, filter, &outgoing{whole: body})
	if first, _ := b.o.next(broker.Allowance{Room: math.MaxInt}); complete != nil && complete == first {
		b.Fatalf("the sub-batch up to %d is for the connection to compress", complete.last())
	}
	if complete != nil && b.random.IntN(3) > 0 { // one that does not compress leaves it
		b.claim(complete)
	}
	return id
}

// take hands out the next frame, as a link does, and reports whether there is
// one that room allows.
func (b *boxed) take(room int) bool {
	f, rest := b.o.next(broker.Allowance{Room: room})
	if f == nil {
		if (rest == broker.TookAll) != (b.unsent() == 0) {
			b.Fatalf("%d messages are not sent, and next says %v", b.unsent(), rest)
		}
		return false
	}
	if b.o.held() != f.preparing || f.preparing != slices.Contains(b.compressing, f) {
		b.Fatalf("somebody compresses the next frame: %v, says held; %v, says the frame", b.o.held(), f.preparing)
	}
	if f.preparing {
		return false
	}
	if len(f.records) > 0 {
		b.prepare(f)
		return true
	}
	if f.entries() > room {
		b.Fatalf("a frame of %d entries, and there is room for %d", f.entries(), room)
	}
	frame := b.o.hand(f, 7)
	b.check(frame)
	b.turn = append(b.turn, lent{frame, bytes.Clone(frame)})
	return true
}

// prepare compresses a sub-batch, as a link does.
func (b *boxed) prepare(f *publishFrame) {
	f.sealed, f.preparing = true, true
	b.finish(f)
}

// finish ends the compressing of a sub-batch.
func (b *boxed) finish(f *publishFrame) {
	frame, err := appendSubBatch(binary.BigEndian.AppendUint64(f.frame, f.last()), CompressionNone, len(f.slots), f.records)
	b.o.prepared(f, frame, err, b.tell)
}

// claim has somebody begin to compress a sub-batch beside the connection.
func (b *boxed) claim(f *publishFrame) {
	if !f.sealed || !f.sub || f.preparing || len(f.records) == 0 {
		b.Fatalf("the sub-batch up to %d is not one to compress", f.last())
	}
	f.preparing = true
	b.compressing = append(b.compressing, f)
}

// claimFirst has somebody begin with the sub-batch that is the next to be sent.
func (b *boxed) claimFirst() {
	if f, _ := b.o.next(broker.Allowance{Room: math.MaxInt}); f != nil && len(f.records) > 0 && !f.preparing {
		f.sealed = true
		b.claim(f)
	}
}

// finishOne ends the compressing of the nth of the sub-batches at work. It may
// have got its outcome meanwhile.
func (b *boxed) finishOne(nth int) {
	if n := len(b.compressing); n > 0 {
		f := b.compressing[nth%n]
		b.compressing = slices.Delete(b.compressing, nth%n, nth%n+1)
		b.finish(f)
	}
}

// unsent is how many messages without outcome the connection has not got.
func (b *boxed) unsent() (n int) {
	for _, id := range b.open {
		if !b.handed[id] {
			n++
		}
	}
	return n
}

// check looks into a frame: it has messages without outcome, in order, each as it
// was accepted, and each entry as it was sent before.
func (b *boxed) check(frame []byte) {
	b.Helper()
	if len(frame) > b.o.limit || len(frame) != wire.SizeLen+int(binary.BigEndian.Uint32(frame)) {
		b.Fatalf("a frame of %d bytes says that it has %d more, and the limit is %d", len(frame), binary.BigEndian.Uint32(frame), b.o.limit)
	}
	version := binary.BigEndian.Uint16(frame[wire.SizeLen+2:])
	p, err := wire.DecodePublish(version, frame[wire.SizeLen+wire.HeadLen:])
	must(b, err)
	if p.PublisherID != 7 {
		b.Fatalf("the frame is publisher %d's", p.PublisherID)
	}
	var e wire.PublishEntry
	for p.Next(&e) {
		b.checkEntry(&e)
	}
	must(b, p.Err())
}

func (b *boxed) checkEntry(e *wire.PublishEntry) {
	b.Helper()
	if before, again := b.first[e.PublishingID]; again && before != string(e.Raw) {
		b.Fatalf("entry %d was sent as %x, and again as %x", e.PublishingID, before, e.Raw)
	}
	b.first[e.PublishingID] = string(e.Raw)
	rest, ids := e.Raw, []uint64{e.PublishingID}
	if e.Batch {
		rest = e.Body
		at := slices.Index(b.open, e.PublishingID)
		if at+1 < int(e.Records) {
			b.Fatalf("sub-batch %d has %d messages; without outcome are %v", e.PublishingID, e.Records, b.open)
		}
		ids = b.open[at+1-int(e.Records) : at+1]
	}
	b.entries[e.PublishingID] = len(ids)
	for _, id := range ids {
		var body []byte
		var ok bool
		if body, rest, ok = wire.NextRecord(rest); !ok || string(body) != b.bodies[id] || string(e.Filter) != b.filter[id] {
			b.Fatalf("message %d of entry %d has %d bytes and the filter value %q", id, e.PublishingID, len(body), e.Filter)
		}
		if id <= b.onWire || !slices.Contains(b.open, id) {
			b.Fatalf("message %d was sent behind %d; without outcome are %v", id, b.onWire, b.open)
		}
		b.handed[id], b.onWire = true, id
	}
}

// sent ends the turn.
func (b *boxed) sent() {
	b.intact()
	b.turn = nil
	b.o.sent()
}

// settle is the broker's word on an id, which may be any.
func (b *boxed) settle(id uint64, err error) {
	b.Helper()
	messages, want := b.entries[id], 0
	if messages > 0 {
		want = 1
	}
	open := len(b.open)
	if n := b.o.settle(id, err, b.tell); n != want || open-len(b.open) != messages {
		b.Fatalf("settling %d counted %d entries and %d messages, want %d and %d", id, n, open-len(b.open), want, messages)
	}
	if messages > 0 && b.got[id][0] != err {
		b.Fatalf("message %d has the outcome %v, want %v", id, b.got[id], err)
	}
	delete(b.entries, id)
	b.o.advance()
}

// confirm is the broker's list of confirms for n entries, from the nth one that is
// unconfirmed on, with an id between them that it was not sent.
func (b *boxed) confirm(nth, n int) {
	b.Helper()
	ids := slices.Sorted(maps.Keys(b.entries))
	ids = ids[min(nth, len(ids)):]
	ids = ids[:min(n, len(ids))]
	open, want := len(b.open), 0
	for _, id := range ids {
		want += b.entries[id]
	}
	named := slices.Insert(slices.Clone(ids), len(ids)/2, b.lastID+1)
	frame := wire.AppendPublishConfirm(nil, 7, named)
	list, err := wire.DecodePublishConfirm(frame[wire.SizeLen+wire.HeadLen:])
	must(b, err)
	counted := 0
	for i := 0; i < list.Len(); {
		n := b.o.confirmed(&list, i, b.tell)
		if counted += n; n == 0 {
			counted += b.o.settle(named[i], nil, b.tell)
			n = 1
		}
		i += n
	}
	if counted != len(ids) || open-len(b.open) != want {
		b.Fatalf("confirming %v counted %d entries and %d messages, want %d and %d", named, counted, open-len(b.open), len(ids), want)
	}
	for _, id := range ids {
		delete(b.entries, id)
	}
	b.o.advance()
}

// reconnect begins anew on a connection that takes frames of limit bytes. The one
// before may still be writing.
func (b *boxed) reconnect(limit int) {
	b.Helper()
	was := slices.Clone(b.open)
	b.o.resend(limit, b.tell)
	b.orphans, b.turn = append(b.orphans, b.turn...), nil
	b.connect()
	for _, id := range was {
		if len(b.got[id]) > 0 {
			b.wantTooLarge(id, limit)
		}
	}
}

// drop gives an entry its outcome that a connection before had, as when the
// broker has overtaken it. The connections before end.
func (b *boxed) drop(nth int) {
	b.orphans = nil
	if len(b.handed) > 0 || len(b.open) == 0 {
		return
	}
	id := b.open[nth%len(b.open)]
	if _, before := b.first[id]; !before {
		return // the broker refuses only what it was sent
	}
	b.o.drop(id, ErrRefused, b.tell)
	b.o.resend(b.o.limit, b.tell)
}

// wantTooLarge fails the test unless a message did not fit into a frame of limit
// bytes.
func (b *boxed) wantTooLarge(id uint64, limit int) {
	b.Helper()
	wantErr(b, b.got[id][0], ErrMessageTooLarge)
	least := frameOverhead + messageOverhead + len(b.bodies[id])
	if filter := len(b.filter[id]); filter > 0 {
		least += 2 + filter
	}
	if b.o.subEntries < 2 && least+2 <= limit { // a null filter value may have had 2 bytes
		b.Fatalf("message %d needs a frame of %d bytes, the limit is %d: %v", id, least, limit, b.got[id])
	}
}

// intact fails the test if a frame has changed while a connection reads it.
func (b *boxed) intact() {
	b.Helper()
	for _, l := range slices.Concat(b.turn, b.orphans) {
		if !bytes.Equal(l.frame, l.want) {
			b.Fatal("a frame changed while it was written")
		}
	}
}

// verify compares the outbox with the model.
func (b *boxed) verify() {
	b.Helper()
	b.intact()
	if b.o.open != len(b.open) || b.o.waiting != len(b.entries) {
		b.Fatalf("%d messages have no outcome and %d entries are unconfirmed, want %d and %d", b.o.open, b.o.waiting, len(b.open), len(b.entries))
	}
	bytes := 0
	for _, id := range b.open {
		bytes += len(b.bodies[id])
	}
	if b.o.openBytes != bytes {
		b.Fatalf("%d bytes have no outcome, want %d", b.o.openBytes, bytes)
	}
	if b.o.settledUpTo(math.MaxUint64) != (len(b.open) == 0) {
		b.Fatalf("settled up to the end: %v with %v open", len(b.open) > 0, b.open)
	}
	if len(b.open) > 0 && (!b.o.settledUpTo(b.open[0]-1) || b.o.settledUpTo(b.open[0])) {
		b.Fatalf("the first one without outcome is %d: settled before it %v, and with it %v", b.open[0], b.o.settledUpTo(b.open[0]-1), b.o.settledUpTo(b.open[0]))
	}
}

// end settles the rest, and looks at everything once more.
func (b *boxed) end() {
	b.Helper()
	left := len(b.open)
	defer func() {
		for len(b.compressing) > 0 { // too late
			b.finishOne(0)
		}
	}()
	if n := b.o.settleAll(ErrUnconfirmed, b.tell); n != left {
		b.Fatalf("%d messages were left, want %d", n, left)
	}
	b.connect()
	b.verify()
	for id := range b.bodies {
		if len(b.got[id]) != 1 {
			b.Fatalf("message %d has the outcomes %v", id, b.got[id])
		}
	}
}

// step plays what a byte says.
func (b *boxed) step(op byte) {
	b.Helper()
	arg := int(op / 8)
	switch op % 8 {
	case 0, 1:
		size := [...]int{0, 1, 5, 40, 300}[arg%5]
		filter := ""
		if b.o.subEntries < 2 {
			filter = [...]string{"", "", "a", "bcd"}[arg/5%4]
		}
		b.add(min(size, b.o.limit-60), filter, uint64(arg%3/2*arg))
	case 2:
		b.take(1 + arg)
	case 3:
		switch {
		case arg < 16:
			b.sent()
		case arg < 24:
			b.claimFirst()
		default:
			b.finishOne(arg)
		}
	case 4, 5:
		if op%8 == 5 && arg >= 16 {
			b.confirm(arg%4, arg-15)
			break
		}
		id := b.lastID + 1 - min(b.lastID, uint64(arg))
		if op%8 == 5 && len(b.open) > 0 {
			id = b.open[arg%len(b.open)]
		}
		b.settle(id, [...]error{nil, nil, ErrRefused}[arg%3])
	case 6:
		b.reconnect([...]int{batchBytes, 4000, 400, 200, b.o.limit}[arg%5])
	case 7:
		b.drop(arg)
	}
	b.verify()
}

// FuzzOutbox plays accepting, sending, outcomes and lost connections, with any
// limits: every message gets one outcome, whatever the broker confirms, what is
// sent is complete, in order and always the same, and its memory is left alone
// while a connection may read it.
func FuzzOutbox(f *testing.F) {
	f.Add([]byte{0, 0, 8, 16, 24, 32, 2, 10, 3, 5, 13, 6, 2, 3, 4, 5})
	f.Add([]byte{2, 0, 40, 80, 120, 2, 4, 12, 14, 2, 250, 3, 5, 6, 2, 2})
	random := rand.New(rand.NewPCG(3, 4))
	for range 40 {
		steps := make([]byte, 400)
		for i := range steps {
			steps[i] = byte(random.Uint32())
		}
		f.Add(steps)
	}
	f.Fuzz(func(t *testing.T, steps []byte) {
		if len(steps) == 0 {
			return
		}
		b := newBoxed(t, int(steps[0]%5), batchBytes)
		for _, op := range steps[1:] {
			b.step(op)
		}
		b.end()
	})
}

// handAll hands everything out, and has it written.
func (b *boxed) handAll() {
	for len(b.compressing) > 0 {
		b.finishOne(0)
	}
	for b.take(math.MaxInt) {
	}
	b.sent()
}
