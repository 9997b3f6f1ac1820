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

// reach connects to a node that has the stream and has use work with it. Where
// a node cannot be reached or use finds that it does not serve, the next one is
// tried, in the order that order gives, knowing the address of the first
// connection. That serves for finding out, and stays if it happens to lead to
// the first choice. hook is called before each connection; one that use has
// succeeded with is use's.
func (e *Env) reach(ctx context.Context, stream, label string, order func(l location, connected string) []node, hook func() hooks, use func(*conn) error) error {
	c, err := dialAny(ctx, e.cfg, e.endpoints, label, hook())
	if err != nil {
		return err
	}
	where, err := c.locate(ctx, stream)
	if err != nil {
		c.abort()
		return err
	}
	login, nodes := c.endpoint, order(where, c.advertised)
	if nodes[0].address() != c.advertised {
		c.close()
		c = nil
	}
	var errs []error
	for _, n := range nodes {
		if c == nil {
			c, err = e.dialNode(ctx, login, n, label, hook())
		}
		if err == nil {
			c.leads = n == where.leader
			if err = use(c); err == nil {
				return nil
			}
			c.abort()
		}
		errs = append(errs, fmt.Errorf("%s: %w", n.address(), err))
		if c = nil; isFatal(err) || ctx.Err() != nil {
			return err
		}
		err = nil
	}
	return errors.Join(errs...)
}

// resolveTries is how often a load balancer is asked for a certain node. With
// three nodes behind one that picks them at random, one in 3000 times is in vain.
const resolveTries = 20

// dialNode connects to a node by the address that it advertises, or by the one
// that Config.Resolve makes of it: what answers there must be that node.
func (e *Env) dialNode(ctx context.Context, login endpoint, n node, label string, h hooks) (*conn, error) {
	if e.cfg.Resolve == nil {
		return dial(ctx, e.cfg, login.at(n.host, n.port), label, h)
	}
	var last *conn
	for range resolveTries {
		to, err := e.cfg.resolve(n)
		if err != nil {
			return nil, err
		}
		c, err := dial(ctx, e.cfg, login.at(to.host, to.port), label, h)
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

// forReading prefers replicas, to leave the leader to the producers, and among
// them the one that is connected already.
func (l location) forReading(connected string) []node {
	var list []node
	for _, i := range rand.Perm(len(l.replicas)) {
		if r := l.replicas[i]; r.address() == connected {
			list = append([]node{r}, list...)
		} else {
			list = append(list, r)
		}
	}
	if !slices.Contains(list, l.leader) {
		list = append(list, l.leader)
	}
	return list
}

// forStoring is the leader, which knows the stream's extent exactly.
func (l location) forStoring(string) []node { return []node{l.leader} }

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
