package stream

import (
	"context"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// lendingDecoder returns a decoder that lends the messages of a chunk, from an
// offset on.
func lendingDecoder(chunk *wire.Chunk, from uint64) *decoder {
	d := &decoder{loan: newLoan()}
	d.beginLent("s", chunk, from)
	return d
}

// seenIn returns what a handler sees of the rest of a chunk.
func seenIn(d *decoder) string {
	var seen strings.Builder
	for list := d.block(blockSize); len(list) > 0; list = d.block(blockSize) {
		for i := range list {
			fmt.Fprintf(&seen, "%+v ", viewOf(&list[i]))
		}
	}
	fmt.Fprint(&seen, d.err, d.bad, d.good)
	return seen.String()
}

// severalSections encodes a message of several sections, with a number.
func severalSections(n int) []byte {
	return (&Message{Body: number(n), ApplicationProperties: map[string]any{"k": n}}).mustEncode()
}

// chunksOfAllKinds returns chunks with messages of data alone, of several sections
// and of bare bytes, with sub-batches, and with one that is damaged.
func chunksOfAllKinds(t *testing.T) (chunks []*wire.Chunk) {
	full := severalSections(0)
	var mixed []byte
	for i := range 150 {
		mixed = wire.AppendEntry(mixed, [][]byte{appendData(nil, number(i)), severalSections(i), fmt.Append(nil, "bare", i)}[i%3])
	}
	batches := wire.AppendEntry(nil, full)
	for _, c := range []wire.Compression{wire.CompressionNone, wire.CompressionZstd} {
		batches = wire.AppendBatch(batches, batchOf(t, c, string(full), "bare", string(full)))
	}
	damaged := batchOf(t, wire.CompressionGzip, "0", "1")
	damaged.Body = []byte("not gzip")
	return []*wire.Chunk{
		plainChunk(0, 1), plainChunk(5, 3*lentSize), plainChunk(5, 3*lentSize+1),
		chunkOf(0, 150, 150, mixed), chunkOf(7, 3, 7, batches),
		chunkOf(0, 2, 3, wire.AppendBatch(wire.AppendEntry(nil, full), damaged)),
	}
}

// TestLentMessages are those that a handler would be given, whatever chunk came
// before, and from any offset on.
func TestLentMessages(t *testing.T) {
	lending := &decoder{loan: newLoan()}
	for i, chunk := range chunksOfAllKinds(t) {
		for from := chunk.FirstOffset; from < chunk.FirstOffset+uint64(chunk.Records); from++ {
			for _, match := range []func(*Delivery) bool{nil, func(d *Delivery) bool { return d.Offset%4 == 1 }} {
				giving := &decoder{match: match}
				giving.begin("s", chunk, from)
				lending.match = match
				lending.beginLent("s", chunk, from)
				if want, got := seenIn(giving), seenIn(lending); got != want {
					t.Errorf("chunk %d from %d: lent %s, given %s", i, from, got, want)
				}
				lending.finish()
				if l := lending.loan; !reflect.DeepEqual(l, newLoan()) || lending.spare != nil {
					t.Fatalf("chunk %d is still held in memory: %+v", i, l)
				}
			}
		}
	}
}

// TestLentMemory is used again: there is one block, nothing is copied, and nothing
// allocated.
func TestLentMemory(t *testing.T) {
	chunk := chunksOfAllKinds(t)[3]
	d := lendingDecoder(chunk, 0)
	first, last := d.block(blockSize), len(chunk.Data)-1
	if len(first) != lentSize {
		t.Errorf("a block of %d, want %d", len(first), lentSize)
	}
	place := &first[0]
	list := d.block(blockSize)
	if &list[0] != place || list[0].Offset != lentSize {
		t.Errorf("the second block is elsewhere, or begins with %d", list[0].Offset)
	}
	list = d.block(blockSize)
	if body := list[len(list)-1].Raw(); &body[len(body)-1] != &chunk.Data[last] {
		t.Error("the bytes were copied")
	}
	if n := testing.AllocsPerRun(10, func() {
		d.beginLent("s", chunk, 0)
		for len(d.block(blockSize)) > 0 {
		}
		d.finish()
	}); n > 0 {
		t.Errorf("%v allocations for a chunk", n)
	}
}

// TestLentMemoryOfPicked: what a filter leaves out takes no memory, however few of
// the messages it picks.
func TestLentMemoryOfPicked(t *testing.T) {
	const total, each = 20 * lentSize, 10
	var entries []byte
	for i := range total {
		entries = wire.AppendEntry(entries, severalSections(i))
	}
	chunk := chunkOf(0, total, total, entries)
	d := lendingDecoder(chunk, 0)
	d.match = func(m *Delivery) bool { return m.Offset%each == 0 }
	picked := 0
	if n := testing.AllocsPerRun(10, func() {
		d.beginLent("s", chunk, 0)
		for list := d.block(blockSize); len(list) > 0; list = d.block(blockSize) {
			picked += len(list)
		}
		d.finish()
	}); n > 0 {
		t.Errorf("%v allocations for a chunk", n)
	}
	if want := 11 * total / each; picked != want {
		t.Errorf("%d messages were picked, want %d", picked, want)
	}
}

// TestLentChunk: one that is handled allocates nothing, however small it is, and
// the dispatcher does not hold it in memory.
func TestLentChunk(t *testing.T) {
	for _, size := range []int{1, 3 * lentSize} {
		s, _, _ := serialRun(t, t.Context(), ConsumerConfig{ReuseDelivery: true}, neverFails)
		handled := 0
		s.run.handler = func(context.Context, *Delivery) error { handled++; return nil }
		d, chunk := &s.run.decoder, plainChunk(0, size)
		n := testing.AllocsPerRun(10, func() {
			d.beginLent(testStream, chunk, 0)
			must(t, s.dispatch(chunk, d))
			d.finish()
		})
		if n > 0 || handled != 11*size {
			t.Errorf("a chunk of %d: %v allocations, %d messages in 11 chunks", size, n, handled)
		}
		if s.block.list != nil || s.block.source != nil {
			t.Errorf("a chunk of %d is still in hand", size)
		}
	}
}

// TestRelayTurnLends: a partition that lends keeps its turn for its chunk, though
// others wait.
func TestRelayTurnLends(t *testing.T) {
	playTurns(t, ConsumerConfig{ReuseDelivery: true}, func(p *turnScene) {
		others := p.another()
		if n := p.turn(); n != 4*blockSize {
			t.Errorf("the turn had %d messages, want the whole chunk", n)
		}
		(<-p.relay.calls).serve()
		must(t, <-others)
	})
}

// TestReuseDelivery: Run, All and a super stream's Run lend one message after the
// other, in chunks of any size, and resume at the next one.
func TestReuseDelivery(t *testing.T) {
	play(t, Config{}, func(s *scene) {
		const n = 1000
		publish := func(name string) {
			for i := 0; i < n; {
				var bodies []string
				for size := 1 + i%97; i < n && len(bodies) < size; i++ {
					bodies = append(bodies, strconv.Itoa(i))
				}
				must(s, s.b.Publish(name, bodies...))
			}
		}
		must(s, s.env.DeclareSuperStream(s.ctx, "orders", SuperStreamConfig{Partitions: 3}))
		partitions, err := s.env.Partitions(s.ctx, "orders")
		must(s, err)
		must(s, s.env.DeclareStream(s.ctx, "plain", StreamConfig{}))
		for _, p := range append(partitions, "plain") {
			publish(p)
		}
		for name, super := range map[string]bool{"plain": false, "orders": true} {
			total := n
			if super {
				total *= len(partitions)
			}
			c, err := s.env.NewConsumer(name, ConsumerConfig{Name: "billing", SuperStream: super, ReuseDelivery: true})
			must(s, err)
			next, handled, places := map[string]int{}, 0, map[*Delivery]bool{}
			take := func(d *Delivery) bool {
				if want := strconv.Itoa(next[d.Stream]); string(d.Body) != want || d.Offset != uint64(next[d.Stream]) {
					s.Errorf("%s: message %d is %q, want %s", d.Stream, d.Offset, d.Body, want)
				}
				next[d.Stream]++
				handled++
				places[d] = true
				return handled == total/2 || handled == total
			}
			ctx, stop := context.WithCancel(s.ctx)
			must(s, c.Run(ctx, func(_ context.Context, d *Delivery) error {
				if take(d) {
					stop()
				}
				return nil
			}))
			if handled != total/2 {
				s.Errorf("%s: %d were handled, want half of %d", name, handled, total)
			}
			ctx, stop = context.WithCancel(s.ctx)
			for d, err := range c.All(ctx) {
				if must(s, err); take(d) {
					stop()
				}
			}
			stop()
			if most := 2 * lentSize * len(next); handled != total || len(places) > most {
				s.Errorf("%s: %d of %d were handled, at %d places, want %d at most", name, handled, total, len(places), most)
			}
		}
	})
}

// TestReuseDeliveryRefused where a message is not handled before the next one is
// taken.
func TestReuseDeliveryRefused(t *testing.T) {
	play(t, Config{}, func(s *scene) {
		_, err := s.env.NewConsumer("s", ConsumerConfig{ReuseDelivery: true, Workers: 2})
		wantErr(s, err, ErrInvalidConfig)
		if !strings.Contains(err.Error(), "Workers is 2") {
			s.Errorf("the error names no remedy: %v", err)
		}
		c, err := s.env.NewConsumer("s", ConsumerConfig{ReuseDelivery: true, Workers: 1})
		must(s, err)
		err = c.RunBatch(s.ctx, func(context.Context, []Delivery) error { return nil })
		wantErr(s, err, ErrInvalidConfig)
		if !strings.Contains(err.Error(), "ReuseDelivery") {
			s.Errorf("the error names no remedy: %v", err)
		}
	})
}

// TestLentIsSent: what a handler publishes of a message that is lent to it arrives,
// though the outcome comes after the handler has returned.
func TestLentIsSent(t *testing.T) {
	play(t, Config{}, func(s *scene) {
		const n = 3000
		must(s, s.env.DeclareStream(s.ctx, "from", StreamConfig{}))
		must(s, s.env.DeclareStream(s.ctx, "to", StreamConfig{}))
		var bodies []string
		for i := range n {
			bodies = append(bodies, strconv.Itoa(i))
		}
		must(s, s.b.Publish("from", bodies...))
		for _, cfg := range []ProducerConfig{{}, {SubEntries: 50, Compression: CompressionZstd}} {
			p := s.producerOf(s.env, "to", cfg)
			c, err := s.env.NewConsumer("from", ConsumerConfig{ReuseDelivery: true})
			must(s, err)
			ctx, stop := context.WithCancel(s.ctx)
			must(s, c.Run(ctx, func(ctx context.Context, d *Delivery) error {
				if d.Offset == n-1 {
					stop()
				}
				return p.PublishAsync(s.ctx, d.Message(), nil)
			}))
			must(s, p.Flush(s.ctx))
			must(s, p.Close(s.ctx))
		}
		c, err := s.env.NewConsumer("to", ConsumerConfig{})
		must(s, err)
		ctx, stop := context.WithCancel(s.ctx)
		next := 0
		must(s, c.Run(ctx, func(_ context.Context, d *Delivery) error {
			if want := bodies[next%n]; string(d.Body) != want {
				return fmt.Errorf("message %d is %q, want %s", next, d.Body, want)
			}
			if next++; next == 2*n {
				stop()
			}
			return nil
		}))
	})
}
