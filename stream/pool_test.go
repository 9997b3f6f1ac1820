package stream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
	"github.com/tidemark-go/tidemark/streamtest"
)

// connectionsOf counts the connections with a client's name.
func connectionsOf(b *streamtest.Broker, name string) (n int) {
	for _, c := range b.Connections() {
		if c.ClientName == name {
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
	env.readers = newPool(most, env.answers)
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
		if got, ok := b.Offset(of(i), fmt.Sprintf("c%d", i)); !ok || got != third-1 {
			t.Errorf("consumer %d stored %d, %v; want %d", i, got, ok, third-1)
		}
		stops[i] = nil
	}
	b.CorruptChunks(one, 1)
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
	env.readers = newPool(1, env.answers)
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
	b.MoveLeader(moves)
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
	env.readers = newPool(1, env.answers)
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

// Connections are made up to the limit, then shared evenly, and the ids of one
// are used again only when all others were.
func TestPoolChooses(t *testing.T) {
	p, n := newPool(2, nil), node{"h", 1}
	up := func(hooks) (*conn, error) { return &conn{}, nil }
	var users []*subscription
	sit := func() (*sharedConn, uint8) {
		t.Helper()
		s := &subscription{}
		c, id, err := p.join(t.Context(), n, s, up)
		if err != nil || c.ids[id].Load() != s {
			t.Fatal(err)
		}
		users = append(users, s)
		return c, id
	}
	a, _ := sit()
	b, _ := sit()
	if a == b {
		t.Error("the second does not have a connection of its own")
	}
	for range 2*maxIDs - 2 {
		sit()
	}
	if len(a.users) != maxIDs || len(b.users) != maxIDs || len(p.open[n]) != 2 {
		t.Errorf("%d and %d users on %d connections", len(a.users), len(b.users), len(p.open[n]))
	}
	if c, _ := sit(); c == a || c == b {
		t.Error("there was room on a full connection")
	} else if last, _ := c.drop(users[2*maxIDs], false, true); !last || len(p.open[n]) != 2 {
		t.Errorf("left alone: last %v, and %d connections", last, len(p.open[n]))
	}
	// Of those that leave, one was not answered: its id stays taken.
	leave := func(s *subscription, answered bool) uint8 {
		id := a.users[s]
		if last, stays := a.drop(s, false, answered); last || !stays {
			t.Fatalf("last %v, stays %v", last, stays)
		}
		a.drop(s, true, answered)
		return id
	}
	var ofA []*subscription
	for s := range a.users {
		ofA = append(ofA, s)
	}
	lost, freed := leave(ofA[0], false), leave(ofA[1], true)
	if a.ids[lost].Load() == nil || a.ids[freed].Load() != nil {
		t.Error("the wrong ids are free")
	}
	if c, id := sit(); c != a || id != freed {
		t.Errorf("got id %d; want %d", id, freed)
	}
	if c, _ := sit(); c == a || c == b {
		t.Error("an id that is not free was used")
	}
}

// A chunk for nobody ends the connection; one that comes while a subscription
// ends is dropped, and the others of its connection go on.
func TestChunksForNobody(t *testing.T) {
	noLeaks(t)
	b := startScripted(t)
	b.committed = 2
	var subscribed atomic.Int64
	leaving := make(chan struct{})
	b.onCommand = func(p *peer, key wire.Key, fields []byte) bool {
		if key != wire.KeyUnsubscribe {
			return false
		}
		var f wire.Unsubscribe
		p.decode(fields, &f)
		p.write(chunkTo(f.SubscriptionID, 1, "late"))
		p.write(chunkTo(f.SubscriptionID, 2, "later")) // more than there is credit for
		p.send(&wire.Response{Key: key, Correlation: f.Correlation, Code: wire.CodeOK})
		close(leaving)
		return true
	}
	b.onSubscribe = func(p *peer, nth int, _ wire.OffsetSpec) {
		subscribed.Add(1)
		switch id := uint8(firstID + nth); nth {
		case 0, 1:
			p.write(chunkTo(id, 0, "a"))
			if nth == 0 {
				<-leaving
				p.write(chunkTo(id, 1, "b"))
				p.write(chunkTo(77, 2, "for nobody"))
			}
		default:
			p.write(chunkTo(firstID, 2, "c"))
		}
	}
	env := b.env(t)
	env.readers = newPool(1, env.answers)
	stays, leaves := newCollector(t, 10), make(chan uint64, 10)
	stop, _ := runConsumer(t, env, testStream, ConsumerConfig{}, stays.handle)
	if got := recv(t, stays.bodies, "the first"); got != "a" {
		t.Fatal(got)
	}
	stop2, _ := runConsumer(t, env, testStream, ConsumerConfig{}, func(d *Delivery) { leaves <- d.Offset })
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
// drops they share the next one; each that ends leaves it to the others, and the
// last one closes it. No message is handled twice, and every offset is stored.
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
		if got, ok := b.Offset(stream, fmt.Sprintf("c%d", i)); !ok || got != 2*half-1 {
			t.Errorf("consumer %d stored %d, %v; want %d", i, got, ok, 2*half-1)
		}
	}
	must(t, b.Await(soon(t), func() bool { return storeConnections(b) == 0 }))
}

// A subscription whose dialing is cancelled leaves it to one that waits for it.
func TestDialledByAnother(t *testing.T) {
	p, n := newPool(1, nil), node{"h", 1}
	ctx, cancel := context.WithCancel(t.Context())
	dialing := make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		_, _, err := p.join(ctx, n, &subscription{}, func(hooks) (*conn, error) {
			close(dialing)
			<-ctx.Done()
			return nil, ctx.Err()
		})
		ended <- err
	}()
	<-dialing
	got := make(chan error, 1)
	boom := errors.New("boom")
	go func() {
		_, _, err := p.join(t.Context(), n, &subscription{}, func(hooks) (*conn, error) { return nil, boom })
		got <- err
	}()
	eventually(t, "the second waits", 10*time.Second, func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.open[n]) == 1 && len(p.open[n][0].users) == 2
	})
	cancel()
	wantErr(t, recv(t, ended, "the first"), context.Canceled)
	wantErr(t, recv(t, got, "the second"), boom)
	if len(p.open) != 0 {
		t.Errorf("%d connections are left", len(p.open))
	}
}

