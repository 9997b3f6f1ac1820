package broker

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/check"
	"github.com/tidemark-go/tidemark/internal/script"
	"github.com/tidemark-go/tidemark/internal/wire"
	"github.com/tidemark-go/tidemark/streamtest"
)

// onBroker returns a broker with the stream "s" and a cluster that reaches it.
func onBroker(t *testing.T, opts ...streamtest.Option) (*streamtest.Broker, *Cluster) {
	t.Helper()
	check.NoLeaks(t)
	b := streamtest.NewBroker(t, append(opts, streamtest.WithAdvertised("127.0.0.1"))...)
	b.CreateStream("s")
	c := NewCluster(testOptions(), []Endpoint{guestAt(t, b)})
	t.Cleanup(c.Close)
	return b, c
}

// names are the names of a broker's connections.
func names(b *streamtest.Broker) (list []string) {
	for _, c := range b.Connections() {
		list = append(list, c.ClientName)
	}
	slices.Sort(list)
	return list
}

func TestNewClusterDefaults(t *testing.T) {
	c := NewCluster(Options{}, nil)
	if got, want := c.readers.perNode(testNode), runtime.GOMAXPROCS(0); got != want {
		t.Errorf("%d connections to a node; want %d", got, want)
	}
	if c.opts.PermitRenewal != time.Minute || c.stores.perNode(testNode) != 1 {
		t.Errorf("renewal after %v, %d connections for stores", c.opts.PermitRenewal, c.stores.perNode(testNode))
	}
	c = NewCluster(Options{ReadersPerNode: 3, PermitRenewal: time.Second}, nil)
	if c.readers.perNode(testNode) != 3 || c.opts.PermitRenewal != time.Second {
		t.Errorf("%d connections to a node, renewal after %v", c.readers.perNode(testNode), c.opts.PermitRenewal)
	}
	c.Close() // it has no connection
}

// Where subscriptions slow each other down, each gets a connection of its own,
// up to a limit. The node that administers says so until the node itself has.
func TestReadersSpread(t *testing.T) {
	for version, want := range map[string]int{"4.0.5": 7, "4.2.1": 7, "4.2.2": 2, "4.3.6": 2} {
		t.Run(version, func(t *testing.T) {
			old := runtime.GOMAXPROCS(2)
			defer runtime.GOMAXPROCS(old)
			b, c := onBroker(t, streamtest.WithVersion(version))
			b.CreateStream("s")
			location, err := c.Find(check.Soon(t), "s")
			check.Nil(t, err)
			for range 7 {
				l, err := c.Lease(check.Soon(t), location.Contact, location.Leader, "s", dropChunks{})
				check.Nil(t, err)
				t.Cleanup(func() { l.Release(false) })
			}
			if got := c.SharedConns(); got != want {
				t.Errorf("%d connections, want %d", got, want)
			}
		})
	}
	b, c := onBroker(t)
	location, err := c.Find(check.Soon(t), "s")
	check.Nil(t, err)
	c.opts.ReadersPerNode, c.readers.perStream = 2, 3
	for i, want := range []int{1, 2, 2, 2, 2, 2, 2, 3, 3, 3} { // the first is of another stream
		stream := map[bool]string{true: "other", false: "s"}[i == 0]
		l, err := c.Lease(check.Soon(t), location.Contact, location.Leader, stream, dropChunks{})
		check.Nil(t, err)
		t.Cleanup(func() { l.Release(false) })
		if got := c.SharedConns(); got != want {
			t.Errorf("%d connections for %d leases, want %d", got, i+1, want)
		}
	}
	if got := len(b.Connections()); got != 4 {
		t.Errorf("%d connections", got)
	}
	c = NewCluster(Options{}, nil)
	for name, got := range map[string][2]int{
		"readers":                  {c.readers.perStream, c.readers.perConn},
		"readers that are counted": {NewCluster(Options{ReadersPerNode: 1}, nil).readers.perStream, NewCluster(Options{ReadersPerNode: 1}, nil).readers.perConn},
		"stores":                   {c.stores.perStream, c.stores.perConn},
		"publishers":               {c.publishers.perStream, c.publishers.perConn},
	} {
		if want := map[string][2]int{"readers": {subscriptionsOfStream, leasesOfConn}}[name]; got != want {
			t.Errorf("the pool of %s keeps leases apart by %v, want %v", name, got, want)
		}
	}
	c.versions.Store(testNode, "3.13.7")
	if got := c.readersPerNode(testNode); got != spreadConns {
		t.Errorf("%d connections to an old node, want %d", got, spreadConns)
	}
	if other := (Node{"other", 1}); c.readersPerNode(other) != runtime.GOMAXPROCS(0) {
		t.Error("an unknown node counts as an old one")
	}
}

