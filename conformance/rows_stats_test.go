package conformance

import (
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

func figures(first, last, committed int64) map[string]int64 {
	return map[string]int64{"first_chunk_id": first, "last_chunk_id": last, "committed_chunk_id": committed}
}

var statsRows = []row{
	{name: "an empty stream", section: "4 StreamStats", run: func(r *run) {
		code, stats := r.open().stats(r.stream())
		is(r, code, ok)
		is(r, stats, figures(-1, -1, -1))
	}},
	{name: "one chunk", section: "4 StreamStats", run: func(r *run) {
		_, stats := r.open().stats(r.filled(1))
		is(r, stats, figures(0, 0, 0))
	}},
	{name: "five chunks of two", section: "4 StreamStats", run: func(r *run) {
		_, stats := r.open().stats(r.pairs())
		is(r, stats, figures(0, 8, 8))
	}},
	{name: "no such stream", section: "4 StreamStats", run: func(r *run) {
		code, stats := r.open().stats(r.name())
		is(r, code, noStream)
		is(r, len(stats), 0)
	}},
	{name: "a stored offset counts as a chunk", section: "4 StreamStats", run: func(r *run) {
		_, stats := r.open().stats(r.tracked())
		is(r, stats, figures(0, 0, 0))
	}},
	{name: "the committed offset", section: "4 StreamStats", since: "4.3.0",
		run:    func(r *run) { is(r, r.committedOffset(r.pairs()), []int64{9}) },
		before: func(r *run) { is(r, len(r.committedOffset(r.pairs())), 0) }},
	{name: "the committed offset of an empty stream", section: "4 StreamStats", since: "4.3.0",
		run: func(r *run) { is(r, r.committedOffset(r.stream()), []int64{-1}) }},
	{name: "the first chunk moves with retention", section: "12", run: func(r *run) {
		s, first := r.trimmed()
		_, stats := r.open().stats(s)
		is(r, stats, figures(int64(first), 99, 99))
	}},
}

// committedOffset returns the values of committed_offset in the answer to
// StreamStats: one, or none on an older RabbitMQ.
func (r *run) committedOffset(stream string) []int64 {
	r.Helper()
	c := r.open()
	c.send(&wire.StreamStats{Correlation: c.next(), Stream: stream})
	var resp wire.StreamStatsResponse
	c.decode(&resp)
	var got []int64
	for _, s := range resp.Stats {
		if s.Key == "committed_offset" {
			got = append(got, s.Value)
		}
	}
	return got
}

var resolveRows = func() []row {
	resolves := func(stream func(*run) string, spec wire.OffsetSpec, want uint64) func(*run) {
		return func(r *run) { is(r, r.open().resolve(stream(r), spec), number{ok, want}) }
	}
	empty := func(r *run) string { return r.stream() }
	soon := from(time.Now().Add(time.Hour).UnixMilli())
	rows := []row{
		{name: "first of nothing", run: resolves(empty, first, 0)},
		{name: "last of nothing", run: resolves(empty, last, 0)},
		{name: "next of nothing", run: resolves(empty, next, 0)},
		{name: "a time on nothing", run: resolves(empty, from(1), 0)},
		{name: "first", run: resolves((*run).pairs, first, 0)},
		{name: "last", run: resolves((*run).pairs, last, 8)},
		{name: "next", run: resolves((*run).pairs, next, 10)},
		{name: "the beginning of a chunk", run: resolves((*run).pairs, at(4), 4)},
		{name: "inside a chunk", run: resolves((*run).pairs, at(5), 4)},
		{name: "the end", run: resolves((*run).pairs, at(10), 10)},
		{name: "beyond the end", run: resolves((*run).pairs, at(1000), 10)},
		{name: "an early time", run: resolves((*run).pairs, from(1), 0)},
		{name: "a time to come", run: resolves((*run).pairs, soon, 10)},
		{name: "a filter makes no difference", run: func(r *run) {
			s := r.stream()
			r.fruits(s, append(others(40), "apple"))
			is(r, r.open().resolve(s, first, "filter.0", "apple"), number{ok, 0})
		}},
		{name: "on nothing but a stored offset", run: resolves((*run).tracked, next, 1)},
		{name: "no such stream", run: func(r *run) { is(r, r.open().resolve(r.name(), first), number{noStream, 0}) }},
		{name: "without permission to read", run: func(r *run) {
			s := r.filled(1)
			for _, user := range []string{writer, configurer} {
				is(r, r.openAs(user, "/").resolve(s, first), number{accessRefused, 0})
			}
			is(r, r.openAs(reader, "/").resolve(s, first), number{ok, 0})
		}},
	}
	for i := range rows {
		rows[i].section, rows[i].since = "4 ResolveOffsetSpec", "4.3.0"
	}
	rows[0].before = func(r *run) {
		c := r.open()
		c.send(&wire.ResolveOffsetSpec{Correlation: c.next(), Stream: r.stream(), Spec: first})
		c.closed(unknownFrame)
	}
	return rows
}()
