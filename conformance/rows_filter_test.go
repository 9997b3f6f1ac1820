package conformance

import (
	"fmt"
	"slices"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// RabbitMQ keeps a Bloom filter per chunk, which may let a few chunks through
// that hold none of the wanted values. So these rows say which chunks must
// come, and that most of the others must not.
var filterRows = []row{
	{name: "one value", section: "8", run: filters([]string{"filter.0", "apple"}, "apple")},
	{name: "two values", section: "8", run: filters([]string{"filter.0", "apple", "filter.1", "pear"}, "apple", "pear")},
	{name: "any name after filter.", section: "8", run: filters([]string{"filter.cf", "pear"}, "pear")},
	{name: "a value and what has none", section: "8",
		run: filters([]string{"filter.0", "apple", "match-unfiltered", "true"}, "apple", "null", "")},
	{name: "a value, and not what has none", section: "8",
		run: filters([]string{"filter.0", "apple", "match-unfiltered", "false"}, "apple")},
	{name: "the empty value asks for what has none", section: "8", run: filters([]string{"filter.0", ""}, "null", "")},
	{name: "match-unfiltered alone is no filter", section: "8", run: func(r *run) {
		c, s, values := r.open(), r.stream(), []string{"apple", "null", "pear"}
		r.fruits(s, values)
		is(r, c.subscribe(1, s, first, 100, "match-unfiltered", "true"), ok)
		is(r, c.bodies(1, 3), values)
	}},
	{name: "no filter", section: "8", run: func(r *run) {
		c, s, values := r.open(), r.stream(), []string{"apple", "null", "", "pear"}
		r.fruits(s, values)
		is(r, c.subscribe(1, s, first, 100), ok)
		is(r, c.bodies(1, 4), values)
	}},
	{name: "chunks left out cost no credit", section: "8", run: func(r *run) {
		c, s := r.open(), r.stream()
		values := others(40)
		r.fruits(s, append(values, "apple"))
		is(r, c.subscribe(1, s, first, 20, "filter.0", "apple"), ok)
		is(r, slices.Contains(c.upToBody("apple"), "apple"), true)
	}},
	{name: "live messages", section: "8", run: func(r *run) {
		c, s := r.open(), r.stream()
		is(r, c.subscribe(1, s, next, 1000, "filter.0", "apple"), ok)
		r.fruits(s, append(others(40), "apple"))
		if got := c.upToBody("apple"); len(got) > 20 {
			r.Errorf("%d of 41 chunks came", len(got))
		}
	}},
	{name: "all messages of a value in mixed frames", section: "8", run: func(r *run) {
		s := r.stream()
		p, c := r.publisher("", s), r.open()
		for range 10 {
			p.filtered(1, "apple", "pear", "null")
		}
		p.filtered(1, "plum")
		is(r, c.subscribe(1, s, first, 1000, "filter.0", "apple", "filter.1", "plum"), ok)
		apples := 0
		for _, body := range c.upToBody("plum") {
			if body == "apple" {
				apples++
			}
		}
		is(r, apples, 10)
	}},
	{name: "sub-batches have no value", section: "8", run: func(r *run) {
		s := r.stream()
		p, c := r.publisher("", s), r.open()
		for id := range uint64(20) {
			p.publishBatch(1, id, "x")
			p.confirmed(1, id)
		}
		p.filtered(1, "apple")
		is(r, c.subscribe(1, s, first, 1000, "filter.0", "apple"), ok)
		is(r, c.chunks(1, 1), []uint64{40})
		is(r, c.subscribe(2, s, first, 1, "filter.0", "apple", "match-unfiltered", "true"), ok)
		is(r, c.chunks(2, 1), []uint64{0})
	}},
	{name: "what a Credit is for comes before the answer to what follows it", section: "20", run: func(r *run) {
		c, s := r.open(), r.stream()
		r.fruits(s, append([]string{"apple"}, append(others(40), "apple", "pear", "apple")...))
		is(r, c.subscribe(1, s, first, 1, "filter.0", "apple"), ok)
		is(r, c.bodies(1, 1), []string{"apple"})
		c.send(&wire.Credit{SubscriptionID: 1, Credit: 100}, &wire.Credit{SubscriptionID: 1}, &wire.Metadata{Correlation: c.next()})
		is(r, c.lastBefore(wire.KeyMetadata.Response()), 43) // a Credit of 0 is no error
	}},
	{name: "on the largest filter", section: "8", run: func(r *run) {
		c, s := r.open(), r.stream("stream-filter-size-bytes", "255")
		r.fruits(s, append(others(40), "apple"))
		is(r, c.subscribe(1, s, first, 1000, "filter.0", "apple"), ok)
		if got := c.upToBody("apple"); len(got) > 20 {
			r.Errorf("%d of 41 chunks came", len(got))
		}
	}},
	{name: "a filter with a single active consumer", section: "8", run: func(r *run) {
		c, s := r.open(), r.stream()
		r.fruits(s, append(others(40), "apple"))
		c.join(1, s, 1000, "filter.0", "apple")
		c.activated(1)
		if got := c.upToBody("apple"); len(got) > 20 {
			r.Errorf("%d of 41 chunks came", len(got))
		}
	}},
}

func others(n int) []string {
	var values []string
	for i := range n {
		values = append(values, fmt.Sprintf("fruit %d", i))
	}
	return values
}

// fruits publishes one chunk per value. Its only message has the value as
// filter value and as body.
func (r *run) fruits(stream string, values []string) {
	r.Helper()
	c := r.publisher("", stream)
	for _, v := range values {
		c.filtered(1, v)
	}
}

// upToBody reads subscription 1 up to the message with that body. It returns
// all bodies it has read.
func (c *client) upToBody(body string) []string {
	c.t.Helper()
	var got []string
	for {
		got = append(got, c.bodies(1, 1)...)
		if slices.Contains(got, body) {
			return got
		}
	}
}

// lastBefore returns the first offset of the last chunk that comes before a frame
// of a key.
func (c *client) lastBefore(key wire.Key) (first uint64) {
	c.t.Helper()
	for {
		f, err := c.read()
		if err != nil {
			c.t.Fatal(err)
		}
		if f.key == key {
			return first
		}
		d, err := wire.DecodeDeliver(f.version, f.fields)
		if err != nil {
			c.t.Fatalf("%v: %v", f.key, err)
		}
		chunk, err := wire.ParseChunk(d.Chunk)
		if err != nil {
			c.t.Fatal(err)
		}
		first = chunk.FirstOffset
	}
}

// filters publishes chunks with many values and subscribes with properties. It
// expects all wanted values in order, and at most half as many others as there
// are chunks.
func filters(properties []string, wanted ...string) func(*run) {
	return func(r *run) {
		c, s := r.open(), r.stream()
		values := append([]string{"null", "apple", "", "pear"}, others(40)...)
		values = append(values, "pear", "null", "apple", "")
		r.fruits(s, append(values, wanted...))
		is(r, c.subscribe(1, s, first, 1000, properties...), ok)
		all := append(values, wanted...)
		var want []string
		for _, v := range all {
			if slices.Contains(wanted, v) {
				want = append(want, v)
			}
		}
		var got, extra []string
		for len(got) < len(want) {
			for _, body := range c.bodies(1, 1) {
				if slices.Contains(wanted, body) {
					got = append(got, body)
				} else {
					extra = append(extra, body)
				}
			}
		}
		is(r, got, want)
		if len(extra) > len(all)/2 {
			r.Errorf("also came: %q", extra)
		}
	}
}
