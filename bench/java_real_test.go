//go:build java

package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/tidemark-go/tidemark/internal/realtest"
)

// TestJavaReal measures RabbitMQ's Java client in each way, with few messages, on
// a real RabbitMQ. The bench looks in the stream for what counts as published.
func TestJavaReal(t *testing.T) {
	args := []string{"-uri", realtest.Broker(t).StreamURL(), "-impl", "tidemark,java", "-n", "1000", "-runs", "1", "-json",
		"-case", "publish-async,publish-many,publish-one,publish-latency,consume"}
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), args, &stdout, &stderr); code != exitOK {
		t.Fatalf("exit code %d\n%s", code, &stderr)
	}
	seen := 0
	for line := range strings.Lines(stdout.String()) {
		var r result
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if r.Impl == implJava {
			seen++
		}
		if r.N != 1000 || r.Rate <= 0 || r.RatioJava <= 0 || (r.Allocs == nil) != (r.Impl == implJava) {
			t.Errorf("a measurement is missing something: %s", line)
		}
		if latency := strings.HasPrefix(r.Case, "publish-one") || r.Case == "publish-latency"; latency != (r.Latency > 0) {
			t.Errorf("latencies: %s", line)
		}
	}
	if seen != 5 {
		t.Errorf("%d measurements of the Java client, want 5", seen)
	}
}
