// Package check holds the waits and checks that tests of several packages share.
package check

import (
	"context"
	"errors"
	"net"
	"strconv"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// Patience is how long a test waits for what must come. It only decides how long
// a failure takes.
const Patience = 30 * time.Second

// ErrTest is an error of the test's own.
var ErrTest = errors.New("the test's own error")

// NoLeaks fails the test if the test leaves goroutines behind. It looks at those
// of the whole process, so it is not for a test that runs beside others.
func NoLeaks(t testing.TB, ignore ...goleak.Option) {
	t.Helper()
	ignore = append(ignore, goleak.IgnoreCurrent())
	t.Cleanup(func() { goleak.VerifyNone(t, ignore...) })
}

// Soon returns a context that ends after Patience, or with the test.
func Soon(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	t.Cleanup(cancel)
	return ctx
}

// Recv receives from a channel, and ends the test if nothing comes.
func Recv[T any](t testing.TB, ch <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(Patience):
		t.Fatalf("%s did not come within %v", what, Patience)
		panic("unreachable")
	}
}

// Err fails the test unless err wraps all of want.
func Err(t testing.TB, err error, want ...error) {
	t.Helper()
	for _, w := range want {
		if !errors.Is(err, w) {
			t.Errorf("error is %v, want it to wrap %q", err, w)
		}
	}
}

// Nil ends the test unless err is nil.
func Nil(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Eventually waits until a condition holds, and ends the test if it does not. It
// looks every 2 ms.
func Eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	EventuallyWithin(t, what, Patience, holds)
}

// EventuallyWithin is Eventually with a limit of the test's own.
func EventuallyWithin(t testing.TB, what string, limit time.Duration, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !holds(); <-time.After(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}

// Port returns the port of an address, which has the form host:port.
func Port(t testing.TB, address string) int {
	t.Helper()
	_, port, err := net.SplitHostPort(address)
	Nil(t, err)
	n, err := strconv.Atoi(port)
	Nil(t, err)
	return n
}
