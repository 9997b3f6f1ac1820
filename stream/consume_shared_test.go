package stream

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-go/tidemark/internal/script"
	"github.com/tidemark-go/tidemark/internal/wire"
	"github.com/tidemark-go/tidemark/streamtest"
)

// connectionsOf counts the connections with a client's name.
func connectionsOf(b *streamtest.Broker, role string) (n int) {
	for _, c := range b.Connections() {
		if strings.HasSuffix(c.ClientName, " "+role) {
			n++
		}
	}
	return n
}

// storeConnections are those that carry nothing but stores, readConnections
// those on which chunks come.
func storeConnections(b *streamtest.Broker) int { return connectionsOf(b, "tidemark-store") }
func readConnections(b *streamtest.Broker) int  { return connectionsOf(b, "tidemark-consumer") }

// Twelve consumers of two streams read on three connections. Some leave in the
// middle, which the others do not notice; after a drop, and after a chunk that
// is corrupt, all go on at the next message, on three connections again.
func TestConsumersShareConnections(t *testing.T) {
	const consumers, most, third = 12, 3, 100
	b, env, one := faulty(t, third)
	other := newStream(t, env)
	publish(t, env, other, 0, third)
	reach(t, env, readersPerNode(most))
	writer := connect(t, b.URI())
	stops := make([]func() error, consumers)
	seen := make([]*collector, consumers)
	of := func(i int) string { return []string{one, other}[i%2] }
	for i := range consumers {
		seen[i] = newCollector(t, 3*third)
		stops[i], _ = runConsumer(t, env, of(i), ConsumerConfig{Name: fmt.Sprintf("c%d", i)}, seen[i].handle)
	}
	all := func(first, end int) {
		t.Helper()
		for i, c := range seen {
			if stops[i] != nil {
				c.want(first, end)
			}
		}
		if n := readConnections(b); n != most {
			t.Errorf("%d connections for reading, want %d", n, most)
		}
	}
	all(0, third)
	for i := range 6 { // from every connection
		_ = stops[i]()
		if got, ok := b.Offset(fmt.Sprintf("c%d", i), of(i)); !ok || got != third-1 {
			t.Errorf("consumer %d stored %d, %v; want %d", i, got, ok, third-1)
		}
		stops[i] = nil
	}
	must(t, b.CorruptChunks(one, 1))
	for _, stream := range []string{one, other} {
		publish(t, writer, stream, third, 2*third)
	}
	all(third, 2*third)
	b.DropConnections(streamtest.CutRST)
	for _, stream := range []string{one, other} {
		publish(t, writer, stream, 2*third, 3*third)
	}
	all(2*third, 3*third)
	for _, stop := range stops[6:] {
		_ = stop()
	}
	must(t, b.Await(soon(t), func() bool { return readConnections(b) == 0 }))
}

// A stream that moves ends the subscriptions that read it, and nobody else's.
func TestMovedOnASharedConnection(t *testing.T) {
	b, env, stays := faulty(t, 10)
	moves := newStream(t, env)
	publish(t, env, moves, 0, 10)
	reach(t, env, readersPerNode(1))
	var again atomic.Int64
	env.states = startStates(Config{Logger: env.cfg.Logger, OnState: func(c StateChange) {
		if c.State == StateReconnecting {
			again.Add(1)
			if c.Stream != moves {
				t.Errorf("%q reconnects: %v", c.Stream, c.Err)
			}
		}
	}})
	a, z := newCollector(t, 20), newCollector(t, 20)
	stopA, _ := runConsumer(t, env, stays, ConsumerConfig{}, a.handle)
	stopZ, _ := runConsumer(t, env, moves, ConsumerConfig{}, z.handle)
	a.want(0, 10)
	z.want(0, 10)
	must(t, b.MoveLeader(moves))
	publish(t, env, stays, 10, 20)
	publish(t, env, moves, 10, 20)
	a.want(10, 20)
	z.want(10, 20)
	_, _ = stopA(), stopZ()
	must(t, env.Close())
	if again.Load() == 0 {
		t.Error("the stream did not move")
	}
}

