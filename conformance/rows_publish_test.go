package conformance

import (
	"fmt"
	"strings"

	"github.com/tidemark-go/tidemark/internal/wire"
)

var declareRows = []row{
	{name: "a publisher", section: "4 DeclarePublisher", run: func(r *run) {
		is(r, r.open().declare(1, "", r.stream()), ok)
	}},
	{name: "every id from 0 to 255", section: "13", run: func(r *run) {
		c, s := r.open(), r.stream()
		for id := range 256 {
			is(r, c.declare(uint8(id), "", s), ok)
		}
		c.publish(255, 9)
		c.confirmed(255, 9)
	}},
	{name: "an id in use", section: "4 DeclarePublisher", run: func(r *run) {
		c, s := r.open(), r.stream()
		is(r, c.declare(1, "", s), ok)
		is(r, c.declare(1, "", s), precondition)
		is(r, c.declare(1, "ref", s), precondition)
	}},
	{name: "an id in use on another stream", section: "4 DeclarePublisher", run: func(r *run) {
		c := r.open()
		is(r, c.declare(1, "", r.stream()), ok)
		is(r, c.declare(1, "", r.stream()), precondition)
	}},
	{name: "the id is looked at before the stream", section: "4 DeclarePublisher", run: func(r *run) {
		c := r.open()
		is(r, c.declare(1, "", r.stream()), ok)
		is(r, c.declare(1, "", r.name()), precondition)
	}},
	{name: "the same reference twice on a stream", section: "4 DeclarePublisher", run: func(r *run) {
		c, s := r.open(), r.stream()
		is(r, c.declare(1, "ref", s), ok)
		is(r, c.declare(2, "ref", s), precondition)
	}},
	{name: "the same reference on two streams", section: "4 DeclarePublisher", run: func(r *run) {
		c := r.open()
		is(r, c.declare(1, "ref", r.stream()), ok)
		is(r, c.declare(2, "ref", r.stream()), ok)
	}},
	{name: "the same reference on two connections", section: "4 DeclarePublisher", run: func(r *run) {
		s := r.stream()
		is(r, r.open().declare(1, "ref", s), ok)
		is(r, r.open().declare(1, "ref", s), ok)
	}},
	{name: "many without reference on a stream", section: "4 DeclarePublisher", run: func(r *run) {
		c, s := r.open(), r.stream()
		for id := range uint8(5) {
			is(r, c.declare(id, "", s), ok)
		}
	}},
	{name: "no such stream", section: "4 DeclarePublisher", run: func(r *run) {
		c := r.open()
		is(r, c.declare(1, "", r.name()), noStream)
		is(r, c.deletePublisher(1), noPublisher)
	}},
	{name: "a reference of 255 bytes", section: "4 DeclarePublisher", run: func(r *run) {
		is(r, r.open().declare(1, strings.Repeat("r", 255), r.stream()), ok)
	}},
	{name: "a reference of 256 bytes", section: "4 DeclarePublisher", run: func(r *run) {
		is(r, r.open().declare(1, strings.Repeat("r", 256), r.stream()), precondition)
	}},
	{name: "deleting", section: "4 DeletePublisher", run: func(r *run) {
		c, s := r.open(), r.stream()
		is(r, c.declare(1, "ref", s), ok)
		is(r, c.deletePublisher(1), ok)
		is(r, c.deletePublisher(1), noPublisher)
		is(r, c.declare(1, "ref", s), ok)
	}},
	{name: "deleting an unknown one", section: "4 DeletePublisher", run: func(r *run) {
		is(r, r.open().deletePublisher(3), noPublisher)
	}},
	{name: "a deleted one publishes no more", section: "4 DeletePublisher", run: func(r *run) {
		c, s := r.open(), r.stream()
		is(r, c.declare(1, "", s), ok)
		is(r, c.deletePublisher(1), ok)
		c.publish(1, 5)
		c.refused(1, noPublisher, 5)
	}},
}

