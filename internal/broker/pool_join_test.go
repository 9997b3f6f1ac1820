package broker

import (
	"context"
	"errors"
	"runtime"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-go/tidemark/internal/check"
	"github.com/tidemark-go/tidemark/internal/wire"
)

// TestJoinsTheEmptiest: of the connections to a node the one with the fewest
// leases is joined, and a lost one not at all.
func TestJoinsTheEmptiest(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		p := newPool(conns(3), nil)
		var leases []*Lease
		for range 8 {
			leases = append(leases, b.join(t, p, &recorder{}))
		}
		if b.dials() != 3 || p.size() != 3 {
			t.Fatalf("%d connections, %d in the pool", b.dials(), p.size())
		}
		counts := func(want ...int) {
			t.Helper()
			for i, c := range p.open[testNode] {
				if len(c.leases) != want[i] {
					t.Errorf("connection %d has %d leases, want %v", i, len(c.leases), want)
				}
			}
		}
		counts(3, 3, 2)
		for _, l := range []*Lease{leases[1], leases[4]} { // both on the second
			l.Release(true)
		}
		counts(3, 1, 2)
		b.join(t, p, &recorder{})
		b.join(t, p, &recorder{})
		counts(3, 3, 2)
		leases[2].conn.fail(check.ErrTest)
		l := b.join(t, p, &recorder{})
		if b.dials() != 4 || l.conn == leases[2].conn {
			t.Errorf("%d connections were made; a lost one does not count", b.dials())
		}
		leases[2].Release(true)
		leases[5].Release(true)
		if p.size() != 3 || leases[2].conn.Conn != b.conns[2] {
			t.Errorf("%d connections in the pool", p.size())
		}
		counts(3, 3, 1)
	})
}

// TestQuestionsShareConnections: leases for questions do not spread over as many
// connections as subscriptions do, and do not count as such.
func TestQuestionsShareConnections(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		p := newPool(conns(spreadConns), nil)
		p.perStream = 2
		join := func(l *Lease) {
			t.Helper()
			l.node, l.subscriber = testNode, &recorder{}
			check.Nil(t, p.join(t.Context(), l, func(h hooks) (*Conn, error) { return b.dial(t, h), nil }))
			t.Cleanup(func() { l.Release(false) })
		}
		for range 100 {
			join(&Lease{questions: true})
		}
		few := min(runtime.GOMAXPROCS(0), spreadConns)
		if p.size() != few {
			t.Errorf("%d connections, want %d", p.size(), few)
		}
		join(&Lease{stream: "s"})
		if p.size() != few+1 {
			t.Errorf("%d connections with a subscription", p.size())
		}
	})
}

// TestCrowdedConnections: one that has its leases is not joined, until there are so
// many connections.
func TestCrowdedConnections(t *testing.T) {
	p := newPool(conns(2), nil)
	p.perStream, p.perConn = 3, 4
	join := func(stream string) {
		t.Helper()
		l := &Lease{node: testNode, stream: stream}
		check.Nil(t, p.join(t.Context(), l, func(hooks) (*Conn, error) { return &Conn{}, nil }))
	}
	expect := func(when string, conns int) {
		t.Helper()
		if p.size() != conns {
			t.Errorf("%s: %d connections, want %d", when, p.size(), conns)
		}
	}
	for i := range 4 * crowdConns {
		join(strconv.Itoa(i))
		expect(strconv.Itoa(i), max(min(i+1, 2), (i+4)/4))
	}
	join("one more")
	expect("one more", crowdConns)
	for range 3*crowdConns + 1 {
		join("s")
	}
	expect("of one stream", crowdConns+1)
}

// TestCrowdedBesideOthers: leases of one stream share a connection that has room,
// although the connections that are full have none of that stream.
func TestCrowdedBesideOthers(t *testing.T) {
	p := newPool(conns(2), nil)
	p.perStream, p.perConn = 4, 4
	join := func(stream string) {
		t.Helper()
		l := &Lease{node: testNode, stream: stream}
		check.Nil(t, p.join(t.Context(), l, func(hooks) (*Conn, error) { return &Conn{}, nil }))
	}
	for i := range 8 {
		join(strconv.Itoa(i))
	}
	for i := range 8 {
		join("s")
		if want := 3 + i/4; p.size() != want {
			t.Errorf("%d leases of a stream: %d connections, want %d", i+1, p.size(), want)
		}
	}
}

