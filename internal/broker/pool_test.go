package broker

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/check"
)

// Connections are made up to the limit, then shared evenly, and the ids of one
// are used again only when all others were.
func TestPoolChooses(t *testing.T) {
	p, n := newPool(conns(2), nil), Node{"h", 1}
	up := func(hooks) (*Conn, error) { return &Conn{}, nil }
	sit := func() (*sharedConn, *Lease) {
		t.Helper()
		l := &Lease{node: n}
		if err := p.join(t.Context(), l, up); err != nil || l.conn.byID[l.id].Load() != l {
			t.Fatal(err)
		}
		return l.conn, l
	}
	a, _ := sit()
	b, _ := sit()
	if a == b {
		t.Error("the second does not have a connection of its own")
	}
	for range 2*maxIDs - 2 {
		sit()
	}
	if len(a.leases) != maxIDs || len(b.leases) != maxIDs || len(p.open[n]) != 2 {
		t.Errorf("%d and %d leases on %d connections", len(a.leases), len(b.leases), len(p.open[n]))
	}
	if c, l := sit(); c == a || c == b {
		t.Error("there was room on a full connection")
	} else if got := c.removeUnlessShared(l); got != alone || len(p.open[n]) != 2 {
		t.Errorf("the only lease left: %v, and %d connections", got, len(p.open[n]))
	}
	// Of the leases that leave, one gets no answer: its id stays taken.
	leave := func(l *Lease, answered bool) uint8 {
		if got := a.removeUnlessShared(l); got != shared {
			t.Fatalf("a lease among others: %v", got)
		}
		if a.removeShared(l, answered) {
			t.Fatal("it was the last one")
		}
		return l.id
	}
	var ofA []*Lease
	for l := range a.leases {
		ofA = append(ofA, l)
	}
	lost, freed := leave(ofA[0], false), leave(ofA[1], true)
	if a.byID[lost].Load() == nil || a.byID[freed].Load() != nil {
		t.Error("the wrong ids are free")
	}
	if c, l := sit(); c != a || l.id != freed {
		t.Errorf("got id %d; want %d", l.id, freed)
	}
	if c, _ := sit(); c == a || c == b {
		t.Error("an id that is not free was used")
	}
}

// A subscription whose dialing is cancelled leaves it to one that waits for it.
func TestDialledByAnother(t *testing.T) {
	p, n := newPool(conns(1), nil), Node{"h", 1}
	ctx, cancel := context.WithCancel(t.Context())
	dialing := make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		err := p.join(ctx, &Lease{node: n}, func(hooks) (*Conn, error) {
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
		err := p.join(t.Context(), &Lease{node: n}, func(hooks) (*Conn, error) { return nil, boom })
		got <- err
	}()
	check.Eventually(t, "the second waits", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.open[n]) == 1 && len(p.open[n][0].leases) == 2
	})
	cancel()
	check.Err(t, check.Recv(t, ended, "the first"), context.Canceled)
	check.Err(t, check.Recv(t, got, "the second"), boom)
	if len(p.open) != 0 {
		t.Errorf("%d connections are left", len(p.open))
	}
}

// Who gives up waiting for a connection's answer says nothing about it.
func TestJoinCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	asked := false
	p := newPool(conns(1), func(ctx context.Context, _ *Conn) error {
		if asked {
			return nil
		}
		asked = true
		cancel()
		return context.Cause(ctx)
	})
	n, dials := Node{"h", 1}, 0
	dial := func(hooks) (*Conn, error) { dials++; return &Conn{}, nil }
	join := func(ctx context.Context) error {
		return p.join(ctx, &Lease{node: n}, dial)
	}
	check.Nil(t, join(t.Context()))
	check.Err(t, join(ctx), context.Canceled)
	check.Nil(t, join(t.Context()))
	if dials != 1 {
		t.Errorf("%d connections, want 1", dials)
	}
}

// A connection that may be silent is not waited for as long as a call may take.
func TestPatience(t *testing.T) {
	for dialTimeout, most := range map[time.Duration]time.Duration{time.Second: time.Second, time.Hour: callTimeout / 2} {
		c := NewCluster(Options{DialTimeout: dialTimeout}, nil)
		ctx, cancel := c.patience(t.Context())
		defer cancel()
		at, ok := ctx.Deadline()
		if left := time.Until(at); !ok || left > most || left < most-time.Second {
			t.Errorf("%v: %v, want %v", dialTimeout, left, most)
		}
	}
}

// A panic of Options.Resolve is the caller's to recover from, and leaves nobody
// waiting.
func TestPanicWhileDialing(t *testing.T) {
	p, n := newPool(conns(1), nil), Node{"h", 1}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("no panic")
			}
		}()
		_ = p.join(t.Context(), &Lease{node: n}, func(hooks) (*Conn, error) { panic("resolve") })
	}()
	err := p.join(t.Context(), &Lease{node: n}, func(hooks) (*Conn, error) { return nil, check.ErrTest })
	check.Err(t, err, check.ErrTest)
}

// conns is a pool's limit of n connections to a node.
func conns(n int) func(Node) int { return func(Node) int { return n } }
