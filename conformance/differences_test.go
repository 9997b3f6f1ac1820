package conformance

import (
	"runtime"
	"sync"
	"testing"
)

// difference is where streamtest deliberately does something else than the row says.
type difference struct {
	reason  string
	instead func(r *run) // what streamtest does
}

// differences by row. This is the whole list.
var differences = map[string]difference{}

// check holds streamtest to the difference: the row fails, and what is said to happen instead does.
func (d difference) check(t *testing.T, b *broker, row row) {
	t.Logf("differs: %s", d.reason)
	rec := &recorder{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		row.run(newRun(rec, b, differencePatience))
	}()
	<-done
	if !rec.failed() {
		t.Error("streamtest does what the row says: take it off the list of differences")
	}
	d.instead(newRun(t, b, patience))
}

// recorder is a test that may fail without failing the real one.
type recorder struct {
	testing.TB
	mu  sync.Mutex
	bad bool
}

func (r *recorder) failed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.bad
}

func (r *recorder) Fail() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.bad = true
}

func (r *recorder) FailNow() {
	r.Fail()
	runtime.Goexit()
}

func (r *recorder) Error(args ...any)                 { r.Log(args...); r.Fail() }
func (r *recorder) Errorf(format string, args ...any) { r.Logf(format, args...); r.Fail() }
func (r *recorder) Fatal(args ...any)                 { r.Log(args...); r.FailNow() }
func (r *recorder) Fatalf(format string, args ...any) { r.Logf(format, args...); r.FailNow() }
