package stream

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
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
	b.o.add(slot{id: id, size: int32(n)}, filter, &outgoing{whole: body})
	return id
}

// take hands out the next frame, as a link does, and reports whether there is
// one that room allows.
func (b *boxed) take(room int) bool {
	f, rest := b.o.next(room)
	if f == nil {
		if (rest == broker.TookAll) != (b.unsent() == 0) {
			b.Fatalf("%d messages are not sent, and next says %v", b.unsent(), rest)
		}
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
	frame, err := appendSubBatch(binary.BigEndian.AppendUint64(f.frame, f.last()), CompressionNone, len(f.slots), f.records)
	b.o.prepared(f, frame, err, b.tell)
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
		b.sent()
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
	for b.take(math.MaxInt) {
	}
	b.sent()
}

// TestOutboxLargestMessage: what fits into a frame exactly fits when it is sent
// again, with a filter value and without one.
func TestOutboxLargestMessage(t *testing.T) {
	for _, filter := range []string{"", "abc"} {
		for _, sends := range []int{0, 1, 2} {
			const limit = 70_000
			b := newBoxed(t, 0, limit)
			n := limit - frameOverhead - messageOverhead
			if filter != "" {
				n -= 2 + len(filter)
			}
			b.add(n, filter, 0)
			for range sends {
				b.handAll()
				b.reconnect(limit)
			}
			b.handAll()
			b.settle(1, nil)
			b.add(n, filter, 0)
			b.reconnect(limit - 1)
			wantErr(t, b.got[2][0], ErrMessageTooLarge)
			b.end()
		}
	}
}

// TestOutboxSmallFrames: a frame keeps within its limit where messages with and
// without filter values share it.
func TestOutboxSmallFrames(t *testing.T) {
	for n := range 60 {
		b := newBoxed(t, 0, 400)
		for i := range 50 {
			b.add(n+i%3, [...]string{"a", "", ""}[i%3], 0)
		}
		b.handAll()
		b.end()
	}
}

// TestOutboxFrames: messages share frames, as many as fit and 1,024 at the most,
// and a filter value takes a frame of another version until the end.
func TestOutboxFrames(t *testing.T) {
	for _, test := range []struct {
		name       string
		subEntries int
		sizes      []int
		filters    []string
		want       []int // messages by frame
	}{
		{"few", 0, []int{1, 1, 1}, nil, []int{3}},
		{"many", 0, make([]int, 2500), nil, []int{1024, 1024, 452}},
		{"large ones", 0, []int{40_000, 20_000, 40_000, 100_000, 1}, nil, []int{2, 1, 1, 1}},
		{"filter values", 0, []int{1, 1, 1, 1}, []string{"", "a", "", "b"}, []int{1, 3}},
		{"sub-batches of one", 1, []int{1, 1}, nil, []int{2}},
		{"sub-batches", 3, []int{1, 1, 1, 1}, nil, []int{3, 1}},
	} {
		b := newBoxed(t, test.subEntries, 1<<20)
		for i, n := range test.sizes {
			filter := ""
			if test.filters != nil {
				filter = test.filters[i]
			}
			b.add(n, filter, 0)
		}
		var got []int
		for _, f := range b.o.batches {
			got = append(got, len(f.slots))
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: frames of %v messages, want %v", test.name, got, test.want)
		}
		b.handAll()
		b.end()
	}
}

// TestOutboxSubBatchFills: a sub-batch has as many bytes as go into a frame,
// whatever becomes of them by compression.
func TestOutboxSubBatchFills(t *testing.T) {
	const limit = 100_000
	b := newBoxed(t, 100, limit)
	room := roomIn(limit, true)
	b.add(room-2*recordOverhead-1000, "", 0)
	b.add(1000, "", 0) // the last byte that fits
	b.add(1, "", 0)
	if got := len(b.o.batches); got != 2 {
		t.Errorf("%d sub-batches, want 2", got)
	}
	b.handAll()
	b.end()
}

// TestOutboxUnsentLeavesTheSeal: nothing is added to a frame that was handed out,
// or sealed.
func TestOutboxUnsentLeavesTheSeal(t *testing.T) {
	b := newBoxed(t, 0, batchBytes)
	b.add(1, "", 0)
	b.o.seal()
	b.add(1, "", 0)
	b.handAll()
	b.add(1, "", 0)
	if n := len(b.o.batches); n != 3 {
		t.Errorf("%d frames, want 3", n)
	}
	b.handAll()
	b.end()
}

// TestOutboxRoom: a frame waits until there is room for all of its entries.
func TestOutboxRoom(t *testing.T) {
	b := newBoxed(t, 0, batchBytes)
	b.add(1, "", 0)
	b.add(1, "", 0)
	if f, rest := b.o.next(1); f != nil || rest != broker.NoRoom {
		t.Errorf("two messages with room for one: %v, %v", f, rest)
	}
	if f, rest := b.o.next(2); f == nil || rest != broker.TookSome {
		t.Errorf("two messages with room for two: %v, %v", f, rest)
	}
	b.handAll()
	if f, rest := b.o.next(2); f != nil || rest != broker.TookAll {
		t.Errorf("nothing is left: %v, %v", f, rest)
	}
	b.end()
}

// TestOutboxTooLargeSubBatch: a sub-batch that a smaller frame does not hold any
// more has its outcome before it is sent.
func TestOutboxTooLargeSubBatch(t *testing.T) {
	for _, sends := range []int{0, 1} {
		b := newBoxed(t, 10, 10_000)
		for range 3 {
			b.add(1000, "", 0)
		}
		if sends > 0 {
			b.handAll()
		}
		b.reconnect(3000)
		b.handAll()
		for id := uint64(1); id <= 3; id++ {
			if len(b.got[id]) != 1 || !errors.Is(b.got[id][0], ErrMessageTooLarge) {
				t.Fatalf("sent %d times before: outcomes %v", sends, b.got)
			}
		}
		b.add(10, "", 0) // the producer goes on
		b.handAll()
		b.settle(4, nil)
		b.end()
	}
}

// TestOutboxConfirmedRun: a list of confirms settles at a time what follows one
// another in a frame, up to a refusal, and up to what is settled already.
func TestOutboxConfirmedRun(t *testing.T) {
	b := newBoxed(t, 0, batchBytes)
	for range 6 {
		b.add(5, "", 0)
	}
	b.handAll()
	b.settle(5, ErrRefused)
	confirms, err := wire.DecodePublishConfirm(wire.AppendPublishConfirm(nil, 7, numbers(1, 6))[wire.SizeLen+wire.HeadLen:])
	must(t, err)
	refusals, err := wire.DecodePublishError(wire.AppendPublishError(nil, 7, wire.CodeInternalError, numbers(1, 6))[wire.SizeLen+wire.HeadLen:])
	must(t, err)
	for _, test := range []struct {
		list *wire.Outcomes
		i    int
		want int
	}{{&refusals, 0, 0}, {&confirms, 1, 3}, {&confirms, 0, 1}, {&confirms, 0, 0}, {&confirms, 4, 0}, {&confirms, 5, 1}} {
		if n := b.o.confirmed(test.list, test.i, b.tell); n != test.want {
			t.Errorf("from %d on: %d at a time, want %d", test.i, n, test.want)
		}
	}
	if len(b.open) > 0 || b.o.waiting != 0 {
		t.Errorf("%v have no outcome, and %d are waited for", b.open, b.o.waiting)
	}
}

// TestOutboxLostWhilePreparing: a sub-batch that is compressed while its
// connection is lost goes out on the next one, and the end of the first
// compression changes nothing.
func TestOutboxLostWhilePreparing(t *testing.T) {
	b := newBoxed(t, 2, batchBytes)
	b.add(5, "", 0)
	b.add(5, "", 0)
	f, _ := b.o.next(1)
	f.sealed, f.preparing = true, true
	b.reconnect(batchBytes)
	f.frame = append(f.frame, "what the first compression writes"...)
	b.handAll()
	b.settle(2, nil)
	b.end()
}

// TestOutboxCompressionFails: the messages of a sub-batch that cannot be made get
// the error, and those behind it go on.
func TestOutboxCompressionFails(t *testing.T) {
	b := newBoxed(t, 2, batchBytes)
	for range 3 {
		b.add(5, "", 0)
	}
	f, _ := b.o.next(1)
	b.o.prepared(f, f.frame, errTest, b.tell)
	if fmt.Sprint(b.got[1], b.got[2]) != fmt.Sprint([]error{errTest}, []error{errTest}) {
		t.Errorf("outcomes %v", b.got)
	}
	b.handAll()
	b.settle(3, nil)
	b.end()
}

// TestOutboxLostTwice: what one connection was sent goes out on the third one, if
// the second is lost before it takes anything.
func TestOutboxLostTwice(t *testing.T) {
	for _, subEntries := range []int{0, 2} {
		b := newBoxed(t, subEntries, batchBytes)
		for range 4 {
			b.add(5, "", 0)
		}
		b.handAll()
		for range 3 {
			b.reconnect(batchBytes)
			b.verify()
		}
		b.handAll()
		for id := uint64(1); id <= 4; id++ {
			b.settle(id, nil)
		}
		if len(b.open) > 0 {
			t.Errorf("no outcome have %v", b.open)
		}
		b.end()
	}
}

// TestOutboxDrop: what is dropped has its outcome, and is not sent again with
// those that shared its frame.
func TestOutboxDrop(t *testing.T) {
	b := newBoxed(t, 0, batchBytes)
	for range 3 {
		b.add(5, "", 0)
	}
	b.handAll()
	b.reconnect(batchBytes)
	b.o.drop(2, ErrRefused, b.tell)
	b.o.drop(99, ErrRefused, b.tell)
	b.o.resend(batchBytes, b.tell)
	b.handAll()
	b.settle(1, nil)
	b.settle(3, nil)
	b.verify()
	if len(b.open) > 0 || !errors.Is(b.got[2][0], ErrRefused) {
		t.Errorf("outcomes %v", b.got)
	}
	b.end()
}

// TestOutboxSentOnce: an entry that was sent again may be in the stream since the
// first time.
func TestOutboxSentOnce(t *testing.T) {
	b := newBoxed(t, 0, batchBytes)
	b.add(5, "", 0)
	for _, want := range [][2]bool{{true, true}, {true, false}, {true, false}} {
		if sent, _ := b.o.sentOnce(1); sent {
			t.Error("it is not sent on this connection")
		}
		b.handAll()
		if sent, once := b.o.sentOnce(1); sent != want[0] || once != want[1] {
			t.Errorf("sent %v, once %v, want %v", sent, once, want)
		}
		b.reconnect(batchBytes)
	}
	b.end()
}
