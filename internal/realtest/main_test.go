package realtest

import (
	"fmt"
	"os"
	"testing"
)

// TestMain says, once for the whole of "go test ./...", what it leaves out.
// go test shows the output of a package that passes only with -v, so that on a
// terminal the line goes there; where there is none, to stderr alone.
func TestMain(m *testing.M) {
	if !enabled() {
		const line = "realtest: tests that need a real RabbitMQ are left out; make test runs them too"
		fmt.Fprintln(os.Stderr, line)
		if tty, err := os.OpenFile("/dev/tty", os.O_WRONLY, 0); err == nil {
			fmt.Fprintln(tty, line)
			tty.Close()
		}
	}
	os.Exit(m.Run())
}

// TestBroker is one of those tests, so that with -v this package has a skip.
func TestBroker(t *testing.T) {
	b := Broker(t)
	env := Env(t, b)
	if _, err := env.Stats(t.Context(), StreamName(t, env)); err == nil {
		t.Error("a stream of a new name is there already")
	}
}
