package broker

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/check"
	"github.com/tidemark-go/tidemark/internal/script"
	"github.com/tidemark-go/tidemark/internal/wire"
)

// source is a consumer's mark, as a batch sees it.
type source struct {
	mu      sync.Mutex
	offset  uint64
	nothing bool // there is nothing to store
	again   bool // what Taken returns
	held    bool
	taken   []error // what Taken got
	doubts  int
	wakes   int
	onTaken func()
}

func (s *source) Take() (uint64, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = !s.nothing
	return s.offset, !s.nothing
}

func (s *source) Taken(err error) bool {
	if s.onTaken != nil {
		s.onTaken()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = false
	s.taken = append(s.taken, err)
	return s.again
}

func (s *source) Doubt() { s.mu.Lock(); s.doubts++; s.mu.Unlock() }
func (s *source) Wake()  { s.mu.Lock(); s.wakes++; s.mu.Unlock() }

// group is writers that share a batch, each with a connection of its own.
type group struct {
	batches batches
	pool    *pool
	writers []*OffsetWriter
	sources []*source
}

// group makes n writers, whose references are c0, c1 and so on.
func (b *fake) group(t *testing.T, n int) *group {
	g := &group{pool: newPool(conns(n), nil)}
	for range n {
		g.join(t, b, "s")
	}
	return g
}

func (g *group) join(t *testing.T, b *fake, stream string) *OffsetWriter {
	i := len(g.writers)
	l := b.join(t, g.pool, &recorder{})
	l.batches = &g.batches
	w, err := l.Offsets(fmt.Sprint("c", i), stream)
	check.Nil(t, err)
	s := &source{offset: uint64(i)}
	w.JoinBatch(s)
	g.writers, g.sources = append(g.writers, w), append(g.sources, s)
	return w
}

const testGap = 100 * time.Millisecond

// soon calls StoreSoon of a writer and compares its answer.
func (g *group) soon(t *testing.T, i int, wanted, leads bool) (at time.Time) {
	t.Helper()
	at, got, err := g.writers[i].StoreSoon(t.Context(), wanted, testGap)
	if check.Nil(t, err); got != leads {
		t.Errorf("c%d leads: %v, want %v", i, got, leads)
	}
	return at
}

// TestBatch: the first store leaves at once, and those that come within the gap
// leave together at its end, over one connection.
func TestBatch(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		g := b.group(t, 4)
		over := make(map[*script.Peer]int)
		b.on(func(p *script.Peer, key wire.Key, _ []byte) bool {
			if key == wire.KeyStoreOffset {
				over[p]++
			}
			return false
		})
		g.soon(t, 0, true, false)
		b.took(t, "store c0 s 0")

		begin := time.Now()
		time.Sleep(testGap / 4)
		if at := g.soon(t, 1, true, true); !at.Equal(begin.Add(testGap)) {
			t.Errorf("the next batch leaves %v after the first", at.Sub(begin))
		}
		g.soon(t, 2, true, false)
		g.soon(t, 3, true, false)
		g.soon(t, 3, true, false) // twice is once
		g.sources[3].offset = 33  // counts as it is when the batch leaves
		b.took(t)
		time.Sleep(testGap * 3 / 4)
		g.sources[2].again = true
		g.soon(t, 1, true, true) // c2 has more
		b.took(t, "store c1 s 1", "store c2 s 2", "store c3 s 33")
		if len(over) != 1 {
			t.Errorf("the stores went over %d connections", len(over))
		}

		g.sources[2].again = false
		time.Sleep(testGap)
		g.soon(t, 1, false, false) // the leader itself wants nothing
		b.took(t, "store c2 s 2")
		for i, s := range g.sources {
			if want := []int{1, 1, 2, 1}[i]; len(s.taken) != want || s.held || s.taken[0] != nil {
				t.Errorf("c%d: taken %v, held %v", i, s.taken, s.held)
			}
		}
	})
}