// Each node has connections of its own.
func TestPoolByNode(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		p := newPool(conns(1), nil)
		first := b.join(t, p, &recorder{})
		l := &Lease{node: Node{"other", 1}, subscriber: &recorder{}}
		check.Nil(t, p.join(t.Context(), l, func(h hooks) (*Conn, error) { return b.dial(t, h), nil }))
		if l.conn == first.conn || p.size() != 2 {
			t.Errorf("%d connections to two nodes", p.size())
		}
		l.Release(false)
		if _, ok := p.open[l.node]; ok || p.size() != 1 {
			t.Errorf("%d connections are left", p.size())
		}
	})
}

// Ids start at 1, go up, and begin again at 0.
func TestIDsWrapAround(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		p := newPool(conns(1), nil)
		first := b.join(t, p, &recorder{})
		first.conn.lastID = maxIDs - 3
		for _, want := range []uint8{254, 255, 0, 2, 3} { // 1 is taken
			if l := b.join(t, p, &recorder{}); first.id != 1 || l.id != want {
				t.Errorf("id %d, want %d", l.id, want)
			}
		}
	})
}

// TestJoinASilentConnection: who is not answered makes another connection, and
// nobody is sent to the silent one again.
func TestJoinASilentConnection(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		var silent *Conn
		pings := 0
		p := newPool(conns(1), func(_ context.Context, c *Conn) error {
			if pings++; c == silent && pings < 100 { // or it would be joined for ever
				return ErrSilent
			}
			return nil
		})
		first := b.join(t, p, &recorder{})
		second := b.join(t, p, &recorder{})
		if b.dials() != 1 || pings != 1 {
			t.Fatalf("%d connections and %d questions; who dials does not ask", b.dials(), pings)
		}
		silent = first.conn.Conn
		third := b.join(t, p, &recorder{})
		fourth := b.join(t, p, &recorder{})
		if b.dials() != 2 || pings != 3 || third.conn == first.conn || fourth.conn != third.conn {
			t.Errorf("%d connections and %d questions", b.dials(), pings)
		}
		if n := len(first.conn.leases); n != 2 || first.Reason() != nil {
			t.Errorf("the silent one has %d leases, want the two of before: %v", n, first.Reason())
		}
		first.Release(false)
		second.Release(false)
		check.Err(t, first.Reason(), ErrClosed)
		if p.size() != 1 {
			t.Errorf("%d connections are left", p.size())
		}
	})
}

// The last one who leaves a silent connection closes it.
func TestLeavesASilentConnectionAlone(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		var first *Lease
		p := newPool(conns(1), func(_ context.Context, c *Conn) error {
			if c == first.conn.Conn {
				first.Release(false) // meanwhile
				return ErrSilent
			}
			return nil
		})
		first = b.join(t, p, &recorder{})
		b.took(t)
		b.join(t, p, &recorder{})
		check.Err(t, first.Reason(), ErrClosed)
		b.took(t, "unsubscribe 1")
		if b.dials() != 2 || p.size() != 1 {
			t.Errorf("%d connections, %d in the pool", b.dials(), p.size())
		}
	})
}

// TestPingHasPatience asks on the connection, for as long as a new one could take.
func TestPingHasPatience(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		o := testOptions()
		o.DialTimeout = 2 * time.Second
		cluster := NewCluster(o, nil)
		c := b.dial(t, hooks{})
		check.Nil(t, cluster.ping(t.Context(), c))
		b.mute(wire.KeyMetadata)
		begin := time.Now()
		check.Err(t, cluster.ping(t.Context(), c), ErrSilent, ErrUnreachable)
		took(t, begin, o.DialTimeout)
		if !c.Alive() {
			t.Error("it ended the connection")
		}
	})
}

