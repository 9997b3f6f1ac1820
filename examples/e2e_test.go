// Package examples_test runs the examples as processes, pub and sub against a
// real RabbitMQ.
package examples_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/rabbit"
	"github.com/tidemark-go/tidemark/internal/realtest"
	"github.com/tidemark-go/tidemark/stream"
)

// patience is how long a test waits for anything.
const patience = time.Minute

var bin string // the directory of the programs, built by programs

func TestMain(m *testing.M) {
	code := m.Run()
	if bin != "" {
		os.RemoveAll(bin)
	}
	os.Exit(code)
}

// programs builds the examples once.
var programs = sync.OnceValue(func() error {
	var err error
	if bin, err = os.MkdirTemp("", "tidemark-examples-"); err != nil {
		return err
	}
	out, err := exec.Command("go", "build", "-o", bin, "./amqp091", "./demo", "./filter", "./fromfile", "./group", "./official", "./pub", "./quickstart", "./sub",
		"../tools/rabbitmq").CombinedOutput()
	if err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	super := filepath.Join(bin, "superstream") + string(filepath.Separator)
	out, err = exec.Command("go", "build", "-o", super, "./superstream/pub", "./superstream/sub").CombinedOutput()
	if err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
})

// program returns a command that is not started yet. The broker's URI comes
// from the environment, as for somebody who followed the README.
func program(t *testing.T, uri, name string, args ...string) *exec.Cmd {
	t.Helper()
	if err := programs(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, filepath.Join(bin, name), args...)
	cmd.Env = append(os.Environ(), "RABBITMQ_STREAM_URL="+uri)
	return cmd
}

// result is what a program did.
type result struct {
	stdout, stderr string
	code           int
}

// finish runs a program to its end.
func finish(t *testing.T, uri, name string, args ...string) result {
	t.Helper()
	cmd := program(t, uri, name, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

func (r result) want(t *testing.T, code int, stdout string) {
	t.Helper()
	if r.code != code || r.stdout != stdout {
		t.Fatalf("exit code %d, stdout %q; want %d, %q; stderr: %s", r.code, r.stdout, code, stdout, r.stderr)
	}
}

// numbered are the lines that sub prints for the offsets from first up to end.
func numbered(first, end int) string {
	var b strings.Builder
	for i := first; i < end; i++ {
		fmt.Fprintf(&b, "%d\t%d\n", i, 100+i)
	}
	return b.String()
}

// setUp returns the broker and a stream with the numbers from 100 to 299.
func setUp(t *testing.T) (*rabbit.Instance, *stream.Env, string) {
	t.Helper()
	b := realtest.Broker(t)
	env := realtest.Env(t, b)
	name := realtest.StreamName(t, env)
	r := finish(t, b.StreamURL(), "pub", "-stream", name)
	r.want(t, 0, "published 200\n")
	if r.stderr != "" {
		t.Fatalf("stderr of pub, not a terminal: %q", r.stderr)
	}
	return b, env, name
}

func TestPubSub(t *testing.T) {
	b, env, name := setUp(t)
	sub := func(args ...string) result {
		return finish(t, b.StreamURL(), "sub", append([]string{"-stream", name}, args...)...)
	}
	sub("-name", "a", "-max", "200").want(t, 0, numbered(0, 200))
	wantStored(t, env, "a", name, 199)
	sub("-name", "b", "-max", "3").want(t, 0, numbered(0, 3))
	sub("-name", "b", "-max", "2").want(t, 0, numbered(3, 5))
	sub("-name", "b", "-max", "5", "-store", "auto").want(t, 0, numbered(5, 10))
	wantStored(t, env, "b", name, 9)

	finish(t, b.StreamURL(), "pub", "-stream", name, "-from", "7", "-to", "7").want(t, 0, "published 0\n")
}

func TestSubStart(t *testing.T) {
	b, _, name := setUp(t)
	now := time.Now()
	for start, first := range map[string]int{
		"stored": 0, "first": 0, "150": 150, "1h": 0, "7d": 0,
		now.Add(-time.Hour).Format(time.RFC3339): 0,
	} {
		finish(t, b.StreamURL(), "sub", "-stream", name, "-name", start, "-start", start, "-max", "2").
			want(t, 0, numbered(first, first+2))
	}
	// The last chunk ends with the last message, wherever it begins.
	out := finish(t, b.StreamURL(), "sub", "-stream", name, "-start", "last", "-max", "1").stdout
	first, _, _ := strings.Cut(out, "\t")
	if n, err := strconv.Atoi(first); err != nil || n > 199 {
		t.Errorf("-start last printed %q first", out)
	}
}

func wantStored(t *testing.T, env *stream.Env, consumer, name string, want uint64) {
	t.Helper()
	if got, err := env.QueryOffset(t.Context(), consumer, name); err != nil || got != want {
		t.Errorf("stored offset of %q: %d, %v; want %d", consumer, got, err, want)
	}
}

// running is a sub whose lines are read one by one.
type running struct {
	*exec.Cmd
	t      *testing.T
	lines  *bufio.Reader
	stderr bytes.Buffer
}

func startSub(t *testing.T, uri string, args ...string) *running {
	t.Helper()
	s := &running{t: t, Cmd: program(t, uri, "sub", args...)}
	out, err := s.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	s.lines, s.Stderr = bufio.NewReader(out), &s.stderr
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Process.Kill() })
	return s
}

