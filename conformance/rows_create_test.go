package conformance

import (
	"strings"

	"github.com/tidemark-go/tidemark/internal/wire"
)

var createRows = func() []row {
	rows := []row{
		{name: "a stream is usable at once", section: "16", run: func(r *run) {
			c, name := r.open(), r.name()
			is(r, c.create(name), ok)
			m := c.metadata(name)
			is(r, m.Streams, []wire.StreamMetadata{{Stream: name, Code: ok}})
			is(r, c.declare(1, "", name), ok)
			c.publish(1, 1)
			c.confirmed(1, 1)
		}},
		{name: "one that exists", section: "4 Create", run: func(r *run) {
			c, name := r.open(), r.name()
			is(r, c.create(name), ok)
			is(r, c.create(name), streamExists)
		}},
		{name: "again after deletion", section: "4 Create", run: func(r *run) {
			c, name := r.open(), r.name()
			for range 3 {
				is(r, c.create(name), ok)
				is(r, c.delete(name), ok)
			}
		}},
		{name: "an empty name", section: "13", run: creates("", precondition)},
		{name: "a reserved name", section: "13", run: creates("amq.cf", precondition)},
		{name: "CR and LF are taken out of a name", section: "13", run: func(r *run) {
			c, name := r.open(), r.name()
			is(r, c.create("\r"+name[:3]+"\r\n"+name[3:]+"\n"), ok)
			is(r, c.delete(name), ok)
		}},
		{name: "only CR and LF", section: "13", run: creates("\r\n", precondition)},
		{name: "a name with spaces, slashes and more than ASCII", section: "13", run: func(r *run) {
			c, name := r.open(), r.name()+" / ä☃\x01%2F"
			is(r, c.create(name), ok)
			is(r, c.metadata(name).Streams, []wire.StreamMetadata{{Stream: name, Code: ok}})
			is(r, c.delete(name), ok)
		}},
		{name: "a name of 255 bytes", section: "13", run: longName(255)},
		{name: "a name of 256 bytes", section: "13", run: longName(256)},
		{name: "names are told apart by case", section: "13", run: func(r *run) {
			c, name := r.open(), r.stream()
			is(r, c.delete(strings.ToUpper(name)), noStream)
		}},
		{name: "all arguments at once", section: "12", run: creating(ok, "max-length-bytes", "1000000", "max-age", "1h",
			"stream-max-segment-size-bytes", "100000", "initial-cluster-size", "1", "queue-leader-locator", "client-local",
			"stream-filter-size-bytes", "32", "cf-unknown", "x")},
		{name: "max-length-bytes that is no number", section: "12", run: func(r *run) {
			c := r.open()
			c.send(&wire.Create{Correlation: c.next(), Stream: r.name(), Arguments: props("max-length-bytes", "lots")})
			c.ended()
		}},
		// RabbitMQ 4.0.5 can hardly delete such a stream, so the row
		// spares it.
		{name: "max-age that is no age", section: "12", since: "4.3.0", run: func(r *run) {
			c := r.open()
			for _, age := range []string{"10", "0s", "-1s", "x"} {
				is(r, c.create(r.name(), "max-age", age), ok)
			}
		}},
	}
	for _, a := range []struct {
		key, value string
		want       wire.Code
	}{
		{"max-length-bytes", "1000000", ok}, {"max-length-bytes", "0", ok}, {"max-length-bytes", "-1", ok},
		{"max-age", "1Y", ok}, {"max-age", "2M", ok}, {"max-age", "3D", ok}, {"max-age", "4h", ok},
		{"max-age", "5m", ok}, {"max-age", "6s", ok},
		{"stream-max-segment-size-bytes", "1000", ok}, {"stream-max-segment-size-bytes", "3000000000", ok},
		{"stream-max-segment-size-bytes", "3000000001", precondition},
		{"initial-cluster-size", "1", ok}, {"initial-cluster-size", "5", ok}, {"initial-cluster-size", "0", precondition},
		{"initial-cluster-size", "-1", precondition},
		{"queue-leader-locator", "client-local", ok}, {"queue-leader-locator", "balanced", ok},
		{"queue-leader-locator", "random", ok}, {"queue-leader-locator", "least-leaders", ok},
		{"queue-leader-locator", "min-masters", ok}, {"queue-leader-locator", "nearest", precondition},
		{"queue-leader-locator", "", precondition},
		{"stream-filter-size-bytes", "16", ok}, {"stream-filter-size-bytes", "255", ok},
		{"stream-filter-size-bytes", "15", precondition}, {"stream-filter-size-bytes", "256", precondition},
		{"cf-unknown", "", ok}, {"x-max-age", "never", ok},
	} {
		rows = append(rows, row{name: a.key + " of " + a.value, section: "12", run: creating(a.want, a.key, a.value)})
	}
	for _, a := range []struct {
		name          string
		first, second []string
		want          wire.Code
		before        wire.Code // on 4.0.5, if not want
	}{
		{name: "again with the same arguments", first: []string{"max-age", "1h"}, second: []string{"max-age", "1h"}, want: streamExists},
		{name: "again with the arguments in another order", first: []string{"max-age", "1h", "max-length-bytes", "5"},
			second: []string{"max-length-bytes", "5", "max-age", "1h"}, want: streamExists},
		{name: "again with another value", first: []string{"max-age", "1h"}, second: []string{"max-age", "2h"}, want: precondition},
		{name: "again with the same age in another unit", first: []string{"max-age", "1h"}, second: []string{"max-age", "60m"}, want: streamExists, before: precondition},
		{name: "again with an argument more", second: []string{"max-length-bytes", "5"}, want: precondition},
		{name: "again with an argument less", first: []string{"max-length-bytes", "5"}, want: precondition},
		{name: "again with another segment size", first: []string{"stream-max-segment-size-bytes", "1000"},
			second: []string{"stream-max-segment-size-bytes", "2000"}, want: precondition},
		{name: "again with another cluster size", first: []string{"initial-cluster-size", "1"},
			second: []string{"initial-cluster-size", "2"}, want: precondition},
		{name: "again with another leader locator", first: []string{"queue-leader-locator", "balanced"},
			second: []string{"queue-leader-locator", "client-local"}, want: precondition},
		{name: "again with another filter size", first: []string{"stream-filter-size-bytes", "16"},
			second: []string{"stream-filter-size-bytes", "32"}, want: precondition, before: streamExists},
		{name: "again with an unknown argument more", second: []string{"cf-unknown", "x"}, want: streamExists},
		{name: "again with an invalid argument", second: []string{"initial-cluster-size", "0"}, want: precondition},
	} {
		again := row{name: a.name, section: "12", run: recreates(a.first, a.second, a.want)}
		if a.before != 0 {
			again.since, again.before = "4.3.0", recreates(a.first, a.second, a.before)
		}
		rows = append(rows, again)
	}
	return rows
}()

