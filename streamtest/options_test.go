package streamtest

import (
	"bytes"
	"log/slog"
	"net"
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
		{"[::1]:5552", "", "localhost:5552"},
		{"0.0.0.0:5552", "", "localhost:5552"},
		{"192.0.2.1:5552", "", "192.0.2.1:5552"},
		{"0.0.0.0:5552", "broker.example", "broker.example:5552"},
		{"0.0.0.0:5552", "broker.example:1234", "broker.example:1234"},
	} {
		cfg := newConfig([]Option{WithAdvertised(tt.advertised)})
		if host, port := cfg.advertise(addr(tt.bound)); host+":"+port != tt.want {
			t.Errorf("bound %s, advertised %q: %s:%s, want %s", tt.bound, tt.advertised, host, port, tt.want)
		}
	}
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
