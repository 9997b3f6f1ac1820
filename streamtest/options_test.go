package streamtest

import (
	"bytes"
	"log/slog"
	"net"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

func TestAdvertised(t *testing.T) {
	addr := func(s string) net.Addr {
		a, err := net.ResolveTCPAddr("tcp", s)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	for _, tt := range []struct{ bound, advertised, want string }{
		{"127.0.0.1:5552", "", "localhost:5552"},
		{"[::1]:5552", "", "[::1]:5552"},
		{"[::]:5552", "", "localhost:5552"},
		{"[2001:db8::1]:5552", "", "[2001:db8::1]:5552"},
		{"127.0.0.1:5552", "::1", "[::1]:5552"},
		{"127.0.0.1:5552", "[::1]", "[::1]:5552"},
		{"127.0.0.1:5552", "[::1]:1234", "[::1]:1234"},
		{"127.0.0.1:5552", ":1234", "localhost:1234"},
		{"0.0.0.0:5552", "", "localhost:5552"},
		{"192.0.2.1:5552", "", "192.0.2.1:5552"},
		{"0.0.0.0:5552", "broker.example", "broker.example:5552"},
		{"0.0.0.0:5552", "broker.example:1234", "broker.example:1234"},
	} {
		cfg := newConfig([]Option{WithAdvertised(tt.advertised)})
		if host, port := cfg.advertise(addr(tt.bound)); net.JoinHostPort(host, port) != tt.want {
			t.Errorf("bound %s, advertised %q: %s, want %s", tt.bound, tt.advertised, net.JoinHostPort(host, port), tt.want)
		}
	}
	for _, wrong := range []string{"h:x", "h:", "h:0", "h:65536", "h:-1", "a:b:c"} {
		if b, err := Start(WithAdvertised(wrong)); err == nil || !strings.Contains(err.Error(), strconv.Quote(wrong)) {
			t.Errorf("advertised %q: %v; want an error that names it", wrong, err)
			if err == nil {
				b.Close()
			}
		}
	}
}

// TestIPv6 expects that the URI of a broker that listens on IPv6 reaches it.
func TestIPv6(t *testing.T) {
	probe, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Logf("TestAdvertised alone looks at IPv6, which this machine does not have: %v", err)
		return
	}
	_ = probe.Close()
	b, err := Start(WithAddr("[::1]:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	u, err := url.Parse(b.URI())
	if err != nil {
		t.Fatal(err)
	}
	if u.Host != b.Addr() {
		t.Errorf("URI %s, listening on %s", u.Host, b.Addr())
	}
	openRaw(t, b)
}

func TestOptions(t *testing.T) {
	var logged bytes.Buffer
	start := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	b := NewBroker(t, WithHeartbeat(7*time.Second), WithFrameMax(0), WithVersion("4.1.0"), WithStartTime(start),
		WithLogger(slog.New(slog.NewTextHandler(&logged, nil))))
	if now := b.Now(); now.Before(start) || now.After(start.Add(time.Minute)) {
		t.Errorf("now %v", now)
	}
	c := dialRaw(t, b)
	c.send(&wire.PeerProperties{}, &wire.SaslHandshake{})
	var peer wire.PeerPropertiesResponse
	c.decode(&peer)
	if v, _ := peer.Properties.Get("version"); v != "4.1.0" {
		t.Errorf("version %q", v)
	}
	c.expect(wire.KeySaslHandshake.Response())
	c.send(&wire.SaslAuthenticate{Mechanism: "PLAIN", Data: []byte("\x00guest\x00guest")})
	c.expect(wire.KeySaslAuthenticate.Response())
	var tune wire.Tune
	if c.decode(&tune); tune.Heartbeat != 7 || tune.FrameMax != 1<<20 {
		t.Errorf("%+v", tune)
	}
	c = dialRaw(t, b)
	c.send(&wire.PeerProperties{}, &wire.SaslHandshake{}, &wire.SaslAuthenticate{Mechanism: "PLAIN", Data: []byte("\x00guest\x00secret")})
	c.readToEnd()
	b.mu.Lock() // the broker writes the log while it holds mu
	defer b.mu.Unlock()
	if text := logged.String(); !strings.Contains(text, "login refused") || strings.Contains(text, "secret") {
		t.Errorf("logged %q", text)
	}
}