func TestSleepsPerSubscription(t *testing.T) {
	for version, want := range map[string]bool{
		"3.13.7": true, "4.0.5": true, "4.1.8": true, "4.2": true, "4.2.0": true, "4.2.1": true, "4.2.1-rc.1": true, "4.2.1+git": true,
		"4.2.2": false, "4.2.3": false, "4.3.0": false, "4.10.0": false, "5.0.0": false,
		"": false, "4": false, "x.y.z": false, "4.x": false,
	} {
		if got := SleepsPerSubscription(version); got != want {
			t.Errorf("%q: %v", version, got)
		}
	}
}

func TestClusterConnects(t *testing.T) {
	b, c := onBroker(t)
	if len(b.Connections()) != 0 {
		t.Error("it connects before it is asked")
	}
	for range 2 {
		check.Nil(t, c.Connect(check.Soon(t)))
	}
	if got := names(b); !slices.Equal(got, []string{"tidemark-admin"}) {
		t.Errorf("connections: %q", got)
	}
	admin := c.admin.Load()
	c.Close()
	c.Close()
	if admin.Alive() {
		t.Error("the connection is alive")
	}
	if n := b.Received(streamtest.Close); n != 1 {
		t.Errorf("%d goodbyes", n)
	}
	if p := c.SharedConns(); p != 0 {
		t.Errorf("%d shared connections", p)
	}
}

func TestClusterCannotConnect(t *testing.T) {
	c := NewCluster(testOptions(), []Endpoint{{Host: "127.0.0.1", Port: 1}})
	check.Err(t, c.Connect(check.Soon(t)), ErrUnreachable)
	err := c.Ask(check.Soon(t), func(context.Context, *Conn) error { t.Error("asked without a connection"); return nil })
	check.Err(t, err, ErrUnreachable)
	_, err = c.Find(check.Soon(t), "s")
	check.Err(t, err, ErrUnreachable)
	_, err = c.Lease(check.Soon(t), Contact{}, Node{"127.0.0.1", 1}, "s", &recorder{})
	check.Err(t, err, ErrUnreachable)
}

// Several who ask at once make one connection. One who gives up waiting for it
// gets the context's error.
func TestOneDialsTheAdminConnection(t *testing.T) {
	b, c := onBroker(t)
	c.dialing <- struct{}{} // somebody is at it
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(check.ErrTest)
	check.Err(t, c.Connect(ctx), check.ErrTest)
	errs := make(chan error, 5)
	for range 5 {
		go func() { errs <- c.Connect(check.Soon(t)) }()
	}
	<-c.dialing
	for range 5 {
		check.Nil(t, check.Recv(t, errs, "the connection"))
	}
	if n := len(b.Connections()); n != 1 {
		t.Errorf("%d connections", n)
	}
}

