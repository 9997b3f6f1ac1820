package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/realtest"
	"github.com/tidemark-go/tidemark/stream"
	"github.com/tidemark-go/tidemark/streamtest"
)

// TestMain is the program itself when the test below starts it.
func TestMain(m *testing.M) {
	if os.Getenv("FROMFILE_CHILD") != "" {
		main()
	}
	os.Exit(m.Run())
}

func writeLines(t *testing.T, n int) string {
	t.Helper()
	var b bytes.Buffer
	for i := range n {
		fmt.Fprintf(&b, "line %d\n", i+1)
	}
	file := filepath.Join(t.TempDir(), "lines.txt")
	if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// sameLines checks that the stream is the file.
func sameLines(t *testing.T, env *stream.Env, name string, n int) {
	t.Helper()
	c, err := env.NewConsumer(name, stream.ConsumerConfig{Start: stream.First()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	i := 0
	for d, err := range c.All(ctx) {
		if err != nil {
			t.Fatalf("%d lines of %d: %v", i, n, err)
		}
		if i++; string(d.Body) != fmt.Sprintf("line %d", i) {
			t.Fatalf("where line %d should be stands %q", i, d.Body)
		}
		if i == n {
			break
		}
	}
	if stats, err := env.Stats(t.Context(), name); err != nil || stats.CommittedChunk >= uint64(n) {
		t.Errorf("the stream goes on behind the file: %+v, %v", stats, err)
	}
}

func TestFileTwice(t *testing.T) {
	b := streamtest.NewBroker(t)
	env, err := stream.Connect(t.Context(), stream.Config{URIs: []string{b.URI()}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = env.Close() }()
	file := writeLines(t, 1000)
	for _, want := range []string{"from line 1\npublished 1000, skipped 0\n", "from line 1001\npublished 0, skipped 1000\n"} {
		var out, errs strings.Builder
		if code := run(t.Context(), []string{"-file", file, "-uri", b.URI()}, &out, &errs); code != exitOK || out.String() != want {
			t.Errorf("exit %d, %q, %s", code, out.String(), errs.String())
		}
	}
	sameLines(t, env, "lines", 1000)
	for _, args := range [][]string{{}, {"-file", "x", "y"}, {"-nonsense"}} {
		if code := run(t.Context(), args, &strings.Builder{}, &strings.Builder{}); code != exitUsage {
			t.Errorf("%v: exit %d", args, code)
		}
	}
}

// TestWrongFile: a file that cannot be read is named, with the flag that takes
// another, and nobody is told to run it again.
func TestWrongFile(t *testing.T) {
	dir := t.TempDir()
	for _, file := range []string{filepath.Join(dir, "nope"), dir} {
		var errs strings.Builder
		code := run(t.Context(), []string{"-file", file}, &strings.Builder{}, &errs)
		said := errs.String()
		if code != exitFailed || !strings.Contains(said, file) || !strings.Contains(said, "-file") || strings.Contains(said, "again") {
			t.Errorf("%s: exit %d, %s", file, code, said)
		}
	}
}

// TestHelp: the help is on stdout, and shows no password.
func TestHelp(t *testing.T) {
	t.Setenv("RABBITMQ_STREAM_URL", "rabbitmq-stream://u:s3cr3t@h")
	var out, errs strings.Builder
	code := run(t.Context(), []string{"-h"}, &out, &errs)
	if code != exitOK || errs.Len() > 0 || !strings.Contains(out.String(), "-file") || strings.Contains(out.String(), "s3cr3t") {
		t.Errorf("exit %d, stdout %q, stderr %q", code, out.String(), errs.String())
	}
}

// TestKilledFiftyTimes: the process is killed 50 times at any moment; in the
// end the stream is the file.
func TestKilledFiftyTimes(t *testing.T) {
	b := realtest.Broker(t)
	env := realtest.Env(t, b)
	name := realtest.StreamName(t, env)
	const lines, kills = 400_000, 50
	file := writeLines(t, lines)
	start := func() (*exec.Cmd, *bufio.Reader) {
		cmd := exec.Command(os.Args[0], "-file", file, "-uri", b.StreamURL(), "-stream", name)
		cmd.Env = append(os.Environ(), "FROMFILE_CHILD=1")
		cmd.Stderr = t.Output()
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd, bufio.NewReader(out)
	}
	began := 1
	for range kills {
		cmd, out := start()
		first, err := out.ReadString('\n')
		if err != nil {
			t.Fatalf("the process said %q, %v", first, err)
		}
		var from int
		if _, err := fmt.Sscanf(first, "from line %d", &from); err != nil || from < began {
			t.Errorf("after a run from line %d: %q, %v", began, first, err)
		}
		began = from
		<-time.After(time.Duration(rand.IntN(30_000)) * time.Microsecond) // the moment
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
	}
	t.Logf("after %d kills the run began at line %d of %d", kills, began, lines)
	cmd, out := start()
	var said strings.Builder
	if _, err := out.WriteTo(&said); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v: %s", err, said.String())
	}
	sameLines(t, env, name, lines)
}
