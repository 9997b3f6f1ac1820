package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/officialtest"
	"github.com/tidemark-go/tidemark/stream"
	"github.com/tidemark-go/tidemark/streamtest"
)

func TestWindow(t *testing.T) {
	for _, w := range append(append([]window{}, manyConnections...), subBatches...) {
		if got, err := parseWindow(w.String()); got != w || err != nil {
			t.Errorf("%v: %v, %v", w, got, err)
		}
	}
	for _, text := range []string{"", "10", "0/10", "100/10", "10/60000", "10/20/0", "10/20/101", "1/2/3/4", "+1/2", "x/2"} {
		if w, err := parseWindow(text); err == nil {
			t.Errorf("%q is %v", text, w)
		}
	}
	for _, tt := range []struct {
		w       window
		size    int
		frame   int
		bounded int
	}{{window{frame: 1000, inFlight: 10_000}, 100, 1000, 10_000}, {window{frame: 1000, inFlight: 10_000}, 10 << 10, 97, 10_000}, {window{frame: 1, inFlight: 1}, 900 << 10, 1, 1}} {
		if got := tt.w.fit(tt.size); got.frame != tt.frame || got.inFlight != tt.bounded {
			t.Errorf("%v with %d bytes: %v", tt.w, tt.size, got)
		}
	}
}

// TestWindowsOf: a socket is measured with each window of a case that publishes,
// or with each of -window, and nothing else is.
func TestWindowsOf(t *testing.T) {
	c := benchCase{windows: oneConnection}
	given := options{windows: []window{{frame: 1, inFlight: 2}}}
	for _, tt := range []struct {
		c    benchCase
		o    options
		impl string
		size int
		want string
	}{
		{c, options{}, implSocket, 100, "[100/2000 1000/10000 1000/40000]"},
		{c, options{}, implSocket, 10 << 10, "[10/1000 30/2000 100/10000]"},
		{benchCase{windows: subBatches, compressed: true}, options{}, implSocket, 10 << 10, "[100/20000 1000/20000]"},
		{c, given, implSocket, 10 << 10, "[1/2]"},
		{c, given, implTidemark, 100, "[0/0]"},
		{benchCase{}, given, implSocket, 100, "[0/0]"},
	} {
		if got := fmt.Sprint(windowsOf(tt.c, tt.o, tt.impl, tt.size)); got != tt.want {
			t.Errorf("%s, %d bytes: %s, want %s", tt.impl, tt.size, got, tt.want)
		}
	}
}

// TestStartOf: a message counts from when it was due if the call before it kept
// it waiting, and from when it is published if a timer was late.
func TestStartOf(t *testing.T) {
	at := func(ms int) time.Time { return time.Unix(0, 0).Add(time.Duration(ms) * time.Millisecond) }
	for _, tt := range []struct {
		name                              string
		due, called, returned, now, wants int
	}{
		{"in time", 10, 5, 6, 10, 10},
		{"the timer was late", 10, 5, 6, 12, 12},
		{"the call took until after it was due", 10, 5, 15, 15, 10},
		{"the timer was late already for the one before", 10, 12, 13, 13, 13},
	} {
		if got := startOf(at(tt.due), at(tt.called), at(tt.returned), at(tt.now)); got != at(tt.wants) {
			t.Errorf("%s: from %v, want %v", tt.name, got, at(tt.wants))
		}
	}
	if now := at(7); startOf(at(0), time.Time{}, time.Time{}, now) != now {
		t.Error("the first message does not count from its call")
	}
}