// TestAsk: what the exchange does in each attempt, and how often it is tried.
func TestAsk(t *testing.T) {
	lose := func(c *Conn) { c.fail(fmt.Errorf("%w: lost", ErrUnreachable)) }
	boom := errors.New("boom")
	for _, test := range []struct {
		name     string
		exchange func(attempt int, c *Conn, cancel context.CancelFunc) error
		attempts int
		want     error
	}{
		{"works", func(int, *Conn, context.CancelFunc) error { return nil }, 1, nil},
		{"is refused", func(int, *Conn, context.CancelFunc) error { return boom }, 1, boom},
		{"works, and the connection is lost", func(_ int, c *Conn, _ context.CancelFunc) error { lose(c); return nil }, 1, nil},
		{"loses one connection", func(n int, c *Conn, _ context.CancelFunc) error {
			if n == 1 {
				lose(c)
				return c.Reason()
			}
			_, err := c.Locate(context.Background(), "s")
			return err
		}, 2, nil},
		{"loses both", func(n int, c *Conn, _ context.CancelFunc) error {
			lose(c)
			if n == 2 {
				return boom
			}
			return c.Reason()
		}, 2, boom},
		{"is refused on the second", func(n int, c *Conn, _ context.CancelFunc) error {
			if n == 1 {
				lose(c)
				return c.Reason()
			}
			return boom
		}, 2, boom},
		{"is cancelled", func(_ int, c *Conn, cancel context.CancelFunc) error { lose(c); cancel(); return boom }, 1, boom},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, cluster := onBroker(t)
			ctx, cancel := context.WithCancel(check.Soon(t))
			defer cancel()
			attempts := 0
			var conns []*Conn
			err := cluster.Ask(ctx, func(_ context.Context, c *Conn) error {
				attempts++
				conns = append(conns, c)
				return test.exchange(attempts, c, cancel)
			})
			if err != test.want || attempts != test.attempts {
				t.Errorf("%v after %d attempts, want %v after %d", err, attempts, test.want, test.attempts)
			}
			if len(slices.Compact(conns)) != attempts {
				t.Error("the second attempt had the lost connection")
			}
			// Who comes next has a connection that works.
			check.Nil(t, cluster.Ask(check.Soon(t), func(ctx context.Context, c *Conn) error { return c.Ping(ctx) }))
		})
	}
}

