package broker

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
)

// The names under which the broker's management shows the connections.
const (
	adminLabel = "tidemark-admin"
	readLabel  = "tidemark-consumer"
	storeLabel = "tidemark-store"

	publishLabel = "tidemark-producer"
)

// Cluster is the nodes of one broker. It owns a connection for administration,
// which it replaces when that is lost, and the connections that leases and
// offset writers share. It is safe for concurrent use.
type Cluster struct {
	opts      Options
	endpoints []Endpoint

	dialing chan struct{} // a lock, held by the one who looks at or makes the admin connection
	admin   atomic.Pointer[Conn]

	readers *pool // the connections on which chunks come
	stores  *pool // the connections of offset writers, one to a node
	batches batches

	publishers *pool     // the connections for publishing
	goodbyes   *goodbyes // to those of them that nobody uses any more

	finding together[string, Location] // streams
	pinging together[*Conn, struct{}]

	versions sync.Map // of the nodes that were reached: Node to string

	// known is the last location with replicas that a node has named.
	known atomic.Pointer[Location]
}

// NewCluster returns a cluster without any connection.
func NewCluster(o Options, endpoints []Endpoint) *Cluster {
	o = o.withDefaults()
	c := &Cluster{opts: o, endpoints: endpoints, dialing: make(chan struct{}, 1), goodbyes: newGoodbyes()}
	c.readers, c.stores = newPool(c.readersPerNode, c.ping), newPool(oneConn, c.ping)
	if o.ReadersPerNode == 0 {
		c.readers.perStream, c.readers.perConn = subscriptionsOfStream, leasesOfConn
	}
	c.publishers = newPublisherPool(publishersPerNode, c.ping, c.goodbyes)
	return c
}

// oneConn makes all leases share one connection to a node.
func oneConn(Node) int { return 1 }

// publishersPerNode is how many connections to a node publishers spread over: a
// process of the broker reads each of them.
func publishersPerNode(Node) int { return runtime.GOMAXPROCS(0) }

// readersPerNode returns how many connections to a node the subscriptions spread
// over: one for each core that can read, or many where subscriptions slow each
// other down. Leases that crowd these have more; see leasesOfConn. A node that was
// not reached yet counts as one of the version of the node that administers.
func (c *Cluster) readersPerNode(n Node) int {
	if c.opts.ReadersPerNode > 0 {
		return c.opts.ReadersPerNode
	}
	version := c.Version()
	if own, ok := c.versions.Load(n); ok {
		version = own.(string)
	}
	if SleepsPerSubscription(version) {
		return max(spreadConns, runtime.GOMAXPROCS(0))
	}
	return runtime.GOMAXPROCS(0)
}

// Connect makes the administrative connection, so that a mistake in the
// configuration shows. It blocks for Options.DialTimeout at most for each
// endpoint.
func (c *Cluster) Connect(ctx context.Context) error {
	_, err := c.adminConn(ctx)
	return err
}

// Close closes the administrative connection, and waits for the goodbyes of
// publishers. Leases, offset writers and publishers close the other connections.
func (c *Cluster) Close() { c.CloseWithin(context.Background()) }

// CloseWithin is Close that waits for the peer under ctx.
func (c *Cluster) CloseWithin(ctx context.Context) {
	defer c.goodbyes.wait(ctx)
	if admin := c.admin.Swap(nil); admin != nil {
		admin.CloseWithin(ctx)
	}
}

// adminConn returns the administrative connection and makes it if need be.
func (c *Cluster) adminConn(ctx context.Context) (*Conn, error) {
	select {
	case c.dialing <- struct{}{}:
		defer func() { <-c.dialing }()
	case <-ctx.Done():
		return nil, ContextError(ctx)
	}
	if admin := c.admin.Load(); admin != nil {
		if admin.Alive() {
			return admin, nil
		}
		admin.Abort()
	}
	admin, err := dialAny(ctx, c.opts, c.endpoints, adminLabel, hooks{})
	if err != nil {
		return nil, err
	}
	c.admin.Store(admin)
	return admin, nil
}

// Ask runs an idempotent exchange on the administrative connection. It replaces
// a connection that turns out to be lost, and asks once more. The error of the
// second attempt stands.
func (c *Cluster) Ask(ctx context.Context, exchange func(context.Context, *Conn) error) error {
	var err error
	for range 2 {
		var admin *Conn
		if admin, err = c.adminConn(ctx); err != nil {
			break
		}
		if err = exchange(ctx, admin); err == nil || admin.Alive() || ctx.Err() != nil {
			break
		}
	}
	return err
}

