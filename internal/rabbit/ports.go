package rabbit

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
)

// Every instance has a block of ports of its own, below the range from which
// the kernel takes ports for outgoing connections: a client that reconnects
// while a node is down must not be given the node's port.
const (
	portsMin      = 16384
	portsMax      = 32768 // exclusive
	portsPerBlock = 128
	portsPerNode  = 8
	osirisOffset  = 32 // the rest of the block is for replicas of streams
)

// allocatePorts finds a block in which every port is free and lays out an
// instance of so many nodes in it. It prefers the block of last, which may be
// nil: whoever knows the URIs of that instance finds the new one.
func allocatePorts(nodes int, last *state) (*state, error) {
	if last != nil && blockFree(last.EpmdPort) {
		return layOut(last.EpmdPort, nodes), nil
	}
	blocks := (portsMax - portsMin) / portsPerBlock
	for _, b := range rand.Perm(blocks) {
		base := portsMin + b*portsPerBlock
		if blockFree(base) {
			return layOut(base, nodes), nil
		}
	}
	return nil, fmt.Errorf("no block of %d free ports between %d and %d on 127.0.0.1", portsPerBlock, portsMin, portsMax)
}

// layOut assigns the ports of the block that starts at base.
func layOut(base, nodes int) *state {
	s := &state{
		Version:   stateVersion,
		EpmdPort:  base,
		OsirisMin: base + osirisOffset,
		OsirisMax: base + portsPerBlock - 1,
	}
	for i := range nodes {
		first := base + portsPerNode*(i+1)
		s.Nodes = append(s.Nodes, Node{
			Name:           "n" + strconv.Itoa(i+1),
			StreamPort:     first,
			StreamTLSPort:  first + 1,
			AMQPPort:       first + 2,
			ManagementPort: first + 3,
			DistPort:       first + 4,
		})
	}
	return s
}

func blockFree(base int) bool {
	for port := base; port < base+portsPerBlock; port++ {
		if portFree(port) != nil {
			return false
		}
	}
	return true
}

// portFree returns nil when somebody could listen on 127.0.0.1:port now.
func portFree(port int) error {
	l, err := net.Listen("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return err
	}
	return l.Close()
}

// portsFree says which of the node's ports somebody else holds.
func (n Node) portsFree() error {
	var errs []error
	for _, port := range []int{n.StreamPort, n.StreamTLSPort, n.AMQPPort, n.ManagementPort, n.DistPort} {
		if err := portFree(port); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
