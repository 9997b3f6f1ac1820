package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/realtest"
	"github.com/tidemark-go/tidemark/streamtest"
)

// finish runs the program in this process and returns what it printed.
func finish(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var stdout, stderr bytes.Buffer
	if code := run(ctx, args, &stdout, &stderr); code != exitOK || ctx.Err() != nil {
		t.Fatalf("%q: exit code %d, %v; stderr: %s", args, code, ctx.Err(), &stderr)
	}
	return stdout.String()
}

// numbered are the lines that sub prints for the offsets from first up to end.
func numbered(first, end int) string {
	var b strings.Builder
	for i := first; i < end; i++ {
		fmt.Fprintf(&b, "%d\t%d\n", i, 100+i)
	}
	return b.String()
}

func TestPubSub(t *testing.T) {
	t.Run("streamtest", func(t *testing.T) { testPubSub(t, streamtest.NewBroker(t).URI(), "stream_queue") })
	t.Run("rabbitmq", func(t *testing.T) {
		b := realtest.Broker(t)
		testPubSub(t, b.StreamURL(), realtest.StreamName(t, realtest.Env(t, b)))
	})
}

func testPubSub(t *testing.T, uri, name string) {
	t.Setenv("RABBITMQ_STREAM_URL", uri)
	if out := finish(t, "pub", "-stream", name); out != "published 200\n" {
		t.Fatalf("pub printed %q", out)
	}
	for _, c := range []struct {
		name       string
		first, end int
	}{{"go", 0, 3}, {"go", 3, 5}, {"audit", 0, 1}, {"go", 5, 200}, {"audit", 1, 200}} {
		out := finish(t, "sub", "-stream", name, "-name", c.name, "-max", fmt.Sprint(c.end-c.first))
		if out != numbered(c.first, c.end) {
			t.Fatalf("%s printed %q, want the offsets from %d to %d", c.name, out, c.first, c.end-1)
		}
	}
}

// TestFailures: wrong usage and what a newcomer meets say what to do, and show no
// password.
func TestFailures(t *testing.T) {
	b := streamtest.NewBroker(t)
	for line, want := range map[string]string{
		"":                                 "pub or sub",
		"browse":                           "pub or sub",
		"sub -max x":                       "-max",
		"sub rabbitmq-stream://u:s3cr3t@h": "-uri",
		"sub -uri rabbitmq-stream://u:s3cr3t%zz@h": "percent-encode",
		"sub -name=": "-name is empty",
	} {
		var stderr bytes.Buffer
		if code := run(t.Context(), strings.Fields(line), io.Discard, &stderr); code != exitUsage || !strings.Contains(stderr.String(), want) || strings.Contains(stderr.String(), "s3cr3t") {
			t.Errorf("%q: exit code %d, %s", line, code, &stderr)
		}
	}
	for uri, want := range map[string]string{
		"rabbitmq-stream://guest:s3cr3t@localhost:1": "go run ./tools/rabbitmq up",
		b.URI(): "stream not found",
	} {
		var stderr bytes.Buffer
		if code := run(t.Context(), []string{"sub", "-uri", uri}, io.Discard, &stderr); code != exitFailed || !strings.Contains(stderr.String(), want) || strings.Contains(stderr.String(), "s3cr3t") {
			t.Errorf("exit code %d, %s; want %q in it", code, &stderr, want)
		}
	}
}