// A source that has nothing when the batch leaves is left out, and a batch of
// nothing is not sent.
func TestBatchOfNothing(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		g := b.group(t, 2)
		g.sources[0].nothing = true
		g.soon(t, 0, true, false)
		b.took(t)
		if s := g.sources[0]; len(s.taken) != 0 {
			t.Errorf("taken %v", s.taken)
		}
		time.Sleep(testGap)
		g.soon(t, 0, true, false)
		g.soon(t, 0, false, false)
		g.soon(t, 1, false, false)
		b.took(t)
	})
}

// A writer that may not wait so long takes over.
func TestBatchTakenOver(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		g := b.group(t, 3)
		g.soon(t, 0, true, false)
		g.soon(t, 0, true, true)
		_, leads, err := g.writers[1].StoreSoon(t.Context(), true, 0)
		if check.Nil(t, err); leads {
			t.Error("a batch that was sent is still to be sent")
		}
		b.took(t, "store c0 s 0", "store c0 s 0", "store c1 s 1")
		g.soon(t, 0, false, false)
	})
}

// The leader that leaves, or waits for something else, hands over.
func TestBatchLeaderLeaves(t *testing.T) {
	for name, leave := range map[string]func(w *OffsetWriter){
		"yield": (*OffsetWriter).Yield,
		"close": func(w *OffsetWriter) { w.Close(true) },
	} {
		virtual(t, func(t *testing.T, b *fake) {
			g := b.group(t, 3)
			g.soon(t, 0, true, false)
			g.soon(t, 1, true, true)
			g.soon(t, 2, true, false)
			leave(g.writers[2]) // it does not lead
			if g.sources[1].wakes != 0 {
				t.Errorf("%s: the leader is woken", name)
			}
			g.soon(t, 2, true, false)
			leave(g.writers[1])
			if g.sources[1].wakes+g.sources[2].wakes == 0 && name == "yield" {
				t.Errorf("%s: nobody is woken", name)
			}
			g.soon(t, 0, false, name == "yield")
			b.took(t, "store c0 s 0")
		})
	}
}

// When the last writer has left, the batch is forgotten. Streams and nodes have
// batches of their own.
func TestBatchesAreApart(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		g := b.group(t, 2)
		g.join(t, b, "other")
		if g.writers[0].batch != g.writers[1].batch || g.writers[0].batch == g.writers[2].batch || len(g.batches.open) != 2 {
			t.Error("the writers of a stream do not share a batch, or those of two streams do")
		}
		g.soon(t, 0, true, false)
		g.soon(t, 2, true, false)
		b.took(t, "store c0 s 0", "store c2 other 2")
		for i, want := range []int{2, 1, 0} {
			if g.writers[i].Close(true); len(g.batches.open) != want {
				t.Errorf("%d batches after %d writers have left", len(g.batches.open), i+1)
			}
		}
		g.join(t, b, "s")
		if g.writers[0].Close(true); len(g.batches.open) != 1 {
			t.Error("a second Close ends the batch of others")
		}
	})
}

// A batch that cannot be sent says so to everybody, and its carrier's connection
// is replaced by the next leader's.
func TestBatchNotSent(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		g := b.group(t, 3)
		g.soon(t, 0, true, false)
		b.took(t, "store c0 s 0")
		g.soon(t, 1, true, true)
		g.soon(t, 2, true, false)
		g.sources[2].again = true
		time.Sleep(testGap)
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(check.ErrTest)
		_, leads, err := g.writers[1].StoreSoon(ctx, false, testGap)
		if check.Err(t, err, check.ErrTest); !leads {
			t.Error("nobody sends the offset that waits again")
		}
		check.Err(t, g.sources[1].taken[0], check.ErrTest)
		check.Err(t, g.sources[2].taken[0], check.ErrTest)
		time.Sleep(testGap)
		g.writers[0].conn.fail(check.ErrTest)
		g.sources[2].again = false
		g.soon(t, 1, false, false)
		b.took(t, "store c2 s 2")
	})
}