var publishRows = []row{
	{name: "a message is confirmed", section: "4 Publish", run: func(r *run) {
		c := r.publisher("")
		c.publish(1, 5)
		c.confirmed(1, 5)
		c.quiet()
	}},
	{name: "each of many messages is confirmed once", section: "4 PublishConfirm", run: func(r *run) {
		c := r.publisher("")
		ids := upTo(1000)
		c.publish(1, ids...)
		c.confirmed(1, ids...)
		c.quiet()
	}},
	{name: "no messages", section: "4 Publish", run: func(r *run) {
		c := r.publisher("")
		c.publish(1)
		c.quiet()
	}},
	{name: "an unknown publisher", section: "4 Publish", run: func(r *run) {
		c := r.open()
		c.publish(88, 5, 6)
		c.refused(88, noPublisher, 5, 6)
		c.quiet()
	}},
	{name: "version 2 of an unknown publisher", section: "4 Publish", run: func(r *run) {
		c := r.open()
		b := wire.AppendPublishFiltered(wire.BeginPublish(nil, wire.Version2, 7), 3, []byte("f"), []byte("x"))
		c.write(wire.FinishPublish(b, 0, 1))
		c.refused(7, noPublisher, 3)
	}},
	{name: "a sub-batch of an unknown publisher", section: "4 Publish", run: func(r *run) {
		c := r.open()
		c.publishBatch(7, 3, "x")
		c.refused(7, noPublisher, 3)
	}},
	{name: "version 2 needs no exchange of versions", section: "4 Publish", run: func(r *run) {
		r.publisher("").filtered(1, "a", "null", "")
	}},
	{name: "without reference every id is stored", section: "4 PublishConfirm", run: func(r *run) {
		s := r.stream()
		c := r.publisher("", s)
		for range 3 {
			c.publish(1, 7)
			c.confirmed(1, 7)
		}
		r.holds(s, "m7", "m7", "m7")
	}},
	{name: "the order is kept", section: "6", run: func(r *run) {
		s := r.stream()
		c := r.publisher("", s)
		ids, want := upTo(500), []string(nil)
		for _, id := range ids {
			want = append(want, fmt.Sprintf("m%d", id))
		}
		c.publish(1, ids[:200]...)
		c.publish(1, ids[200:201]...)
		c.publish(1, ids[201:]...)
		c.confirmed(1, ids...)
		r.holds(s, want...)
	}},
	{name: "the largest publishing id", section: "4 Publish", run: func(r *run) {
		c := r.publisher("")
		c.publish(1, 1<<64-1)
		c.confirmed(1, 1<<64-1)
	}},
	{name: "a message of no bytes", section: "4 Publish", run: func(r *run) {
		s := r.stream()
		c := r.publisher("", s)
		c.publishSize(1, 0)
		c.confirmed(1, 0)
		r.holds(s, "")
	}},
	{name: "a message of nearly the largest frame", section: "1 Max frame size", run: func(r *run) {
		s := r.stream()
		c := r.publisher("", s)
		c.publishSize(1, 1<<20-64)
		c.confirmed(1, 0)
		r.holds(s, string(make([]byte, 1<<20-64)))
	}},
	{name: "two publishers are confirmed apart", section: "4 PublishConfirm", run: func(r *run) {
		s := r.stream()
		c := r.publisher("", s)
		is(r, c.declare(2, "", s), ok)
		c.publish(1, 4)
		c.confirmed(1, 4)
		c.publish(2, 4)
		c.confirmed(2, 4)
		r.holds(s, "m4", "m4")
	}},
	{name: "a stream of another connection", section: "4 Publish", run: func(r *run) {
		s := r.stream()
		a, b := r.publisher("", s), r.publisher("", s)
		a.publish(1, 1)
		a.confirmed(1, 1)
		b.publish(1, 2)
		b.confirmed(1, 2)
		r.holds(s, "m1", "m2")
	}},
}

// publisher opens a connection with publisher 1 on the given stream, or on a
// new one if none is given.
func (r *run) publisher(reference string, stream ...string) *client {
	r.Helper()
	if len(stream) == 0 {
		stream = append(stream, r.stream())
	}
	c := r.open()
	is(r, c.declare(1, reference, stream[0]), ok)
	return c
}

// holds reads the stream from its beginning and expects exactly these bodies.
func (r *run) holds(stream string, bodies ...string) {
	r.Helper()
	c := r.open()
	is(r, c.subscribe(1, stream, first, 1000), ok)
	is(r, c.bodies(1, len(bodies)), bodies)
	c.quiet()
}

func upTo(n int) []uint64 {
	ids := make([]uint64, n)
	for i := range ids {
		ids[i] = uint64(i)
	}
	return ids
}

