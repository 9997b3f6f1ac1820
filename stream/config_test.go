package stream

import (
	"crypto/tls"
	"errors"
	"log/slog"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/broker"
)

func TestConfigDefaults(t *testing.T) {
	cfg, endpoints, err := Config{}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	want := broker.Endpoint{Host: "localhost", Port: 5552, User: "guest", Password: "guest", VHost: "/"}
	if !slices.Equal(endpoints, []broker.Endpoint{want}) {
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
		{"one byte", Config{MaxBuffered: 1}, true},
		{"1 GiB", Config{MaxBuffered: 1 << 30}, true},
		{"more than 1 GiB", Config{MaxBuffered: 1<<30 + 1}, false},
		{"-1 bytes", Config{MaxBuffered: -1}, false},
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

// TestConfigBounds: the least value of each setting is accepted and kept, and
// what is one nanosecond below is refused by name.
func TestConfigBounds(t *testing.T) {
	least := Config{
		DialTimeout: time.Millisecond, Heartbeat: time.Second, Backoff: Backoff{Min: time.Millisecond, Max: time.Millisecond},
	}
	got, _, err := least.withDefaults()
	must(t, err)
	if got.DialTimeout != least.DialTimeout || got.Heartbeat != least.Heartbeat || got.Backoff != least.Backoff {
		t.Errorf("%+v became %+v", least, got)
	}
	for name, change := range map[string]func(*Config){
		"DialTimeout": func(c *Config) { c.DialTimeout-- },
		"Heartbeat":   func(c *Config) { c.Heartbeat-- },
		"Backoff.Min": func(c *Config) { c.Backoff.Min-- },
		"Backoff.Max": func(c *Config) { c.Backoff.Max-- },
	} {
		cfg := least
		change(&cfg)
		_, _, err := cfg.withDefaults()
		if wantErr(t, err, ErrInvalidConfig); err != nil && !strings.Contains(err.Error(), name+" is") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestConfigDefaultsExactly pins the documented defaults.
func TestConfigDefaultsExactly(t *testing.T) {
	cfg, _, err := Config{}.withDefaults()
	must(t, err)
	if cfg.DialTimeout != 4500*time.Millisecond || cfg.MaxBuffered != 64<<20 || !slices.Equal(cfg.URIs, []string{DefaultURI}) {
		t.Errorf("%v, %v", cfg.DialTimeout, cfg.URIs)
	}
	if cfg, _, err = (Config{Backoff: Backoff{Min: 6 * time.Second}}).withDefaults(); err != nil || cfg.Backoff.Max != 6*time.Second {
		t.Errorf("above a floor of 6s the ceiling is %v: %v", cfg.Backoff.Max, err)
	}
}

// TestSettingsAtTheirExtremes: what would overflow, or never come, is refused by
// name, and what is a day long is taken.
func TestSettingsAtTheirExtremes(t *testing.T) {
	const never = time.Duration(math.MaxInt64)
	for name, check := range map[string]func(time.Duration) error{
		"DialTimeout":    func(d time.Duration) error { _, _, err := Config{DialTimeout: d}.withDefaults(); return err },
		"Heartbeat":      func(d time.Duration) error { _, _, err := Config{Heartbeat: d}.withDefaults(); return err },
		"Backoff.Min":    func(d time.Duration) error { _, _, err := Config{Backoff: Backoff{Min: d}}.withDefaults(); return err },
		"Backoff.Max":    func(d time.Duration) error { _, _, err := Config{Backoff: Backoff{Max: d}}.withDefaults(); return err },
		"ConfirmTimeout": func(d time.Duration) error { _, err := ProducerConfig{ConfirmTimeout: d}.withDefaults(); return err },
		"BatchWait":      func(d time.Duration) error { _, err := ConsumerConfig{BatchWait: d}.withDefaults("s"); return err },
		"OnError.Backoff": func(d time.Duration) error {
			_, err := ErrorPolicy{Backoff: Backoff{Max: d}}.withDefaults("s")
			return err
		},
		"OnError.Backoff is ": func(d time.Duration) error {
			_, err := ErrorPolicy{Backoff: Backoff{Min: d}}.withDefaults("s")
			return err
		},
		"Store.Interval": func(d time.Duration) error { return StorePolicy{Interval: d}.validate() },
	} {
		for _, d := range []time.Duration{never, 24*time.Hour + 1, -1, math.MinInt64} {
			err := check(d)
			if wantErr(t, err, ErrInvalidConfig); err != nil && !strings.Contains(err.Error(), name) {
				t.Errorf("%s: %v", name, err)
			}
		}
		must(t, check(24*time.Hour))
	}
}

// TestSizesAtTheirExtremes: so are sizes and numbers.
func TestSizesAtTheirExtremes(t *testing.T) {
	consumer := func(c ConsumerConfig) error {
		_, tooMuch := c.withBudget(maxMaxBuffered)
		_, err := c.withDefaults("s")
		return errors.Join(tooMuch, err)
	}
	env := func(c Config) error { _, _, err := c.withDefaults(); return err }
	producer := func(c ProducerConfig) error { _, err := c.withDefaults(); return err }
	stream := func(c StreamConfig) error { _, err := c.arguments(); return err }
	for name, check := range map[string]func(int) error{
		"MaxBuffered":        func(n int) error { return consumer(ConsumerConfig{MaxBuffered: n}) },
		"Config.MaxBuffered": func(n int) error { return env(Config{MaxBuffered: n}) },
		"Workers":            func(n int) error { return consumer(ConsumerConfig{Workers: n}) },
		"BatchSize":          func(n int) error { return consumer(ConsumerConfig{BatchSize: n}) },
		"MaxInFlight":        func(n int) error { return producer(ProducerConfig{MaxInFlight: n}) },
		"SubEntries":         func(n int) error { return producer(ProducerConfig{SubEntries: n}) },
		"SegmentBytes":       func(n int) error { return stream(StreamConfig{SegmentBytes: int64(n)<<32 | int64(n)}) },
		"InitialClusterSize": func(n int) error { return stream(StreamConfig{InitialClusterSize: n}) },
	} {
		for _, n := range []int{math.MaxInt, -1, math.MinInt} {
			if err := check(n); !errors.Is(err, ErrInvalidConfig) || !strings.Contains(err.Error(), name) {
				t.Errorf("%s of %d: %v", name, n, err)
			}
		}
	}
	must(t, stream(StreamConfig{MaxBytes: math.MaxInt64, MaxAge: math.MaxInt64, SegmentBytes: maxSegmentBytes}))
	must(t, producer(ProducerConfig{MaxInFlightBytes: math.MaxInt}))
	wantErr(t, stream(StreamConfig{MaxBytes: -1}), ErrInvalidConfig)
	wantErr(t, stream(StreamConfig{MaxAge: -1}), ErrInvalidConfig)
	wantErr(t, stream(StreamConfig{SegmentBytes: maxSegmentBytes + 1}), ErrInvalidConfig)
	wantErr(t, producer(ProducerConfig{MaxInFlightBytes: -1}), ErrInvalidConfig)
}

func TestConfigKeepsWhatIsSet(t *testing.T) {
	var logged strings.Builder
	logger := slog.New(slog.NewTextHandler(&logged, nil))
	tlsConfig := &tls.Config{ServerName: "name", MinVersion: tls.VersionTLS13}
	in := Config{
		URIs: []string{"rabbitmq-stream://a:1", "rabbitmq-stream://b:2"}, Logger: logger, TLS: tlsConfig,
		Resolve: func(string, int) (string, int) { return "resolved", 7 }, DialTimeout: 2 * time.Second, Heartbeat: 3 * time.Second,
	}
	cfg, endpoints, err := in.withDefaults()
	must(t, err)
	if cfg.Logger != logger || len(endpoints) != 2 || len(cfg.URIs) != 2 {
		t.Errorf("%+v with the endpoints %v", cfg, endpoints)
	}
	o := cfg.brokerOptions()
	if o.TLS != tlsConfig || o.DialTimeout != 2*time.Second || o.Heartbeat != 3*time.Second {
		t.Errorf("the options below are %+v", o)
	}
	if host, port := o.Resolve("x", 1); host != "resolved" || port != 7 {
		t.Errorf("resolved to %s, port %d", host, port)
	}
}