// What was sent over a lost connection is in doubt, for all that it was sent
// for, and only for them.
func TestBatchInDoubt(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		g := b.group(t, 4)
		g.soon(t, 0, true, false)
		g.soon(t, 1, true, true)
		g.soon(t, 2, true, false)
		time.Sleep(testGap)
		g.soon(t, 1, false, false)
		b.took(t, "store c0 s 0", "store c1 s 1", "store c2 s 2")
		g.writers[1].Close(false) // it led, and did not carry
		g.writers[0].Close(false)
		for i, want := range []int{0, 0, 1, 0} {
			if got := g.sources[i].doubts; got != want {
				t.Errorf("c%d doubts %d times, want %d", i, got, want)
			}
		}
		g.soon(t, 2, true, true)
		time.Sleep(testGap)
		g.soon(t, 2, true, false)
		g.writers[2].Close(true)
		if g.sources[3].doubts != 0 {
			t.Error("an orderly end leaves doubts")
		}
	})
}

// TestSettle waits for the carrier's connection, where that is another one.
func TestSettle(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		g := b.group(t, 2)
		g.writers[1].Settle(t.Context()) // nothing was sent
		g.soon(t, 0, true, false)
		g.soon(t, 1, true, true)
		time.Sleep(testGap)
		g.soon(t, 1, true, false)
		b.took(t, "store c0 s 0", "store c1 s 1")
		g.writers[0].Settle(t.Context())
		b.took(t)
		g.writers[1].Settle(t.Context())
		b.took(t, "metadata []")

		b.mute(wire.KeyMetadata)
		begin := time.Now()
		g.writers[1].Settle(t.Context())
		took(t, begin, closeTimeout)
		g.writers[0].conn.fail(check.ErrTest)
		b.took(t, "metadata []")
		g.writers[1].Settle(t.Context())
		b.took(t)
	})
}

// TestStoreNext: a store that somebody waits for leaves at once if its writer is
// alone, and else so long after the batch before that others may join it.
func TestStoreNext(t *testing.T) {
	for writers, want := range map[int]time.Duration{1: 0, 2: time.Millisecond, 3: 2 * time.Millisecond, 150: testGap} {
		virtual(t, func(t *testing.T, b *fake) {
			g := b.group(t, writers)
			last := writers - 1
			g.soon(t, last, true, false)
			b.took(t, fmt.Sprintf("store c%d s %[1]d", last))
			begin := time.Now()
			if writers > 2 {
				g.soon(t, 1, true, true) // it leads, and would wait for longer
			}
			at, leads, err := g.writers[0].StoreNext(t.Context(), testGap)
			check.Nil(t, err)
			if want == 0 {
				b.took(t, "store c0 s 0")
				return
			}
			if got := at.Sub(begin); got != want || leads != (want < testGap) {
				t.Errorf("of %d writers one waits for %v, want %v; it leads: %v", writers, got, want, leads)
			}
			b.took(t)
		})
	}
}

// A writer that is busy is no longer waited for, whether it leads or not, and
// nobody makes it lead.
func TestBatchWithoutTheBusy(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		g := b.group(t, 4)
		g.soon(t, 0, true, false)
		b.took(t, "store c0 s 0")
		for i := range 3 {
			g.soon(t, i, true, i == 0)
		}
		g.writers[1].Yield() // c0 still leads
		if g.sources[0].wakes+g.sources[2].wakes > 0 {
			t.Error("somebody is woken for nothing")
		}
		g.writers[0].Yield()
		for i, want := range []int{0, 0, 1, 0} {
			if got := g.sources[i].wakes; got != want {
				t.Errorf("c%d was woken %d times, want %d", i, got, want)
			}
		}
		g.soon(t, 2, true, true)
		time.Sleep(testGap)
		g.soon(t, 2, false, false)
		b.took(t, "store c2 s 2")
		g.soon(t, 1, true, true) // it is free again
		g.writers[1].Yield()
	})
}

