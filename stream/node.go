package stream

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// whereabouts is where a stream lives, and the connection that has told so.
type whereabouts struct {
	location
	told *conn
}

// find asks where a stream lives: on the admin connection, or, if that does not
// answer in the time in which a new one could, on one made for it. Whoever asks
// has lost a connection already, and should not wait for the heartbeats of another
// one too.
func (e *Env) find(ctx context.Context, stream string) (w whereabouts, err error) {
	err = e.onAdmin(ctx, func(ctx context.Context, c *conn) (err error) {
		soon, cancel := e.patience(ctx)
		defer cancel()
		w.told = c
		w.location, err = c.locate(soon, stream)
		return err
	})
	if !errors.Is(err, errSilent) || ctx.Err() != nil {
		return w, err
	}
	c, err := dialAny(ctx, e.cfg, e.endpoints, "tidemark-admin", hooks{})
	if err != nil {
		return w, err
	}
	defer c.close()
	w.told = c
	w.location, err = c.locate(ctx, stream)
	return w, err
}

// patience bounds the wait for a connection that may be silent by the time in
// which a new one could be made.
func (e *Env) patience(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, min(e.cfg.DialTimeout, rpcTimeout/2), errSilent)
}

// errSilent is how a call ends that was not answered within patience.
var errSilent = fmt.Errorf("%w: no answer in the time in which a connection could be made", ErrUnreachable)

// answers returns an error if the peer does not answer within patience.
func (e *Env) answers(ctx context.Context, c *conn) error {
	ctx, cancel := e.patience(ctx)
	defer cancel()
	return c.call(ctx, func(id uint32) wire.Frame { return &wire.Metadata{Correlation: id} }, &wire.MetadataResponse{})
}

// firstOf tries one node after the other until use works with one, or fails for
// a reason that no other node could mend.
func firstOf(ctx context.Context, nodes []node, use func(node) error) error {
	var errs []error
	for _, n := range nodes {
		err := use(n)
		if err == nil || isFatal(err) || ctx.Err() != nil {
			return err
		}
		errs = append(errs, fmt.Errorf("%s: %w", n.address(), err))
	}
	return errors.Join(errs...)
}

// resolveTries is how often a load balancer is asked for a certain node. With
// three nodes behind one that picks them at random, one in 3000 times is in vain.
const resolveTries = 20

// dialNode connects to a node, with the login that told has: by the address at
// which told has reached it, if it did, by the one that it advertises, or by the
// one that Config.Resolve makes of that. What answers there must be that node.
func (e *Env) dialNode(ctx context.Context, told *conn, n node, label string, h hooks) (*conn, error) {
	if told.advertised == n.address() {
		c, err := dial(ctx, e.cfg, told.endpoint, label, h)
		if err != nil || c.advertised == n.address() {
			return c, err
		}
		c.close() // there is a load balancer
	}
	if e.cfg.Resolve == nil {
		return dial(ctx, e.cfg, told.endpoint.at(n.host, n.port), label, h)
	}
	var last *conn
	for range resolveTries {
		to, err := e.cfg.resolve(n)
		if err != nil {
			return nil, err
		}
		c, err := dial(ctx, e.cfg, told.endpoint.at(to.host, to.port), label, h)
		if err != nil {
			return nil, err
		}
		if c.advertised == n.address() {
			return c, nil
		}
		c.close()
		last = c
	}
	return nil, fmt.Errorf("%w: Config.Resolve leads to %s for the node %s, and it answered %d times as another node, last as %s", ErrUnreachable, last.endpoint.address(), n.address(), resolveTries, last.advertised)
}

// resolve returns the address at which a node is to be reached.
func (c Config) resolve(n node) (node, error) {
	if c.Resolve == nil {
		return n, nil
	}
	host, port := c.Resolve(n.host, n.port)
	if host == "" || port < 1 || port > 65535 {
		return n, fmt.Errorf("%w: Config.Resolve returned the host %q and the port %d for %s", ErrInvalidConfig, host, port, n.address())
	}
	return node{host, port}, nil
}

// node is a broker's advertised address.
type node struct {
	host string
	port int
}

func (n node) address() string { return net.JoinHostPort(n.host, strconv.Itoa(n.port)) }

// location is where a stream lives.
type location struct {
	leader   node
	replicas []node
}

// forReading are the nodes to read from in the order to try: the replicas at
// random, to leave the leader to the producers.
func (l location) forReading() []node {
	var list []node
	for _, i := range rand.Perm(len(l.replicas)) {
		list = append(list, l.replicas[i])
	}
	if !slices.Contains(list, l.leader) {
		list = append(list, l.leader)
	}
	return list
}

// locate asks where a stream lives.
func (c *conn) locate(ctx context.Context, stream string) (location, error) {
	var resp wire.MetadataResponse
	err := c.call(ctx, func(id uint32) wire.Frame {
		return &wire.Metadata{Correlation: id, Streams: []string{stream}}
	}, &resp)
	if err != nil {
		return location{}, err
	}
	nodes := map[uint16]node{}
	for _, b := range resp.Brokers {
		nodes[b.Reference] = node{b.Host, int(b.Port)}
	}
	for _, s := range resp.Streams {
		if s.Stream != stream {
			continue
		}
		if s.Code != wire.CodeOK {
			return location{}, codeError(s.Code, stream, c.endpoint.user)
		}
		return locationOf(s, nodes)
	}
	return location{}, fmt.Errorf("%w: the answer does not mention the stream", ErrProtocol)
}

func locationOf(s wire.StreamMetadata, nodes map[uint16]node) (location, error) {
	leader, ok := nodes[s.Leader]
	if !ok {
		return location{}, codeError(wire.CodeStreamNotAvailable, s.Stream, "")
	}
	l := location{leader: leader}
	for _, r := range s.Replicas {
		if n, ok := nodes[r]; ok {
			l.replicas = append(l.replicas, n)
		}
	}
	return l, nil
}