func recreates(first, second []string, want wire.Code) func(*run) {
	return func(r *run) {
		c, name := r.open(), r.name()
		is(r, c.create(name, first...), ok)
		is(r, c.create(name, second...), want)
	}
}

func creates(name string, want wire.Code) func(*run) {
	return func(r *run) { is(r, r.open().create(name), want) }
}

// creating creates a stream with arguments and expects the code want. The
// stream must exist afterwards only if want is ok.
func creating(want wire.Code, args ...string) func(*run) {
	return func(r *run) {
		c, name := r.open(), r.name()
		is(r, c.create(name, args...), want)
		wantDelete := ok
		if want != ok {
			wantDelete = noStream
		}
		is(r, c.delete(name), wantDelete)
	}
}

func longName(n int) func(*run) {
	return func(r *run) {
		c, name := r.open(), r.name()
		name += strings.Repeat("n", n-len(name))
		is(r, c.create(name), ok)
		is(r, c.delete(name), ok)
	}
}

var deleteRows = []row{
	{name: "a stream", section: "4 Delete", run: func(r *run) {
		c, s := r.open(), r.stream()
		is(r, c.delete(s), ok)
		is(r, c.delete(s), noStream)
		is(r, c.metadata(s).Streams[0].Code, noStream)
		c.quiet()
	}},
	{name: "an unknown one", section: "4 Delete", run: func(r *run) { is(r, r.open().delete(r.name()), noStream) }},
	{name: "an empty name", section: "4 Delete", run: func(r *run) { is(r, r.open().delete(""), noStream) }},
	{name: "the answer comes before the update", section: "4 Delete", run: func(r *run) {
		c, s := r.open(), r.stream()
		is(r, c.declare(1, "", s), ok)
		is(r, c.delete(s), ok)
		c.gone(s)
		c.quiet()
	}},
	{name: "a publisher is told, and gone", section: "4 MetadataUpdate", run: func(r *run) {
		c := r.goneFor(func(c *client, s string) { is(r, c.declare(1, "ref", s), ok) })
		c.publish(1, 5)
		c.refused(1, noPublisher, 5)
		is(r, c.deletePublisher(1), noPublisher)
	}},
	{name: "a consumer is told, and gone", section: "4 MetadataUpdate", run: func(r *run) {
		c := r.goneFor(func(c *client, s string) { is(r, c.subscribe(1, s, first, 10), ok) })
		c.credit(1, 1)
		c.creditRefused(1, noSubscription)
		is(r, c.unsubscribe(1), noSubscription)
	}},
	{name: "who has several things there is told once", section: "4 MetadataUpdate", run: func(r *run) {
		r.goneFor(func(c *client, s string) {
			for id := range uint8(2) {
				is(r, c.declare(id, "", s), ok)
				is(r, c.subscribe(id, s, first, 10), ok)
			}
			c.store("ref", s, 1)
		})
	}},
	{name: "who stored an offset is told", section: "4 MetadataUpdate", run: func(r *run) {
		r.goneFor(func(c *client, s string) {
			c.store("ref", s, 1)
			c.quiet()
		})
	}},
	{name: "who asked for an offset is told", section: "4 MetadataUpdate", run: func(r *run) {
		r.goneFor(func(c *client, s string) { is(r, c.query("ref", s), number{noOffset, 0}) })
	}},
	{name: "who asked for metadata, figures and a sequence is not told", section: "4 MetadataUpdate", run: func(r *run) {
		r.untold(func(c *client, s string) {
			c.metadata(s)
			c.stats(s)
			c.sequence("ref", s)
		})
	}},
	{name: "who has left is not told", section: "4 MetadataUpdate", run: func(r *run) {
		r.untold(func(c *client, s string) {
			is(r, c.declare(1, "", s), ok)
			is(r, c.deletePublisher(1), ok)
			is(r, c.subscribe(1, s, first, 10), ok)
			is(r, c.unsubscribe(1), ok)
		})
	}},
	{name: "who has another publisher left is told", section: "4 MetadataUpdate", run: func(r *run) {
		r.goneFor(func(c *client, s string) {
			is(r, c.declare(1, "", s), ok)
			is(r, c.declare(2, "", s), ok)
			is(r, c.deletePublisher(1), ok)
		})
	}},
	{name: "other streams are not touched", section: "4 MetadataUpdate", run: func(r *run) {
		other := r.stream()
		c := r.goneFor(func(c *client, s string) {
			is(r, c.declare(1, "", other), ok)
			is(r, c.declare(2, "", s), ok)
		})
		c.publish(1, 5)
		c.confirmed(1, 5)
	}},
	{name: "a new stream of the name begins at 0", section: "7", run: func(r *run) {
		s := r.filled(3)
		is(r, r.admin().delete(s), ok)
		is(r, r.admin().create(s), ok)
		r.append(s, 0, 1)
		c := r.open()
		is(r, c.subscribe(1, s, first, 10), ok)
		is(r, c.chunks(1, 1), []uint64{0})
	}},
}

// goneFor deletes a stream that a connection uses, and expects that the broker
// tells the connection once. It returns the connection.
func (r *run) goneFor(use func(c *client, stream string)) *client {
	r.Helper()
	c, s := r.open(), r.stream()
	use(c, s)
	is(r, r.open().delete(s), ok)
	c.gone(s)
	is(r, c.metadata(s).Streams[0].Code, noStream)
	c.quiet()
	return c
}

// untold is like goneFor, but expects that the broker does not tell the
// connection. It tells a witness, so that it had the time.
func (r *run) untold(use func(c *client, stream string)) {
	r.Helper()
	c, s, witness := r.open(), r.stream(), r.open()
	use(c, s)
	is(r, witness.declare(1, "", s), ok)
	is(r, r.open().delete(s), ok)
	witness.gone(s)
	c.quiet()
}
