package stream

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-go/tidemark/internal/broker"
	"github.com/tidemark-go/tidemark/internal/wire"
	"github.com/tidemark-go/tidemark/streamtest"
)

// subscriptions counts the subscriptions that clients have at a broker.
func subscriptions(b *streamtest.Broker) (n int) {
	for _, c := range b.Connections() {
		n += c.Subscriptions
	}
	return n
}

// crowdOf runs so many named consumers of a stream, each of which has its own
// list of what it got.
func crowdOf(t *testing.T, env *Env, stream string, consumers, room int) (seen []*collector, stops []func() error) {
	t.Helper()
	for i := range consumers {
		c := newCollector(t, room)
		stop, _ := runConsumer(t, env, stream, ConsumerConfig{Name: fmt.Sprint("c", i)}, c.handle)
		seen, stops = append(seen, c), append(stops, stop)
	}
	return seen, stops
}

// Twenty consumers of a stream share a subscription, but for the first one. Each
// gets everything in order and stores its own offset, whether connections drop or
// chunks are corrupt. What the last one leaves ends at the broker.
func TestConsumersShareASubscription(t *testing.T) {
	const consumers, third = 20, 100
	b, env, stream := faulty(t, third)
	writer := connect(t, b.URI())
	seen, stops := crowdOf(t, env, stream, consumers, 3*third)
	all := func(first, end, most int) {
		t.Helper()
		for _, c := range seen {
			c.want(first, end)
		}
		if n := subscriptions(b); n > most {
			t.Errorf("%d subscriptions, want %d", n, most)
		}
	}
	all(0, third, 2)
	must(t, b.CorruptChunks(stream, 1))
	publish(t, writer, stream, third, 2*third)
	all(third, 2*third, consumers)
	b.DropConnections(streamtest.CutRST)
	publish(t, writer, stream, 2*third, 3*third)
	all(2*third, 3*third, consumers)
	for i, stop := range stops {
		_ = stop()
		if got, ok := b.Offset(fmt.Sprint("c", i), stream); !ok || got != 3*third-1 {
			t.Errorf("consumer %d stored %d, %v; want %d", i, got, ok, 3*third-1)
		}
	}
	must(t, b.Await(soon(t), func() bool { return subscriptions(b) == 0 && readConnections(b) == 0 }))
	if n := len(env.tees.open); n > 0 {
		t.Errorf("%d tees are left", n)
	}
}

// A consumer whose handler stands still holds up those that it shares a
// subscription with for a moment only, and gets the rest itself, once and in order.
func TestSlowConsumerIsDetached(t *testing.T) {
	const consumers, n = 5, 20_000
	b, env, stream := faulty(t, n)
	env.memory.budget.total = 1 << 20
	held := make(chan struct{})
	seen, stops := make([]atomic.Uint64, consumers), make([]func() error, consumers)
	for i := range consumers {
		cfg := ConsumerConfig{Name: fmt.Sprint("c", i), MaxBuffered: 64 << 10}
		stops[i], _ = runConsumer(t, env, stream, cfg, func(d *Delivery) {
			if got := seen[i].Load(); got != d.Offset {
				t.Errorf("consumer %d got %d, want %d", i, d.Offset, got)
			}
			if i == 3 && d.Offset == 10 {
				<-held
			}
			seen[i].Store(d.Offset + 1)
		})
	}
	for i := range seen {
		if i != 3 {
			eventually(t, "the others have all", patience, func() bool { return seen[i].Load() == n })
		}
	}
	if got := seen[3].Load(); got != 10 {
		t.Fatalf("the slow one has %d", got)
	}
	before := subscriptions(b)
	close(held)
	eventually(t, "the slow one has all", patience, func() bool { return seen[3].Load() == n })
	if got := subscriptions(b); got != before+1 {
		t.Errorf("%d subscriptions, and %d before the slow one went on", got, before)
	}
	for _, stop := range stops {
		_ = stop()
	}
}