// Find returns the nodes that have a stream. It asks on the administrative
// connection. If that does not answer in time (see patience), Find makes a
// connection of its own: whoever asks has often lost a connection already, and
// should not wait until heartbeats show that another one is lost too.
//
// Those who look for a stream at the same moment share the answer, unless it is
// that there is none: the caller may have declared it since somebody else asked.
func (c *Cluster) Find(ctx context.Context, stream string) (Location, error) {
	own := false
	l, err := c.finding.ask(ctx, stream, func(ctx context.Context) (Location, error) {
		own = true
		return c.find(ctx, stream)
	})
	if !own && errors.Is(err, ErrStreamNotFound) {
		return c.find(ctx, stream)
	}
	return l, err
}

func (c *Cluster) find(ctx context.Context, stream string) (l Location, err error) {
	defer func() { c.remember(l, err) }()
	err = c.Ask(ctx, func(ctx context.Context, admin *Conn) (err error) {
		soon, cancel := c.patience(ctx)
		defer cancel()
		l, err = admin.Locate(soon, stream)
		return err
	})
	if !errors.Is(err, ErrSilent) || ctx.Err() != nil {
		return l, err
	}
	conn, err := dialAny(ctx, c.opts, c.endpoints, adminLabel, hooks{})
	if err != nil {
		return l, err
	}
	defer conn.CloseWithin(ctx)
	soon, cancel := c.patience(ctx)
	defer cancel()
	return conn.Locate(soon, stream)
}

// remember keeps the nodes of a location for otherView.
func (c *Cluster) remember(l Location, err error) {
	if err == nil && len(l.Replicas) > 0 {
		c.known.Store(&l)
	}
}

// FindLeader returns the nodes that have a stream, for who needs its leader. idle
// is the advertised address of a leader that did nothing, or empty. If it is named
// again, or nobody answers, FindLeader asks other nodes too: a node that is cut
// off from its cluster goes on taking itself for the leader, and theirs is another
// one.
func (c *Cluster) FindLeader(ctx context.Context, stream, idle string) (Location, error) {
	l, err := c.Find(ctx, stream)
	if idle != "" && ctx.Err() == nil && (errors.Is(err, ErrUnreachable) || err == nil && l.Leader.Address() == idle) {
		if view, found := c.otherView(ctx, l, stream); found {
			l, err = view, nil
		}
	}
	c.remember(l, err)
	return l, err
}

// otherView returns what the first node says that names another leader than l
// does. RabbitMQ names no replica that it is cut off from, so otherView also asks
// the nodes that were named before, and those of the URIs.
func (c *Cluster) otherView(ctx context.Context, l Location, stream string) (view Location, found bool) {
	for _, dial := range c.waysPast(l) {
		view, err := c.locateOver(ctx, dial, stream)
		if err == nil && view.Leader != l.Leader {
			return view, true
		}
	}
	return l, false
}

// waysPast returns how to connect to the nodes other than the leader of l.
func (c *Cluster) waysPast(l Location) (ways []func(context.Context) (*Conn, error)) {
	others, by := slices.Clone(l.Replicas), l.Contact
	if known := c.known.Load(); known != nil {
		others, by = append(append(others, known.Replicas...), known.Leader), known.Contact
	}
	asked := map[Node]bool{l.Leader: true}
	for _, n := range others {
		if !asked[n] {
			asked[n] = true
			ways = append(ways, func(ctx context.Context) (*Conn, error) {
				return c.dialNode(ctx, by, n, adminLabel, hooks{})
			})
		}
	}
	for _, e := range c.endpoints {
		if !asked[Node{e.Host, e.Port}] {
			ways = append(ways, func(ctx context.Context) (*Conn, error) {
				return dial(ctx, c.opts, e, adminLabel, hooks{})
			})
		}
	}
	return ways
}

// locateOver asks where a stream lives, on a connection of its own.
func (c *Cluster) locateOver(ctx context.Context, dial func(context.Context) (*Conn, error), stream string) (Location, error) {
	ctx, cancel := c.patience(ctx)
	defer cancel()
	conn, err := dial(ctx)
	if err != nil {
		return Location{}, err
	}
	defer conn.CloseWithin(ctx)
	return conn.Locate(ctx, stream)
}

// patience bounds the wait for a connection that may be silent by the time that
// a new connection would take: DialTimeout, and half of callTimeout at most.
func (c *Cluster) patience(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, min(c.opts.DialTimeout, callTimeout/2), OwnReason(ErrSilent))
}

// ErrSilent ends a call that was not answered within patience. It is the broker's
// silence on a connection: another one may be answered.
var ErrSilent = fmt.Errorf("%w: no answer in the time in which a connection could be made", ErrUnreachable)

