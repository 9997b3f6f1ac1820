package stream

import (
	"crypto/tls"
	"errors"
	"math"
	"slices"
	"testing"
	"time"
)

func TestConfigDefaults(t *testing.T) {
	cfg, endpoints, err := Config{}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	want := endpoint{host: "localhost", port: 5552, user: "guest", password: "guest", vhost: "/"}
	if !slices.Equal(endpoints, []endpoint{want}) {
		t.Errorf("endpoints %+v", endpoints)
	}
	if cfg.Logger == nil || cfg.DialTimeout <= 3*time.Second || cfg.Heartbeat != 10*time.Second ||
		cfg.Backoff != (Backoff{50 * time.Millisecond, 5 * time.Second}) {
		t.Errorf("defaults %+v", cfg)
	}
}

func TestConfigChecks(t *testing.T) {
	for _, test := range []struct {
		name string
		cfg  Config
		ok   bool
	}{
		{"several nodes", Config{URIs: []string{"rabbitmq-stream://a", "rabbitmq-stream+tls://b"}}, true},
		{"one bad node of two", Config{URIs: []string{"rabbitmq-stream://a", "amqp://b"}}, false},
		{"empty URI", Config{URIs: []string{""}}, false},
		{"negative dial time-out", Config{DialTimeout: -1}, false},
		{"tiny dial time-out", Config{DialTimeout: time.Microsecond}, false},
		{"short heartbeat", Config{Heartbeat: 999 * time.Millisecond}, false},
		{"least heartbeat", Config{Heartbeat: time.Second}, true},
		{"negative backoff", Config{Backoff: Backoff{Min: -1}}, false},
		{"negative ceiling", Config{Backoff: Backoff{Max: -1}}, false},
		{"ceiling below the floor", Config{Backoff: Backoff{Min: 2 * time.Second, Max: time.Second}}, false},
		{"floor above the default ceiling", Config{Backoff: Backoff{Min: time.Minute}}, true},
	} {
		_, _, err := test.cfg.withDefaults()
		if (err == nil) != test.ok || err != nil && !errors.Is(err, ErrInvalidConfig) {
			t.Errorf("%s: %v, want ok %v", test.name, err, test.ok)
		}
	}
}

func TestBackoffPause(t *testing.T) {
	b := Backoff{Min: 50 * time.Millisecond, Max: time.Second}
	least := func() float64 { return 0 }
	most := func() float64 { return 0.999999999 }
	for n, full := range map[int]time.Duration{
		1: 50 * time.Millisecond, 2: 100 * time.Millisecond, 3: 200 * time.Millisecond, 4: 400 * time.Millisecond,
		5: 800 * time.Millisecond, 6: time.Second, 7: time.Second, math.MaxInt: time.Second,
	} {
		if low, high := b.pause(n, least), b.pause(n, most); low != full/2 || high > full || high < full-time.Microsecond {
			t.Errorf("attempt %d pauses from %v to %v, want half of %v to all of it", n, low, high, full)
		}
	}
	if d := b.pause(0, most); d != 0 {
		t.Errorf("the first attempt comes after %v, want at once", d)
	}
}

func TestTLSConfigServerName(t *testing.T) {
	e := endpoint{host: "broker"}
	if got := (Config{}).tlsConfig(e); got.ServerName != "broker" || got.MinVersion != tls.VersionTLS12 {
		t.Errorf("default: server name %q, least version %x", got.ServerName, got.MinVersion)
	}
	own := &tls.Config{}
	if got := (Config{TLS: own}).tlsConfig(e); got.ServerName != "broker" || own.ServerName != "" {
		t.Errorf("own: server name %q, and %q in the caller's", got.ServerName, own.ServerName)
	}
	if got := (Config{TLS: &tls.Config{ServerName: "other"}}).tlsConfig(e); got.ServerName != "other" {
		t.Errorf("named: %q", got.ServerName)
	}
}

func TestShuffledKeepsEveryNode(t *testing.T) {
	in := []endpoint{{host: "a"}, {host: "b"}, {host: "c"}}
	firsts := map[string]bool{}
	for range 200 {
		out := shuffled(in)
		firsts[out[0].host] = true
		for _, e := range in {
			if len(out) != len(in) || !slices.Contains(out, e) {
				t.Fatalf("%v became %v", in, out)
			}
		}
	}
	if len(firsts) != len(in) {
		t.Errorf("in 200 tries only %v came first", firsts)
	}
}
