package conformance

import (
	"strings"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// Each user of these rows has one kind of permission, for every name.
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
	{name: "DeleteSuperStream needs everything", section: "4 DeleteSuperStream", run: func(r *run) {
		name, partitions := r.super("a")
		for _, user := range []string{reader, writer, configurer, declarer} {
			is(r, r.openAs(user, "/").deleteSuper(name), accessRefused)
		}
		is(r, r.admin().partitions(name), names{ok, partitions})
	}},
	{name: "a super stream without partitions needs no write", section: "4 CreateSuperStream", run: func(r *run) {
		name, _ := r.superName(0)
		is(r, r.openAs(configurer, "/").createSuper(name, nil, nil), accessRefused)
		is(r, r.openAs(declarer, "/").createSuper(name, nil, nil), ok)
		is(r, r.openAs(configurer, "/").deleteSuper(name), accessRefused)
		is(r, r.openAs(declarer, "/").deleteSuper(name), ok)
		is(r, r.openAs(declarer, "/").deleteSuper(name), noStream)
	}},
	{name: "DeleteSuperStream of nothing", section: "4 DeleteSuperStream", since: "4.3.3",
		run: func(r *run) {
			is(r, r.openAs(reader, "/").deleteSuper(r.name()), accessRefused)
			is(r, r.openAs(writer, "/").deleteSuper(r.name()), accessRefused)
			is(r, r.openAs(configurer, "/").deleteSuper(r.name()), noStream)
		},
		before: func(r *run) { is(r, r.openAs(configurer, "/").deleteSuper(r.name()), accessRefused) }},
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
