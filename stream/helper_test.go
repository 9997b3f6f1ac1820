package stream

import (
	"context"
	"errors"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// patience is how long a test waits for what must come. It only decides how
// long a failure takes.
const patience = 10 * time.Second

// noLeaks fails the test if it leaves goroutines behind.
func noLeaks(t testing.TB, ignore ...goleak.Option) {
	t.Helper()
	ignore = append(ignore, goleak.IgnoreCurrent())
	t.Cleanup(func() { goleak.VerifyNone(t, ignore...) })
}

// soon gives a test a context that ends when waiting any longer is useless.
func soon(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// recv receives from ch, or fails the test.
func recv[T any](t testing.TB, ch <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatalf("%s did not come within %v", what, patience)
		panic("unreachable")
	}
}

// wantErr fails the test unless err wraps all of want.
func wantErr(t testing.TB, err error, want ...error) {
	t.Helper()
	for _, w := range want {
		if !errors.Is(err, w) {
			t.Errorf("error is %v, want it to wrap %q", err, w)
		}
	}
}
