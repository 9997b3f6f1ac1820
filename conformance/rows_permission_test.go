package conformance

import (
	"strings"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// The accounts of these rows have one kind of permission each, for every name.
var permissionRows = []row{
	{name: "Create needs to configure", section: "13", run: func(r *run) {
		name := r.name()
		for _, user := range []string{reader, writer} {
			is(r, r.openAs(user, "/").create(name), accessRefused)
		}
		is(r, r.openAs(configurer, "/").create(name), ok)
	}},
	{name: "Delete needs to configure", section: "13", run: func(r *run) {
		s := r.stream()
		for _, user := range []string{reader, writer} {
			is(r, r.openAs(user, "/").delete(s), accessRefused)
		}
		is(r, r.openAs(configurer, "/").delete(s), ok)
	}},
	{name: "permissions are looked at before the stream", section: "4", run: func(r *run) {
		c, d, s := r.openAs(reader, "/"), r.openAs(writer, "/"), r.name()
		is(r, c.delete(s), accessRefused)
		is(r, c.declare(1, "", s), accessRefused)
		is(r, d.subscribe(1, s, first, 1), accessRefused)
		is(r, d.query("ref", s), number{accessRefused, 0})
		is(r, d.sequence("ref", s), number{accessRefused, 0})
		code, stats := d.stats(s)
		is(r, code, accessRefused)
		is(r, len(stats), 0)
	}},
	{name: "DeclarePublisher needs to write", section: "13", run: func(r *run) {
		s := r.stream()
		for _, user := range []string{reader, configurer} {
			c := r.openAs(user, "/")
			is(r, c.declare(1, "", s), accessRefused)
			c.publish(1, 5)
			c.refused(1, noPublisher, 5)
		}
		is(r, r.openAs(writer, "/").declare(1, "", s), ok)
	}},
	{name: "who may write publishes", section: "13", run: func(r *run) {
		c, s := r.openAs(writer, "/"), r.stream()
		is(r, c.declare(1, "", s), ok)
		c.publish(1, 5)
		c.confirmed(1, 5)
	}},
	{name: "Subscribe needs to read", section: "13", run: func(r *run) {
		s := r.filled(1)
		for _, user := range []string{writer, configurer} {
			is(r, r.openAs(user, "/").subscribe(1, s, first, 1), accessRefused)
		}
		c := r.openAs(reader, "/")
		is(r, c.subscribe(1, s, first, 1), ok)
		is(r, c.chunks(1, 1), []uint64{0})
	}},
	{name: "QueryOffset and StreamStats need to read", section: "13", run: func(r *run) {
		c, d, s := r.openAs(reader, "/"), r.openAs(writer, "/"), r.stream()
		is(r, c.query("ref", s), number{noOffset, 0})
		is(r, d.query("ref", s), number{accessRefused, 0})
		code, _ := c.stats(s)
		is(r, code, ok)
		code, _ = d.stats(s)
		is(r, code, accessRefused)
	}},
	{name: "QueryPublisherSequence needs to read", section: "13", run: func(r *run) {
		s := r.stream()
		is(r, r.openAs(reader, "/").sequence("ref", s), number{ok, 0})
		is(r, r.openAs(writer, "/").sequence("ref", s), number{accessRefused, 0})
	}},
	{name: "StoreOffset needs to read, and says nothing", section: "13", run: func(r *run) {
		c, d, s := r.openAs(reader, "/"), r.openAs(writer, "/"), r.stream()
		d.store("ref", s, 5)
		d.quiet()
		is(r, c.query("ref", s), number{noOffset, 0})
		c.store("ref", s, 6)
		is(r, c.query("ref", s), number{ok, 6})
	}},
	{name: "a long reference without permission", section: "4 DeclarePublisher", run: func(r *run) {
		is(r, r.openAs(reader, "/").declare(1, strings.Repeat("r", 256), r.stream()), accessRefused)
	}},
	{name: "a long name without permission", section: "4 Subscribe", run: func(r *run) {
		is(r, r.openAs(writer, "/").subscribe(1, r.stream(), first, 1, "name", strings.Repeat("n", 256)), accessRefused)
	}},
	{name: "Metadata without permission to read or write", section: "4 Metadata", since: "4.3.3",
		run: func(r *run) {
			s := r.stream()
			m := r.openAs(configurer, "/").metadata(s)
			is(r, m.Streams, []wire.StreamMetadata{{Stream: s, Code: accessRefused, Leader: wire.NoLeader}})
			is(r, len(m.Brokers), 0)
		},
		before: func(r *run) {
			s := r.stream()
			is(r, r.openAs(configurer, "/").metadata(s).Streams, []wire.StreamMetadata{live(s)})
		}},
	{name: "Metadata for who may read or write", section: "4 Metadata", run: func(r *run) {
		s := r.stream()
		is(r, r.openAs(reader, "/").metadata(s).Streams, []wire.StreamMetadata{live(s)})
		is(r, r.openAs(writer, "/").metadata(s).Streams, []wire.StreamMetadata{live(s)})
	}},
	{name: "Route and Partitions of who may not write", section: "4 Route", since: "4.3.3",
		run: func(r *run) {
			name, _ := r.super("a")
			c := r.openAs(configurer, "/")
			is(r, c.route("a", name), names{accessRefused, nil})
			is(r, c.partitions(name), names{accessRefused, nil})
		},
		before: func(r *run) {
			name, partitions := r.super("a")
			c := r.openAs(configurer, "/")
			is(r, c.route("a", name), names{ok, partitions})
			is(r, c.partitions(name), names{ok, partitions})
		}},
	{name: "Route and Partitions of who may write", section: "4 Route", run: func(r *run) {
		name, partitions := r.super("a")
		c := r.openAs(writer, "/")
		is(r, c.route("a", name), names{ok, partitions})
		is(r, c.partitions(name), names{ok, partitions})
	}},
	{name: "CreateSuperStream needs everything", section: "4 CreateSuperStream", run: func(r *run) {
		name, partitions := r.superName(1)
		for _, user := range []string{reader, writer, configurer} {
			is(r, r.openAs(user, "/").createSuper(name, partitions, []string{"a"}), accessRefused)
		}
		is(r, r.admin().delete(partitions[0]), noStream)
	}},
	{name: "DeleteSuperStream needs to configure", section: "4 DeleteSuperStream", run: func(r *run) {
		name, partitions := r.super("a")
		for _, user := range []string{reader, writer} {
			is(r, r.openAs(user, "/").deleteSuper(name), accessRefused)
		}
		is(r, r.admin().partitions(name), names{ok, partitions})
	}},
	{name: "the same name in two virtual hosts", section: "13", run: func(r *run) {
		s := r.filled(2)
		c := r.openAs("guest", otherVHost)
		is(r, c.delete(s), noStream)
		is(r, c.create(s), ok)
		is(r, c.subscribe(1, s, first, 10), ok)
		c.quiet()
		is(r, c.delete(s), ok)
		c.gone(s)
		r.holds(s, "m0", "m1")
	}},
	{name: "another virtual host's stream is not there", section: "13", run: func(r *run) {
		s := r.filled(2)
		c := r.openAs("guest", otherVHost)
		is(r, c.declare(1, "", s), noStream)
		is(r, c.subscribe(1, s, first, 1), noStream)
		is(r, c.query("ref", s), number{noStream, 0})
	}},
}

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
	{name: "a reader that was overtaken goes on, with a gap", section: "7", run: func(r *run) {
		c, _ := r.overtaken()
		c.credit(1, 1000)
		read := 0
		for offset := uint64(0); offset < 300; read++ {
			got := c.chunks(1, 1)[0]
			if got <= offset {
				r.Fatalf("%d after %d", got, offset)
			}
			offset = got
		}
		if read == 300 {
			r.Error("no gap")
		}
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

// overtaken returns a client that has read offset 0 of a stream, has no more credit, and whose next chunk
// retention has removed; left is the first that is there.
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
