package stream

import (
	"context"
	"errors"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tidemark-go/tidemark/internal/wire"
	"github.com/tidemark-go/tidemark/streamtest"
)

// portOf returns the port that a broker listens on.
func portOf(t *testing.T, b *streamtest.Broker) int {
	t.Helper()
	_, port, err := net.SplitHostPort(b.Addr())
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestResolve: everything works with a broker that advertises an address at
// which nobody can reach it.
func TestResolve(t *testing.T) {
	noLeaks(t)
	b := streamtest.NewBroker(t, streamtest.WithAdvertised("node1.invalid:5552"))
	uri := "rabbitmq-stream://guest:guest@" + b.Addr()
	var asked atomic.Int64
	env, err := Connect(t.Context(), Config{URIs: []string{uri}, Resolve: func(host string, port int) (string, int) {
		if host != "node1.invalid" || port != 5552 {
			t.Errorf("asked for %s, port %d", host, port)
		}
		asked.Add(1)
		return "127.0.0.1", portOf(t, b)
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = env.Close() }()
	name := newStream(t, env)
	publish(t, env, name, 0, 10)
	var n atomic.Int64
	stop, _ := runConsumer(t, env, name, ConsumerConfig{Name: "billing", Store: StorePolicy{Every: 1}}, func(*Delivery) { n.Add(1) })
	eventually(t, "all are handled", patience, func() bool { return n.Load() == 10 })
	wantErr(t, stop(), context.Canceled)
	if got, err := env.QueryOffset(t.Context(), "billing", name); err != nil || got != 9 {
		t.Errorf("stored %d, %v", got, err)
	}
	if asked.Load() == 0 {
		t.Error("Resolve was not called")
	}
}

// TestResolveThroughALoadBalancer: a connection that leads to another node is
// closed and made again, until it is the right one or there is no hope.
func TestResolveThroughALoadBalancer(t *testing.T) {
	noLeaks(t)
	a := streamtest.NewBroker(t, streamtest.WithAdvertised("a.invalid:5552"))
	other := streamtest.NewBroker(t, streamtest.WithAdvertised("b.invalid:5552"))
	var calls atomic.Int64
	right := int64(3)
	env := &Env{}
	cfg, endpoints, err := Config{URIs: []string{"rabbitmq-stream://guest:guest@" + a.Addr()}, Resolve: func(string, int) (string, int) {
		if calls.Add(1) == right {
			return "127.0.0.1", portOf(t, a)
		}
		return "127.0.0.1", portOf(t, other)
	}}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	env.cfg = cfg
	wanted := node{"a.invalid", 5552}
	c, err := env.dialNode(t.Context(), endpoints[0], wanted, "test", hooks{})
	if err != nil || c.advertised != wanted.address() || calls.Load() != right {
		t.Fatalf("after %d calls: %v", calls.Load(), err)
	}
	c.close()
	right = 0
	if _, err := env.dialNode(t.Context(), endpoints[0], wanted, "test", hooks{}); !errors.Is(err, ErrUnreachable) {
		t.Errorf("always another node: %v", err)
	}
	env.cfg.Resolve = func(string, int) (string, int) { return "", 0 }
	if _, err := env.dialNode(t.Context(), endpoints[0], wanted, "test", hooks{}); !errors.Is(err, ErrInvalidConfig) {
		t.Errorf("no host: %v", err)
	}
}

func TestForReading(t *testing.T) {
	leader, r1, r2 := node{"l", 1}, node{"r1", 1}, node{"r2", 1}
	l := location{leader, []node{r1, r2}}
	for range 20 {
		if got := l.forReading(r2.address()); !slices.Equal(got, []node{r2, r1, leader}) {
			t.Fatalf("connected to r2: %v", got)
		}
		if got := l.forReading(leader.address()); len(got) != 3 || got[2] != leader {
			t.Fatalf("connected to the leader: %v", got)
		}
	}
	if got := (location{leader: leader}).forReading("x"); !slices.Equal(got, []node{leader}) {
		t.Errorf("no replicas: %v", got)
	}
}

// TestReplicaThatIsOfNoUse: a replica that cannot be reached, or does not serve
// the stream, costs a consumer no more than the attempt; the next one is asked.
// What no node could mend is not asked again, and the error names all of them.
func TestReplicaThatIsOfNoUse(t *testing.T) {
	noLeaks(t)
	b := streamtest.NewBroker(t)
	env := connect(t, b.URI())
	name := newStream(t, env)
	down, serving := node{"127.0.0.1", closedPort(t)}, node{"127.0.0.1", portOf(t, b)} // the broker is localhost to itself
	try := func(use func(*conn) error, nodes ...node) error {
		return env.reach(t.Context(), name, "test", func(l location, _ string) []node { return append(nodes, l.leader) },
			func() hooks { return hooks{} }, use)
	}
	var tried []bool // whether each node that was reached leads
	err := try(func(c *conn) error {
		if tried = append(tried, c.leads); !c.leads {
			return codeError(wire.CodeStreamNotAvailable, name, "")
		}
		c.close()
		return nil
	}, down, serving)
	if err != nil || !slices.Equal(tried, []bool{false, true}) {
		t.Errorf("reached %v: %v", tried, err)
	}
	err = try(func(*conn) error { return ErrStreamUnavailable }, down, serving)
	wantErr(t, err, ErrUnreachable, ErrStreamUnavailable)
	for _, n := range []node{down, serving} {
		if !strings.Contains(err.Error(), n.address()) {
			t.Errorf("the error does not name %s: %v", n.address(), err)
		}
	}
	tried = nil
	err = try(func(c *conn) error { tried = append(tried, c.leads); return ErrAccessRefused }, serving)
	wantErr(t, err, ErrAccessRefused)
	if len(tried) != 1 {
		t.Errorf("a refusal was asked for again: %v", tried)
	}
}

// closedPort is a port on which nobody listens.
func closedPort(t *testing.T) int {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := ln.Addr().(*net.TCPAddr).Port
	_ = ln.Close()
	return port
}
