package conformance

import (
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// deliverVersion2 says that the client knows both versions of Deliver.
var deliverVersion2 = wire.CommandVersion{Key: wire.KeyDeliver, Min: 1, Max: 2}

var deliverRows = []row{
	{name: "the header of a chunk", section: "5", run: func(r *run) {
		s := r.stream()
		before := time.Now()
		r.append(s, 0, 2)
		c := r.open()
		is(r, c.subscribe(1, s, first, 2), ok)
		for i := range uint64(2) {
			_, chunk := c.deliver(1) // checks magic, type, lengths and checksum
			if d := time.UnixMilli(chunk.Timestamp).Sub(before); d < -time.Minute || d > time.Minute {
				r.Errorf("written %v after the start", d)
			}
			chunk.Timestamp, chunk.CRC, chunk.Data = 0, 0, nil
			chunk.BloomSize, chunk.TrailerLength = 0, 0 // the broker does not deliver those bytes
			is(r, chunk, wire.Chunk{ChunkHeader: wire.ChunkHeader{
				Entries: 1, Records: 1, Epoch: 1, FirstOffset: i, DataLength: 6,
			}})
		}
	}},
	{name: "the checksum", section: "5", run: func(r *run) {
		c, s := r.open(), r.filled(1)
		is(r, c.subscribe(1, s, first, 2), ok)
		_, chunk := c.deliver(1)
		is(r, string(chunk.Data), "\x00\x00\x00\x02m0")
		is(r, chunk.CRC, wire.Checksum([]byte("\x00\x00\x00\x02m0")))
	}},
	{name: "the offsets of a quiet stream have no gaps", section: "5", run: func(r *run) {
		s := r.stream()
		c := r.publisher("", s)
		for range 5 {
			c.publish(1, upTo(70)...)
			c.confirmed(1, upTo(70)...)
		}
		d := r.open()
		is(r, d.subscribe(1, s, first, 1000), ok)
		for want := uint64(0); want < 350; {
			_, chunk := d.deliver(1)
			is(r, chunk.FirstOffset, want)
			want += uint64(chunk.Records)
		}
	}},
	{name: "version 1 unless asked for", section: "4 Deliver", run: delivers(1, func(*client) {})},
	{name: "version 1 where only Publish is named", section: "2.6", run: delivers(1, func(c *client) {
		c.exchange(wire.CommandVersion{Key: wire.KeyPublish, Min: 1, Max: 2})
	})},
	{name: "version 1 where no more is known", section: "2.6", run: delivers(1, func(c *client) {
		c.exchange(wire.CommandVersion{Key: wire.KeyDeliver, Min: 1, Max: 1})
	})},
	{name: "version 1 where more is known than there is", section: "2.6", run: delivers(1, func(c *client) {
		c.exchange(wire.CommandVersion{Key: wire.KeyDeliver, Min: 1, Max: 3})
	})},
	{name: "there is no way back from version 2", section: "2.6", run: delivers(2, func(c *client) {
		c.exchange(deliverVersion2)
		c.exchange(wire.CommandVersion{Key: wire.KeyDeliver, Min: 1, Max: 1})
	})},
	{name: "version 2", section: "4 Deliver", run: delivers(2, func(c *client) { c.exchange(deliverVersion2) })},
	{name: "version 2 tells the last chunk", section: "4 Deliver", run: func(r *run) {
		c, s := r.open(), r.filled(5)
		c.exchange(deliverVersion2)
		is(r, c.subscribe(1, s, at(1), 1), ok)
		d, chunk := c.deliver(1)
		is(r, [2]uint64{d.CommittedChunk, chunk.FirstOffset}, [2]uint64{4, 1})
	}},
	{name: "tracking is delivered to who asks for all chunks", section: "4 Subscribe", run: func(r *run) {
		c, s := r.open(), r.tracked()
		is(r, c.subscribe(1, s, first, 1, "chunk_selector", "all"), ok)
		d, err := wire.DecodeDeliver(wire.Version1, c.expect(wire.KeyDeliver).fields)
		is(r, err, nil)
		is(r, d.Chunk[1], wire.ChunkTrackingDelta)
	}},
	{name: "tracking is not delivered", section: "5", run: func(r *run) {
		c, s := r.open(), r.filled(1)
		is(r, c.subscribe(1, s, first, 1), ok)
		is(r, c.bodies(1, 1), []string{"m0"})
		c.credit(1, 2)
		c.quiet()
		for i := range uint64(3) {
			r.admin().store("ref", s, i)
			is(r, r.admin().query("ref", s), number{ok, i})
		}
		r.append(s, 1, 2)
		is(r, c.bodies(1, 2), []string{"m1", "m2"}) // two credits suffice: tracking has cost none
	}},
}

func delivers(version uint16, prepare func(*client)) func(*run) {
	return func(r *run) {
		c, s := r.open(), r.filled(1)
		prepare(c)
		is(r, c.subscribe(1, s, first, 1), ok)
		is(r, c.expect(wire.KeyDeliver).version, version)
	}
}
