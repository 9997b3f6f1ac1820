package stream

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/check"
	"github.com/tidemark-go/tidemark/streamtest"
)

// TestConnectionNames: every connection shows whose it is and what for, those of
// the official client included, as far as that allows.
func TestConnectionNames(t *testing.T) {
	b := streamtest.NewBroker(t)
	b.CreateStream(testStream)
	env := connectWith(t, b.URI(), Config{ConnectionName: "billing@host"})
	p, err := env.NewProducer(soon(t), testStream, ProducerConfig{})
	must(t, err)
	c, err := env.NewConsumer(testStream, ConsumerConfig{Name: "c", Store: StorePolicy{Every: 1}})
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx, func(context.Context, *Delivery) error { return nil }) }()
	want := []string{"billing@host tidemark-admin", "billing@host tidemark-consumer", "billing@host tidemark-producer", "billing@host tidemark-store"}
	var got []string
	err = b.Await(soon(t), func() bool {
		got = nil
		for _, c := range b.Connections() {
			got = append(got, c.ClientName)
		}
		slices.Sort(got)
		return slices.Equal(got, want)
	})
	if err != nil {
		t.Errorf("connections %q, want %q", got, want)
	}
	cancel()
	recv(t, done, "the end of Run")
	must(t, p.Close(soon(t)))
}

func TestConnectionNameChecks(t *testing.T) {
	cfg, _, err := Config{}.withDefaults()
	must(t, err)
	if host, _ := os.Hostname(); !strings.HasSuffix(cfg.ConnectionName, "@"+host) || strings.HasPrefix(cfg.ConnectionName, "@") || strings.Contains(cfg.ConnectionName, "/") {
		t.Errorf("by default %q", cfg.ConnectionName)
	}
	for name, want := range map[string]error{
		"a b/ü": nil, strings.Repeat("n", 255): nil,
		strings.Repeat("n", 256): ErrInvalidConfig, "a\nb": ErrInvalidConfig, "a\xffb": ErrInvalidConfig, "\x00": ErrInvalidConfig,
	} {
		_, _, err := Config{ConnectionName: name}.withDefaults()
		if !errors.Is(err, want) || err != nil && !strings.Contains(err.Error(), "ConnectionName") {
			t.Errorf("%.20q: %v, want %v", name, err, want)
		}
	}
}

// TestConnectWaits for a broker that is not up yet, and for nothing that waiting
// does not mend.
func TestConnectWaits(t *testing.T) {
	b := streamtest.NewBroker(t)
	b.Stop()
	var attempts atomic.Int64
	tries := make(chan struct{}, 1000)
	cfg := testConfig()
	cfg.URIs, cfg.Wait, cfg.Logger = []string{b.URI()}, true, slog.New(slog.NewTextHandler(t.Output(), nil))
	cfg.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		attempts.Add(1)
		tries <- struct{}{}
		return new(net.Dialer).DialContext(ctx, network, address)
	}
	connected := make(chan error, 1)
	go func() {
		env, err := Connect(soon(t), cfg)
		if err == nil {
			err = env.Close()
		}
		connected <- err
	}()
	for range 3 {
		recv(t, tries, "an attempt")
	}
	must(t, b.Restart())
	must(t, recv(t, connected, "the connection"))

	cfg.URIs = []string{strings.Replace(b.URI(), "guest:guest", "guest:wrong", 1)}
	_, err := Connect(soon(t), cfg)
	wantErr(t, err, ErrAuthentication)

	attempts.Store(0)
	cfg.URIs, cfg.Wait = []string{"rabbitmq-stream://127.0.0.1:1"}, false
	_, err = Connect(soon(t), cfg)
	wantErr(t, err, ErrUnreachable)
	if n := attempts.Load(); n != 1 {
		t.Errorf("%d attempts without Wait", n)
	}
	cfg.Wait = true
	ctx, cancel := context.WithCancelCause(soon(t))
	dial := cfg.Dial
	cfg.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		if attempts.Load() == 3 { // it has come back twice
			cancel(errTest)
		}
		return dial(ctx, network, address)
	}
	_, err = Connect(ctx, cfg)
	wantErr(t, err, context.Canceled, errTest)
}

// TestConnectWaitsForNoMistake: a peer that speaks no stream protocol.
func TestConnectWaitsForNoMistake(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer ln.Close()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
			_, _ = c.Read(make([]byte, 1000))
			_ = c.Close()
		}
	}()
	cfg := testConfig()
	cfg.URIs, cfg.Wait = []string{"rabbitmq-stream://" + ln.Addr().String()}, true
	_, err = Connect(soon(t), cfg)
	wantErr(t, err, ErrProtocol)
}

