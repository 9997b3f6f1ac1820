package conformance

import (
	"maps"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// These rows say what a user with one kind of permission is answered to every
// command that names a stream, a super stream, a publisher or a subscription.
// ResolveOffsetSpec, which RabbitMQ has from 4.3 on, has rows of its own.
var userRows = []row{
	{name: "every command of who may only read", section: "13", since: "4.3.3",
		run: func(r *run) { is(r, r.everyCommand(reader), readerMay) },
		before: func(r *run) {
			is(r, r.everyCommand(reader), with(readerMay, map[string]wire.Code{"Route": ok}))
		}},
	{name: "every command of who may only write", section: "13",
		run: func(r *run) { is(r, r.everyCommand(writer), writerMay) }},
	{name: "every command of who may only configure", section: "13", since: "4.3.3",
		run: func(r *run) { is(r, r.everyCommand(configurer), configurerMay) },
		before: func(r *run) {
			is(r, r.everyCommand(configurer), with(configurerMay, map[string]wire.Code{
				"Metadata": ok, "Route": ok, "Partitions": ok,
			}))
		}},
}

var readerMay = map[string]wire.Code{
	"Create": accessRefused, "Delete": accessRefused, "Metadata": ok, "StreamStats": ok,
	"DeclarePublisher": accessRefused, "Publish": noPublisher, "DeletePublisher": noPublisher,
	"QueryPublisherSequence": ok, "Subscribe": ok, "Credit": ok, "Unsubscribe": ok, "join a group": ok,
	"StoreOffset": ok, "QueryOffset": noOffset,
	"CreateSuperStream": accessRefused, "DeleteSuperStream": accessRefused, "Route": accessRefused, "Partitions": ok,
}

var writerMay = map[string]wire.Code{
	"Create": accessRefused, "Delete": accessRefused, "Metadata": ok, "StreamStats": accessRefused,
	"DeclarePublisher": ok, "Publish": ok, "DeletePublisher": ok,
	"QueryPublisherSequence": accessRefused, "Subscribe": accessRefused, "Credit": noSubscription,
	"Unsubscribe": noSubscription, "join a group": accessRefused,
	"StoreOffset": accessRefused, "QueryOffset": accessRefused,
	"CreateSuperStream": accessRefused, "DeleteSuperStream": accessRefused, "Route": ok, "Partitions": ok,
}

var configurerMay = map[string]wire.Code{
	"Create": ok, "Delete": ok, "Metadata": accessRefused, "StreamStats": accessRefused,
	"DeclarePublisher": accessRefused, "Publish": noPublisher, "DeletePublisher": noPublisher,
	"QueryPublisherSequence": accessRefused, "Subscribe": accessRefused, "Credit": noSubscription,
	"Unsubscribe": noSubscription, "join a group": accessRefused,
	"StoreOffset": accessRefused, "QueryOffset": accessRefused,
	"CreateSuperStream": accessRefused, "DeleteSuperStream": accessRefused, "Route": accessRefused, "Partitions": accessRefused,
}

// with returns a copy of m with some entries replaced.
func with(m, replaced map[string]wire.Code) map[string]wire.Code {
	m = maps.Clone(m)
	maps.Copy(m, replaced)
	return m
}

// everyCommand sends every command as user, and returns the codes. StoreOffset
// has no answer: its code says whether the offset is stored.
func (r *run) everyCommand(user string) map[string]wire.Code {
	r.Helper()
	c, s := r.openAs(user, "/"), r.filled(1)
	super, _ := r.super("a")
	newSuper, partitions := r.superName(1)
	got := map[string]wire.Code{
		"Create": c.create(r.name()), "Delete": c.delete(r.stream()),
		"Metadata":          c.metadata(s).Streams[0].Code,
		"CreateSuperStream": c.createSuper(newSuper, partitions, []string{"a"}),
		"Route":             c.route("a", super).code,
		"Partitions":        c.partitions(super).code,
	}
	got["DeleteSuperStream"] = c.deleteSuper(super)
	got["StreamStats"], _ = c.stats(s)
	r.publishing(c, s, got)
	r.consuming(c, s, got)
	return got
}

func (r *run) publishing(c *client, stream string, got map[string]wire.Code) {
	r.Helper()
	got["DeclarePublisher"] = c.declare(1, "ref", stream)
	c.publish(1, 7)
	if got["Publish"] = ok; got["DeclarePublisher"] == ok {
		c.confirmed(1, 7)
	} else {
		c.refused(1, noPublisher, 7)
		got["Publish"] = noPublisher
	}
	got["DeletePublisher"] = c.deletePublisher(1)
	got["QueryPublisherSequence"] = c.sequence("ref", stream).code
}

func (r *run) consuming(c *client, stream string, got map[string]wire.Code) {
	r.Helper()
	got["QueryOffset"] = c.query("ref", stream).code
	got["StoreOffset"] = accessRefused
	c.store("ref", stream, 0)
	c.quiet()
	if r.admin().query("ref", stream).code == ok {
		got["StoreOffset"] = ok
	}
	got["Subscribe"] = c.subscribe(1, stream, first, 0)
	c.credit(1, 1)
	if got["Credit"] = ok; got["Subscribe"] == ok {
		is(r, c.chunks(1, 1), []uint64{0})
	} else {
		c.creditRefused(1, noSubscription)
		got["Credit"] = noSubscription
	}
	got["Unsubscribe"] = c.unsubscribe(1)
	if got["join a group"] = c.joining(2, stream, "group", 1); got["join a group"] == ok {
		c.activated(2)
	}
}
