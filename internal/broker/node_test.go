package broker

import (
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tidemark-go/tidemark/internal/check"
	"github.com/tidemark-go/tidemark/streamtest"
)

// guestAt returns the endpoint of a broker, with the login guest.
func guestAt(t *testing.T, b *streamtest.Broker) Endpoint {
	return Endpoint{Host: "127.0.0.1", Port: check.Port(t, b.Addr()), User: "guest", Password: "guest", VHost: "/"}
}

// TestResolveThroughALoadBalancer: a connection that leads to another node is
// closed and made again, until it is the right one or there is no hope.
func TestResolveThroughALoadBalancer(t *testing.T) {
	check.NoLeaks(t)
	a := streamtest.NewBroker(t, streamtest.WithAdvertised("a.invalid:5552"))
	other := streamtest.NewBroker(t, streamtest.WithAdvertised("b.invalid:5552"))
	var calls atomic.Int64
	right := int64(3)
	o := testOptions()
	o.Resolve = func(string, int) (string, int) {
		if calls.Add(1) == right {
			return "127.0.0.1", check.Port(t, a.Addr())
		}
		return "127.0.0.1", check.Port(t, other.Addr())
	}
	cluster := NewCluster(o, nil)
	wanted := Node{"a.invalid", 5552}
	by := Contact{Endpoint: guestAt(t, a), Advertised: "c.invalid:5552"} // which says nothing of a
	c, err := cluster.dialNode(t.Context(), by, wanted, "test", hooks{})
	if err != nil || c.advertised != wanted.Address() || calls.Load() != right {
		t.Fatalf("after %d calls: %v", calls.Load(), err)
	}
	c.Close()
	right = 0
	if _, err := cluster.dialNode(t.Context(), by, wanted, "test", hooks{}); !errors.Is(err, ErrUnreachable) {
		t.Errorf("always another node: %v", err)
	}
	cluster.opts.Resolve = func(string, int) (string, int) { return "", 0 }
	if _, err := cluster.dialNode(t.Context(), by, wanted, "test", hooks{}); !errors.Is(err, ErrInvalidConfig) {
		t.Errorf("no host: %v", err)
	}
}

// TestDialNodeAsBefore: a node that was reached by an address is reached by it
// again, whatever it advertises, unless another one answers there now.
func TestDialNodeAsBefore(t *testing.T) {
	check.NoLeaks(t)
	a := streamtest.NewBroker(t, streamtest.WithAdvertised("a.invalid:5552"))
	other := streamtest.NewBroker(t, streamtest.WithAdvertised("b.invalid:5552"))
	cluster, wanted := NewCluster(testOptions(), nil), Node{"a.invalid", 5552}
	c, err := cluster.dialNode(t.Context(), Contact{Endpoint: guestAt(t, a), Advertised: wanted.Address()}, wanted, "test", hooks{})
	if err != nil || c.advertised != wanted.Address() {
		t.Fatal(err)
	}
	c.Close()
	_, err = cluster.dialNode(t.Context(), Contact{Endpoint: guestAt(t, other), Advertised: wanted.Address()}, wanted, "test", hooks{})
	check.Err(t, err, ErrUnreachable)
	if !strings.Contains(err.Error(), "a.invalid") {
		t.Errorf("what it advertises was not tried: %v", err)
	}
}

func TestForReading(t *testing.T) {
	leader, r1, r2 := Node{"l", 1}, Node{"r1", 1}, Node{"r2", 1}
	l := Location{Leader: leader, Replicas: []Node{r1, r2}}
	first := map[Node]int{}
	for range 100 {
		got := l.ForReading()
		if len(got) != 3 || got[2] != leader || got[0] == got[1] {
			t.Fatalf("%v; want both replicas and then the leader", got)
		}
		first[got[0]]++
	}
	if first[r1] == 0 || first[r2] == 0 {
		t.Errorf("not at random: %v", first)
	}
	if got := (Location{Leader: leader}).ForReading(); !slices.Equal(got, []Node{leader}) {
		t.Errorf("no replicas: %v", got)
	}
}
