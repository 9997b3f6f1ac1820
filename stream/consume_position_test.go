package stream

import (
	"testing"

	"github.com/tidemark-go/tidemark/internal/broker"
	"github.com/tidemark-go/tidemark/internal/mark"
	"github.com/tidemark-go/tidemark/internal/script"
	"github.com/tidemark-go/tidemark/internal/wire"
)

// TestBeginPlace: the stored offset goes first, if there is one and it is asked
// for. In a stream that was created again it is the old one's.
func TestBeginPlace(t *testing.T) {
	full := broker.Extent{FirstOffset: 10, CommittedChunk: 100}
	for name, test := range map[string]struct {
		store     *memoryStore
		start     Start
		recreated bool
		loads     int
		from      uint64
		begun     bool
		want      error
	}{
		"no name":             {start: Stored(At(7)), from: 7, begun: true},
		"stored":              {store: &memoryStore{has: true, offset: 41}, start: Stored(At(7)), loads: 1, from: 42, begun: true},
		"stored 0":            {store: &memoryStore{has: true}, start: Stored(At(7)), loads: 1, from: 1, begun: true},
		"nothing stored":      {store: &memoryStore{offset: 41}, start: Stored(At(7)), loads: 1, from: 7, begun: true},
		"not asked for":       {store: &memoryStore{has: true, offset: 41}, start: At(7), from: 7, begun: true},
		"before the first":    {store: &memoryStore{has: true, offset: BeforeFirst}, start: Stored(At(7)), loads: 1, from: 0, begun: true},
		"cannot be loaded":    {store: &memoryStore{fails: errTest}, loads: 1, want: ErrOffsetStore},
		"created again":       {store: &memoryStore{has: true, offset: 41}, start: Stored(At(7)), recreated: true, from: 7, begun: true},
		"created again, next": {start: Next(), recreated: true, begun: true},
	} {
		cfg := ConsumerConfig{Start: test.start}
		if test.store != nil {
			cfg.Name, cfg.OffsetStore = "billing", test.store
		}
		r := aloneRun(t, cfg)
		r.recreated = test.recreated
		err := r.beginPlace(t.Context(), nil, full)
		if wantErr(t, err, test.want); (err != nil) != (test.want != nil) || r.place.Begun() != test.begun || r.place.Next().From != test.from {
			t.Errorf("%s: begun %v, at %d, %v, want %v, at %d", name, r.place.Begun(), r.place.Next().From, err, test.begun, test.from)
		}
		if test.store != nil && test.store.loads != test.loads {
			t.Errorf("%s: %d loads", name, test.store.loads)
		}
	}
	b := startScripted(t)
	b.onSubscribe = func(p *script.Peer, _ int, _ wire.OffsetSpec) { p.Write(script.Chunk(100, "a")) }
	r := aloneRun(t, ConsumerConfig{Start: Next()})
	if must(t, r.beginPlace(t.Context(), openOn(t, b, 1), full)); r.place.Next().Spec.Value != 100 || r.place.ResumeChunk().First != 100 {
		t.Errorf("Next begins with %+v, want the chunk 100", r.place.Next())
	}
}

// TestCheckRecreated: a stream that ends before what was read of it is another one
// if its chunks say so. A node that is behind, or has no chunk, is no proof.
func TestCheckRecreated(t *testing.T) {
	beside(t)
	for name, test := range map[string]struct {
		committed uint64
		frame     []byte // what the node has
		asks      bool
		want      error
	}{
		"no shorter":     {committed: 100},
		"behind":         {committed: 99, frame: script.Chunk(90, "a"), asks: true},
		"another stream": {committed: 99, frame: script.LaterChunk(90, "a"), asks: true, want: ErrStreamRecreated},
		"nothing comes":  {committed: 99, asks: true},
	} {
		t.Run(name, func(t *testing.T) {
			besideSubtest(t)
			b := startScripted(t)
			b.onSubscribe = func(p *script.Peer, nth int, _ wire.OffsetSpec) {
				if nth > 0 {
					_ = p.Conn.Close()
				}
				p.Write(test.frame)
			}
			s := openOn(t, b, 100)
			r := aloneRun(t, ConsumerConfig{})
			r.place.Begin(mark.AtOffset(90), mark.AtOffset(90))
			for _, first := range []uint64{90, 100} {
				chunk, err := wire.ParseChunk(script.Chunk(first, "a")[deliverHead:])
				must(t, err)
				r.place.Receive(&chunk)
			}
			err := r.checkRecreated(soon(t), s, broker.Extent{CommittedChunk: test.committed})
			if wantErr(t, err, test.want); (err == nil) != (test.want == nil) {
				t.Errorf("%v", err)
			}
			b.set(func() {
				if asked := b.subscriptions > 0; asked != test.asks {
					t.Errorf("asked for a chunk: %v", asked)
				}
			})
			if test.asks && test.frame != nil {
				wantErr(t, r.checkRecreated(soon(t), s, broker.Extent{CommittedChunk: test.committed}), ErrUnreachable)
			}
		})
	}
}