// Handlers may change what they get: nobody else sees that.
func TestSharedBodiesAreApart(t *testing.T) {
	const consumers, n = 4, 200
	_, env, stream := faulty(t, n)
	var got [consumers]atomic.Int64
	for i := range consumers {
		stop, _ := runConsumer(t, env, stream, ConsumerConfig{ReuseDelivery: i%2 > 0}, func(d *Delivery) {
			if string(d.Body) != strconv.Itoa(int(d.Offset)) {
				t.Errorf("consumer %d: message %d is %q", i, d.Offset, d.Body)
			}
			clear(d.Body)
			got[i].Add(1)
		})
		defer func() { _ = stop() }()
	}
	for i := range got {
		eventually(t, "all messages", patience, func() bool { return got[i].Load() == n })
	}
}

// Consumers that share a subscription begin again in a stream that was created
// again, each at its first message.
func TestSharedStreamRecreated(t *testing.T) {
	const consumers, n = 6, 50
	b, env, stream := faulty(t, n)
	var got [consumers]chan uint64
	var stops []func() error
	for i := range consumers {
		got[i] = make(chan uint64, 2*n)
		stop, _ := runConsumer(t, env, stream, ConsumerConfig{Name: fmt.Sprint("c", i)}, func(d *Delivery) { got[i] <- d.Offset })
		stops = append(stops, stop)
	}
	all := func(when string) {
		t.Helper()
		for i := range got {
			for want := range uint64(n) {
				if offset := recv(t, got[i], when); offset != want {
					t.Fatalf("%s: consumer %d got %d, want %d", when, i, offset, want)
				}
			}
		}
	}
	all("the old stream")
	must(t, b.DeleteStream(stream))
	must(t, b.CreateStream(stream))
	publish(t, env, stream, 0, n)
	all("the new stream")
	for i, stop := range stops {
		_ = stop()
		if got, ok := b.Offset(fmt.Sprint("c", i), stream); !ok || got != n-1 {
			t.Errorf("consumer %d stored %d, %v; want %d", i, got, ok, n-1)
		}
	}
}

// teeReader is a member that checks what it reads.
type teeReader struct {
	t    *testing.T
	m    *teeMember
	next uint64 // the offset that comes next
	list []waitingChunk
}

// read gives back what the reader has, of which no byte may have changed, and
// takes more.
func (r *teeReader) read() {
	for _, w := range r.list {
		c := w.chunk()
		if first := binary.BigEndian.Uint64(c.Data); first != c.FirstOffset || first > r.next || first+uint64(c.Records) <= r.next {
			r.t.Fatalf("the chunk at %d says %d, want one with %d", c.FirstOffset, first, r.next)
		}
		r.next = c.FirstOffset + uint64(c.Records)
		r.m.giveBack(w.cost())
	}
	r.list, _, _ = r.m.take(nil)
}

// teeModel is a tee without a broker, and its members.
type teeModel struct {
	*tee
	t       *testing.T
	env     *Env
	offset  uint64 // of the next chunk
	readers []*teeReader
}

func newTeeModel(t *testing.T) *teeModel {
	const limit = 256 << 10
	env := &Env{memory: newMemory(1 << 30)}
	source := newSubscription("s", broker.Node{}, limit, env.memory, &env.corruptChunks)
	source.flow.granted = maxWindow
	m := &teeModel{t: t, env: env, tee: &tee{key: teeKey{maxBuffered: limit}, source: source, spec: wire.OffsetSpec{Type: wire.OffsetFirst},
		opened: make(chan struct{}), members: map[*teeMember]struct{}{}}}
	source.tee = m.tee
	env.tees.open = map[teeKey][]*tee{m.key: {m.tee}}
	return m
}

func (m *teeModel) join() {
	from, spec := uint64(0), m.spec
	if rand.IntN(2) == 0 && m.offset > 0 {
		from = rand.Uint64N(m.offset)
		spec = wire.OffsetSpec{Type: wire.OffsetAt, Value: from}
	}
	s := newSubscription("s", broker.Node{}, m.key.maxBuffered, m.env.memory, &m.env.corruptChunks)
	s.env = m.env
	if member := m.enter(s, spec); member != nil {
		m.readers = append(m.readers, &teeReader{t: m.t, m: member, next: from})
	}
}

func (m *teeModel) arrive() {
	h := wire.ChunkHeader{FirstOffset: m.offset, Records: uint32(1 + rand.IntN(3)), DataLength: uint32(minBuffer + rand.IntN(4*minBuffer))}
	buffer := m.env.memory.get(wire.ChunkHeaderLen + int(h.DataLength))
	h.Put(buffer)
	binary.BigEndian.PutUint64(buffer[wire.ChunkHeaderLen:], h.FirstOffset)
	m.source.came = append(m.source.came, waitingChunk{buffer, 0})
	must(m.t, m.source.Flush())
	m.offset += uint64(h.Records)
}

