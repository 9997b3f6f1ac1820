package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestJavaIsAskedFor: without -impl no case starts Java.
func TestJavaIsAskedFor(t *testing.T) {
	o, err := parse(nil, &bytes.Buffer{})
	if err != nil || o.java() {
		t.Fatalf("%v, %v", o.impls, err)
	}
	for _, c := range allCases {
		for _, contender := range contendersOf(c, o, 100) {
			if contender.impl == implJava {
				t.Errorf("%s is measured with Java by default", c.name)
			}
		}
	}
	if p, err := compileJava(t.Context(), o); p.classPath != "" || err != nil || p.remove() != nil {
		t.Errorf("compiled %+v, %v", p, err)
	}
}

// TestJavaRefused: the Java client is refused before a broker is looked for,
// where no case has it or the machine lacks what it needs.
func TestJavaRefused(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	for _, tt := range []struct{ args, want string }{
		{"-impl java -case consume-batch,fan-out", "no case of -case has it; it is in consume, publish-async, publish-many, publish-one"},
		{"-impl tidemark,java", "install both"},
		{"-impl java -case publish-async", "leave java out"},
	} {
		var stdout, stderr bytes.Buffer
		args := append(strings.Fields("-uri rabbitmq-stream://127.0.0.1:1"), strings.Fields(tt.args)...)
		if code := run(t.Context(), args, &stdout, &stderr); code != exitUsage || !strings.Contains(stderr.String(), tt.want) {
			t.Errorf("%s: exit code %d, said %s; want %q", tt.args, code, &stderr, tt.want)
		}
	}
}

func TestParseJava(t *testing.T) {
	a, err := parseJava([]byte("a line of a log\n" + `{"n":3,"warm_up":9,"seconds":1.2E-4,"cpu_ns":0,"made_s":0.5,"latencies_ms":[1.0, 2.0]}` + "\n"))
	if err != nil || a.N != 3 || a.WarmUp != 9 || a.Seconds != 1.2e-4 || a.Made != 0.5 || !slices.Equal(a.Latencies, []float64{1, 2}) {
		t.Errorf("%+v, %v", a, err)
	}
	for _, text := range []string{
		"",
		"Exception in thread main",
		`{"n":3,"seconds":1`,
		`{"n":0,"seconds":1,"cpu_ns":10}`,
		`{"n":3,"seconds":0,"cpu_ns":10}`,
		`{"n":3,"seconds":NaN,"cpu_ns":10}`,
		`{"n":3,"seconds":1,"cpu_ns":-1}`, // what Java says where it is unknown
		`{"n":3,"seconds":1}`,
	} {
		if a, err := parseJava([]byte(text)); err == nil {
			t.Errorf("%s is %+v", text, a)
		}
	}
}

// TestJavaInput: the URI goes with the bodies, which are those of the others.
func TestJavaInput(t *testing.T) {
	var b bytes.Buffer
	if err := writeJava(&b, job{URI: "rabbitmq-stream://u:secret@h", Size: 10}, javaPublish); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(b.String(), "\n")
	if len(lines) != bodyRing+3 || lines[0] != "rabbitmq-stream://u:secret@h" || lines[bodyRing+1] != "" {
		t.Fatalf("%d lines, the first %q", len(lines), lines[0])
	}
	if body, err := base64.StdEncoding.DecodeString(lines[8]); err != nil || !bytes.Equal(body, bodyOf(7, 10)) {
		t.Errorf("body %q, %v", body, err)
	}
}

func TestJavaWarmUp(t *testing.T) {
	for _, tt := range []struct{ n, size, want int }{
		{1000, 100, 150_000},
		{1_000_000, 100, 1_000_000},
		{10_000_000, 100, 4_000_000},
		{40_000, 10 << 10, 39_062},
	} {
		if got := javaWarmUp(tt.n, tt.size); got != tt.want {
			t.Errorf("%d messages of %d bytes: %d before, want %d", tt.n, tt.size, got, tt.want)
		}
	}
}

// TestJavaReport: what is not known of the Java client is not shown as 0, and
// this library's row has its ratio.
func TestJavaReport(t *testing.T) {
	m := &meter{job: job{Producers: 8}}
	m.take(javaAnswer{N: 100, WarmUp: 300, Seconds: 2, CPU: 1e7, Made: 0.25})
	java := summarize([]sample{m.sample})
	if !m.elsewhere || m.sample.WarmUp != 300 || java.Rate != 50 || java.CPU != 1e5 || java.Producers != 8 || java.Made != 0.25 || java.Allocs != nil {
		t.Errorf("%+v", java)
	}
	ours := summarize([]sample{{N: 100, Seconds: 1, CPU: 1, Producers: 8}})
	ours.Impl, java.Impl = implTidemark, implJava
	list := []result{ours, java}
	setRatios(list)
	var table, lines bytes.Buffer
	if err := writeTable(&table, list); err != nil {
		t.Fatal(err)
	}
	if text := table.String(); strings.Count(text, "unknown") < 5 || !strings.Contains(text, "tidemark is at 2.00 (2.00 to 2.00) of java") {
		t.Errorf("the table is\n%s", text)
	}
	if err := writeJSON(&lines, list); err != nil {
		t.Fatal(err)
	}
	if text := lines.String(); !strings.Contains(text, `"ratio_java":2,`) || strings.Count(text, "allocs_per_msg") != 1 {
		t.Errorf("JSON is %s", text)
	}
}

// TestJavaLatency: percentiles of the Java client are made as the others' are.
func TestJavaLatency(t *testing.T) {
	m := &meter{}
	m.take(javaAnswer{N: 2, Seconds: time.Second.Seconds(), Latencies: []float64{1, 3}})
	if m.sample.P50 != 3 || m.sample.Worst != 3 || m.sample.Producers != 0 {
		t.Errorf("%+v", m.sample)
	}
	b, err := json.Marshal(m.sample)
	if err != nil || !strings.Contains(string(b), `"no_allocs":true`) {
		t.Errorf("%s, %v", b, err)
	}
}
