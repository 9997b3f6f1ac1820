package conformance

// No row tests how a reader goes on after a segment that retention removed
// while it read: on RabbitMQ 4.3.6 it jumps to the first retained chunk, but
// one time in four it got nothing more, not even new messages.
var retentionRows = []row{
	{name: "without a limit everything stays", section: "12", run: func(r *run) {
		s := r.stream("stream-max-segment-size-bytes", "1000")
		r.append(s, 0, 60)
		c := r.open()
		is(r, c.subscribe(1, s, first, 1), ok)
		is(r, c.chunks(1, 1), []uint64{0})
	}},
	{name: "the newest segment stays", section: "12", run: func(r *run) {
		s := r.stream("max-length-bytes", "1")
		r.append(s, 0, 60)
		c := r.open()
		is(r, c.subscribe(1, s, first, 1), ok)
		is(r, c.chunks(1, 1), []uint64{0})
	}},
	{name: "by size, and what is left has no gaps", section: "12", run: func(r *run) {
		s, first := r.trimmed()
		c := r.open()
		is(r, c.subscribe(1, s, at(first), 1000), ok)
		var want []uint64
		for o := first; o < 100; o++ {
			want = append(want, o)
		}
		is(r, c.chunks(1, len(want)), want)
		c.quiet()
	}},
	{name: "by age", section: "12", run: func(r *run) {
		s := r.stream("max-age", "1s", "stream-max-segment-size-bytes", "500")
		c, id := r.publisher("", s), uint64(0)
		r.eventually("removed anything", func() bool {
			c.publish(1, id)
			c.confirmed(1, id)
			id++
			_, stats := c.stats(s)
			return stats["first_chunk_id"] > 0
		})
	}},
	{name: "a reader that was overtaken first reads its segment to the end", section: "7", run: func(r *run) {
		c, _ := r.overtaken()
		c.credit(1, 1)
		is(r, c.chunks(1, 1), []uint64{1})
	}},
	{name: "stored offsets below the first are dropped", section: "10", run: func(r *run) {
		s := r.stream("max-length-bytes", "4000", "stream-max-segment-size-bytes", "1000")
		c := r.publisher("", s)
		c.store("low", s, 0)
		c.store("high", s, 1000)
		c.large(1, 200)
		is(r, c.query("high", s), number{ok, 1000})
		is(r, c.query("low", s), number{noOffset, 0})
	}},
}

// overtaken returns a client whose next chunk retention has removed. The client
// has read offset 0 and has no credit. left is the first retained offset.
func (r *run) overtaken() (c *client, left uint64) {
	r.Helper()
	s := r.stream("max-length-bytes", "4000", "stream-max-segment-size-bytes", "1000")
	r.append(s, 0, 1)
	c = r.open()
	is(r, c.subscribe(1, s, first, 1), ok)
	is(r, c.chunks(1, 1), []uint64{0})
	r.append(s, 1, 300)
	r.eventually("trimmed", func() bool {
		_, stats := r.admin().stats(s)
		left = uint64(stats["first_chunk_id"])
		return left > 200
	})
	return c, left
}