// A handler that stands still holds up nobody on its connection.
func TestSlowHandlerOnASharedConnection(t *testing.T) {
	const n = 50_000
	_, env, stream := faulty(t, n)
	reach(t, env, readersPerNode(1))
	block := make(chan struct{})
	started := make(chan struct{})
	stopSlow, _ := runConsumer(t, env, stream, ConsumerConfig{MaxBuffered: 1}, func(d *Delivery) {
		if d.Offset == 0 {
			close(started)
		}
		<-block
	})
	recv(t, started, "the slow one's first message")
	fast := newCollector(t, n)
	stopFast, _ := runConsumer(t, env, stream, ConsumerConfig{}, fast.handle)
	fast.want(0, n)
	_ = stopFast()
	close(block)
	_ = stopSlow()
}

// A chunk for nobody ends the connection; one that comes while a subscription
// ends is dropped, and the others of its connection go on.
func TestChunksForNobody(t *testing.T) {
	noLeaks(t)
	b := startScripted(t)
	b.committed = 2
	var subscribed atomic.Int64
	leaving := make(chan struct{})
	b.onCommand = func(p *script.Peer, key wire.Key, fields []byte) bool {
		if key != wire.KeyUnsubscribe {
			return false
		}
		var f wire.Unsubscribe
		p.Decode(fields, &f)
		p.Write(script.ChunkTo(f.SubscriptionID, 1, "late"))
		p.Write(script.ChunkTo(f.SubscriptionID, 2, "later")) // more than there is credit for
		p.Send(&wire.Response{Key: key, Correlation: f.Correlation, Code: wire.CodeOK})
		close(leaving)
		return true
	}
	b.onSubscribe = func(p *script.Peer, nth int, _ wire.OffsetSpec) {
		subscribed.Add(1)
		switch id := uint8(script.FirstID + nth); nth {
		case 0, 1:
			p.Write(script.ChunkTo(id, 0, "a"))
			if nth == 0 {
				<-leaving
				p.Write(script.ChunkTo(id, 1, "b"))
				p.Write(script.ChunkTo(77, 2, "for nobody"))
			}
		default:
			p.Write(script.ChunkTo(script.FirstID, 2, "c"))
		}
	}
	env := b.env(t)
	reach(t, env, readersPerNode(1))
	stays, leaves := newCollector(t, 10), make(chan uint64, 10)
	stop, _ := runConsumer(t, env, testStream, ConsumerConfig{OwnSubscription: true}, stays.handle)
	if got := recv(t, stays.bodies, "the first"); got != "a" {
		t.Fatal(got)
	}
	stop2, _ := runConsumer(t, env, testStream, ConsumerConfig{OwnSubscription: true}, func(d *Delivery) { leaves <- d.Offset })
	recv(t, leaves, "the second's first")
	_ = stop2()
	for _, want := range []string{"b", "c"} {
		if got := recv(t, stays.bodies, want); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	_ = stop()
	if len(leaves) > 0 {
		t.Error("something was handled after the end")
	}
	if n := subscribed.Load(); n != 3 {
		t.Errorf("subscribed %d times; the chunk for nobody should have ended the connection once", n)
	}
}

// Thirty consumers that store each offset do it on one connection. When it
// drops they share the next one; each that ends leaves it to the others, and
// the last one closes it. No message is handled twice, and every offset is
// stored.
func TestStoresShareAConnection(t *testing.T) {
	const consumers, half = 30, 20
	b, env, stream := faulty(t, half)
	writer := connect(t, b.URI())
	var all sync.WaitGroup
	stops := make([]func() error, consumers)
	seen := make([]*collector, consumers)
	for i := range consumers {
		seen[i] = newCollector(t, 2*half)
		all.Go(func() {
			cfg := ConsumerConfig{Name: fmt.Sprintf("c%d", i), Store: StorePolicy{Every: 1}}
			stops[i], _ = runConsumer(t, env, stream, cfg, seen[i].handle)
		})
	}
	all.Wait()
	for _, c := range seen {
		c.want(0, half)
	}
	if n := storeConnections(b); n != 1 {
		t.Errorf("%d connections for stores, want 1", n)
	}
	b.DropConnections(streamtest.CutRST)
	publish(t, writer, stream, half, 2*half)
	for _, c := range seen {
		c.want(half, 2*half)
	}
	for i, stop := range stops {
		if i == consumers-1 {
			must(t, b.Await(soon(t), func() bool { return storeConnections(b) == 1 }))
		}
		_ = stop()
		if got, ok := b.Offset(fmt.Sprintf("c%d", i), stream); !ok || got != 2*half-1 {
			t.Errorf("consumer %d stored %d, %v; want %d", i, got, ok, 2*half-1)
		}
	}
	must(t, b.Await(soon(t), func() bool { return storeConnections(b) == 0 }))
}

// A chunk that is corrupt for good is the trouble of who reads it, not of the
// others on the connection.
func TestCorruptChunkOnASharedConnection(t *testing.T) {
	b, env, bad := faulty(t, 10)
	good := newStream(t, env)
	publish(t, env, good, 0, 10)
	reach(t, env, readersPerNode(1))
	env.cfg.Backoff = Backoff{Min: time.Millisecond, Max: time.Millisecond}
	var again atomic.Int64
	env.states = startStates(Config{Logger: env.cfg.Logger, OnState: func(c StateChange) {
		if c.State == StateReconnecting && c.Stream == good {
			again.Add(1)
		}
	}})
	c := newCollector(t, 20)
	stopGood, _ := runConsumer(t, env, good, ConsumerConfig{}, c.handle)
	c.want(0, 10)
	must(t, b.CorruptChunks(bad, streamtest.Forever))
	stopBad, _ := runConsumer(t, env, bad, ConsumerConfig{}, func(d *Delivery) { t.Errorf("handled offset %d", d.Offset) })
	eventually(t, "it is tried again and again", patience, func() bool { return env.CorruptChunks() > 5 })
	publish(t, env, good, 10, 20)
	c.want(10, 20)
	_, _ = stopGood(), stopBad()
	if n := again.Load(); n > 0 {
		t.Errorf("the consumer of the other stream connected again %d times", n)
	}
}

// Who comes to a connection whose peer is silent, which nobody has noticed yet,
// makes another one.
func TestJoinASilentConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := pipedScripted(t)
		b.committed = 0
		var silent, reader atomic.Pointer[script.Peer]
		b.onCommand = func(p *script.Peer, _ wire.Key, _ []byte) bool { return silent.Load() == p }
		b.onSubscribe = func(p *script.Peer, _ int, _ wire.OffsetSpec) {
			reader.Store(p)
			p.Write(script.Chunk(0, "a"))
		}
		env := b.env(t)
		reach(t, env, readersPerNode(1))
		got := make(chan uint64, 10)
		stop, _ := runConsumer(t, env, testStream, ConsumerConfig{OwnSubscription: true}, func(d *Delivery) { got <- d.Offset })
		recv(t, got, "the message")
		silent.Store(reader.Load())
		stop2, _ := runConsumer(t, env, testStream, ConsumerConfig{OwnSubscription: true}, func(d *Delivery) { got <- d.Offset })
		recv(t, got, "the message, again")
		_, _ = stop(), stop2()
	})
}

