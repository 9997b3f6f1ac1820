package stream

import (
	"bytes"
	"context"
	"testing"
)

// FuzzRing takes pieces and gives them back in order: no two of them overlap,
// and whatever the sizes, all of it is free again at the end.
func FuzzRing(f *testing.F) {
	f.Add([]byte{1, 2, 255, 3, 255, 255})
	f.Add([]byte{120, 120, 255, 60, 255, 30, 30, 30, 255, 90})
	f.Fuzz(func(t *testing.T, steps []byte) {
		r := ring{size: 16 * minPiece}
		var out [][]byte
		for i, step := range steps {
			if step < 250 {
				n := minPiece / 8 * (1 + int(step))
				b := r.get(n)
				if len(b) != n {
					t.Fatalf("%d bytes, want %d", len(b), n)
				}
				for at := range b { // whoever overlaps it will show
					b[at] = byte(i)
				}
				out = append(out, b)
			} else if len(out) > 0 {
				r.put(whole(t, out[0]))
				out = out[1:]
			}
		}
		for _, b := range out {
			r.put(whole(t, b))
		}
		if len(r.pieces) != 0 {
			t.Errorf("%d pieces are still in use", len(r.pieces))
		}
		if b := r.get(r.size); r.mem == nil || &b[0] != &r.mem[0] {
			t.Error("an empty ring has no room for all of its size")
		}
	})
}

func whole(t *testing.T, b []byte) []byte {
	t.Helper()
	if len(bytes.Trim(b, string(b[:1]))) != 0 {
		t.Fatal("two pieces overlap")
	}
	return b
}

func TestRingTrim(t *testing.T) {
	r := ring{size: 4 * minPiece}
	r.get(minPiece - 1)
	if r.mem != nil {
		t.Error("a small chunk made it allocate")
	}
	b := r.get(minPiece)
	r.trim()
	r.trim()
	if r.mem == nil {
		t.Fatal("memory in use was let go of")
	}
	r.put(b)
	r.trim()
	if r.mem != nil {
		t.Error("memory that is not used is kept")
	}
}

// TestRingRoom is where the next piece goes, in a ring of 100 bytes.
func TestRingRoom(t *testing.T) {
	for name, test := range map[string]struct {
		pieces []piece
		n      int
		start  int
		ok     bool
	}{
		"empty":                 {nil, 100, 0, true},
		"to the end":            {[]piece{{0, 60}}, 40, 60, true},
		"over the end":          {[]piece{{0, 60}}, 41, 0, false},
		"at the start, exactly": {[]piece{{30, 60}, {60, 90}}, 30, 0, true},
		"at the start, too big": {[]piece{{30, 60}, {60, 90}}, 31, 0, false},
		"at the end first":      {[]piece{{30, 90}}, 10, 90, true},
		"full to the end":       {[]piece{{30, 100}}, 30, 0, true},
		"between, exactly":      {[]piece{{50, 90}, {0, 20}}, 30, 20, true},
		"between, too big":      {[]piece{{50, 90}, {0, 20}}, 31, 20, false},
		"full, wrapped":         {[]piece{{50, 100}, {0, 50}}, 1, 50, false},
		"full, not wrapped":     {[]piece{{0, 100}}, 1, 0, false},
	} {
		r := ring{size: 100, pieces: test.pieces}
		if start, ok := r.room(test.n); ok != test.ok || ok && start != test.start {
			t.Errorf("%s: at %d, %v, want %d, %v", name, start, ok, test.start, test.ok)
		}
	}
}

// TestRingGet: from minPiece to all of the ring, what fits lies in it, and cannot
// grow into the next piece.
func TestRingGet(t *testing.T) {
	const size = 2 * minPiece
	for _, test := range []struct {
		n      int
		inRing bool
	}{{0, false}, {minPiece - 1, false}, {minPiece, true}, {size, true}, {size + 1, false}} {
		r := ring{size: size}
		b := r.get(test.n)
		if len(b) != test.n || cap(b) != test.n && test.inRing || (len(r.pieces) == 1) != test.inRing || len(r.mem) == size != test.inRing {
			t.Errorf("%d bytes: %d of %d, in the ring: %v", test.n, len(b), cap(b), r.pieces)
		}
	}
	r := ring{size: size}
	first, second := r.get(minPiece), r.get(minPiece)
	if beyond := r.get(minPiece); len(beyond) != minPiece || len(r.pieces) != 2 {
		t.Error("a piece that does not fit lies in the ring")
	}
	if &second[0] != &r.mem[minPiece] {
		t.Error("the second piece does not follow the first")
	}
	r.put(second) // not its turn
	r.put(nil)
	r.put(make([]byte, minPiece))
	if len(r.pieces) != 2 {
		t.Errorf("%v is in use after something else was put back", r.pieces)
	}
	if r.put(first); len(r.pieces) != 1 || r.pieces[0].start != minPiece {
		t.Errorf("%v is in use, want the second piece", r.pieces)
	}
	if r.put(second); len(r.pieces) != 0 {
		t.Errorf("%v is in use", r.pieces)
	}
	r.put(first) // twice
}

// TestRingTrimAfterUse: memory that was used since the last trim stays for one
// more.
func TestRingTrimAfterUse(t *testing.T) {
	r := ring{size: minPiece}
	r.put(r.get(minPiece))
	for i, kept := range []bool{true, false} {
		if r.trim(); (r.mem != nil) != kept {
			t.Errorf("after trim %d the memory is kept: %v", i+1, !kept)
		}
	}
	r.put(r.get(minPiece))
	r.trim()
	b := r.get(minPiece)
	r.trim()
	r.put(b)
	if r.trim(); r.mem != nil {
		t.Error("putting a piece back counts as use")
	}
}

// TestKeptDeliveriesStay: what a handler keeps does not change when the memory
// of its chunk is used again, whatever the messages look like.
func TestKeptDeliveriesStay(t *testing.T) {
	onBrokers(t, func(t *testing.T, b testBroker) {
		env := connect(t, b.StreamURL())
		name := newStream(t, env)
		const total = 20_000
		body := func(i int) []byte {
			size := 10
			switch {
			case i%1000 == 999:
				size = 50_000
			case i%7 == 0:
				size = 400
			}
			return bytes.Repeat([]byte{byte(i), byte(i >> 8)}, size/2)
		}
		p, err := env.NewProducer(t.Context(), name, ProducerConfig{})
		if err != nil {
			t.Fatal(err)
		}
		for i := range total {
			m := Message{Body: body(i)}
			if i%5 == 0 {
				m.ApplicationProperties = map[string]any{"n": int64(i)}
			}
			if err := p.PublishAsync(t.Context(), m, nil); err != nil {
				t.Fatal(err)
			}
		}
		if err := p.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		c, err := env.NewConsumer(name, ConsumerConfig{MaxBuffered: 64 << 10})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var kept []*Delivery
		err = c.Run(ctx, func(_ context.Context, d *Delivery) error {
			if kept = append(kept, d); len(kept) == total {
				cancel()
			}
			return nil
		})
		must(t, err)
		for i, d := range kept {
			if !bytes.Equal(d.Body, body(i)) {
				t.Fatalf("message %d has changed: %d bytes", i, len(d.Body))
			}
			if props, err := d.ApplicationProperties(); err != nil || (i%5 == 0) != (props != nil) || props != nil && props["n"] != int64(i) {
				t.Fatalf("message %d: %v, %v", i, props, err)
			}
		}
	})
}
