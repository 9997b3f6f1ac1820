package conformance

import (
	"fmt"
	"strings"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

var subscribeRows = []row{
	{name: "the answer comes before the first chunk", section: "4 Subscribe", run: func(r *run) {
		c, s := r.open(), r.filled(3)
		is(r, c.subscribe(1, s, first, 10), ok)
		is(r, c.chunks(1, 3), []uint64{0, 1, 2})
	}},
	{name: "no such stream", section: "4 Subscribe", run: func(r *run) {
		c := r.open()
		is(r, c.subscribe(1, r.name(), first, 10), noStream)
		is(r, c.unsubscribe(1), noSubscription)
	}},
	{name: "an id in use", section: "4 Subscribe", run: func(r *run) {
		c, s := r.open(), r.stream()
		is(r, c.subscribe(1, s, first, 10), ok)
		is(r, c.subscribe(1, s, first, 10), subscribed)
		is(r, c.subscribe(1, r.stream(), next, 10), subscribed)
	}},
	{name: "the stream is looked at before the id", section: "4 Subscribe", run: func(r *run) {
		c := r.open()
		is(r, c.subscribe(1, r.stream(), first, 10), ok)
		is(r, c.subscribe(1, r.name(), first, 10), noStream)
	}},
	{name: "ids 0 and 255", section: "13", run: func(r *run) {
		c, s := r.open(), r.filled(1)
		for _, id := range []uint8{0, 255} {
			is(r, c.subscribe(id, s, first, 1), ok)
			is(r, c.chunks(id, 1), []uint64{0})
		}
	}},
	{name: "two of a connection on a stream", section: "4 Subscribe", run: func(r *run) {
		c, s := r.open(), r.filled(2)
		is(r, c.subscribe(1, s, first, 1), ok)
		is(r, c.chunks(1, 1), []uint64{0})
		is(r, c.subscribe(2, s, last, 1), ok)
		is(r, c.chunks(2, 1), []uint64{1})
	}},
	{name: "unknown properties", section: "4 Subscribe", run: func(r *run) {
		c, s := r.open(), r.filled(1)
		is(r, c.subscribe(1, s, first, 1, "cf", "x", "", ""), ok)
		is(r, c.chunks(1, 1), []uint64{0})
	}},
	{name: "properties that are there and empty", section: "4 Subscribe", run: func(r *run) {
		c, s := r.open(), r.filled(1)
		b := encode(r, &wire.Subscribe{Correlation: c.next(), SubscriptionID: 1, Stream: s, Spec: first, Credit: 1})
		b[3] += 4
		c.write(append(b, 0, 0, 0, 0))
		resp := wire.Response{Key: wire.KeySubscribe}
		c.decode(&resp)
		is(r, resp.Code, ok)
		is(r, c.chunks(1, 1), []uint64{0})
	}},
	{name: "a byte left over without properties is ignored", section: "1 Bad input", run: func(r *run) {
		c := r.open()
		_, long := misfit(r, &wire.Subscribe{Correlation: c.next(), SubscriptionID: 1, Stream: r.filled(1), Spec: first, Credit: 1})
		c.write(long)
		resp := wire.Response{Key: wire.KeySubscribe}
		c.decode(&resp)
		is(r, resp.Code, ok)
		is(r, c.chunks(1, 1), []uint64{0})
	}},
	{name: "a name of 255 bytes", section: "4 Subscribe", run: func(r *run) {
		is(r, r.open().subscribe(1, r.stream(), first, 1, "name", strings.Repeat("n", 255)), ok)
	}},
	{name: "a name of 256 bytes", section: "4 Subscribe", run: func(r *run) {
		is(r, r.open().subscribe(1, r.stream(), first, 1, "name", strings.Repeat("n", 256)), precondition)
	}},
	{name: "two of the same name", section: "4 Subscribe", run: func(r *run) {
		c, s := r.open(), r.filled(1)
		for id := range uint8(2) {
			is(r, c.subscribe(id, s, first, 1, "name", "n"), ok)
			is(r, c.chunks(id, 1), []uint64{0})
		}
	}},
	{name: "unsubscribing", section: "4 Unsubscribe", run: func(r *run) {
		c, s := r.open(), r.filled(2)
		is(r, c.subscribe(1, s, first, 1), ok)
		is(r, c.chunks(1, 1), []uint64{0})
		is(r, c.unsubscribe(1), ok)
		c.credit(1, 5)
		c.creditRefused(1, noSubscription)
		is(r, c.unsubscribe(1), noSubscription)
	}},
	{name: "an unknown one", section: "4 Unsubscribe", run: func(r *run) {
		is(r, r.open().unsubscribe(44), noSubscription)
	}},
	{name: "nothing comes after the answer to Unsubscribe", section: "4 Unsubscribe", run: func(r *run) {
		c, s := r.open(), r.stream()
		is(r, c.subscribe(1, s, first, 100), ok)
		is(r, c.unsubscribe(1), ok)
		r.append(s, 0, 3)
		c.quiet()
	}},
	{name: "an id is free again", section: "4 Unsubscribe", run: func(r *run) {
		c, s := r.open(), r.filled(2)
		is(r, c.subscribe(1, s, first, 1), ok)
		is(r, c.chunks(1, 1), []uint64{0})
		is(r, c.unsubscribe(1), ok)
		is(r, c.subscribe(1, s, last, 1), ok)
		is(r, c.chunks(1, 1), []uint64{1})
	}},
	{name: "live messages arrive", section: "7", run: func(r *run) {
		c, s := r.open(), r.stream()
		is(r, c.subscribe(1, s, next, 10), ok)
		r.append(s, 0, 3)
		is(r, c.bodies(1, 3), []string{"m0", "m1", "m2"})
	}},
}

// startRows say where a subscription begins, on streams of all kinds.
var startRows = func() []row {
	type start struct {
		spec string
		wire.OffsetSpec
		want int64 // first offset of the first chunk; -1: only what is written later
	}
	specs := func(wants ...int64) []start {
		list := []start{
			{"first", first, 0}, {"last", last, 0}, {"next", next, 0}, {"offset 0", at(0), 0},
			{"offset 4", at(4), 0}, {"offset 5", at(5), 0}, {"offset 9", at(9), 0}, {"offset 10", at(10), 0},
			{"offset 1000", at(1000), 0}, {"the largest offset", at(1<<64 - 1), 0},
			{"a time long ago", from(1), 0}, {"a time before 1970", from(-1), 0}, {"a time to come", from(time.Now().Add(time.Hour).UnixMilli()), 0},
		}
		for i := range list {
			list[i].want = wants[i]
		}
		return list
	}
	kinds := []struct {
		name   string
		stream func(*run) string
		starts []start
	}{
		{"an empty stream", func(r *run) string { return r.stream() },
			specs(-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1)},
		{"a stream with stored offsets only", (*run).tracked,
			specs(-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1)},
		{"five chunks of two", (*run).pairs,
			specs(0, 8, -1, 0, 4, 4, 8, -1, -1, -1, 0, 0, -1)},
	}
	var rows []row
	for _, kind := range kinds {
		for _, s := range kind.starts {
			rows = append(rows, row{name: s.spec + " on " + kind.name, section: "7", run: func(r *run) {
				r.startsAt(kind.stream(r), s.OffsetSpec, s.want)
			}})
		}
	}
	return append(rows,
		row{name: "a time between two chunks", section: "7", run: func(r *run) {
			s, times := r.timed()
			r.startsAt(s, from(times[1]), 1)
			r.startsAt(s, from(times[0]+1), 1)
			r.startsAt(s, from(times[2]), 2)
		}},
		row{name: "an offset below the first", section: "7", run: func(r *run) {
			s, first := r.trimmed()
			r.startsAt(s, at(first/2), int64(first))
			r.startsAt(s, at(0), int64(first))
		}},
		row{name: "first, where retention has moved it", section: "12", run: func(r *run) {
			s, offset := r.trimmed()
			r.startsAt(s, first, int64(offset))
		}},
	)
}()

// startsAt subscribes and expects the chunk with first offset want. If want is
// -1, it expects no chunk but one that it publishes afterwards.
func (r *run) startsAt(stream string, spec wire.OffsetSpec, want int64) {
	r.Helper()
	c := r.open()
	is(r, c.subscribe(1, stream, spec, 1), ok)
	if want >= 0 {
		is(r, c.chunks(1, 1), []uint64{uint64(want)})
		return
	}
	c.quiet()
	r.append(stream, 77, 1)
	is(r, c.bodies(1, 1), []string{"m77"})
}

// pairs creates a stream of five chunks with two messages each.
func (r *run) pairs() string {
	r.Helper()
	s := r.stream()
	c := r.publisher("", s)
	for id := range uint64(5) {
		c.publishBatch(1, id, "x")
		c.confirmed(1, id)
	}
	return s
}

// tracked creates a stream in which nothing but an offset is stored.
func (r *run) tracked() string {
	r.Helper()
	s := r.stream()
	r.admin().store("ref", s, 7)
	is(r, r.admin().query("ref", s), number{ok, 7})
	return s
}

// timed creates a stream of three chunks and returns their timestamps, which
// differ by two milliseconds or more.
func (r *run) timed() (stream string, times []int64) {
	r.Helper()
	stream = r.stream()
	c, d := r.publisher("", stream), r.open()
	is(r, d.subscribe(1, stream, first, 1000), ok)
	for i := range 3 {
		if i > 0 {
			for start := time.Now(); time.Since(start) < 5*time.Millisecond; {
				c.quiet()
			}
		}
		c.publish(1, uint64(i))
		c.confirmed(1, uint64(i))
		_, chunk := d.deliver(1)
		times = append(times, chunk.Timestamp)
	}
	return stream, times
}

// large publishes n chunks of one message of 100 bytes each.
func (c *client) large(publisher uint8, n int) {
	c.t.Helper()
	for id := range uint64(n) {
		b := wire.AppendPublishEntry(wire.BeginPublish(nil, wire.Version1, publisher), id, fmt.Appendf(nil, "%0100d", id))
		c.write(wire.FinishPublish(b, 0, 1))
		c.confirmed(publisher, id)
	}
}

// trimmedFirst is the first offset that retention leaves of 100 chunks of 152
// bytes, in segments of 1,000 bytes, with 4,000 bytes to keep. A segment is
// full with 7 chunks (1,064 bytes). So the last one has 2 chunks (304 bytes),
// only three full ones fit in front of it, and 100 - 2 - 3*7 = 77.
const trimmedFirst = 77

// trimmed creates a stream from which retention has removed the beginning. It
// returns the first retained offset.
func (r *run) trimmed() (stream string, firstOffset uint64) {
	r.Helper()
	stream = r.stream("max-length-bytes", "4000", "stream-max-segment-size-bytes", "1000")
	c := r.publisher("", stream)
	c.large(1, 100)
	// RabbitMQ trims in the background.
	r.eventually("trimmed to the end", func() bool {
		_, stats := c.stats(stream)
		return stats["first_chunk_id"] == trimmedFirst
	})
	return stream, trimmedFirst
}

var creditRows = []row{
	{name: "one credit is one chunk", section: "9", run: func(r *run) {
		c, s := r.open(), r.filled(4)
		is(r, c.subscribe(1, s, first, 1), ok)
		is(r, c.chunks(1, 1), []uint64{0})
		c.quiet()
		c.credit(1, 1)
		is(r, c.chunks(1, 1), []uint64{1})
		c.quiet()
	}},
	{name: "of no credit nothing comes", section: "9", run: func(r *run) {
		c, s := r.open(), r.filled(3)
		is(r, c.subscribe(1, s, first, 0), ok)
		c.quiet()
		c.credit(1, 2)
		is(r, c.chunks(1, 2), []uint64{0, 1})
		c.quiet()
	}},
	{name: "a credit of 0", section: "9", run: func(r *run) {
		c, s := r.open(), r.filled(1)
		is(r, c.subscribe(1, s, first, 0), ok)
		c.credit(1, 0)
		c.quiet()
	}},
	{name: "credits add up", section: "9", run: func(r *run) {
		c, s := r.open(), r.stream()
		is(r, c.subscribe(1, s, first, 1), ok)
		c.credit(1, 1)
		c.credit(1, 2)
		c.quiet()
		r.append(s, 0, 5)
		is(r, c.chunks(1, 4), []uint64{0, 1, 2, 3})
		c.quiet()
	}},
	{name: "a negative credit takes away", section: "4 Credit", run: func(r *run) {
		c, s := r.open(), r.stream()
		// With a credit of more than 1, RabbitMQ would wait for half of
		// it.
		is(r, c.subscribe(1, s, first, 1), ok)
		c.credit(1, 2)
		c.credit(1, -2)
		c.quiet()
		r.append(s, 0, 3)
		is(r, c.chunks(1, 1), []uint64{0})
		c.quiet()
	}},
	{name: "less than no credit", section: "4 Credit", run: func(r *run) {
		c, s := r.open(), r.filled(3)
		is(r, c.subscribe(1, s, first, 0), ok)
		c.credit(1, -2)
		c.credit(1, 2)
		c.quiet()
		c.credit(1, 1)
		is(r, c.chunks(1, 1), []uint64{0})
		c.quiet()
	}},
	{name: "for an unknown subscription", section: "4 Credit", run: func(r *run) {
		c := r.open()
		c.credit(44, 1)
		c.creditRefused(44, noSubscription)
		c.credit(44, -1)
		c.creditRefused(44, noSubscription)
	}},
	{name: "the largest credit", section: "9", run: func(r *run) {
		c, s := r.open(), r.filled(2)
		is(r, c.subscribe(1, s, first, 1<<16-1), ok)
		c.credit(1, 1<<15-1)
		is(r, c.chunks(1, 2), []uint64{0, 1})
	}},
	{name: "each subscription has its own", section: "9", run: func(r *run) {
		c, s := r.open(), r.filled(2)
		is(r, c.subscribe(1, s, first, 0), ok)
		is(r, c.subscribe(2, s, first, 1), ok)
		is(r, c.chunks(2, 1), []uint64{0})
		c.credit(1, 2)
		is(r, c.chunks(1, 2), []uint64{0, 1})
		c.quiet()
	}},
	{name: "credit does not outlive the subscription", section: "9", run: func(r *run) {
		c, s := r.open(), r.filled(1)
		is(r, c.subscribe(1, s, next, 100), ok)
		is(r, c.unsubscribe(1), ok)
		is(r, c.subscribe(1, s, first, 0), ok)
		c.quiet()
	}},
	{name: "more than half of the first credit must be back before chunks come", section: "9", run: func(r *run) {
		c, s := r.open(), r.filled(10)
		is(r, c.subscribe(1, s, first, 4), ok)
		is(r, c.chunks(1, 4), []uint64{0, 1, 2, 3})
		for range 2 {
			c.credit(1, 1)
			c.quiet()
		}
		c.credit(1, 1)
		is(r, c.chunks(1, 3), []uint64{4, 5, 6})
	}},
}