// leave makes a reader leave.
func (m *teeModel) leave(i int) {
	m.readers[i].m.drop()
	m.readers = slices.Delete(m.readers, i, i+1)
}

// TestTeeAnyOrder: members come, read, fall behind, are detached and leave in any
// order. Each reads the chunks in order, without a gap, and nobody's memory is
// used again while it has it. In the end nothing is held.
func TestTeeAnyOrder(t *testing.T) {
	detached := 0
	for range 300 {
		m := newTeeModel(t)
		m.join()
		for range 300 {
			i := rand.IntN(len(m.readers))
			switch rand.IntN(8) {
			case 0:
				m.join()
			case 1, 2:
				m.arrive()
			case 3:
				if len(m.readers) > 1 {
					m.leave(i)
				}
			case 4:
				m.source.flow.granted = 0
				m.readers[i].m.detachSlow()
				m.source.flow.granted = maxWindow
			default:
				if m.readers[i].read(); m.readers[i].m.detached {
					detached++
					m.leave(i)
				}
			}
			if len(m.readers) == 0 {
				break
			}
		}
		for len(m.readers) > 0 {
			m.readers[0].read()
			m.leave(0)
		}
		m.source.settle(noon)
		if f := m.source.flow; f.held != 0 || f.bytes != 0 || f.kept != m.kept || m.kept > int64(m.key.maxBuffered/8) {
			t.Fatalf("in the end %d chunks are held, %d bytes, and %d, %d kept", f.held, f.bytes, f.kept, m.kept)
		}
		if len(m.env.tees.open) > 0 {
			t.Fatal("the tee is left")
		}
	}
	if detached == 0 {
		t.Error("nobody was detached")
	}
}

// TestTeeSeek: a consumer begins with the chunk that has its offset, and finds none
// where the ring has a gap or ends.
func TestTeeSeek(t *testing.T) {
	m := newTeeModel(t)
	for _, first := range []uint64{100, 110, 130} {
		m.ring = append(m.ring, teeChunk{first: first, end: first + 10})
	}
	m.base = 7
	for offset, want := range map[uint64]int{99: -1, 100: 7, 109: 7, 110: 8, 119: 8, 120: -1, 129: -1, 130: 9, 139: 9, 140: -1} {
		number, ok := m.seek(wire.OffsetSpec{Type: wire.OffsetAt, Value: offset})
		if ok != (want >= 0) || ok && number != uint64(want) {
			t.Errorf("offset %d: chunk %d, %v; want %d", offset, number, ok, want)
		}
	}
	if _, ok := m.seek(m.spec); ok {
		t.Error("the first chunk is there no more")
	}
}

// TestTeeKeepsForATick: what nobody needs any more stays for one that comes later,
// until the connection's next tick.
func TestTeeKeepsForATick(t *testing.T) {
	m := newTeeModel(t)
	m.key.maxBuffered = 8 << 20 // an eighth is more than any chunk
	m.join()
	m.arrive()
	m.readers[0].read()
	m.readers[0].read()
	if len(m.ring) != 1 || m.kept == 0 || m.source.flow.kept != m.kept {
		t.Errorf("%d chunks, %d bytes are kept; the flow knows of %d", len(m.ring), m.kept, m.source.flow.kept)
	}
	m.source.Tick()
	if len(m.ring) != 0 || m.kept != 0 || m.source.flow.kept != 0 {
		t.Errorf("after a tick %d chunks, %d bytes are kept; the flow knows of %d", len(m.ring), m.kept, m.source.flow.kept)
	}
}

// TestTeeOpeningPanics: who waits for a tee whose opening panics learns of that, and
// tries by itself.
func TestTeeOpeningPanics(t *testing.T) {
	m := newTeeModel(t)
	m.join()
	func() {
		defer func() {
			if recover() == nil {
				t.Error("an Env without a cluster has opened it")
			}
		}()
		m.openFor(t.Context(), &Env{}, broker.Contact{}, "")
	}()
	if !isClosed(m.opened) || m.openError != errNotOpened || !m.interrupted {
		t.Errorf("opened %v, interrupted %v, %v", isClosed(m.opened), m.interrupted, m.openError)
	}
	s := newSubscription("s", broker.Node{}, m.key.maxBuffered, m.env.memory, &m.env.corruptChunks)
	if m.enter(s, m.spec) != nil {
		t.Error("it has a new member")
	}
}

