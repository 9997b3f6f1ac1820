package stream

import (
	"bytes"
	"context"
	"testing"
	"time"
)

func TestBufferSize(t *testing.T) {
	for n, want := range map[int]int{
		minBuffer: minBuffer, minBuffer + 1: 10 << 10, 10 << 10: 10 << 10, 10<<10 + 1: 12 << 10,
		16 << 10: 16 << 10, 16<<10 + 1: 20 << 10, 200_000: 224 << 10, maxBuffer - 1: maxBuffer, maxBuffer: maxBuffer,
	} {
		if got := bufferSize(n); got != want {
			t.Errorf("a buffer of %d for %d bytes, want %d", got, n, want)
		}
	}
	for n := minBuffer; n < maxBuffer; n += 777 {
		if size := bufferSize(n); size < n || size-n > n/4 || bufferSize(size) != size {
			t.Fatalf("a buffer of %d for %d bytes", size, n)
		}
	}
}

// FuzzBuffers takes buffers and puts them back in any order: no two that are in
// use overlap, and one that is put back is used again.
func FuzzBuffers(f *testing.F) {
	f.Add([]byte{1, 2, 255, 3, 255, 255})
	f.Add([]byte{120, 120, 252, 60, 251, 30, 30, 30, 253, 90, 250})
	f.Fuzz(func(t *testing.T, steps []byte) {
		b := buffers{}
		var out [][]byte
		for i, step := range steps {
			switch {
			case step < 250:
				n := minBuffer + 1000*int(step)
				buffer := b.get(n)
				if len(buffer) != n || cap(buffer) != bufferSize(n) {
					t.Fatalf("%d bytes of %d, want %d", len(buffer), cap(buffer), n)
				}
				for at := range buffer { // whoever overlaps it will show
					buffer[at] = byte(i)
				}
				out = append(out, buffer)
			case step == 250:
				b.trim()
			case len(out) > 0:
				i := int(step) % len(out)
				b.put(whole(t, out[i]))
				out = append(out[:i], out[i+1:]...)
			}
		}
		for _, buffer := range out {
			b.put(whole(t, buffer))
		}
		b.trim()
		if b.trim(); len(b) != 0 {
			t.Errorf("memory that is not used is kept: %v", b)
		}
	})
}

func whole(t *testing.T, b []byte) []byte {
	t.Helper()
	if len(bytes.Trim(b, string(b[:1]))) != 0 {
		t.Fatal("two buffers overlap")
	}
	return b
}

func TestBuffersAreUsedAgain(t *testing.T) {
	b := buffers{}
	first := b.get(9000)
	b.put(first)
	b.put(make([]byte, 9001)) // no size of ours
	b.put(make([]byte, 5<<20))
	b.put(nil)
	if again := b.get(10_000); &again[0] != &first[0] || len(again) != 10_000 {
		t.Error("a buffer that was put back is not used again")
	}
	if other := b.get(9001); cap(other) != 10<<10 || &other[0] == &first[0] {
		t.Errorf("a buffer of %d", cap(other))
	}
}

// TestBuffersTrim: what was free all the time goes, what was used stays.
func TestBuffersTrim(t *testing.T) {
	b := buffers{}
	one, two, three := b.get(minBuffer), b.get(minBuffer), b.get(minBuffer)
	for _, buffer := range [][]byte{one, two, three} {
		b.put(buffer)
	}
	b.trim() // they were in use since the last one
	if n := len(b[minBuffer].list); n != 3 {
		t.Fatalf("%d are kept, want 3", n)
	}
	b.put(b.get(minBuffer))
	if b.trim(); len(b[minBuffer].list) != 1 {
		t.Errorf("%d are kept, want the one that was used", len(b[minBuffer].list))
	}
	if b.trim(); len(b) != 0 {
		t.Errorf("%v are kept", b)
	}
}

// TestSmallChunks lie behind each other while many come, and take no more than
// they need otherwise.
func TestSmallChunks(t *testing.T) {
	var s smallChunks
	if b := s.get(150); len(b) != 150 || cap(b) != 150 || len(s.block) != 0 {
		t.Errorf("the first has %d bytes of %d, beside %d", len(b), cap(b), len(s.block))
	}
	s.endBurst()
	if s.next != 0 {
		t.Error("after one chunk a block of more is made")
	}
	allocated := testing.AllocsPerRun(10, func() {
		for range 100 {
			s.get(150)
		}
		s.endBurst()
	})
	if allocated > 2 {
		t.Errorf("100 chunks of 150 bytes took %v blocks", allocated)
	}
	if s.get(150); s.next != maxBlock {
		t.Errorf("the next block has %d bytes", s.next)
	}
	if s.endBurst(); s.block != nil {
		t.Error("a quiet subscription keeps a block")
	}
	if b := s.get(0); len(b) != 0 {
		t.Errorf("%d bytes for none", len(b))
	}
	if b := s.get(minBuffer - 1); len(b) != minBuffer-1 {
		t.Errorf("%d bytes for %d", len(b), minBuffer-1)
	}
}

// TestMemory: the last to leave takes the free buffers along, and nothing is
// claimed then.
func TestMemory(t *testing.T) {
	m := newMemory(1000)
	a, b := m.join(), m.join()
	f := newFlow(800)
	f.arrived(100)
	m.update(a, &f)
	if f.returned(1, 100); m.grant(a, &f, noon) != 5 || a.claim != 500 {
		t.Errorf("%d chunks of 100, a claim of %d; want half of 1000", f.granted, a.claim)
	}
	m.put(m.get(minBuffer))
	m.leave(b)
	m.leave(b)
	if len(m.buffers) != 1 || m.budget.claimed != 500 {
		t.Errorf("%d buffers, a claim of %d", len(m.buffers), m.budget.claimed)
	}
	m.leave(a)
	m.put(make([]byte, minBuffer))
	f.granted = 0
	m.update(a, &f)
	if credit := m.grant(a, &f, noon); credit != 0 || len(m.buffers) != 0 || m.budget.claimed != 0 || m.shares != 0 {
		t.Errorf("credit of %d, left behind %+v", credit, m)
	}
	if big := m.get(maxBuffer + 1); len(big) != maxBuffer+1 {
		t.Errorf("%d bytes", len(big))
	}
}

// TestMemoryTick: buffers go when they were not used for a pause, however many
// subscriptions tick.
func TestMemoryTick(t *testing.T) {
	m := newMemory(1000)
	m.join()
	m.put(m.get(minBuffer))
	m.tick(noon)
	for range 5 {
		m.tick(noon.Add(trimPause - 1))
	}
	if len(m.buffers) != 1 {
		t.Error("a buffer that was just used is given up")
	}
	if m.tick(noon.Add(trimPause)); len(m.buffers) != 0 {
		t.Error("a buffer that was not used is kept")
	}
	m.put(m.get(minBuffer))
	m.tick(noon.Add(trimPause + time.Millisecond))
	if len(m.buffers) != 1 {
		t.Error("a tick that came early counted")
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