// TestWaitersOfADial: those who wait for a connection that somebody dials share
// what comes of it.
func TestWaitersOfADial(t *testing.T) {
	cancelled := func() context.Context {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		return ctx
	}
	for _, test := range []struct {
		name  string
		ctx   context.Context // of who dials
		err   error           // of the first dial
		dials int             // in all
		fails bool            // for those who wait
	}{
		{"it works", context.Background(), nil, 1, false},
		{"it fails", context.Background(), ErrUnreachable, 1, true},
		{"the time of who dials is up", context.Background(), context.DeadlineExceeded, 2, false},
		{"who dials is cancelled", cancelled(), check.ErrTest, 2, false},
		{"it panics", context.Background(), errDialing, 2, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			virtual(t, func(t *testing.T, b *fake) {
				const waiters = 3
				p := newPool(conns(1), nil)
				dials, failing := 0, make(chan struct{})
				join := func(ctx context.Context) (l *Lease, err error) {
					defer func() {
						if r := recover(); r != nil {
							err = errDialing
						}
					}()
					l = &Lease{node: testNode, subscriber: &recorder{}}
					err = p.join(ctx, l, func(h hooks) (*Conn, error) {
						if dials++; dials > 1 {
							return b.dial(t, h), nil
						}
						<-failing
						switch test.err {
						case nil:
							return b.dial(t, h), nil
						case errDialing:
							panic("resolve")
						}
						return nil, test.err
					})
					return l, err
				}
				first := make(chan error, 1)
				go func() { _, err := join(test.ctx); first <- err }()
				synctest.Wait()
				errs, leases := make(chan error, waiters), make(chan *Lease, waiters)
				for range waiters {
					go func() {
						l, err := join(t.Context())
						errs <- err
						leases <- l
					}()
				}
				synctest.Wait()
				if len(errs) > 0 || dials != 1 {
					t.Errorf("%d did not wait, %d dials", len(errs), dials)
				}
				close(failing)
				if err := <-first; err != test.err {
					t.Errorf("who dialed got %v", err)
				}
				for range waiters {
					if err := <-errs; (err != nil) != test.fails || test.fails && !errors.Is(err, test.err) {
						t.Errorf("one who waited got %v", err)
					}
				}
				want := 1
				if test.fails {
					want = 0
				}
				if dials != test.dials || p.size() != want {
					t.Errorf("%d dials, %d connections in the pool; want %d and %d", dials, p.size(), test.dials, want)
				}
				if test.fails {
					(<-leases).Release(true) // which has no connection to leave
				}
			})
		})
	}
}

// Who gives up waiting for a dial leaves it to the others.
func TestWaiterGivesUp(t *testing.T) {
	virtual(t, func(t *testing.T, b *fake) {
		p, dialing := newPool(conns(1), nil), make(chan struct{})
		first := make(chan error, 1)
		l := &Lease{node: testNode, subscriber: &recorder{}}
		go func() {
			first <- p.join(t.Context(), l, func(h hooks) (*Conn, error) { <-dialing; return b.dial(t, h), nil })
		}()
		synctest.Wait()
		ctx, cancel := context.WithCancelCause(t.Context())
		second := make(chan error, 1)
		go func() { second <- p.join(ctx, &Lease{node: testNode, subscriber: &recorder{}}, nil) }()
		synctest.Wait()
		cancel(check.ErrTest)
		check.Err(t, <-second, check.ErrTest)
		close(dialing)
		check.Nil(t, <-first)
		if n := len(l.conn.leases); n != 1 {
			t.Errorf("%d leases, want 1", n)
		}
		// Its id is free: it never had a subscription.
		if l.conn.byID[2].Load() != nil {
			t.Error("the id of who gave up is taken")
		}
		l.Release(true)
		b.took(t, "close ok")
	})
}

// A chunk's memory is new where nobody has the subscription.
func TestBufferForNobody(t *testing.T) {
	c := &sharedConn{}
	if n := len(c.buffer(9, 33)); n != 33 {
		t.Errorf("%d bytes, want 33", n)
	}
}
