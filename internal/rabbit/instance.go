// Package rabbit gets and runs a real RabbitMQ on this machine, for tests and
// for tools/rabbitmq. Everything listens on loopback, on ports that were free.
//
// An instance is one broker or a cluster of three in one directory. What runs
// survives the process that started it; Open finds it again. Several instances
// run side by side in different directories.
//
// Where the broker comes from is decided by [Up], in this order: the one that
// RABBITMQ_STREAM_URL names, a container engine, a rabbitmq-server on PATH, a
// Debian root file system in the user's cache directory (Debian or Ubuntu, as
// root).
package rabbit

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"
)

const user, password = "guest", "guest"

// Instance is a RabbitMQ that was brought up. Its methods may be called from
// several goroutines and processes; what changes it is serialised by a lock
// file.
type Instance struct {
	dir      string
	state    *state
	backend  backend
	external *external // set instead of state and backend
}

// Open returns the instance that was brought up in dir before, whether its
// nodes run or not. It fails with ErrNoInstance when there is none. When
// RABBITMQ_STREAM_URL names another broker, Open returns that one, as Up does.
func Open(dir string) (*Instance, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if x := externalFor(dir); x != nil {
		return &Instance{dir: dir, external: x}, nil
	}
	return openOwn(dir)
}

// openOwn is Open for an instance of ours.
func openOwn(dir string) (*Instance, error) {
	s, err := loadState(dir)
	if err != nil {
		return nil, err
	}
	b, err := newBackend(dir, s)
	if err != nil {
		return nil, err
	}
	return &Instance{dir: dir, state: s, backend: b}, nil
}

// Probe returns nil when every node answers, or the external broker.
func (i *Instance) Probe(ctx context.Context) error {
	if i.external != nil {
		return i.external.probe(ctx)
	}
	for _, n := range i.state.Nodes {
		if err := n.ready(ctx); err != nil {
			return fmt.Errorf("%s: %w", n.Name, err)
		}
	}
	return nil
}

// Nodes returns the nodes, running or not, n1 first.
func (i *Instance) Nodes() []Node {
	if i.external != nil {
		return nil
	}
	return append([]Node(nil), i.state.Nodes...)
}

// Provider says how the brokers are run.
func (i *Instance) Provider() Provider {
	if i.external != nil {
		return Provider{Kind: External}
	}
	return i.state.Provider
}

// Dir is the instance's directory.
func (i *Instance) Dir() string { return i.dir }

// StreamURL is the URI of the stream listener, one for each node, separated by
// commas.
func (i *Instance) StreamURL() string {
	if i.external != nil {
		return i.external.stream
	}
	return i.state.streamURL()
}

// StreamTLSURL is StreamURL for the TLS listeners, whose certificate CAFile
// signed. Empty for an external broker.
func (i *Instance) StreamTLSURL() string {
	if i.external != nil {
		return ""
	}
	return i.state.urls("rabbitmq-stream+tls", func(n Node) int { return n.StreamTLSPort })
}

// CAFile is the PEM file to trust for StreamTLSURL. Empty for an external
// broker.
func (i *Instance) CAFile() string {
	if i.external != nil {
		return ""
	}
	return filepath.Join(i.dir, certDir, caFile)
}

// ClientCertificate is the PEM files of a client's certificate and key, which the
// nodes accept once they verify their clients. They do not unless a file in a
// node's directory conf.d sets ssl_options.verify = verify_peer and
// ssl_options.fail_if_no_peer_cert = true. Empty for an external broker.
func (i *Instance) ClientCertificate() (cert, key string) {
	if i.external != nil {
		return "", ""
	}
	return filepath.Join(i.dir, certDir, clientFile), filepath.Join(i.dir, certDir, clientKeyFile)
}

// AMQPURL is the URI of n1's AMQP 0-9-1 listener.
func (i *Instance) AMQPURL() string {
	if i.external != nil {
		return i.external.amqp
	}
	return "amqp://" + user + ":" + password + "@localhost:" + strconv.Itoa(i.state.Nodes[0].AMQPPort) + "/"
}

// ManagementURL is the URL of n1's management API, with the user and password
// in it.
func (i *Instance) ManagementURL() string {
	if i.external != nil {
		return i.external.management
	}
	return "http://" + user + ":" + password + "@localhost:" + strconv.Itoa(i.state.Nodes[0].ManagementPort)
}

func (s *state) streamURL() string {
	return s.urls("rabbitmq-stream", func(n Node) int { return n.StreamPort })
}

func (s *state) urls(scheme string, port func(Node) int) string {
	var all []string
	for _, n := range s.Nodes {
		all = append(all, fmt.Sprintf("%s://%s:%s@localhost:%d", scheme, user, password, port(n)))
	}
	return strings.Join(all, ",")
}

// NodeStatus is what Status reports for a node.
type NodeStatus struct {
	Node
	Up  bool `json:"up"`  // every listener answers
	PID int  `json:"pid"` // of the beam, 0 when it does not run
}

// Status probes every node. A node with a process id that is not up is
// starting, stopping or stuck.
func (i *Instance) Status(ctx context.Context) ([]NodeStatus, error) {
	if i.external != nil {
		return nil, i.external.refuse("status")
	}
	var all []NodeStatus
	for _, n := range i.state.Nodes {
		pid, err := i.backend.pid(ctx, n)
		if err != nil {
			return nil, err
		}
		all = append(all, NodeStatus{Node: n, PID: pid, Up: pid != 0 && n.ready(ctx) == nil})
	}
	return all, nil
}

func (i *Instance) node(name string) (Node, error) {
	var known []string
	for _, n := range i.state.Nodes {
		if n.Name == name {
			return n, nil
		}
		known = append(known, n.Name)
	}
	return Node{}, fmt.Errorf("%w %q: this instance has %s", ErrUnknownNode, name, strings.Join(known, ", "))
}

// say writes a line of progress; errors of the writer do not matter.
func say(w io.Writer, format string, args ...any) {
	if w != nil {
		fmt.Fprintf(w, "rabbitmq: "+format+"\n", args...)
	}
}