// No batch goes over a connection whose writer has retired, though it is open,
// and somebody else leads in its place. What went over it is in doubt until it has
// ended in order.
func TestBatchRetire(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		g := b.group(t, 3)
		over := 0
		peers := map[*script.Peer]struct{}{}
		b.on(func(p *script.Peer, key wire.Key, _ []byte) bool {
			if _, ok := peers[p]; !ok && key == wire.KeyStoreOffset {
				peers[p], over = struct{}{}, over+1
			}
			return false
		})
		g.soon(t, 0, true, false)
		g.soon(t, 0, true, true)
		g.soon(t, 1, true, false)
		g.writers[0].Retire()
		if g.sources[1].wakes != 1 {
			t.Error("nobody leads in place of the one that has retired")
		}
		g.soon(t, 1, true, true)
		time.Sleep(testGap)
		g.soon(t, 1, false, false)
		b.took(t, "store c0 s 0", "store c1 s 1")
		if over != 2 {
			t.Errorf("the stores went over %d connections, want another one for the second", over)
		}
		g.writers[2].Retire() // it neither carries nor leads
		g.soon(t, 1, true, true)
		g.writers[0].Close(true)
		g.writers[1].Close(false)
		if g.sources[2].doubts+g.sources[0].doubts > 0 {
			t.Error("a store is in doubt that nobody has sent there")
		}
		(&OffsetWriter{}).Retire() // one without a batch
	})
}

// TestSettleAll waits for every connection over which batches have sent the
// writer's offsets, once.
func TestSettleAll(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		g := b.group(t, 4)
		carry := func(carrier int) {
			time.Sleep(testGap)
			g.soon(t, carrier, true, false)
			for range 2 {
				g.soon(t, carrier, true, true)
				g.soon(t, 3, true, false)
				time.Sleep(testGap)
				g.soon(t, carrier, false, false)
			}
			own, twice := fmt.Sprintf("store c%d s %[1]d", carrier), "store c3 s 3"
			b.took(t, own, own, twice, own, twice)
			g.writers[carrier].Retire()
		}
		carry(0)
		carry(1)
		g.writers[3].Settle(t.Context())
		b.took(t, "metadata []", "metadata []")
		carry(2)
		g.writers[3].Settle(t.Context())
		b.took(t, "metadata []", "metadata []") // the last one of before is asked again
		g.writers[1].Close(false)
		if g.sources[3].doubts != 0 {
			t.Error("an offset is in doubt that a later one has replaced")
		}
		g.writers[2].Close(false)
		if g.sources[3].doubts != 1 {
			t.Error("the last offset is not in doubt")
		}
		for i := range 3 {
			g.writers[i].conn.fail(check.ErrTest)
		}
		time.Sleep(testGap)
		if g.soon(t, 3, true, false); len(g.writers[3].sentOver) != 1 {
			t.Errorf("%d connections are remembered, want the last one", len(g.writers[3].sentOver))
		}
	})
}

// TestBatchLostWhileSent: a connection that ends between a batch and Taken leaves
// doubts, though its writer has left before.
func TestBatchLostWhileSent(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		g := b.group(t, 2)
		g.soon(t, 0, true, false)
		g.sources[1].onTaken = func() {
			g.writers[0].conn.fail(check.ErrTest)
			g.writers[0].Close(false)
			g.sources[1].doubts = 0 // those before Taken count for nothing
		}
		g.soon(t, 1, true, true)
		time.Sleep(testGap)
		g.soon(t, 1, false, false)
		b.took(t, "store c0 s 0", "store c1 s 1")
		if s := g.sources[1]; s.doubts != 1 || len(s.taken) != 1 {
			t.Errorf("%d doubts after %v", s.doubts, s.taken)
		}
	})
}
