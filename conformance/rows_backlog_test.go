package conformance

import (
	"slices"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// A connection may have publishCredit entries that the broker has not written. It
// is not read then, until more than creditToGoOn of them may come.
const (
	publishCredit = 50_000
	creditToGoOn  = 12_500
)

// In these rows the leaders of some streams write nothing. To tell them so on
// RabbitMQ takes seconds, so that each row has several steps.
var backlogRows = []row{
	{name: "50,000 entries end the reading, not the heartbeats, and 12,500 fewer do not begin it", section: "20", run: func(r *run) {
		b := r.backlog(func() *client { return r.beating(1) }, 1, creditToGoOn)
		b.fill()
		b.c.patient(r.patience)
		for range 5 { // one a second, while the broker hears nothing
			f, err := b.c.readAny()
			is(r, err, nil)
			is(r, f.key, wire.KeyHeartbeat)
		}
		b.write(1)
		b.c.settled(map[uint8]int{2: creditToGoOn})
		b.unread()
		b.write(0)
		b.c.settled(map[uint8]int{1: publishCredit - creditToGoOn, 3: 1})
	}},
	{name: "12,501 fewer begin it, and a sub-batch is one entry", section: "20", run: func(r *run) {
		b := r.backlog(r.open, 2, creditToGoOn+1)
		b.fill()
		b.write(1)
		b.c.settled(map[uint8]int{2: creditToGoOn + 1})
		b.c.confirmed(3, 1)
	}},
	{name: "what is in a packet with the last entry is handled", section: "20", run: func(r *run) {
		b := r.backlog(r.open, 1, 1)
		b.c.entries(1, publishCredit-1, 1)
		b.lastWithAnswer()
		b.c.publish(3, 1)
		b.unread()
	}},
	{name: "what a lost leader had not confirmed counts for ever", section: "20", run: func(r *run) {
		b := r.backlog(r.open, 1, creditToGoOn)
		b.c.entries(1, publishCredit-creditToGoOn, 1)
		b.c.quiet()
		r.must(r.loseLeader(b.streams[0]))
		b.stalled[0] = false
		b.c.patient(r.patience)
		b.c.gone(b.streams[0])
		b.c.entries(2, creditToGoOn-1, 1)
		b.usedUp()
		b.write(1)
		b.c.settled(map[uint8]int{2: creditToGoOn})
		b.unread() // and will never be read
	}},
}

// backlog is a connection that publishes to two streams whose leaders write
// nothing, and to one whose leader does.
type backlog struct {
	*run
	c       *client
	streams [2]string // of the publishers 1 and 2
	stalled [2]bool   // whether their leaders write nothing
	other   string    // of publisher 3
	records int       // of an entry; with more than 1 it is a sub-batch
	second  int       // entries of publisher 2 in the end, of publishCredit
}

func (r *run) backlog(open func() *client, records, second int) *backlog {
	r.Helper()
	b := &backlog{run: r, streams: [2]string{r.stream(), r.stream()}, other: r.stream(), records: records, second: second}
	r.Cleanup(b.end)
	b.stalled = [2]bool{true, true} // or one of them, if stall fails
	r.must(r.stall(true, b.streams[:]...))
	b.c = open()
	is(r, b.c.declare(1, "", b.streams[0]), ok)
	is(r, b.c.declare(2, "", b.streams[1]), ok)
	is(r, b.c.declare(3, "ref", b.other), ok)
	return b
}

// end makes all leaders write, before their streams are deleted.
func (b *backlog) end() {
	var left []string
	for i, stalled := range b.stalled {
		if stalled {
			left = append(left, b.streams[i])
		}
	}
	if len(left) > 0 {
		b.must(b.stall(false, left...))
	}
}

// fill uses the credit up. With the last entry but one, the connection is still
// read.
func (b *backlog) fill() {
	b.Helper()
	b.c.entries(1, publishCredit-b.second, b.records)
	b.c.entries(2, b.second-1, 1)
	b.usedUp()
}

// usedUp sends the last entry that the credit is for, and shows that nothing is
// read after it.
func (b *backlog) usedUp() {
	b.Helper()
	b.c.quiet()
	if b.byPacket {
		b.lastWithAnswer()
	} else {
		b.c.publish(2, 1)
	}
	b.c.publish(3, 1)
	b.unread()
}

// lastWithAnswer sends the last entry with another frame, and expects the answer
// to that. RabbitMQ answers what is in the same packet, so that it has handled the
// entry then, and reads no more.
func (b *backlog) lastWithAnswer() {
	b.Helper()
	const none = 9 // no publisher has this id
	b.c.write(slices.Concat(messages(2, 1), messages(none, 1)))
	b.c.refused(none, noPublisher, 1)
}

// unread fails the row if what was published last is written. It asks for so long
// that the broker would have written it, had it read it.
func (b *backlog) unread() {
	b.Helper()
	d := b.open()
	for range 50 {
		is(b, d.sequence("ref", b.other), number{ok, 0})
	}
	_ = d.nc.Close()
}

// write makes the leader of a stream write what it was given.
func (b *backlog) write(i int) {
	b.Helper()
	b.must(b.stall(false, b.streams[i]))
	b.stalled[i] = false
	b.c.patient(b.patience)
}

// entries publishes n entries, each of so many messages. More than one make it a
// sub-batch.
func (c *client) entries(publisher uint8, n, records int) {
	c.t.Helper()
	const perFrame = 5_000
	batch := wire.Entry{Records: uint16(records), Batch: true}
	for range records {
		batch.Body = wire.AppendEntry(batch.Body, []byte("x"))
	}
	batch.Uncompressed = uint32(len(batch.Body))
	for ; n > 0; n -= perFrame {
		frame, count := wire.BeginPublish(nil, wire.Version1, publisher), min(n, perFrame)
		for id := range uint64(count) {
			if records > 1 {
				frame = wire.AppendPublishBatch(frame, id, batch)
			} else {
				frame = wire.AppendPublishEntry(frame, id, []byte("x"))
			}
		}
		c.write(wire.FinishPublish(frame, 0, count))
	}
}

// settled expects so many confirms of each publisher, in any order.
func (c *client) settled(want map[uint8]int) {
	c.t.Helper()
	for len(want) > 0 {
		o, err := wire.DecodePublishConfirm(c.expect(wire.KeyPublishConfirm).fields)
		if err != nil {
			c.t.Fatal(err)
		}
		left, expected := want[o.PublisherID]
		switch left -= o.Len(); {
		case !expected || left < 0:
			c.t.Fatalf("%d confirms of publisher %d, which are too many", o.Len(), o.PublisherID)
		case left == 0:
			delete(want, o.PublisherID)
		default:
			want[o.PublisherID] = left
		}
	}
}