// TestPacer: as many latencies as messages, however many confirms come.
func TestPacer(t *testing.T) {
	p := newPacer(5)
	m := &meter{job: job{}}
	err := p.run(t.Context(), job{Rate: maxRate}, m, func(i int) error {
		if i%2 == 0 {
			p.confirmed(min(2, i+1))
		}
		return nil
	})
	if err != nil || m.sample.N != 5 || m.sample.P50 <= 0 || m.sample.Worst < m.sample.P50 || len(p.latencies) != 5 {
		t.Errorf("%+v, %v", m.sample, err)
	}
	p.confirmed(1)
	p.fail(errors.New("too late"))
	refused := errors.New("refused")
	p = newPacer(2)
	if err := p.run(t.Context(), job{Rate: maxRate}, m, func(int) error { p.fail(refused); return nil }); !errors.Is(err, refused) {
		t.Errorf("a refused message: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := newPacer(1).run(ctx, job{Rate: maxRate}, m, func(int) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("no confirm: %v", err)
	}
}

// TestBase: the ratio to another case is of runs that followed each other.
func TestBase(t *testing.T) {
	list, base := []result{{rates: []float64{5, 30, 70}}}, []result{{rates: []float64{10, 30, 100}}}
	setBase(list, base, "ten")
	if r := list[0]; r.Base != "ten" || r.RatioBase != 0.7 || r.RatioBaseMin != 0.5 || r.RatioBaseMax != 1 {
		t.Errorf("%+v", r)
	}
	list[0].Case, list[0].Impl = "thousand", implTidemark
	if note := list[0].note(); note != "tidemark is at 0.70 (0.50 to 1.00) of its ten" {
		t.Errorf("the note is %q", note)
	}
}

// TestBases: each case that is compared with another one names one that there
// is, and that is measured before.
func TestBases(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range allCases {
		if c.base != "" && !seen[c.base] {
			t.Errorf("%s is compared with %q", c.name, c.base)
		}
		if seen[c.name] = true; c.compressed && c.officialN(100_000) != 10_000 || c.resets && c.officialN(100) != officialResets {
			t.Errorf("%s: the official client has %d of 100,000", c.name, c.officialN(100_000))
		}
	}
}

// TestCompressedSocket: what the bare encoders write, a consumer reads.
func TestCompressedSocket(t *testing.T) {
	b := streamtest.NewBroker(t)
	env, err := stream.Connect(t.Context(), stream.Config{URIs: []string{b.URI()}})
	if err != nil {
		t.Fatal(err)
	}
	defer env.Close()
	for name, how := range map[string]codec{"gzip": gzipCodec, "snappy": snappyCodec, "lz4": lz4Codec, "zstd": zstdCodec} {
		t.Run(name, func(t *testing.T) {
			const n, size = 250, 300
			c, err := dialRaw(b.URI())
			if err != nil {
				t.Fatal(err)
			}
			defer c.close()
			if err := errors.Join(c.create(name), c.declare(name)); err != nil {
				t.Fatal(err)
			}
			list := encodedMessages(size)
			if err := c.publishCompressed(how, n, size, window{frame: 200, inFlight: 200}, func(i int) []byte { return list[i] }); err != nil {
				t.Fatal(err)
			}
			if last, err := c.lastOffset(name); last != n-1 || err != nil {
				t.Errorf("the last offset is %d, %v; want %d", last, err, n-1)
			}
			consumer, err := env.NewConsumer(name, stream.ConsumerConfig{Start: stream.First()})
			if err != nil {
				t.Fatal(err)
			}
			got, enough := 0, errors.New("enough")
			err = consumer.Run(t.Context(), func(_ context.Context, d *stream.Delivery) error {
				if want := bodyOf(got, size); string(d.Body) != string(want) {
					t.Errorf("message %d is %q, want %q", got, d.Body, want)
				}
				if got++; got == n {
					return stream.Permanent(enough)
				}
				return nil
			})
			if !errors.Is(err, enough) {
				t.Errorf("after %d messages: %v", got, err)
			}
		})
	}
}

// TestSmokePublishFamilies measures the families of cases that publish, with few
// messages.
func TestSmokePublishFamilies(t *testing.T) {
	if testing.Short() {
		t.Skip("starts some thirty processes")
	}
	officialtest.NeedNumbering(t)
	for _, tt := range []struct {
		args  string
		right func(r result) bool
	}{
		{"-case publish-gzip,publish-snappy,publish-lz4 -n 1000", func(r result) bool { return r.N == 1000 && r.Rate > 0 && r.RatioOfficial > 0 }},
		{"-case publish-zstd,publish-zstd-named -n 1000 -impl official,socket -window 200/1000", func(r result) bool {
			return (r.Impl == implSocket) == (r.Window == "200/1000") && (r.Base == "publish-zstd") == (r.RatioBase > 0)
		}},
		{"-case publish-one-rtt-1,publish-latency-rtt-1 -n 20", func(r result) bool {
			return r.Latency >= 2 && r.LatencyP99 >= r.Latency && r.RatioSocketP99 > 0 && r.RTT >= 2
		}},
		{"-case producers-stream-10,producers-streams-10 -n 1000", func(r result) bool {
			return r.N == 1000 && r.Producers == 10 && r.NewHeld > 0 && r.Rate > 0 && r.RatioSocket > 0
		}},
		{"-case publish-waiters -n 1000 -impl tidemark", func(r result) bool {
			return r.N == 1000 && r.Rate > 0 && (r.Base == "publish-waiters-20000") == (r.RatioBase > 0)
		}},
		{"-case publish-reconnect -n 3 -impl tidemark,socket", func(r result) bool { return r.N == 3 && r.Latency > 0 && r.RatioSocket > 0 }},
	} {
		out := benched(t, "-broker streamtest -runs 1 -timeout 1m -json "+tt.args)
		for line := range strings.Lines(out) {
			var r result
			if err := json.Unmarshal([]byte(line), &r); err != nil {
				t.Fatalf("%v: %s", err, line)
			}
			if !tt.right(r) {
				t.Errorf("%s: a measurement is missing something: %s", tt.args, line)
			}
		}
	}
}

// TestSmokeBefore measures this library in another program, which is this one.
func TestSmokeBefore(t *testing.T) {
	officialtest.NeedNumbering(t)
	out := benched(t, "-broker streamtest -runs 1 -timeout 1m -n 100 -case publish-async -impl tidemark -before "+os.Args[0])
	if !strings.Contains(out, implBefore) || !strings.Contains(out, "of before") {
		t.Errorf("nothing is said of the other program:\n%s", out)
	}
}

// benched runs the bench and returns what it writes.
func benched(t *testing.T, args string) string {
	t.Helper()
	var stdout, stderr strings.Builder
	if code := run(t.Context(), strings.Fields(args), &stdout, &stderr); code != exitOK {
		t.Fatalf("%s: exit code %d\n%s", args, code, stderr.String())
	}
	return stdout.String()
}
