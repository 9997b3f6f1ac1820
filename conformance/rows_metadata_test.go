package conformance

import (
	"slices"
	"strings"

	"github.com/tidemark-go/tidemark/internal/wire"
)

func live(stream string) wire.StreamMetadata { return wire.StreamMetadata{Stream: stream, Code: ok} }
func missing(stream string) wire.StreamMetadata {
	return wire.StreamMetadata{Stream: stream, Code: noStream, Leader: wire.NoLeader}
}

var metadataRows = []row{
	{name: "a stream", section: "4 Metadata", run: func(r *run) {
		s := r.stream()
		m := r.open().metadata(s)
		is(r, len(m.Brokers), 1)
		is(r, m.Brokers[0].Reference, 0)
		is(r, m.Streams, []wire.StreamMetadata{live(s)})
	}},
	{name: "a missing stream, and no broker", section: "4 Metadata", run: func(r *run) {
		m := r.open().metadata("cf-never")
		is(r, len(m.Brokers), 0)
		is(r, m.Streams, []wire.StreamMetadata{missing("cf-never")})
	}},
	{name: "no streams", section: "4 Metadata", run: func(r *run) {
		m := r.open().metadata()
		is(r, [2]int{len(m.Brokers), len(m.Streams)}, [2]int{0, 0})
	}},
	{name: "several, one missing", section: "4 Metadata", run: func(r *run) {
		all := []string{r.stream(), r.stream()}
		slices.Sort(all)
		m := r.open().metadata(all[1], "a-never", all[0])
		is(r, len(m.Brokers), 1)
		is(r, m.Streams, []wire.StreamMetadata{missing("a-never"), live(all[0]), live(all[1])})
	}},
	{name: "the same name several times", section: "4 Metadata", run: func(r *run) {
		s := r.stream()
		is(r, r.open().metadata(s, s, "a-never", s, "a-never").Streams, []wire.StreamMetadata{missing("a-never"), live(s)})
	}},
	{name: "an empty name", section: "4 Metadata", run: func(r *run) {
		is(r, r.open().metadata("").Streams, []wire.StreamMetadata{missing("")})
	}},
	{name: "a super stream is no stream", section: "4 Metadata", run: func(r *run) {
		name, partitions := r.super("a")
		is(r, r.open().metadata(name, partitions[0]).Streams, []wire.StreamMetadata{missing(name), live(partitions[0])})
	}},
	{name: "a stream of another virtual host", section: "13", run: func(r *run) {
		s := r.stream()
		is(r, r.openAs("guest", otherVHost).metadata(s).Streams, []wire.StreamMetadata{missing(s)})
	}},
}

