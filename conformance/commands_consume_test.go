package conformance

import (
	"maps"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// This file has the commands of consumers. commands_test.go has the others.

func (c *client) subscribe(id uint8, stream string, spec wire.OffsetSpec, credit uint16, properties ...string) wire.Code {
	c.t.Helper()
	return c.call(&wire.Subscribe{
		Correlation: c.next(), SubscriptionID: id, Stream: stream, Spec: spec, Credit: credit, Properties: props(properties...),
	})
}

func (c *client) unsubscribe(id uint8) wire.Code {
	c.t.Helper()
	return c.call(&wire.Unsubscribe{Correlation: c.next(), SubscriptionID: id})
}

func (c *client) credit(id uint8, n int16) {
	c.t.Helper()
	c.send(&wire.Credit{SubscriptionID: id, Credit: n})
}

// creditRefused expects the CreditResponse with which the broker refuses a
// credit.
func (c *client) creditRefused(id uint8, code wire.Code) {
	c.t.Helper()
	var resp wire.CreditResponse
	c.decode(&resp)
	is(c.t, resp, wire.CreditResponse{Code: code, SubscriptionID: id})
}

// deliver expects a chunk for the subscription and checks its subscription,
// checksum and type.
func (c *client) deliver(id uint8) (wire.Deliver, wire.Chunk) {
	c.t.Helper()
	f := c.expect(wire.KeyDeliver)
	d, err := wire.DecodeDeliver(f.version, f.fields)
	if err != nil {
		c.t.Fatal(err)
	}
	is(c.t, d.SubscriptionID, id)
	chunk, err := wire.ParseChunk(d.Chunk)
	if err == nil {
		err = chunk.Check()
	}
	if err != nil {
		c.t.Fatal(err)
	}
	is(c.t, chunk.Type, wire.ChunkUser)
	return d, chunk
}

// chunks expects n chunks and returns their first offsets.
func (c *client) chunks(id uint8, n int) []uint64 {
	c.t.Helper()
	var offsets []uint64
	for range n {
		_, chunk := c.deliver(id)
		offsets = append(offsets, chunk.FirstOffset)
	}
	return offsets
}

// bodies expects n entries, in any number of chunks, and returns their bodies.
func (c *client) bodies(id uint8, n int) []string {
	c.t.Helper()
	var texts []string
	for len(texts) < n {
		_, chunk := c.deliver(id)
		w := chunk.Walk()
		for e := (wire.Entry{}); ; {
			if _, more := w.Next(&e); !more {
				break
			}
			texts = append(texts, string(e.Body))
		}
		if w.Err() != nil {
			c.t.Fatal(w.Err())
		}
	}
	return texts
}

func (c *client) store(reference, stream string, offset uint64) {
	c.t.Helper()
	c.send(&wire.StoreOffset{Reference: reference, Stream: stream, Offset: offset})
}

func (c *client) query(reference, stream string) number {
	c.t.Helper()
	c.send(&wire.QueryOffset{Correlation: c.next(), Reference: reference, Stream: stream})
	var resp wire.QueryOffsetResponse
	c.decode(&resp)
	is(c.t, resp.Correlation, c.corr)
	return number{resp.Code, resp.Offset}
}

// stats returns the figures of a stream without committed_offset. Only newer
// brokers send that, and a row of its own tests it.
func (c *client) stats(stream string) (wire.Code, map[string]int64) {
	c.t.Helper()
	c.send(&wire.StreamStats{Correlation: c.next(), Stream: stream})
	var resp wire.StreamStatsResponse
	c.decode(&resp)
	is(c.t, resp.Correlation, c.corr)
	got := make(map[string]int64)
	for _, s := range resp.Stats {
		got[s.Key] = s.Value
	}
	maps.DeleteFunc(got, func(key string, _ int64) bool { return key == "committed_offset" })
	return resp.Code, got
}

func (c *client) resolve(stream string, spec wire.OffsetSpec, properties ...string) number {
	c.t.Helper()
	c.send(&wire.ResolveOffsetSpec{Correlation: c.next(), Stream: stream, Spec: spec, Properties: props(properties...)})
	var resp wire.ResolveOffsetSpecResponse
	c.decode(&resp)
	is(c.t, resp.Correlation, c.corr)
	is(c.t, resp.Type, wire.OffsetAt)
	return number{resp.Code, resp.Offset}
}