// A slow call of somebody else's on the administrative connection survives a
// lookup that does not wait for it.
func TestFindBesideASlowCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := pipedScripted(t)
		found := make(chan struct{})
		letGo := sync.OnceFunc(func() { close(found) })
		t.Cleanup(letGo) // or a failure would leave the broker waiting
		creating := make(chan struct{})
		b.onCommand = func(p *script.Peer, key wire.Key, fields []byte) bool {
			if key != wire.KeyCreate {
				return false
			}
			close(creating)
			<-found // commands are handled one after the other
			id, _ := wire.Correlation(fields)
			p.Send(&wire.Response{Key: key, Correlation: id, Code: wire.CodeOK})
			return true
		}
		env := b.env(t)
		declared := make(chan error, 1)
		go func() { declared <- env.DeclareStream(t.Context(), "slow", StreamConfig{}) }()
		recv(t, creating, "the slow call")
		_, err := env.cluster.Find(soon(t), testStream)
		must(t, err)
		letGo()
		must(t, recv(t, declared, "its end"))
	})
}

type panickingStore struct{ memoryStore }

func (*panickingStore) Load(context.Context, string, string) (uint64, bool, error) { panic("load") }

// A panic of an OffsetStore ends the run with an error, and leaves no connection
// behind and nobody waiting.
func TestPanicsWhileConnecting(t *testing.T) {
	b, env, stream := faulty(t, 3)
	c, err := env.NewConsumer(stream, ConsumerConfig{Name: "c", OffsetStore: &panickingStore{}})
	must(t, err)
	wantErr(t, c.Run(t.Context(), func(context.Context, *Delivery) error { return nil }), ErrOffsetStore)
	must(t, b.Await(soon(t), func() bool { return readConnections(b) == 0 }))
}

