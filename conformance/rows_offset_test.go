package conformance

import (
	"strings"

	"github.com/tidemark-go/tidemark/internal/wire"
)

var offsetRows = []row{
	{name: "visible at once on the same connection", section: "10", run: func(r *run) {
		c, s := r.open(), r.filled(1)
		for i := range uint64(20) {
			c.store("ref", s, i)
			is(r, c.query("ref", s), number{ok, i})
		}
	}},
	{name: "visible on another connection", section: "10", run: func(r *run) {
		c, d, s := r.open(), r.open(), r.filled(1)
		c.store("ref", s, 42)
		r.eventually("visible", func() bool { return d.query("ref", s) == number{ok, 42} })
	}},
	{name: "none stored", section: "4 QueryOffset", run: func(r *run) {
		is(r, r.open().query("ref", r.filled(1)), number{noOffset, 0})
	}},
	{name: "no such stream", section: "4 QueryOffset", run: func(r *run) {
		is(r, r.open().query("ref", r.name()), number{noStream, 0})
	}},
	{name: "a lower value", section: "10", run: stores("ref", 100, 3)},
	{name: "zero", section: "10", run: stores("ref", 0)},
	{name: "beyond the end", section: "10", run: stores("ref", 1_000_000)},
	{name: "the largest offset", section: "10", run: stores("ref", 1<<64-1)},
	{name: "an empty reference", section: "10", run: stores("", 5)},
	{name: "a reference of 255 bytes", section: "10", run: stores(strings.Repeat("r", 255), 5)},
	{name: "a reference that is not text", section: "10", run: stores("\x00\xfe", 5)},
	{name: "a reference of 256 bytes is ignored", section: "10", run: func(r *run) {
		c, s, long := r.open(), r.stream(), strings.Repeat("r", 256)
		c.store(long, s, 5)
		c.quiet()
		is(r, c.query(long, s), number{noOffset, 0})
	}},
	{name: "on no stream is ignored", section: "4 StoreOffset", run: func(r *run) {
		c := r.open()
		c.store("ref", r.name(), 5)
		c.quiet()
	}},
	{name: "references are apart", section: "10", run: func(r *run) {
		c, s := r.open(), r.stream()
		c.store("a", s, 1)
		c.store("b", s, 2)
		is(r, c.query("a", s), number{ok, 1})
		is(r, c.query("b", s), number{ok, 2})
	}},
	{name: "streams are apart", section: "10", run: func(r *run) {
		c, s := r.open(), r.stream()
		c.store("a", s, 1)
		is(r, c.query("a", r.stream()), number{noOffset, 0})
		is(r, c.query("a", s), number{ok, 1})
	}},
	{name: "a publisher's reference is another thing", section: "10", run: func(r *run) {
		s := r.stream()
		c := r.publisher("ref", s)
		c.publish(1, 9)
		c.confirmed(1, 9)
		is(r, c.query("ref", s), number{noOffset, 0})
		c.store("ref", s, 4)
		is(r, c.query("ref", s), number{ok, 4})
		is(r, c.sequence("ref", s), number{ok, 9})
	}},
	{name: "outlives the connection", section: "10", run: func(r *run) {
		c, s := r.open(), r.stream()
		c.store("ref", s, 8)
		is(r, c.query("ref", s), number{ok, 8})
		is(r, c.call(&wire.Close{Correlation: c.next(), Code: ok}), ok)
		c.ended()
		is(r, r.open().query("ref", s), number{ok, 8})
	}},
	{name: "gone with the stream", section: "10", run: func(r *run) {
		s := r.stream()
		c := r.open()
		c.store("ref", s, 8)
		is(r, c.query("ref", s), number{ok, 8})
		is(r, r.admin().delete(s), ok)
		c.gone(s)
		is(r, r.admin().create(s), ok)
		is(r, c.query("ref", s), number{noOffset, 0})
	}},
	{name: "takes an offset of a quiet stream", section: "10", run: func(r *run) {
		s := r.tracked()
		r.append(s, 0, 1)
		c := r.open()
		is(r, c.subscribe(1, s, first, 1), ok)
		is(r, c.chunks(1, 1), []uint64{1})
	}},
}

// stores stores the values one after the other and expects to read each back.
func stores(reference string, values ...uint64) func(*run) {
	return func(r *run) {
		c, s := r.open(), r.stream()
		for _, v := range values {
			c.store(reference, s, v)
			is(r, c.query(reference, s), number{ok, v})
		}
	}
}