func TestFind(t *testing.T) {
	b, c := onBroker(t)
	l, err := c.Find(check.Soon(t), "s")
	check.Nil(t, err)
	if want := (Node{"127.0.0.1", check.Port(t, b.Addr())}); l.Leader != want || l.Contact.Endpoint != guestAt(t, b) || l.Contact.Advertised != want.Address() {
		t.Errorf("%+v, want the leader %v", l, want)
	}
	_, err = c.Find(check.Soon(t), "other")
	check.Err(t, err, ErrStreamNotFound)
	b.DropConnections(streamtest.CutRST)
	_, err = c.Find(check.Soon(t), "s")
	check.Nil(t, err)
	if n := len(b.Connections()); n != 1 {
		t.Errorf("%d connections", n)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(check.ErrTest)
	c.dialing <- struct{}{} // somebody makes the connection
	_, err = c.Find(ctx, "s")
	check.Err(t, err, check.ErrTest)
	<-c.dialing
}

// TestFindPastASilentConnection: the question goes to a connection of its own,
// which says goodbye, and the silent one stays for those who wait on it.
func TestFindPastASilentConnection(t *testing.T) {
	t.Parallel()
	var silent atomic.Int64 // how many connections do not answer
	closed := make(chan int64, 10)
	var conns atomic.Int64
	e := listen(t, func(p *script.Peer) {
		n := conns.Add(1)
		b := newFake()
		b.on(func(_ *script.Peer, key wire.Key, _ []byte) bool {
			if key == wire.KeyClose {
				closed <- n
			}
			return key == wire.KeyMetadata && n <= silent.Load()
		})
		if p.Welcome() {
			b.serve(p)
		}
	})
	o := testOptions()
	o.DialTimeout = 500 * time.Millisecond
	c := NewCluster(o, []Endpoint{e})
	t.Cleanup(c.Close)
	silent.Store(1)
	l, err := c.Find(check.Soon(t), "s")
	check.Nil(t, err)
	if l.Leader != testNode || conns.Load() != 2 {
		t.Errorf("%+v over %d connections", l, conns.Load())
	}
	if n := check.Recv(t, closed, "the goodbye"); n != 2 {
		t.Errorf("connection %d was closed", n)
	}
	if admin := c.admin.Load(); !admin.Alive() {
		t.Errorf("the silent one has ended: %v", admin.Reason())
	}
	// The caller's own end comes first.
	ctx, cancel := context.WithTimeoutCause(t.Context(), 10*time.Millisecond, check.ErrTest)
	defer cancel()
	_, err = c.Find(ctx, "s")
	check.Err(t, err, check.ErrTest)
	if conns.Load() != 2 {
		t.Error("it connected for a caller who has gone")
	}
	// Where the new one cannot be had, that is the error.
	c.opts.DialTimeout = 10 * time.Millisecond
	c.endpoints = []Endpoint{{Host: "127.0.0.1", Port: 1}}
	_, err = c.Find(check.Soon(t), "s")
	check.Err(t, err, ErrUnreachable)
	says(t, err, "127.0.0.1:1")
}

func TestFindLeader(t *testing.T) {
	b, c := onBroker(t)
	want := Node{"127.0.0.1", check.Port(t, b.Addr())}
	l, err := c.FindLeader(check.Soon(t), "s", "")
	if l.Leader != want || l.Contact.Endpoint != guestAt(t, b) || err != nil {
		t.Errorf("%+v, %v", l, err)
	}
	if n := len(b.Connections()); n != 1 {
		t.Errorf("%d connections, though the one for administration leads there", n)
	}
	_, err = c.FindLeader(check.Soon(t), "other", "")
	check.Err(t, err, ErrStreamNotFound)
}

// view is what a node says of every stream.
type view struct {
	leader   uint16
	replicas []uint16
}

// startViews starts two nodes that have views of their own, and names a third one
// that is down.
func startViews(t *testing.T, views *[2]atomic.Pointer[view]) (nodes [3]Node) {
	t.Helper()
	for i := range views {
		port := script.Listen(t, func(p *script.Peer) {
			b := newFake()
			b.on(func(p *script.Peer, key wire.Key, fields []byte) bool {
				if key != wire.KeyMetadata {
					return false
				}
				id, _ := wire.Correlation(fields)
				v := views[i].Load()
				if v == nil {
					return true // it does not answer
				}
				answer := &wire.MetadataResponse{Correlation: id, Streams: []wire.StreamMetadata{{Stream: "s", Code: wire.CodeOK, Leader: v.leader, Replicas: v.replicas}}}
				for ref, n := range nodes {
					answer.Brokers = append(answer.Brokers, wire.BrokerAddress{Reference: uint16(ref), Host: n.Host, Port: uint32(n.Port)})
				}
				p.Send(answer)
				return true
			})
			if p.Welcome() {
				b.serve(p)
			}
		})
		nodes[i] = Node{"127.0.0.1", port}
	}
	nodes[2] = Node{"127.0.0.1", 1}
	return nodes
}

// TestFindLeaderPastAnIdleOne: a node that is cut off from its cluster names
// itself as the leader, and no replica. Those that it named before, and the nodes
// of the other URIs, know better.
func TestFindLeaderPastAnIdleOne(t *testing.T) {
	for name, test := range map[string]struct {
		before view // what the node says before it is cut off
		after  view
		uris   int
		found  bool
	}{
		"it names the replicas":     {view{0, nil}, view{0, []uint16{2, 1, 0}}, 1, true},
		"it named the replicas":     {view{0, []uint16{2, 1}}, view{0, nil}, 1, true},
		"it named another leader":   {view{1, []uint16{0, 2}}, view{0, nil}, 1, true},
		"another URI":               {view{0, nil}, view{0, nil}, 2, true},
		"it never named a replica":  {view{0, nil}, view{0, nil}, 1, false},
		"it named one that is down": {view{0, []uint16{2}}, view{0, nil}, 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			check.NoLeaks(t)
			var views [2]atomic.Pointer[view]
			views[0].Store(&test.before)
			views[1].Store(&view{1, nil})
			nodes := startViews(t, &views)
			var endpoints []Endpoint
			for _, n := range nodes[:test.uris] {
				endpoints = append(endpoints, Endpoint{Host: n.Host, Port: n.Port, User: script.User, Password: script.Password, VHost: "/"})
			}
			c := NewCluster(testOptions(), endpoints[:1]) // the first question goes there
			defer c.Close()
			_, err := c.FindLeader(check.Soon(t), "s", "")
			check.Nil(t, err)
			c.endpoints = endpoints
			views[0].Store(&test.after)
			want := map[bool]Node{true: nodes[1], false: nodes[0]}[test.found]
			wantLeader(t, c, nodes[0].Address(), want)
			wantLeader(t, c, "", nodes[0]) // which is not idle
			views[1].Store(&view{0, nil})  // and the other one agrees
			wantLeader(t, c, nodes[0].Address(), nodes[0])
		})
	}
}

