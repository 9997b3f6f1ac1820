package examples_test

import (
	"bufio"
	"io"
	"os/exec"
	"syscall"
	"testing"

	"github.com/tidemark-go/tidemark/streamtest"
)

// lines returns a channel with the lines of a program's output.
func lines(t *testing.T, r io.Reader, err error) <-chan string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	ch := make(chan string, 100)
	go func() {
		defer close(ch)
		for s := bufio.NewScanner(r); s.Scan(); {
			ch <- s.Text()
		}
	}()
	return ch
}

// line waits for a line.
func line(t *testing.T, ch <-chan string, want string) {
	t.Helper()
	if got, ok := <-ch; got != want {
		t.Fatalf("the program printed %q, %v, want %q", got, ok, want)
	}
}

// member starts the example in a process of its own.
func member(t *testing.T, uri string) (cmd *exec.Cmd, stdout, stderr <-chan string) {
	t.Helper()
	cmd = program(t, uri, "group", "-stream", "s")
	out, err := cmd.StdoutPipe()
	stdout = lines(t, out, err)
	out, err = cmd.StderrPipe()
	stderr = lines(t, out, err)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, stdout, stderr
}

// Two processes: one reads, the other waits, and goes on when the first is killed
// or ends.
func TestGroup(t *testing.T) {
	b := streamtest.NewBroker(t)
	if err := b.CreateStream("s"); err != nil {
		t.Fatal(err)
	}
	publish := func(body string) {
		t.Helper()
		if err := b.Publish("s", body); err != nil {
			t.Fatal(err)
		}
	}
	first, out, state := member(t, b.URI())
	line(t, state, "waiting")
	line(t, state, "active")
	second, out2, state2 := member(t, b.URI())
	line(t, state2, "waiting")
	publish("one")
	line(t, out, "one")
	stored := func() bool { offset, ok := b.Offset("readers", "s"); return ok && offset == 0 }
	if err := b.Await(t.Context(), stored); err != nil {
		t.Fatal(err)
	}
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	line(t, state2, "active")
	publish("two")
	line(t, out2, "two")
	_, out3, state3 := member(t, b.URI())
	line(t, state3, "waiting")
	if err := second.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	line(t, state3, "active")
	publish("three")
	line(t, out3, "three")
	_ = first.Wait()
	if err := second.Wait(); err != nil {
		t.Errorf("the one that was told to end: %v", err)
	}
}
