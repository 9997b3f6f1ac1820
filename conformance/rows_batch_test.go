package conformance

import (
	"github.com/tidemark-go/tidemark/internal/wire"
)

var batchRows = []row{
	{name: "one confirm, one entry, all its offsets", section: "5", run: func(r *run) {
		s := r.stream()
		c := r.publisher("", s)
		c.publishBatch(1, 8, "x")
		c.confirmed(1, 8)
		c.publish(1, 9)
		c.confirmed(1, 9)
		d := r.open()
		is(r, d.subscribe(1, s, first, 1), ok)
		_, chunk := d.deliver(1)
		is(r, [2]uint32{uint32(chunk.Entries), chunk.Records}, [2]uint32{1, 2})
		d.credit(1, 1)
		is(r, d.chunks(1, 1), []uint64{2})
	}},
	{name: "the bytes are delivered as they came", section: "5", run: func(r *run) {
		for _, compression := range []wire.Compression{1, 2, 3, 4} {
			want := wire.Entry{Body: []byte("not even compressed"), Records: 3, Compression: compression, Uncompressed: 100}
			got := r.echo(want)
			is(r, string(got.Raw), string(wire.AppendBatch(nil, want)))
		}
	}},
	{name: "of 65535 messages", section: "5", run: func(r *run) {
		records := make([]byte, 4*65535) // 65,535 empty messages
		got := r.echo(wire.Entry{Body: records, Records: 65535, Uncompressed: uint32(len(records))})
		is(r, got.Records, 65535)
	}},
	{name: "among simple messages", section: "5", run: func(r *run) {
		s := r.stream()
		c := r.publisher("", s)
		b := wire.BeginPublish(nil, wire.Version1, 1)
		b = wire.AppendPublishEntry(b, 1, []byte("a"))
		b = wire.AppendPublishBatch(b, 2, wire.Entry{Body: []byte{0, 0, 0, 1, 'b'}, Records: 1, Uncompressed: 5})
		b = wire.AppendPublishEntry(b, 3, []byte("c"))
		c.write(wire.FinishPublish(b, 0, 3))
		c.confirmed(1, 1, 2, 3)
		r.holds(s, "a", "\x00\x00\x00\x01b", "c")
	}},
	{name: "inside Publish of version 2", section: "1 Bad input", run: func(r *run) {
		c := r.publisher("")
		b := wire.BeginPublish(nil, wire.Version2, 1)
		b = append(b, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0xff)
		b = wire.AppendBatch(b, wire.Entry{Body: []byte{0, 0, 0, 1, 'b'}, Records: 1, Uncompressed: 5})
		c.write(wire.FinishPublish(b, 0, 1))
		c.ended()
	}},
	{name: "of no messages", section: "4 Publish", since: "4.3.5", run: batchRefused(wire.Entry{Uncompressed: 4, Body: []byte("abcd")})},
	{name: "of more messages than bytes", section: "4 Publish", since: "4.3.5",
		run: batchRefused(wire.Entry{Records: 2, Uncompressed: 7, Body: []byte("abcdefg")})},
	{name: "that would be too large", section: "4 Publish", since: "4.3.5",
		run: batchRefused(wire.Entry{Records: 2, Uncompressed: 64<<20 + 1, Compression: 1, Body: []byte("abcd")})},
	{name: "of unknown compression", section: "4 Publish", since: "4.3.5",
		run: batchRefused(wire.Entry{Records: 1, Uncompressed: 4, Compression: 5, Body: []byte("abcd")})},
	{name: "compressed to nothing", section: "4 Publish", since: "4.3.5",
		run: batchRefused(wire.Entry{Records: 1, Uncompressed: 4, Compression: 1})},
	{name: "a refused one takes the rest of its frame with it", section: "4 Publish", since: "4.3.5", run: func(r *run) {
		s := r.stream()
		c := r.publisher("", s)
		b := wire.BeginPublish(nil, wire.Version1, 1)
		b = wire.AppendPublishEntry(b, 1, []byte("m1"))
		b = wire.AppendPublishBatch(b, 2, wire.Entry{})
		b = wire.AppendPublishEntry(b, 3, []byte("m3"))
		c.write(wire.FinishPublish(b, 0, 3))
		c.outcomes([]uint64{1}, precondition, []uint64{2, 3})
		c.publish(1, 4)
		c.confirmed(1, 4)
		r.holds(s, "m1", "m4")
	}},
}

// outcomes expects two frames, in either order: a PublishConfirm for the ids in
// confirmed, and a PublishError with code for those in refused.
func (c *client) outcomes(confirmed []uint64, code wire.Code, refused []uint64) {
	c.t.Helper()
	seen := make(map[uint64]wire.Code)
	for range 2 {
		f, err := c.read()
		if err != nil {
			c.t.Fatal(err)
		}
		decode := wire.DecodePublishConfirm
		if f.key == wire.KeyPublishError {
			decode = wire.DecodePublishError
		}
		o, err := decode(f.fields)
		if err != nil {
			c.t.Fatalf("%v: %v", f.key, err)
		}
		for i := range o.Len() {
			id, code := o.At(i)
			seen[id] = code
		}
	}
	want := make(map[uint64]wire.Code)
	for _, id := range confirmed {
		want[id] = ok
	}
	for _, id := range refused {
		want[id] = code
	}
	is(c.t, seen, want)
}

// echo publishes a sub-batch and returns the entry that the broker delivers.
func (r *run) echo(batch wire.Entry) wire.Entry {
	r.Helper()
	s := r.stream()
	c := r.publisher("", s)
	c.publishEntry(1, 1, batch)
	c.confirmed(1, 1)
	d := r.open()
	is(r, d.subscribe(1, s, first, 1), ok)
	_, chunk := d.deliver(1)
	w := chunk.Walk()
	var e wire.Entry
	_, more := w.Next(&e)
	is(r, more, true)
	return e
}

func batchRefused(e wire.Entry) func(*run) {
	return func(r *run) {
		c := r.publisher("")
		c.publishEntry(1, 6, e)
		c.refused(1, precondition, 6)
		c.quiet()
	}
}
