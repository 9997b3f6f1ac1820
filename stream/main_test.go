package stream

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/check"
	"go.uber.org/goleak"
)

// realBrokers reports whether a real RabbitMQ takes part in the tests.
func realBrokers() bool { return os.Getenv("TIDEMARK_REAL") == "1" }

// parallelTests are the names of the tests that noLeaks does not look after: those
// that beside lets run in parallel.
var parallelTests sync.Map

// beside lets a test that mostly waits run beside others. With a real RabbitMQ
// all tests run one after the other, and noLeaks looks after each of them.
func beside(t *testing.T) {
	t.Helper()
	if !realBrokers() {
		parallelTests.Store(t.Name(), true)
		t.Parallel()
	}
}

// besideSubtest is beside for the subtests of a test that runs beside others.
func besideSubtest(t *testing.T) {
	t.Helper()
	if !realBrokers() {
		t.Parallel()
	}
}

// inTime returns a context that ends when waiting any longer is useless. It lets a
// call that never returns fail its test, which is late with a real RabbitMQ: tests
// kill that one, and write gigabytes to it.
func inTime(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeLimit())
	t.Cleanup(cancel)
	return ctx
}

func timeLimit() time.Duration {
	if realBrokers() {
		return 5 * time.Minute
	}
	return patience
}

// noLeaks fails the test if the test leaves goroutines behind. For a test that
// runs beside others, TestMain looks at the end.
func noLeaks(t testing.TB, ignore ...goleak.Option) {
	t.Helper()
	root, _, _ := strings.Cut(t.Name(), "/")
	if _, parallel := parallelTests.Load(root); !parallel {
		check.NoLeaks(t, ignore...)
	}
}

func TestMain(m *testing.M) {
	flag.Parse()
	if err := waitInParallel(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	code := m.Run()
	if err := awaitGoroutines(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, "goroutines are left behind:", err)
		code = 1
	}
	os.Exit(code)
}

// awaitGoroutines waits until no goroutine is left behind, but for those that wait
// for the process of a real broker.
func awaitGoroutines() error {
	return goleak.Find(goleak.IgnoreAnyFunction("os/exec.(*Cmd).Wait"))
}

// waitInParallel lets more tests run at a time than there are cores, since they
// mostly wait, unless the command line says how many.
func waitInParallel() (err error) {
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		err = flag.Set("test.parallel", "24")
	}
	return err
}