// read returns the next n lines, or all that come until the program has ended
// if n is -1.
func (s *running) read(n int) string {
	s.t.Helper()
	var b strings.Builder
	for i := 0; i != n; i++ {
		line, err := s.lines.ReadString('\n')
		b.WriteString(line)
		if errors.Is(err, io.EOF) && n < 0 {
			break
		}
		if err != nil {
			s.t.Fatalf("after %d lines: %v", i, err)
		}
	}
	return b.String()
}

func TestSubSignal(t *testing.T) {
	b, env, name := setUp(t)
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		t.Run(sig.String(), func(t *testing.T) {
			consumer := "sig" + strconv.Itoa(int(sig))
			s := startSub(t, b.StreamURL(), "-stream", name, "-name", consumer)
			got := s.read(200)
			if err := s.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			got += s.read(-1)
			if err := s.Wait(); err != nil {
				t.Errorf("after %v: %v; stderr: %s", sig, err, s.stderr.String())
			}
			if got != numbered(0, 200) {
				t.Errorf("stdout: %q", got)
			}
			wantStored(t, env, consumer, name, 199)
		})
	}
}

// TestSubHold: a message that is held is not handled when a signal ends sub.
func TestSubHold(t *testing.T) {
	b, env, name := setUp(t)
	s := startSub(t, b.StreamURL(), "-stream", name, "-name", "hold", "-hold", "57")
	got := s.read(57)
	if err := s.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	got += s.read(-1)
	if err := s.Wait(); err != nil || got != numbered(0, 57) {
		t.Errorf("%v, stdout %q, stderr %s", err, got, s.stderr.String())
	}
	wantStored(t, env, "hold", name, 56)
}

// TestSubKilled kills sub after it has printed k lines. What it prints until it
// is dead comes on top, so that k is a lower bound.
func TestSubKilled(t *testing.T) {
	b, env, name := setUp(t)
	for _, k := range []int{1, 2, 57, 100, 199} {
		t.Run(strconv.Itoa(k), func(t *testing.T) {
			consumer := "killed" + strconv.Itoa(k)
			args := []string{"-stream", name, "-name", consumer}
			s := startSub(t, b.StreamURL(), args...)
			out := s.read(k)
			if err := s.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			out += s.read(-1)
			_ = s.Wait()
			printed := strings.Count(out, "\n")
			if out != numbered(0, printed) {
				t.Fatalf("first run printed %q", out)
			}

			stored := awaitStored(t, env, consumer, name, printed)
			if stored+1 < 200 {
				finish(t, b.StreamURL(), "sub", append(args, "-max", strconv.Itoa(199-stored))...).
					want(t, 0, numbered(stored+1, 200))
			}
			wantStored(t, env, consumer, name, 199)
		})
	}
}

// awaitStored waits until the broker has worked off what the dead process had
// sent it, and returns the stored offset, -1 for none: that of the last printed
// message, or of the one before it if that was in hand when the process died.
func awaitStored(t *testing.T, env *stream.Env, consumer, name string, printed int) int {
	t.Helper()
	last := printed - 1
	for settled := time.Now().Add(time.Second); ; {
		stored := -1
		offset, err := env.QueryOffset(t.Context(), consumer, name)
		switch {
		case err == nil:
			stored = int(offset)
		case !errors.Is(err, stream.ErrNoOffset):
			t.Fatal(err)
		}
		if stored > last {
			t.Fatalf("stored offset %d, and only %d was printed", stored, last)
		}
		// In hand at the kill or still on its way: a second decides.
		if stored == last || stored == last-1 && time.Now().After(settled) {
			return stored
		}
		if time.Now().After(settled.Add(patience)) {
			t.Fatalf("stored offset %d after %d was printed", stored, last)
		}
	}
}

// TestHelp: every program shows its help on stdout, and says what is wrong with
// its arguments, and how to use it, on stderr.
func TestHelp(t *testing.T) {
	for _, name := range []string{"amqp091", "demo", "filter", "fromfile", "group", "official", "pub", "quickstart", "sub", "superstream/pub", "superstream/sub", "rabbitmq"} {
		for _, help := range []string{"-h", "-help", "--help"} {
			r := finish(t, "rabbitmq-stream://u:s3cr3t@h", name, help)
			if r.code != 0 || !strings.Contains(r.stdout, "Usage: ") || r.stderr != "" || strings.Contains(r.stdout, "s3cr3t") {
				t.Errorf("%s %s: exit code %d, stdout %q, stderr %q", name, help, r.code, r.stdout, r.stderr)
			}
		}
		for _, wrong := range []string{"-nosuch", "stray"} {
			r := finish(t, "rabbitmq-stream://u:s3cr3t@h", name, wrong)
			if r.code != 2 || r.stdout != "" || !strings.Contains(r.stderr, "Usage: ") {
				t.Errorf("%s %s: exit code %d, stdout %q, stderr %q", name, wrong, r.code, r.stdout, r.stderr)
			}
		}
	}
}