var dedupRows = []row{
	{name: "5, 3, 7, 7, 9 in one frame", section: "11", run: func(r *run) {
		s := r.stream()
		c := r.publisher("ref", s)
		c.publish(1, 5, 3, 7, 7, 9)
		c.confirmed(1, 5, 3, 7, 7, 9)
		r.holds(s, "m5", "m7", "m9")
		is(r, c.sequence("ref", s), number{ok, 9})
	}},
	{name: "the first id may be 0", section: "11", run: func(r *run) {
		s := r.stream()
		c := r.publisher("ref", s)
		c.publish(1, 0)
		c.confirmed(1, 0)
		c.publish(1, 0)
		c.confirmed(1, 0)
		r.holds(s, "m0")
	}},
	{name: "lower and equal ids are confirmed only", section: "11", run: func(r *run) {
		s := r.stream()
		c := r.publisher("ref", s)
		for _, id := range []uint64{10, 10, 2, 11} {
			c.publish(1, id)
			c.confirmed(1, id)
		}
		r.holds(s, "m10", "m11")
	}},
	{name: "20, 10 in one frame", section: "4 PublishConfirm", run: func(r *run) {
		s := r.stream()
		c := r.publisher("ref", s)
		c.publish(1, 20, 10)
		c.confirmed(1, 20, 10)
		r.holds(s, "m20")
	}},
	{name: "across connections", section: "11", run: func(r *run) {
		s := r.stream()
		a, b := r.publisher("ref", s), r.publisher("ref", s)
		a.publish(1, 1, 2, 3)
		a.confirmed(1, 1, 2, 3)
		b.publish(1, 2, 3, 4)
		b.confirmed(1, 2, 3, 4)
		a.publish(1, 4, 5)
		a.confirmed(1, 4, 5)
		r.holds(s, "m1", "m2", "m3", "m4", "m5")
	}},
	{name: "references do not share their ids", section: "11", run: func(r *run) {
		s := r.stream()
		c := r.publisher("a", s)
		is(r, c.declare(2, "b", s), ok)
		c.publish(1, 5)
		c.confirmed(1, 5)
		c.publish(2, 5)
		c.confirmed(2, 5)
		r.holds(s, "m5", "m5")
	}},
	{name: "streams do not share their ids", section: "11", run: func(r *run) {
		s, other := r.stream(), r.stream()
		c := r.publisher("a", s)
		c.publish(1, 5)
		c.confirmed(1, 5)
		is(r, c.sequence("a", other), number{ok, 0})
	}},
	{name: "with filter values", section: "11", run: func(r *run) {
		s := r.stream()
		c := r.publisher("ref", s)
		c.filtered(1, "a", "b")
		c.filtered(1, "a", "b", "c")
		r.holds(s, "a", "b", "c")
	}},
	{name: "a sub-batch as a whole", section: "11", run: func(r *run) {
		s := r.stream()
		c := r.publisher("ref", s)
		for _, id := range []uint64{1, 1, 2} {
			c.publishBatch(1, id, "x")
			c.confirmed(1, id)
		}
		d := r.open()
		is(r, d.subscribe(1, s, first, 10), ok)
		is(r, d.chunks(1, 2), []uint64{0, 2})
		d.quiet()
	}},
	{name: "the 255 latest references outlive a segment", section: "20", run: func(r *run) {
		s := r.stream("stream-max-segment-size-bytes", "500000")
		c := r.open()
		for i := range 260 {
			is(r, c.declare(1, fmt.Sprintf("ref%d", i), s), ok)
			c.publish(1, 7)
			c.confirmed(1, 7)
			is(r, c.deletePublisher(1), ok)
		}
		is(r, c.sequence("ref0", s), number{ok, 7})
		is(r, c.declare(1, "", s), ok)
		for range 4 {
			c.publishSize(1, 500_000)
			c.confirmed(1, 0)
		}
		is(r, c.sequence("ref4", s), number{ok, 0})
		is(r, c.sequence("ref5", s), number{ok, 7})
		is(r, c.sequence("ref259", s), number{ok, 7})
	}},
	{name: "the sequence of a new reference is 0", section: "4 QueryPublisherSequence", run: func(r *run) {
		is(r, r.open().sequence("ref", r.stream()), number{ok, 0})
	}},
	{name: "the sequence of no stream", section: "4 QueryPublisherSequence", run: func(r *run) {
		is(r, r.open().sequence("ref", r.name()), number{noStream, 0})
	}},
	{name: "the sequence follows what is confirmed", section: "4 QueryPublisherSequence", run: func(r *run) {
		s := r.stream()
		c := r.publisher("ref", s)
		for _, id := range []uint64{3, 4711, 1<<63 + 1} {
			c.publish(1, id)
			c.confirmed(1, id)
			is(r, c.sequence("ref", s), number{ok, id})
		}
	}},
	{name: "the sequence outlives publisher and connection", section: "11", run: func(r *run) {
		s := r.stream()
		c := r.publisher("ref", s)
		c.publish(1, 3)
		c.confirmed(1, 3)
		is(r, c.deletePublisher(1), ok)
		is(r, c.sequence("ref", s), number{ok, 3})
		is(r, c.call(&wire.Close{Correlation: c.next(), Code: ok}), ok)
		c.ended()
		is(r, r.open().sequence("ref", s), number{ok, 3})
	}},
	{name: "the sequence is gone with the stream", section: "7", run: func(r *run) {
		s := r.stream()
		c := r.publisher("ref", s)
		c.publish(1, 3)
		c.confirmed(1, 3)
		is(r, r.admin().delete(s), ok)
		is(r, r.admin().create(s), ok)
		is(r, r.admin().sequence("ref", s), number{ok, 0})
		r.holds(s)
	}},
}