// Consumers of every kind come and go on two connections that drop again and
// again: nothing is handled twice, no stored offset is ahead of what is
// handled, and in the end nothing is left in the pools.
//
// Between two drops every consumer handles a message or ends. On a busy machine
// one that ends would otherwise lose each connection before it has stored.
func TestPoolUnderStress(t *testing.T) {
	const total, consumers, rounds = 2000, 12, 5
	b, env, stream := faulty(t, total)
	reach(t, env, readersPerNode(2))
	var all sync.WaitGroup
	var steps [consumers]atomic.Int64 // how far each one is; negative at the end
	for i := range consumers {
		all.Go(func() {
			defer steps[i].Store(-1)
			for round := range rounds {
				cfg := ConsumerConfig{Name: fmt.Sprintf("c%d-%d", i, round), Workers: i % 5}
				if i%2 == 0 {
					cfg.Store.Every = 1
				}
				handleSome(t, b, env, stream, cfg, 1+(i*977+round*331)%total, func() { steps[i].Add(1) })
			}
		})
	}
	done := make(chan struct{})
	go func() { all.Wait(); close(done) }()
	var before [consumers]int64 // what steps was at the last drop
	for tick := time.NewTicker(100 * time.Millisecond); ; {
		select {
		case <-tick.C:
			if allMoved(steps[:], before[:]) {
				b.DropConnections(streamtest.CutRST)
			}
			continue
		case <-done:
			tick.Stop()
		}
		break
	}
	if n := env.cluster.SharedConns(); n > 0 {
		t.Errorf("%d connections are left in the pools", n)
	}
}

// allMoved reports whether every counter has moved since it last did so. A
// negative one need not.
func allMoved(steps []atomic.Int64, before []int64) bool {
	now := make([]int64, len(steps))
	for i := range steps {
		if now[i] = steps[i].Load(); now[i] >= 0 && now[i] == before[i] {
			return false
		}
	}
	copy(before, now)
	return true
}

// handleSome runs a consumer until it has handled so many messages, and checks
// what is stored. It calls step for each message, and once the consumer has ended.
func handleSome(t *testing.T, b *streamtest.Broker, env *Env, stream string, cfg ConsumerConfig, n int, step func()) {
	defer step()
	c, err := env.NewConsumer(stream, cfg)
	must(t, err)
	ctx, enough := context.WithTimeout(t.Context(), time.Minute)
	defer enough()
	var mu sync.Mutex
	seen := map[uint64]bool{}
	err = c.Run(ctx, func(_ context.Context, d *Delivery) error {
		mu.Lock()
		defer mu.Unlock()
		if seen[d.Offset] {
			t.Errorf("%s: offset %d was handled twice", cfg.Name, d.Offset)
		}
		if seen[d.Offset] = true; len(seen) >= n {
			enough()
			return nil
		}
		step()
		return nil
	})
	if err != nil {
		t.Errorf("%s: %v", cfg.Name, err)
	}
	handled := uint64(0)
	for seen[handled] {
		handled++
	}
	if got, ok := b.Offset(cfg.Name, stream); ok != (handled > 0) || ok && got+1 != handled {
		t.Errorf("%s: offset %d is stored (%v), and what is below %d is handled", cfg.Name, got, ok, handled)
	}
}