// A chunk that is corrupt for good is the trouble of who reads it, not of the
// others on the connection.
func TestCorruptChunkOnASharedConnection(t *testing.T) {
	b, env, bad := faulty(t, 10)
	good := newStream(t, env)
	publish(t, env, good, 0, 10)
	env.readers = newPool(1, env.answers)
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
	b.CorruptChunks(bad, streamtest.Forever)
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
	noLeaks(t)
	b := startScripted(t)
	b.committed = 0
	var silent, reader atomic.Pointer[peer]
	b.onCommand = func(p *peer, _ wire.Key, _ []byte) bool { return silent.Load() == p }
	b.onSubscribe = func(p *peer, _ int, _ wire.OffsetSpec) {
		reader.Store(p)
		p.write(chunkFrame(0, "a"))
	}
	env := b.env(t)
	env.cfg.DialTimeout = 200 * time.Millisecond
	env.readers = newPool(1, env.answers)
	got := make(chan uint64, 10)
	stop, _ := runConsumer(t, env, testStream, ConsumerConfig{}, func(d *Delivery) { got <- d.Offset })
	recv(t, got, "the message")
	silent.Store(reader.Load())
	stop2, _ := runConsumer(t, env, testStream, ConsumerConfig{}, func(d *Delivery) { got <- d.Offset })
	recv(t, got, "the message, again")
	_, _ = stop(), stop2()
}

// Who gives up waiting for a connection's answer says nothing about it.
func TestJoinCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	asked := false
	p := newPool(1, func(ctx context.Context, _ *conn) error {
		if asked {
			return nil
		}
		asked = true
		cancel()
		return context.Cause(ctx)
	})
	n, dials := node{"h", 1}, 0
	dial := func(hooks) (*conn, error) { dials++; return &conn{}, nil }
	join := func(ctx context.Context) error {
		_, _, err := p.join(ctx, n, &subscription{}, dial)
		return err
	}
	must(t, join(t.Context()))
	wantErr(t, join(ctx), context.Canceled)
	must(t, join(t.Context()))
	if dials != 1 {
		t.Errorf("%d connections, want 1", dials)
	}
}

// A connection that may be silent is not waited for as long as a call may take.
func TestPatience(t *testing.T) {
	for dialTimeout, most := range map[time.Duration]time.Duration{time.Second: time.Second, time.Hour: rpcTimeout / 2} {
		e := &Env{cfg: Config{DialTimeout: dialTimeout}}
		ctx, cancel := e.patience(t.Context())
		defer cancel()
		at, ok := ctx.Deadline()
		if left := time.Until(at); !ok || left > most || left < most-time.Second {
			t.Errorf("%v: %v, want %v", dialTimeout, left, most)
		}
	}
}

