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
	told := &conn{endpoint: endpoints[0], advertised: "c.invalid:5552"} // by which nothing is known of a
	c, err := env.dialNode(t.Context(), told, wanted, "test", hooks{})
	if err != nil || c.advertised != wanted.address() || calls.Load() != right {
		t.Fatalf("after %d calls: %v", calls.Load(), err)
	}
	c.close()
	right = 0
	if _, err := env.dialNode(t.Context(), told, wanted, "test", hooks{}); !errors.Is(err, ErrUnreachable) {
		t.Errorf("always another node: %v", err)
	}
	env.cfg.Resolve = func(string, int) (string, int) { return "", 0 }
	if _, err := env.dialNode(t.Context(), told, wanted, "test", hooks{}); !errors.Is(err, ErrInvalidConfig) {
		t.Errorf("no host: %v", err)
	}
}

// TestDialNodeAsBefore: a node that was reached by an address is reached by it
// again, whatever it advertises, unless another one answers there now.
func TestDialNodeAsBefore(t *testing.T) {
	noLeaks(t)
	a := streamtest.NewBroker(t, streamtest.WithAdvertised("a.invalid:5552"))
	other := streamtest.NewBroker(t, streamtest.WithAdvertised("b.invalid:5552"))
	cfg, endpoints, err := Config{URIs: []string{"rabbitmq-stream://guest:guest@" + a.Addr(), "rabbitmq-stream://guest:guest@" + other.Addr()}}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	env, wanted := &Env{cfg: cfg}, node{"a.invalid", 5552}
	c, err := env.dialNode(t.Context(), &conn{endpoint: endpoints[0], advertised: wanted.address()}, wanted, "test", hooks{})
	if err != nil || c.advertised != wanted.address() {
		t.Fatal(err)
	}
	c.close()
	_, err = env.dialNode(t.Context(), &conn{endpoint: endpoints[1], advertised: wanted.address()}, wanted, "test", hooks{})
	wantErr(t, err, ErrUnreachable)
	if !strings.Contains(err.Error(), "a.invalid") {
		t.Errorf("what it advertises was not tried: %v", err)
	}
}

func TestForReading(t *testing.T) {
	leader, r1, r2 := node{"l", 1}, node{"r1", 1}, node{"r2", 1}
	l := location{leader, []node{r1, r2}}
	first := map[node]int{}
	for range 100 {
		got := l.forReading()
		if len(got) != 3 || got[2] != leader || got[0] == got[1] {
			t.Fatalf("%v; want both replicas and then the leader", got)
		}
		first[got[0]]++
	}
	if first[r1] == 0 || first[r2] == 0 {
		t.Errorf("not at random: %v", first)
	}
	if got := (location{leader: leader}).forReading(); !slices.Equal(got, []node{leader}) {
		t.Errorf("no replicas: %v", got)
	}
}

// TestNodeThatIsOfNoUse: a node that cannot be reached, or does not serve the
// stream, costs no more than the attempt; the next one is asked. What no node
// could mend is not asked again, and the error names all of them.
func TestNodeThatIsOfNoUse(t *testing.T) {
	down, serving, leader := node{"down", 1}, node{"serving", 2}, node{"leader", 3}
	all := []node{down, serving, leader}
	var tried []node
	try := func(errs ...error) error {
		tried = nil
		return firstOf(t.Context(), all, func(n node) error {
			tried = append(tried, n)
			return errs[len(tried)-1]
		})
	}
	if err := try(ErrUnreachable, ErrStreamUnavailable, nil); err != nil || !slices.Equal(tried, all) {
		t.Errorf("tried %v: %v", tried, err)
	}
	err := try(ErrUnreachable, ErrStreamUnavailable, ErrStreamUnavailable)
	wantErr(t, err, ErrUnreachable, ErrStreamUnavailable)
	for _, n := range all {
		if !strings.Contains(err.Error(), n.address()) {
			t.Errorf("the error does not name %s: %v", n.address(), err)
		}
	}
	wantErr(t, try(ErrAccessRefused), ErrAccessRefused)
	if len(tried) != 1 {
		t.Errorf("a refusal was asked for again: %v", tried)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = firstOf(ctx, all, func(node) error { cancel(); return ctx.Err() })
	wantErr(t, err, context.Canceled)
}
