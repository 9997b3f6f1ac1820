package main

import (
	"bytes"
	"encoding/json"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/officialtest"
)

// TestMain makes the test binary its own child, as the bench is.
func TestMain(m *testing.M) {
	if spec, ok := os.LookupEnv(childVariable); ok {
		os.Exit(childMain(spec, os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

func TestStat(t *testing.T) {
	tests := []struct {
		in     []float64
		want   stat
		spread float64
	}{
		{nil, stat{}, 0},
		{[]float64{4}, stat{4, 4, 4}, 0},
		{[]float64{4, 2}, stat{3, 2, 4}, 1.0 / 3},
		{[]float64{8, 1, 4}, stat{4, 1, 8}, 1},
	}
	for _, tt := range tests {
		got := statOf(tt.in)
		if got != tt.want || got.spread() != tt.spread {
			t.Errorf("statOf(%v) = %v, spread %v; want %v, %v", tt.in, got, got.spread(), tt.want, tt.spread)
		}
	}
}

func TestSummarize(t *testing.T) {
	r := summarize([]sample{
		{N: 100, Seconds: 1, CPU: 1000, Allocs: 50},
		{N: 100, Seconds: 2, CPU: 3000, Allocs: 50},
		{N: 100, Seconds: 0.5, CPU: 2000, Allocs: 100},
	})
	if r.Rate != 100 || r.RateMin != 50 || r.RateMax != 200 || r.CPU != 20 || *r.Allocs != 0.5 || r.Runs != 3 || r.N != 100 {
		t.Errorf("summarize: %+v", r)
	}
	if r := summarize(nil); r.Rate != 0 || r.CPU != 0 || r.Allocs != nil {
		t.Errorf("summarize(nil): %+v", r)
	}
}

func TestRatios(t *testing.T) {
	list := []result{{Impl: implTidemark, rates: []float64{500, 400, 600}}, {Impl: implOfficial, rates: []float64{100, 100, 100}}, {Impl: implSocket, rates: []float64{1000, 1000, 1000}}}
	setRatios(list)
	if list[0].RatioOfficial != 5 || list[0].RatioOfficialMin != 4 || list[0].RatioOfficialMax != 6 || list[0].RatioSocket != 0.5 || list[1].RatioOfficial != 1 {
		t.Errorf("rates: %+v", list)
	}
	list = []result{{Impl: implTidemark, Latency: 10}, {Impl: implOfficial, Latency: 5000}}
	setRatios(list)
	if list[0].RatioOfficial != 500 || list[0].RatioSocket != 0 {
		t.Errorf("latencies: %+v", list)
	}
}

func TestFlags(t *testing.T) {
	tests := []struct {
		args string
		code int
		want string // in what is said
	}{
		{"-h", exitOK, "consume-store-each"},
		{"-case nope", exitUsage, "no case"},
		{"-impl nope", exitUsage, "no implementation"},
		{"-size 0", exitUsage, "from 1 to"},
		{"-size 10,x", exitUsage, "from 1 to"},
		{"-n -1", exitUsage, "from 1 to"},
		{"-h", exitOK, "fan-out-1, fan-out-10, fan-out-100, fan-out-1000"},
		{"-rate 0", exitUsage, "from 1 to"},
		{"-window 10", exitUsage, "FRAME/INFLIGHT"},
		{"-in-flight 0", exitUsage, "from 1 to 900000"},
		{"-before /no/such/program", exitUsage, "-before"},
		{"-credit 10", exitUsage, "10+1"},
		{"-credit 10+11", exitUsage, "10+1"},
		{"-credit 40000+1", exitUsage, "32767"},
		{"-timeout 1ms", exitUsage, "from 1s"},
		{"-runs 101", exitUsage, "from 1 to 100"},
		{"-broker nope", exitUsage, "real or streamtest"},
		{"-uri amqp://u:secret@h", exitUsage, "rabbitmq-stream://"},
		{"rabbitmq-stream://u:secret@h", exitUsage, "-uri"},
		{"-uri rabbitmq-stream://u:secret@127.0.0.1:1 -case consume", exitFailed, "refused"},
	}
	for _, tt := range tests {
		var stdout, stderr bytes.Buffer
		code := run(t.Context(), strings.Fields(tt.args), &stdout, &stderr)
		said, other := stderr.String(), stdout.String()
		if tt.code == exitOK { // help
			said, other = other, said
		}
		if code != tt.code || other != "" || !strings.Contains(said, tt.want) || strings.Contains(said, "secret") {
			t.Errorf("%s: exit code %d, said %q; want %d and %q", tt.args, code, said, tt.code, tt.want)
		}
	}
}

// -in-flight reaches producers of their own and those of a pool.
func TestInFlight(t *testing.T) {
	for _, name := range []string{"publish-async", "publish-many"} {
		var stdout, stderr bytes.Buffer
		code := run(t.Context(), strings.Fields("-in-flight 700000 -broker streamtest -impl tidemark -n 10 -case "+name), &stdout, &stderr)
		if code != exitFailed || !strings.Contains(stderr.String(), "MaxInFlight is 700000") {
			t.Errorf("%s: exit code %d, said %s", name, code, &stderr)
		}
	}
}

func TestParse(t *testing.T) {
	o, err := parse(strings.Fields("-case consume,memory -size all -impl socket -n 7 -runs 2 -json"), &bytes.Buffer{})
	if err != nil || len(o.cases) != 2 || len(o.sizes) != 4 || len(o.impls) != 1 || o.n != 7 || o.runs != 2 || !o.json {
		t.Errorf("parse: %+v, %v", o, err)
	}
	for list, want := range map[string]int{"fan-out": 4, "fan-out-10,consume": 2, "all": len(allCases), "rtt": 2, "small-chunks-rtt": 4} {
		var o options
		if err := o.setCases(list); err != nil || len(o.cases) != want {
			t.Errorf("-case %s: %d cases, %v; want %d", list, len(o.cases), err, want)
		}
	}
}

func TestThousands(t *testing.T) {
	for in, want := range map[float64]string{0: "0", 999: "999", 1000: "1,000", 1234567.8: "1,234,568"} {
		if got := thousands(in); got != want {
			t.Errorf("thousands(%v) = %q, want %q", in, got, want)
		}
	}
}

// TestSmokeConsume measures every case of reading but the slow ones, with few
// messages.
func TestSmokeConsume(t *testing.T) { smoke(t, false) }

// TestSmokePublish is TestSmokeConsume for publishing.
func TestSmokePublish(t *testing.T) {
	officialtest.NeedNumbering(t)
	smoke(t, true)
}

func smoke(t *testing.T, publishing bool) {
	if testing.Short() {
		t.Skip("starts some twenty processes")
	}
	var names []string
	want := 0
	for _, c := range soloCases {
		if !c.resets && c.name != "memory" && strings.HasPrefix(c.name, "publish") == publishing {
			names = append(names, c.name)
			want += len(implementations)
		}
	}
	var stdout, stderr bytes.Buffer
	args := []string{"-broker", "streamtest", "-n", "1000", "-runs", "1", "-timeout", "1m", "-json", "-case", strings.Join(names, ",")}
	if code := run(t.Context(), args, &stdout, &stderr); code != exitOK {
		t.Fatalf("exit code %d\n%s", code, stderr.String())
	}
	lines := strings.Split(strings.TrimSpace(stdout.String()), "\n")
	if len(lines) != want {
		t.Fatalf("%d lines, want %d", len(lines), want)
	}
	for _, line := range lines {
		var r result
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if r.N != 1000 || r.Rate <= 0 || r.CPU <= 0 || r.RatioOfficial <= 0 || r.RatioSocket <= 0 || r.Broker != "streamtest" {
			t.Errorf("a measurement is missing something: %s", line)
		}
	}
}

// TestSmokeFamilies measures a case of each family, with few messages.
func TestSmokeFamilies(t *testing.T) {
	if testing.Short() {
		t.Skip("starts some forty processes")
	}
	for _, tt := range []struct {
		args  string
		right func(r result) bool
	}{
		{"-case fan-out-1,fan-out-10 -n 1000", func(r result) bool { return r.N == 1000 && r.Rate > 0 && r.RatioSocket > 0 }},
		{"-case fan-out-held-100 -n 100 -impl tidemark,socket", func(r result) bool { return r.HeldHeap > 0 && r.Consumers == 100 }},
		{"-case fan-in-10,tail-latency-1,tail-latency-each-10 -n 20 -rate 50", func(r result) bool {
			return r.Latency > 0 && r.LatencyP99 >= r.Latency && r.RatioOfficial > 0 && r.RatioOfficialP99 > 0 && r.RatioSocket > 0
		}},
		{"-case superstream-consume,superstream-consume-kept,superstream-publish -n 1000 -impl tidemark,socket", func(r result) bool { return r.N == 1000 && r.Rate > 0 && r.RatioSocket > 0 }},
		{"-case superstream-latency -n 100 -impl tidemark,socket", func(r result) bool {
			return r.Latency > 0 && r.LatencyP99 >= r.Latency && r.RatioSocket > 0
		}},
		{"-reuse -case consume,consume-tracked,consume-workers,consume-batch,fan-out-10,superstream-consume -n 1000 -impl tidemark", func(r result) bool {
			return r.N == 1000 && r.Rate > 0
		}},
		{"-case filter -n 1000 -impl tidemark", func(r result) bool { return r.N == 10 && r.BytesFiltered > 0 && r.BytesAll > 2*r.BytesFiltered }},
		{"-case small-chunks -n 300", func(r result) bool { return r.N == 300 && r.Rate > 0 && r.RatioSocket > 0 }},
		{"-case rtt-1,small-chunks-15-rtt-1 -n 1000 -credit 10+1,20+10", func(r result) bool {
			return r.Rate > 0 && r.Delay == 1 && r.RTT >= 2 && (r.Impl == implSocket) == (r.Credit == "10+1" || r.Credit == "20+10")
		}},
	} {
		var stdout, stderr bytes.Buffer
		args := append(strings.Fields("-broker streamtest -runs 1 -timeout 1m -json"), strings.Fields(tt.args)...)
		if code := run(t.Context(), args, &stdout, &stderr); code != exitOK {
			t.Fatalf("%s: exit code %d\n%s", tt.args, code, stderr.String())
		}
		for line := range strings.Lines(stdout.String()) {
			var r result
			if err := json.Unmarshal([]byte(line), &r); err != nil {
				t.Fatalf("%v: %s", err, line)
			}
			if !tt.right(r) || r.NotStored > 0 {
				t.Errorf("%s: a measurement is missing something: %s", tt.args, line)
			}
			if many := r.Consumers > 0; many && runtime.GOOS == "linux" && r.Connections == 0 {
				t.Errorf("%s: the connections are not counted: %s", tt.args, line)
			}
		}
	}
}

// TestSmokeOthers measures how a connection is won back, in a table.
func TestSmokeOthers(t *testing.T) {
	var stdout, stderr bytes.Buffer
	args := strings.Fields("-broker streamtest -n 2 -runs 1 -timeout 1m -case reconnect -impl tidemark,socket")
	if code := run(t.Context(), args, &stdout, &stderr); code != exitOK {
		t.Fatalf("exit code %d\n%s", code, stderr.String())
	}
	for _, want := range []string{"broker   streamtest", "median ms", "tidemark", "socket"} {
		if !strings.Contains(stdout.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, stdout.String())
		}
	}
}

// TestFailed: what failed has no row of zeros, and is an error.
func TestFailed(t *testing.T) {
	var b bytes.Buffer
	list := []result{{Case: "consume", Impl: implOfficial, Failed: "consume: hangs"}, {Case: "consume", Impl: implSocket, Runs: 1, N: 10, Rate: 5}}
	if err := writeTable(&b, list); err != nil {
		t.Fatal(err)
	}
	if err := failures(list); err == nil || !strings.Contains(err.Error(), "hangs") || strings.Count(b.String(), "consume") != 1 {
		t.Errorf("%v\n%s", err, b.String())
	}
	if err := failures(list[1:]); err != nil {
		t.Error(err)
	}
}

// TestHang: a child that does not end says so, and the bench goes on.
func TestHang(t *testing.T) {
	var stdout, stderr bytes.Buffer
	j := job{Case: "fan-out-10", Impl: implSocket, Timeout: time.Millisecond}
	m := &meter{job: j, consumers: 4, running: 3}
	if said := m.progress(); !strings.Contains(said, "3 of 4") {
		t.Errorf("said %q", said)
	}
	args := strings.Fields("-broker streamtest -case tail-latency-1 -impl tidemark,socket -n 100000 -runs 2 -timeout 1s -json")
	if code := run(t.Context(), args, &stdout, &stderr); code != exitFailed || strings.Count(stderr.String(), "deadline exceeded") != 2 {
		t.Errorf("exit code %d, said %q", code, stderr.String())
	}
	if lines := strings.Count(stdout.String(), `"failed":`); lines != 2 {
		t.Errorf("%d failures are reported, want 2:\n%s", lines, stdout.String())
	}
}

// TestTableUnknown: what a system does not offer is not shown as 0.
func TestTableUnknown(t *testing.T) {
	var b bytes.Buffer
	if err := writeTable(&b, []result{{Case: "memory", Impl: implTidemark, N: 3000, Heap: 12}}); err != nil {
		t.Fatal(err)
	}
	if fields := strings.Fields(b.String()); !strings.Contains(b.String(), "heap MiB") || fields[len(fields)-2] != "unknown" {
		t.Errorf("resident memory is not said to be unknown:\n%s", b.String())
	}
}
