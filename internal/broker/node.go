package broker

import (
	"math/rand/v2"
	"net"
	"slices"
	"strconv"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// Node is a broker's advertised address.
type Node struct {
	Host string
	Port int
}

// Address returns host:port.
func (n Node) Address() string { return net.JoinHostPort(n.Host, strconv.Itoa(n.Port)) }

// Location is the nodes that have a stream, and the contact that named them.
type Location struct {
	Leader   Node
	Replicas []Node
	Contact  Contact
}

// ForReading returns the nodes to read from, in the order in which to try them:
// the replicas in random order, which leaves the leader to the producers, and
// then the leader.
func (l Location) ForReading() []Node {
	var nodes []Node
	for _, i := range rand.Perm(len(l.Replicas)) {
		nodes = append(nodes, l.Replicas[i])
	}
	if !slices.Contains(nodes, l.Leader) {
		nodes = append(nodes, l.Leader)
	}
	return nodes
}

// location takes a stream's nodes from an answer to Metadata. A stream whose
// leader is not among the nodes has no leader for the moment.
func (c *Conn) location(s wire.StreamMetadata, nodes map[uint16]Node) (Location, error) {
	leader, ok := nodes[s.Leader]
	if !ok {
		return Location{}, codeError(wire.CodeStreamNotAvailable, s.Stream, "")
	}
	l := Location{Leader: leader, Contact: c.Contact()}
	for _, r := range s.Replicas {
		if n, ok := nodes[r]; ok {
			l.Replicas = append(l.Replicas, n)
		}
	}
	return l, nil
}