// TestTeeDry: the flow of a tee learns how long its readers have waited for a chunk.
func TestTeeDry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newTeeModel(t)
		m.join()
		m.readers[0].read()
		time.Sleep(time.Second)
		m.arrive()
		time.Sleep(time.Second)
		if dry := m.source.flow.dry; dry != time.Second {
			t.Errorf("the readers were without a chunk for %v, want 1s", dry)
		}
	})
}

// teeScene is a bench with two consumers that share a subscription, beside the
// stream's first consumer, which has its own. Their subscription has room for one
// chunk at a time, so they have each chunk together. Of two chunks the slower
// consumer takes its time for the first one, and the other consumer a moment for
// the second one.
func teeScene(t *testing.T, pause time.Duration, act func(x *filterBench, twoChunks func())) {
	inBubble(t, func(x *filterBench) {
		var wg sync.WaitGroup
		defer wg.Wait()
		ctx, cancel := context.WithCancel(x.ctx)
		defer cancel()
		body := "x " + strings.Repeat("y", 64<<10)
		pauses := [3][2]time.Duration{1: {0, time.Millisecond}, 2: {pause, 0}}
		for _, pause := range pauses {
			c, err := x.env.NewConsumer(x.name, ConsumerConfig{MaxBuffered: len(body)})
			must(t, err)
			wg.Go(func() {
				_ = c.Run(ctx, func(ctx context.Context, d *Delivery) error {
					_ = sleep(ctx, pause[d.Offset%2])
					return nil
				})
			})
			x.settle(time.Second)
		}
		act(x, func() {
			x.put(body)
			x.put(body)
		})
	})
}

// A consumer that is a little slower than the other one stays, however long they
// run: the other one counts what it waits within a second.
func TestTeePatienceEnds(t *testing.T) {
	teeScene(t, teePatience*4/10, func(x *filterBench, twoChunks func()) {
		for range 20 {
			twoChunks()
			x.settle(2 * teePatienceWindow)
		}
		if n := subscriptions(x.b); n != 2 {
			t.Errorf("%d subscriptions, want 2", n)
		}
		for range 20 {
			twoChunks()
		}
		x.settle(2 * teePatienceWindow)
		if n := subscriptions(x.b); n != 3 {
			t.Errorf("%d subscriptions after one had to wait for many chunks, want 3", n)
		}
	})
}

// Credit that one consumer could not send, because its context had ended, is asked
// for by another one; and by nobody once the connection is lost.
func TestTeeOwesCredit(t *testing.T) {
	inBubble(t, func(x *filterBench) {
		at, err := x.env.cluster.Find(x.ctx, x.name)
		must(t, err)
		s, err := x.env.openSubscription(x.ctx, at, at.Leader, x.name, 1<<20)
		must(t, err)
		defer s.release(false)
		m := newTeeModel(t)
		m.source.lease = s.lease
		for len(m.readers) == 0 {
			m.join()
		}
		reader := m.readers[0].m
		ended, cancel := context.WithCancel(x.ctx)
		cancel()
		x.b.StopReading()
		for sent := 0; m.owed == 0; sent++ {
			if sent == 1<<20 {
				t.Fatal("the connection takes any number of frames")
			}
			m.credit(ended, 3)
		}
		if m.owed != 3 {
			t.Errorf("%d chunks are owed, want 3", m.owed)
		}
		select {
		case <-reader.consumer.wake:
		default:
			t.Error("nobody was woken")
		}
		if _, _, credit := reader.take(nil); credit < 3 || m.owed != 0 {
			t.Errorf("another one asks for %d, and %d are owed", credit, m.owed)
		}
		x.b.DropConnections(streamtest.CutRST)
		synctest.Wait()
		if m.credit(ended, 3); m.owed != 0 {
			t.Errorf("%d chunks of a lost connection are owed", m.owed)
		}
		x.b.ResumeReading()
	})
}