// A slow call of somebody else's on the administrative connection survives a
// lookup that does not wait for it.
func TestFindBesideASlowCall(t *testing.T) {
	noLeaks(t)
	b := startScripted(t)
	found := make(chan struct{})
	creating := make(chan struct{})
	b.onCommand = func(p *peer, key wire.Key, fields []byte) bool {
		if key != wire.KeyCreate {
			return false
		}
		close(creating)
		<-found // commands are handled one after the other
		id, _ := wire.Correlation(fields)
		p.send(&wire.Response{Key: key, Correlation: id, Code: wire.CodeOK})
		return true
	}
	env := b.env(t)
	env.cfg.DialTimeout = 200 * time.Millisecond
	declared := make(chan error, 1)
	go func() { declared <- env.DeclareStream(t.Context(), "slow", StreamConfig{}) }()
	recv(t, creating, "the slow call")
	_, err := env.find(soon(t), testStream)
	must(t, err)
	close(found)
	must(t, recv(t, declared, "its end"))
}

type panickingStore struct{ memoryStore }

func (*panickingStore) Load(context.Context, string, string) (uint64, bool, error) { panic("load") }

// A panic of the user's code, which is the caller's to recover from, leaves no
// connection behind and nobody waiting.
func TestPanicsWhileConnecting(t *testing.T) {
	b, env, stream := faulty(t, 3)
	c, err := env.NewConsumer(stream, ConsumerConfig{Name: "c", OffsetStore: &panickingStore{}})
	must(t, err)
	panicked := func(f func()) {
		t.Helper()
		defer func() {
			if recover() == nil {
				t.Error("no panic")
			}
		}()
		f()
	}
	panicked(func() { _ = c.Run(t.Context(), func(context.Context, *Delivery) error { return nil }) })
	must(t, b.Await(soon(t), func() bool { return readConnections(b) == 0 }))

	p, n := newPool(1, nil), node{"h", 1}
	panicked(func() {
		_, _, _ = p.join(t.Context(), n, &subscription{}, func(hooks) (*conn, error) { panic("resolve") })
	})
	_, _, err = p.join(t.Context(), n, &subscription{}, func(hooks) (*conn, error) { return nil, errTest })
	wantErr(t, err, errTest)
}

// Consumers of every kind come and go on two connections that drop again and
// again: nothing is handled twice, no stored offset is ahead of what is handled,
// and in the end nothing is left in the pools.
func TestPoolUnderStress(t *testing.T) {
	const total, consumers, rounds = 2000, 12, 5
	b, env, stream := faulty(t, total)
	env.readers = newPool(2, env.answers)
	var all sync.WaitGroup
	for i := range consumers {
		all.Go(func() {
			for round := range rounds {
				cfg := ConsumerConfig{Name: fmt.Sprintf("c%d-%d", i, round), Workers: i % 5}
				if i%2 == 0 {
					cfg.Store.Every = 1
				}
				handleSome(t, b, env, stream, cfg, 1+(i*977+round*331)%total)
			}
		})
	}
	done := make(chan struct{})
	go func() { all.Wait(); close(done) }()
	for tick := time.NewTicker(100 * time.Millisecond); ; {
		select {
		case <-tick.C:
			b.DropConnections(streamtest.CutRST)
			continue
		case <-done:
			tick.Stop()
		}
		break
	}
	for _, p := range []*pool{env.readers, env.stores} {
		if len(p.open) > 0 {
			t.Errorf("%d nodes are left in a pool", len(p.open))
		}
	}
}

// handleSome runs a consumer until it has handled so many messages, and checks
// what is stored.
func handleSome(t *testing.T, b *streamtest.Broker, env *Env, stream string, cfg ConsumerConfig, n int) {
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
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) || errors.Is(err, ErrNotStored) {
		t.Errorf("%s: %v", cfg.Name, err)
	}
	handled := uint64(0)
	for seen[handled] {
		handled++
	}
	if got, ok := b.Offset(stream, cfg.Name); ok != (handled > 0) || ok && got+1 != handled {
		t.Errorf("%s: offset %d is stored (%v), and what is below %d is handled", cfg.Name, got, ok, handled)
	}
}
