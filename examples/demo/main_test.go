package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/tidemark-go/tidemark/stream"
	"github.com/tidemark-go/tidemark/streamtest"
)

// TestStory tells the story, which checks itself, on the in-process broker, and
// holds the README to it.
func TestStory(t *testing.T) {
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("needs the go command to build pub and sub")
	}
	b := streamtest.NewBroker(t)
	env, err := stream.Connect(t.Context(), stream.Config{URIs: []string{b.URI()}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = env.Close() }()
	bin := t.TempDir()
	if err := build(t.Context(), bin); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := newStory(b.URI(), env, bin, &out, t.Output()).tell(t.Context()); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	pid := regexp.MustCompile(`pid \d+`)
	if !strings.Contains(pid.ReplaceAllString(string(readme), "PID"), pid.ReplaceAllString(out.String(), "PID")+"```\n") {
		t.Errorf("README.md does not show what the demo prints:\n%s", out.String())
	}
}

// TestListened: a story that nobody reads any more ends, and that is no failure.
func TestListened(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	ended := false
	err = listened(t.Context(), w, func(ctx context.Context, out io.Writer) error {
		if _, err := io.WriteString(out, "one\n"); err != nil {
			t.Error(err)
		}
		if line, err := bufio.NewReader(r).ReadString('\n'); line != "one\n" {
			t.Errorf("read %q, %v", line, err)
		}
		_ = r.Close()
		_, _ = io.WriteString(out, "two\n")
		<-ctx.Done()
		ended = true // the place where the broker is taken down
		return ctx.Err()
	})
	if err != nil || !ended {
		t.Errorf("the end: %v, broker taken down: %v", err, ended)
	}
	failed := errors.New("failed")
	err = listened(t.Context(), io.Discard, func(context.Context, io.Writer) error { return failed })
	if !errors.Is(err, failed) {
		t.Errorf("a failure: %v", err)
	}
}