// TestSubClosedPipe: what cannot be written is not handled, and is the next
// run's first message. For sub it is an ordinary end.
func TestSubClosedPipe(t *testing.T) {
	b, env, name := setUp(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := program(t, b.StreamURL(), "sub", "-stream", name, "-name", "pipe")
	var stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = w, &stderr
	if err := errors.Join(r.Close(), cmd.Start(), w.Close()); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil || stderr.Len() > 0 {
		t.Errorf("%v, stderr %q", err, &stderr)
	}
	if _, err := env.QueryOffset(t.Context(), "pipe", name); !errors.Is(err, stream.ErrNoOffset) {
		t.Errorf("stored offset: %v, want ErrNoOffset", err)
	}
	finish(t, b.StreamURL(), "sub", "-stream", name, "-name", "pipe", "-max", "1").want(t, 0, numbered(0, 1))
}

// TestSubUnread: sub ends when nobody reads its output any more, although it has
// nothing to write.
func TestSubUnread(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux tells a process that its pipe has lost its reader")
	}
	b, env, name := setUp(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd := program(t, b.StreamURL(), "sub", "-stream", name, "-name", "unread")
	var stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = w, &stderr
	if err := errors.Join(cmd.Start(), w.Close()); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(r)
	for i := range 200 {
		if _, err := lines.ReadString('\n'); err != nil {
			t.Fatalf("after %d lines: %v", i, err)
		}
	}
	_ = r.Close()
	if err := cmd.Wait(); err != nil || strings.Contains(stderr.String(), "pipe") {
		t.Errorf("%v, stderr %q", err, &stderr)
	}
	wantStored(t, env, "unread", name, 199)
}

func TestErrors(t *testing.T) {
	b := realtest.Broker(t)
	const closed = "rabbitmq-stream://guest:s3cr3t@localhost:1,rabbitmq-stream://guest:s3cr3t@localhost:2"
	wrong := strings.Replace(b.StreamURL(), "guest@", "s3cr3t@", 1)
	missing := "missing-" + strconv.Itoa(os.Getpid())
	for _, c := range []struct {
		name, uri, program string
		args               []string
		code               int
		want               string
	}{
		{"pub, closed port", closed, "pub", nil, 1, "go run ./tools/rabbitmq up"},
		{"sub, closed port", closed, "sub", nil, 1, "go run ./tools/rabbitmq up"},
		{"pub, wrong password", wrong, "pub", nil, 1, "login refused"},
		{"sub, wrong password", wrong, "sub", nil, 1, "login refused"},
		{"missing stream", b.StreamURL(), "sub", []string{"-stream", missing}, 1, "go run ./examples/pub -stream " + missing},
		{"pub, garbage URI", "rabbitmq-stream://u:s3cr3t%zz@h", "pub", nil, 2, "percent-encode"},
		{"sub, other scheme", "http://u:s3cr3t@h", "sub", nil, 2, "the scheme must be"},
		{"sub, argument", "", "sub", []string{"rabbitmq-stream://u:s3cr3t@h"}, 2, "-uri"},
		{"sub, flag", "", "sub", []string{"-start", "yesterday"}, 2, `"yesterday"`},
		{"pub, stream", b.StreamURL(), "pub", []string{"-stream", ""}, 2, "empty"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := finish(t, c.uri, c.program, c.args...)
			r.want(t, c.code, "")
			if !strings.Contains(r.stderr, c.want) || strings.Contains(r.stderr, "s3cr3t") {
				t.Errorf("stderr: %q, want %q in it and no password", r.stderr, c.want)
			}
			if lines := strings.Split(strings.TrimSuffix(r.stderr, "\n"), "\n"); len(lines) > 1 && !strings.HasPrefix(lines[1], "Usage: ") {
				t.Errorf("stderr has more than the error and the usage: %q", r.stderr)
			}
		})
	}
}

// TestSubKilledInABurst: with many messages on their way to it, sub still
// repeats at most the message in hand. Closing a socket with unread data resets
// the connection, and the broker then drops what it has not read of it: a store
// counts only once the broker has answered something after it.
func TestSubKilledInABurst(t *testing.T) {
	b := realtest.Broker(t)
	env := realtest.Env(t, b)
	name := realtest.StreamName(t, env)
	finish(t, b.StreamURL(), "pub", "-stream", name, "-from", "100", "-to", "20100").want(t, 0, "published 20000\n")
	for i := range 8 {
		consumer := "burst" + strconv.Itoa(i)
		s := startSub(t, b.StreamURL(), "-stream", name, "-name", consumer)
		out := s.read(5000)
		if err := s.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		out += s.read(-1)
		_ = s.Wait()
		printed := strings.Count(out, "\n")
		if out != numbered(0, printed) {
			t.Fatalf("printed %d lines that are not the first ones", printed)
		}
		awaitStored(t, env, consumer, name, printed)
	}
}
