package conformance

import (
	"github.com/tidemark-go/tidemark/internal/wire"
)

// These rows publish frames that come together: in one write. How RabbitMQ cuts
// them into chunks depends on how fast its processes are, so the rows expect
// only what holds in any case.
var togetherRows = []row{
	{name: "many frames of one message share few chunks", section: "6", run: func(r *run) {
		c, s := r.open(), r.stream()
		c.together(s, make([]string, 100)...)
		is(r, c.subscribe(1, s, first, 100), ok)
		chunks := 0
		for n := uint32(0); n < 100; chunks++ {
			_, chunk := c.deliver(1)
			n += chunk.Records
		}
		if chunks > 25 {
			r.Errorf("%d chunks of 100 frames", chunks)
		}
	}},
	{name: "the last chunk has messages of several frames", section: "6", run: func(r *run) {
		c, s := r.open(), r.stream()
		c.together(s, make([]string, 30)...)
		is(r, c.subscribe(1, s, last, 10), ok)
		if _, chunk := c.deliver(1); chunk.Records < 2 {
			r.Errorf("the last chunk has %d message", chunk.Records)
		}
	}},
	{name: "a filter lets through what came together", section: "8", run: func(r *run) {
		c, s := r.open(), r.stream()
		values := make([]string, 100)
		for i := range values {
			values[i] = []string{"a", "b"}[i%2]
		}
		c.together(s, values...)
		is(r, c.subscribe(1, s, first, 100, "filter.0", "a"), ok)
		matching, others := 0, 0
		for matching < 50 {
			_, chunk := c.deliver(1)
			walk, e := chunk.Walk(), wire.Entry{}
			for _, more := walk.Next(&e); more; _, more = walk.Next(&e) {
				if string(e.Body) == "a" {
					matching++
				} else {
					others++
				}
			}
		}
		if others < 25 {
			r.Errorf("%d messages of another value", others)
		}
	}},
}

// together declares publisher 1 on the stream and sends a frame of version 2 for
// each filter value, all of them in one write. It waits for the confirms. Each
// body is the value; "" stands for no value.
func (c *client) together(stream string, values ...string) {
	c.t.Helper()
	is(c.t, c.declare(1, "", stream), ok)
	var all []byte
	var ids []uint64
	for i, v := range values {
		var filter []byte
		if v != "" {
			filter = []byte(v)
		}
		start := len(all)
		all = wire.BeginPublish(all, wire.Version2, 1)
		all = wire.FinishPublish(wire.AppendPublishFiltered(all, uint64(i), filter, []byte(v)), start, 1)
		ids = append(ids, uint64(i))
	}
	c.write(all)
	c.confirmed(1, ids...)
}