// TestFindLeaderPastASilentOne: newer brokers that are cut off from their cluster
// do not answer at all.
func TestFindLeaderPastASilentOne(t *testing.T) {
	check.NoLeaks(t)
	var views [2]atomic.Pointer[view]
	views[0].Store(&view{0, []uint16{1}})
	views[1].Store(&view{1, nil})
	nodes := startViews(t, &views)
	o := testOptions()
	o.DialTimeout = time.Second
	c := NewCluster(o, []Endpoint{{Host: nodes[0].Host, Port: nodes[0].Port, User: script.User, Password: script.Password, VHost: "/"}})
	defer c.Close()
	_, err := c.FindLeader(check.Soon(t), "s", "")
	check.Nil(t, err)
	views[0].Store(nil)
	wantLeader(t, c, nodes[0].Address(), nodes[1])
	views[1].Store(nil)
	_, err = c.FindLeader(check.Soon(t), "s", nodes[0].Address())
	check.Err(t, err, ErrUnreachable)
}

// wantLeader wants a leader past an idle one.
func wantLeader(t *testing.T, c *Cluster, idle string, want Node) {
	t.Helper()
	l, err := c.FindLeader(check.Soon(t), "s", idle)
	if check.Nil(t, err); l.Leader != want {
		t.Errorf("past %q: the leader is %s, want %s", idle, l.Leader.Address(), want.Address())
	}
}

// TestLeasesOnABroker: the connections that leases and offset writers make show
// under their names, and go with the last of them.
func TestLeasesOnABroker(t *testing.T) {
	b, c := onBroker(t)
	ctx := check.Soon(t)
	location, err := c.Find(ctx, "s")
	check.Nil(t, err)
	l, err := c.Lease(ctx, location.Contact, location.Leader, "s", &recorder{})
	check.Nil(t, err)
	w, err := c.NewOffsetWriter(ctx, location.Contact, location.Leader, "me", "s", func(string) {})
	check.Nil(t, err)
	if got, want := names(b), []string{"tidemark-admin", "tidemark-consumer", "tidemark-store"}; !slices.Equal(got, want) || c.SharedConns() != 2 {
		t.Errorf("connections %q, of which %d are shared", got, c.SharedConns())
	}
	check.Nil(t, l.Subscribe(ctx, "s", wire.OffsetSpec{Type: wire.OffsetNext}, SubscribeOptions{Name: "me"}))
	for i := range uint64(100) {
		check.Nil(t, w.Store(ctx, i, i < 99))
	}
	check.Nil(t, w.Verify(ctx, 99, nil))
	if got, ok := b.Offset("me", "s"); got != 99 || !ok {
		t.Errorf("the broker has %d, %v", got, ok)
	}
	w.Close(true)
	l.Release(true)
	check.Nil(t, b.Await(ctx, func() bool { return len(b.Connections()) == 1 }))
	if c.SharedConns() != 0 {
		t.Errorf("%d connections are left", c.SharedConns())
	}
}

// A store connection is asked for moves, and for nothing that only a subscriber
// of chunks needs.
func TestStoreConnectionHooks(t *testing.T) {
	b, c := onBroker(t)
	ctx := check.Soon(t)
	location, err := c.Find(ctx, "s")
	check.Nil(t, err)
	moved := make(chan string, 10)
	w, err := c.NewOffsetWriter(ctx, location.Contact, location.Leader, "me", "s", func(s string) { moved <- s })
	check.Nil(t, err)
	defer w.Close(false)
	h := w.conn.hooks
	if h.deliver != nil || h.buffer != nil || h.tick != nil {
		t.Error("more hooks than it needs")
	}
	b.DeleteStream("s")
	if s := check.Recv(t, moved, "the update"); s != "s" {
		t.Errorf("%q has moved", s)
	}
}
