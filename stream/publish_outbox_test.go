package stream

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/tidemark-go/tidemark/internal/broker"
	"github.com/tidemark-go/tidemark/internal/wire"
)

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
	b.add(room/2, "", 0)
	b.add(room/2, "", 0) // a byte too many
	var messages []int
	for _, f := range b.o.batches {
		messages = append(messages, len(f.slots))
	}
	if !slices.Equal(messages, []int{2, 2, 1}) {
		t.Errorf("sub-batches of %d messages", messages)
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
	if f, rest := b.o.next(broker.Allowance{Room: 1}); f != nil || rest != broker.NoRoom {
		t.Errorf("two messages with room for one: %v, %v", f, rest)
	}
	if f, rest := b.o.next(broker.Allowance{Room: 2}); f == nil || rest != broker.TookSome {
		t.Errorf("two messages with room for two: %v, %v", f, rest)
	}
	b.handAll()
	if f, rest := b.o.next(broker.Allowance{Room: 2}); f != nil || rest != broker.TookAll {
		t.Errorf("nothing is left: %v, %v", f, rest)
	}
	b.end()
}

// TestOutboxFull: only frames that get no further message go out, if asked so.
func TestOutboxFull(t *testing.T) {
	full := broker.Allowance{Room: 10, Full: true}
	for name, of := range map[string]struct{ subEntries, limit int }{
		"messages":    {0, frameOverhead + 2*(messageOverhead+1)},
		"sub-batches": {2, batchBytes},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBoxed(t, of.subEntries, of.limit)
			if f, rest := b.o.next(full); f != nil || rest != broker.TookAll {
				t.Errorf("of nothing: %v, %v", f, rest)
			}
			b.add(1, "", 0)
			if f, rest := b.o.next(full); f != nil || rest != broker.NotFull {
				t.Errorf("of a frame with room: %v, %v", f, rest)
			}
			b.add(1, "", 0)
			b.add(1, "", 0)
			f, rest := b.o.next(full)
			if f == nil || f.last() != 2 || rest != broker.TookSome {
				t.Errorf("of a frame without room: %v, %v", f, rest)
			}
			if room, rest := b.o.next(broker.Allowance{Full: true}); room != nil || rest != broker.NoRoom {
				t.Errorf("without room: %v, %v", room, rest)
			}
			b.handAll()
			b.end()
		})
	}
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
// connection is lost goes out on the next one once that is done, and not twice.
func TestOutboxLostWhilePreparing(t *testing.T) {
	b := newBoxed(t, 2, batchBytes)
	b.add(5, "", 0)
	b.add(5, "", 0)
	b.claimFirst()
	b.reconnect(batchBytes)
	if b.take(1) {
		t.Error("it was sent")
	}
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
	f, _ := b.o.next(broker.Allowance{Room: 1})
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

// TestOutboxWithoutFilters: a broker without filters would end the connection for a
// frame with one. So a message with a filter value gets its outcome, and the others
// of its frame go on in frames of the old version.
func TestOutboxWithoutFilters(t *testing.T) {
	b := newBoxed(t, 0, batchBytes)
	sent := []uint64{b.add(5, "a", 0), b.add(5, "", 0)}
	b.handAll()
	unsent := []uint64{b.add(5, "a", 0), b.add(5, "", 0)}
	b.o.noFilters = true
	b.o.resend(batchBytes, b.tell)
	b.connect()
	for _, f := range b.o.batches {
		if f.version != wire.Version1 {
			t.Errorf("a frame of version %d is to be sent", f.version)
		}
	}
	b.handAll()
	if !slices.Equal(b.open, []uint64{sent[1], unsent[1]}) {
		t.Errorf("without outcome are %v", b.open)
	}
	wantErr(t, b.got[sent[0]][0], ErrUnconfirmed, ErrUnsupported)
	if err := b.got[unsent[0]][0]; !errors.Is(err, ErrUnsupported) || errors.Is(err, ErrUnconfirmed) {
		t.Errorf("what was not sent has the outcome %v", err)
	}
	b.settle(sent[1], nil)
	b.settle(unsent[1], nil)
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

// TestUncompressed: who compresses takes the sub-batch that is to be sent next, and
// those behind it that are complete and nobody's yet.
func TestUncompressed(t *testing.T) {
	const plain, done, taken, open, full = "plain", "done", "taken", "open", "full"
	frame := func(kind string) *publishFrame {
		b := &publishFrame{sub: kind != plain, sealed: kind != open, preparing: kind == taken}
		if kind == open || kind == full || kind == taken {
			b.records = []byte("records")
		}
		return b
	}
	for _, test := range []struct {
		waiting []string
		want    int
	}{
		{nil, 0},
		{[]string{plain, full}, 0},
		{[]string{done, full}, 0},
		{[]string{taken, full}, 0},
		{[]string{open}, 1},
		{[]string{full, open}, 1},
		{[]string{full, full, done}, 2},
		{[]string{full, full, taken, full}, 2},
		{[]string{full, full, full, full}, 3},
	} {
		o := outbox{unsent: 1, batches: []*publishFrame{frame(full)}}
		for _, kind := range test.waiting {
			o.batches = append(o.batches, frame(kind))
		}
		var list [3]*publishFrame
		n := o.uncompressed(list[:])
		if n != test.want || !slices.Equal(list[:n], o.batches[1:1+n]) {
			t.Errorf("of %v the first %d are taken, want %d", test.waiting, n, test.want)
		}
	}
}