var superRows = []row{
	{name: "its partitions, in order", section: "4 Partitions", run: func(r *run) {
		name, partitions := r.super("c", "a", "b")
		is(r, r.open().partitions(name), names{ok, partitions})
	}},
	{name: "no such super stream", section: "4 Partitions", run: func(r *run) {
		c, name := r.open(), r.name()
		is(r, c.partitions(name), names{noStream, nil})
		is(r, c.route("a", name), names{noStream, nil})
	}},
	{name: "a stream is no super stream", section: "4 Partitions", run: func(r *run) {
		is(r, r.open().partitions(r.stream()), names{noStream, nil})
	}},
	{name: "an ordinary exchange", section: "4 Partitions", run: func(r *run) {
		is(r, r.open().partitions("amq.direct"), names{ok, nil})
		is(r, r.open().route("a", "amq.direct"), names{ok, nil})
	}},
	{name: "a routing key", section: "4 Route", run: func(r *run) {
		name, partitions := r.super("a", "b")
		c := r.open()
		is(r, c.route("b", name), names{ok, partitions[1:]})
		is(r, c.route("a", name), names{ok, partitions[:1]})
	}},
	{name: "a routing key of no partition", section: "4 Route", run: func(r *run) {
		name, _ := r.super("a", "b")
		c := r.open()
		for _, key := range []string{"c", "", "A", "ab"} {
			is(r, c.route(key, name), names{ok, nil})
		}
	}},
	{name: "a routing key of two partitions", section: "4 Route", run: func(r *run) {
		name, partitions := r.super("a", "a", "b")
		got := r.open().route("a", name)
		slices.Sort(got.streams)
		is(r, got, names{ok, partitions[:2]})
	}},
	{name: "an empty binding key", section: "4 Route", run: func(r *run) {
		name, partitions := r.super("", "b")
		is(r, r.open().route("", name), names{ok, partitions[:1]})
	}},
	{name: "its partitions are streams", section: "4 CreateSuperStream", run: func(r *run) {
		_, partitions := r.super("a", "b")
		r.append(partitions[1], 0, 1)
		r.holds(partitions[1], "m0")
		r.holds(partitions[0])
	}},
	{name: "its arguments are those of the partitions", section: "4 CreateSuperStream", run: func(r *run) {
		c := r.open()
		name, partitions := r.superName(1)
		is(r, c.createSuper(name, partitions, []string{"a"}, "max-age", "1h", "queue-leader-locator", "client-local"), ok)
		is(r, c.create(partitions[0], "max-age", "1h", "queue-leader-locator", "client-local"), streamExists)
		is(r, c.create(partitions[0], "max-age", "2h", "queue-leader-locator", "client-local"), precondition)
	}},
	{name: "its partitions are balanced by default", section: "4 CreateSuperStream", run: func(r *run) {
		_, partitions := r.super("a")
		c := r.open()
		is(r, c.create(partitions[0], "queue-leader-locator", "balanced"), streamExists)
		is(r, c.create(partitions[0]), precondition)
	}},
	{name: "one that exists", section: "4 CreateSuperStream", run: func(r *run) {
		name, partitions := r.super("a")
		c := r.open()
		is(r, c.createSuper(name, partitions, []string{"a"}), streamExists)
		_, others := r.superName(1)
		is(r, c.createSuper(name, others, []string{"a"}), streamExists)
		is(r, c.delete(others[0]), noStream)
	}},
	{name: "a partition that exists", section: "4 CreateSuperStream", run: func(r *run) {
		c := r.open()
		name, partitions := r.superName(2)
		is(r, c.create(partitions[1]), ok)
		is(r, c.createSuper(name, partitions, []string{"a", "b"}), streamExists)
		is(r, c.partitions(name), names{noStream, nil})
		is(r, c.delete(partitions[0]), noStream)
		is(r, c.delete(partitions[1]), ok)
	}},
	{name: "more partitions than keys", section: "4 CreateSuperStream", run: superRefused(func(name string) ([]string, []string) {
		return []string{name + "-0", name + "-1"}, []string{"a"}
	})},
	{name: "more keys than partitions", section: "4 CreateSuperStream", run: superRefused(func(name string) ([]string, []string) {
		return []string{name + "-0"}, []string{"a", "b"}
	})},
	{name: "the same partition twice", section: "4 CreateSuperStream", run: superRefused(func(name string) ([]string, []string) {
		return []string{name + "-0", name + "-0"}, []string{"a", "b"}
	})},
	{name: "a partition without name", section: "4 CreateSuperStream", run: superRefused(func(name string) ([]string, []string) {
		return []string{name + "-0", ""}, []string{"a", "b"}
	})},
	{name: "a partition of a reserved name", section: "4 CreateSuperStream", run: superRefused(func(name string) ([]string, []string) {
		return []string{name + "-0", "amq.cf"}, []string{"a", "b"}
	})},
	{name: "an empty name", section: "4 CreateSuperStream", run: func(r *run) {
		_, partitions := r.superName(1)
		c := r.open()
		is(r, c.createSuper("", partitions, []string{"a"}), precondition)
		is(r, c.delete(partitions[0]), noStream)
	}},
	{name: "an invalid argument", section: "4 CreateSuperStream", run: func(r *run) {
		name, partitions := r.superName(1)
		c := r.open()
		is(r, c.createSuper(name, partitions, []string{"a"}, "initial-cluster-size", "0"), wire.CodeInternalError)
		is(r, c.partitions(name), names{noStream, nil})
		is(r, c.delete(partitions[0]), noStream)
	}},
	{name: "without partitions", section: "4 CreateSuperStream", run: func(r *run) {
		name, _ := r.superName(0)
		c := r.open()
		is(r, c.createSuper(name, nil, nil), ok)
		is(r, c.partitions(name), names{ok, nil})
		is(r, c.deleteSuper(name), ok)
	}},
	{name: "deleting", section: "4 DeleteSuperStream", run: func(r *run) {
		name, partitions := r.super("a", "b")
		c := r.open()
		is(r, c.deleteSuper(name), ok)
		is(r, c.partitions(name), names{noStream, nil})
		is(r, c.metadata(partitions...).Streams, []wire.StreamMetadata{missing(partitions[0]), missing(partitions[1])})
		is(r, c.deleteSuper(name), noStream)
	}},
	{name: "deleting an unknown one", section: "4 DeleteSuperStream", run: func(r *run) {
		is(r, r.open().deleteSuper(r.name()), noStream)
	}},
	{name: "deleting a stream as a super stream", section: "4 DeleteSuperStream", run: func(r *run) {
		c, s := r.open(), r.stream()
		is(r, c.deleteSuper(s), noStream)
		is(r, c.delete(s), ok)
	}},
	{name: "whoever used its partitions is told", section: "4 DeleteSuperStream", run: func(r *run) {
		name, partitions := r.super("a", "b", "c")
		c := r.open()
		is(r, c.declare(1, "", partitions[0]), ok)
		is(r, c.subscribe(1, partitions[2], first, 1), ok)
		is(r, c.deleteSuper(name), ok)
		var got []string
		for range 2 {
			var update wire.MetadataUpdate
			c.decode(&update)
			is(r, update.Code, notAvailable)
			got = append(got, update.Stream)
		}
		is(r, slices.Sorted(slices.Values(got)), []string{partitions[0], partitions[2]})
		c.quiet()
	}},
	{name: "again after deletion", section: "4 CreateSuperStream", run: func(r *run) {
		c := r.open()
		name, partitions := r.superName(2)
		for range 2 {
			is(r, c.createSuper(name, partitions, []string{"a", "b"}), ok)
			is(r, c.deleteSuper(name), ok)
		}
	}},
	{name: "a deleted partition is no longer listed", section: "4 Partitions", run: func(r *run) {
		name, partitions := r.super("a", "b")
		c := r.open()
		is(r, c.delete(partitions[0]), ok)
		is(r, c.partitions(name), names{ok, partitions[1:]})
		is(r, c.route("a", name), names{ok, nil})
	}},
	{name: "deleting after a partition is gone", section: "4 DeleteSuperStream", run: func(r *run) {
		name, partitions := r.super("a", "b")
		c := r.open()
		is(r, c.delete(partitions[0]), ok)
		is(r, c.deleteSuper(name), ok)
		is(r, c.delete(partitions[1]), noStream)
	}},
	{name: "CR and LF are taken out of its name", section: "13", run: func(r *run) {
		name, partitions := r.superName(1)
		c := r.open()
		is(r, c.createSuper("\r"+name+"\n", partitions, []string{"a"}), ok)
		is(r, c.partitions(name), names{ok, partitions})
	}},
	{name: "a reserved name", section: "4 CreateSuperStream", run: func(r *run) {
		_, partitions := r.superName(1)
		is(r, r.open().createSuper("amq.cf", partitions, []string{"a"}), precondition)
	}},
	{name: "twelve partitions keep their order", section: "4 Partitions", run: func(r *run) {
		keys := strings.Split("lkjihgfedcba", "")
		name, partitions := r.super(keys...)
		is(r, r.open().partitions(name), names{ok, partitions})
		is(r, r.open().route("a", name), names{ok, partitions[11:]})
	}},
	{name: "a super stream and a stream of the same name", section: "4 CreateSuperStream", run: func(r *run) {
		c, s := r.open(), r.stream()
		_, partitions := r.superName(1)
		r.supers = append(r.supers, s)
		is(r, c.createSuper(s, partitions, []string{"a"}), ok)
		is(r, c.metadata(s).Streams, []wire.StreamMetadata{live(s)})
	}},
}

// superRefused asks for an invalid super stream, which the broker must refuse.
// Neither the super stream nor a partition may exist afterwards.
func superRefused(make func(name string) (partitions, keys []string)) func(*run) {
	return func(r *run) {
		c, name := r.open(), r.name()
		partitions, keys := make(name)
		is(r, c.createSuper(name, partitions, keys), precondition)
		is(r, c.partitions(name), names{noStream, nil})
		is(r, c.delete(name+"-0"), noStream)
	}
}
