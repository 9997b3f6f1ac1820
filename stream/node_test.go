package stream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/broker"
	"github.com/tidemark-go/tidemark/internal/check"
	"github.com/tidemark-go/tidemark/streamtest"
)

// TestResolve: everything works with a broker that advertises an address at
// which nobody can reach it.
func TestResolve(t *testing.T) {
	noLeaks(t)
	b := streamtest.NewBroker(t, streamtest.WithAdvertised("node1.invalid:5552"))
	uri := "rabbitmq-stream://guest:guest@" + b.Addr()
	env, err := Connect(t.Context(), Config{URIs: []string{uri}, Resolve: func(host string, port int) (string, int) {
		if host != "node1.invalid" || port != 5552 {
			t.Errorf("asked for %s, port %d", host, port)
		}
		return "127.0.0.1", check.Port(t, b.Addr())
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
	must(t, stop())
	if got, err := env.QueryOffset(t.Context(), "billing", name); err != nil || got != 9 {
		t.Errorf("stored %d, %v", got, err)
	}
}

// TestResolveAnotherNode: a node that no URI leads to is found by Resolve, by
// consumers and producers. Without it the error says where the address comes from
// and what to do.
func TestResolveAnotherNode(t *testing.T) {
	beside(t)
	p := startPair(t, nil, nil, streamtest.WithAdvertised("node1.invalid"))
	p.host = "node1.invalid"
	var asked atomic.Int64
	env, err := p.connectWith(t, Config{Resolve: func(host string, port int) (string, int) {
		asked.Add(1)
		return "127.0.0.1", port
	}})
	must(t, err)
	published, read := publishAndRead(t, env)
	must(t, errors.Join(published, read))
	if asked.Load() < 2 {
		t.Errorf("asked %d times", asked.Load())
	}
}

// TestAdvertisedAddressThatIsNoUse: dialing there goes nowhere, for longer than
// the caller waits, or for DialTimeout.
func TestAdvertisedAddressThatIsNoUse(t *testing.T) {
	beside(t)
	p := startPair(t, nil, nil)
	ctx, giveUp := context.WithCancel(soon(t))
	dialing := make(chan struct{}, 10)
	go func() {
		<-dialing // the attempt that ends by itself
		<-dialing
		giveUp()
	}()
	nowhere := func(ctx context.Context, network, address string) (net.Conn, error) {
		if strings.HasPrefix(address, "127.0.0.1:") { // the first node
			return new(net.Dialer).DialContext(ctx, network, address)
		}
		dialing <- struct{}{}
		<-ctx.Done()
		return nil, ctx.Err()
	}
	for _, test := range []struct {
		name  string
		limit time.Duration
		want  error
	}{{"the attempt ends", 2 * time.Second, ErrUnreachable}, {"the caller gives up", patience, context.Canceled}} {
		env, err := p.connectWith(t, Config{Dial: nowhere, DialTimeout: test.limit})
		must(t, err)
		_, err = env.NewProducer(ctx, testStream, ProducerConfig{})
		for _, says := range []string{"the address localhost:" + fmt.Sprint(check.Port(t, p.leader.Addr())), "advertises", "Config.Resolve"} {
			if err == nil || !strings.Contains(err.Error(), says) {
				t.Errorf("%s: %v, want it to say %q", test.name, err, says)
			}
		}
		wantErr(t, err, test.want)
	}
}

// TestNodeThatIsOfNoUse: a node that cannot be reached, or does not serve the
// stream, costs no more than the attempt; the next one is asked. What no node
// could mend is not asked again, and the error names all of them.
func TestNodeThatIsOfNoUse(t *testing.T) {
	down, serving, leader := broker.Node{Host: "down", Port: 1}, broker.Node{Host: "serving", Port: 2}, broker.Node{Host: "leader", Port: 3}
	all := []broker.Node{down, serving, leader}
	var tried []broker.Node
	try := func(errs ...error) error {
		tried = nil
		return firstOf(t.Context(), all, func(n broker.Node) error {
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
		if !strings.Contains(err.Error(), n.Address()) {
			t.Errorf("the error does not name %s: %v", n.Address(), err)
		}
	}
	wantErr(t, try(ErrAccessRefused), ErrAccessRefused)
	if len(tried) != 1 {
		t.Errorf("a refusal was asked for again: %v", tried)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = firstOf(ctx, all, func(broker.Node) error { cancel(); return ctx.Err() })
	wantErr(t, err, context.Canceled)
}