// TestDial: every connection goes through Config.Dial, those of the official
// client as well, with TLS and without, and to each node of a cluster.
func TestDial(t *testing.T) {
	beside(t)
	a := newAuthority(t)
	for name, p := range map[string]*pair{
		"plain": startPair(t, nil, nil, streamtest.WithAdvertised("node1.invalid")),
		"TLS":   startPair(t, a.server("127.0.0.1"), a.server("node1.invalid"), streamtest.WithAdvertised("node1.invalid")),
	} {
		t.Run(name, func(t *testing.T) {
			p.host = "node1.invalid"
			cfg := Config{}
			if name == "TLS" {
				cfg.TLS = trusting(a)
			}
			var dials atomic.Int64
			cfg.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
				dials.Add(1)
				address = strings.Replace(address, "node1.invalid", "127.0.0.1", 1)
				c, err := new(net.Dialer).DialContext(ctx, network, address)
				return noDeadlines{c}, err
			}
			env, err := p.connectWith(t, cfg)
			must(t, err)
			published, read := publishAndRead(t, env)
			must(t, errors.Join(published, read))
			// For administration, to publish and to read.
			if n := dials.Load(); n < 3 {
				t.Errorf("%d dials", n)
			}
			must(t, env.Close())
			must(t, p.leader.Await(soon(t), func() bool { return len(p.leader.Connections()) == 0 }))
		})
	}
}

// noDeadlines is a connection as an SSH client gives it.
type noDeadlines struct{ net.Conn }

func (noDeadlines) SetDeadline(time.Time) error      { return errors.ErrUnsupported }
func (noDeadlines) SetReadDeadline(time.Time) error  { return errors.ErrUnsupported }
func (noDeadlines) SetWriteDeadline(time.Time) error { return errors.ErrUnsupported }

// TestDialFails: what Dial returns is in the error, and a mistake in it is one.
func TestDialFails(t *testing.T) {
	type dial = func(context.Context, string, string) (net.Conn, error)
	for name, test := range map[string]struct {
		dial dial
		want []error
	}{
		"an error": {func(context.Context, string, string) (net.Conn, error) { return nil, errTest }, []error{errTest, ErrUnreachable}},
		"nothing":  {func(context.Context, string, string) (net.Conn, error) { return nil, nil }, []error{ErrInvalidConfig}},
		"a panic":  {func(context.Context, string, string) (net.Conn, error) { panic("oh") }, []error{ErrInvalidConfig}},
	} {
		cfg := testConfig()
		cfg.Dial = test.dial
		_, err := Connect(soon(t), cfg)
		if wantErr(t, err, test.want...); err == nil || !strings.Contains(err.Error(), "Config.Dial") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestDialOfASilentPeer: a connection without deadlines does not hold up the end
// of an attempt.
func TestDialOfASilentPeer(t *testing.T) {
	noLeaks(t)
	cfg := testConfig()
	cfg.DialTimeout = 20 * time.Millisecond
	cfg.Dial = func(context.Context, string, string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		t.Cleanup(func() { _ = theirs.Close() })
		go func() { _, _ = theirs.Read(make([]byte, 1000)) }()
		return noDeadlines{ours}, nil
	}
	_, err := Connect(soon(t), cfg)
	wantErr(t, err, ErrUnreachable)
}

// TestFromLeader: the leader is read from, though a replica could be.
func TestFromLeader(t *testing.T) {
	beside(t)
	p, replica := startPair(t, nil, nil), startPair(t, nil, nil)
	p.replicas = []int{check.Port(t, replica.leader.Addr())}
	env, err := p.connectWith(t, Config{})
	must(t, err)
	publish(t, env, testStream, 0, 1)
	for _, fromLeader := range []bool{true, false} {
		c, err := env.NewConsumer(testStream, ConsumerConfig{FromLeader: fromLeader})
		must(t, err)
		ctx, cancel := context.WithCancel(soon(t))
		done := make(chan error, 1)
		go func() { done <- c.Run(ctx, func(context.Context, *Delivery) error { return nil }) }()
		from := map[bool]*streamtest.Broker{true: p.leader, false: replica.leader}[fromLeader]
		must(t, from.Await(soon(t), func() bool { return from.Received(streamtest.Subscribe) == 1 }))
		cancel()
		recv(t, done, "the end of Run")
	}
	if p.leader.Received(streamtest.Subscribe) != 1 {
		t.Error("the leader was read from for both")
	}
}