// ping returns an error if the peer does not answer within patience. Those who
// ask at the same moment share the answer.
func (c *Cluster) ping(ctx context.Context, conn *Conn) error {
	_, err := c.pinging.ask(ctx, conn, func(ctx context.Context) (struct{}, error) {
		ctx, cancel := c.patience(ctx)
		defer cancel()
		return struct{}{}, conn.Ping(ctx)
	})
	return err
}

// resolveTries is how often dialNode asks a load balancer for a certain node.
// With three nodes behind one that picks them at random, 1 of 3000 searches is
// in vain.
const resolveTries = 20

// dialNode connects to a node with the login of a contact. It dials the contact's
// own address if that led to the node. If it did not, or leads to another node by
// now, dialNode dials the node's advertised address, or with Options.Resolve what
// that maps it to. A peer at an advertised address is taken to be the node.
func (c *Cluster) dialNode(ctx context.Context, by Contact, n Node, label string, h hooks) (*Conn, error) {
	if by.Advertised == n.Address() {
		conn, err := dial(ctx, c.opts, by.Endpoint, label, h)
		if err != nil || conn.advertised == n.Address() {
			return conn, err
		}
		conn.CloseWithin(ctx) // the address is that of a load balancer
	}
	if c.opts.Resolve == nil {
		conn, err := dial(ctx, c.opts, by.Endpoint.At(n), label, h)
		if err != nil {
			return nil, advertisedError(err, n)
		}
		return conn, nil
	}
	return c.dialResolved(ctx, by, n, label, h)
}

// advertisedError says where an address comes from that no URI names.
func advertisedError(err error, n Node) error {
	var wrong *tls.CertificateVerificationError
	switch {
	case errors.As(err, &wrong):
		return fmt.Errorf("%w; the broker advertises the address %s for this node: without Config.TLS.ServerName the node's certificate must be for that host", err, n.Address())
	case errors.Is(err, ErrUnreachable), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w; the broker advertises the address %s for this node: if this client reaches the node by another one, map it with Config.Resolve", err, n.Address())
	}
	return err
}

// dialResolved dials what Options.Resolve returns until the peer is the node,
// resolveTries times at most.
func (c *Cluster) dialResolved(ctx context.Context, by Contact, n Node, label string, h hooks) (*Conn, error) {
	var last *Conn
	for range resolveTries {
		address, err := c.opts.resolve(n)
		if err != nil {
			return nil, err
		}
		conn, err := dial(ctx, c.opts, by.Endpoint.At(address), label, h)
		if err != nil {
			return nil, err
		}
		if conn.advertised == n.Address() {
			return conn, nil
		}
		conn.CloseWithin(ctx)
		last = conn
	}
	return nil, fmt.Errorf("%w: Config.Resolve leads to %s for the node %s, and it answered %d times as another node, last as %s", ErrUnreachable, last.endpoint.Address(), n.Address(), resolveTries, last.advertised)
}

// Lease gives a subscriber of a stream a place on a shared connection to a node.
// The caller releases the lease.
func (c *Cluster) Lease(ctx context.Context, by Contact, n Node, stream string, s Subscriber) (*Lease, error) {
	return c.lease(ctx, c.readers, by, n, stream, s)
}

// LeaseQuestions is Lease for who asks and stores, and subscribes to have a look
// at most: up to 256 of them share a connection, whatever the broker's version.
func (c *Cluster) LeaseQuestions(ctx context.Context, by Contact, n Node, _ string, s Subscriber) (*Lease, error) {
	return c.join(ctx, c.readers, by, &Lease{node: n, questions: true, subscriber: s, batches: &c.batches})
}

// LeaseAlone is Lease on a connection that nobody else uses.
func (c *Cluster) LeaseAlone(ctx context.Context, by Contact, n Node, stream string, s Subscriber) (*Lease, error) {
	return c.lease(ctx, newPool(oneConn, nil), by, n, stream, s)
}

func (c *Cluster) lease(ctx context.Context, from *pool, by Contact, n Node, stream string, s Subscriber) (*Lease, error) {
	return c.join(ctx, from, by, &Lease{node: n, stream: stream, subscriber: s, batches: &c.batches})
}

// join gives a lease its place on a connection.
func (c *Cluster) join(ctx context.Context, from *pool, by Contact, l *Lease) (*Lease, error) {
	err := from.join(ctx, l, func(h hooks) (*Conn, error) {
		conn, err := c.dialNode(ctx, by, l.node, readLabel, h)
		if err == nil {
			c.versions.Store(l.node, conn.version)
		}
		return conn, err
	})
	if err != nil {
		return nil, err
	}
	return l, nil
}

// SharedConns returns the number of connections that leases, offset writers and
// publishers have open.
func (c *Cluster) SharedConns() int {
	return c.readers.size() + c.stores.size() + c.publishers.size()
}
