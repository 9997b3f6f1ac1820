package stream

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// closing closes a producer that has three messages without outcome and whose
// callbacks put their outcomes into the list. It returns how long Close took and
// what it returned. The context has ended, with errTest.
func closing(t *testing.T, p *Producer, got *[]error) (took time.Duration, err error) {
	t.Helper()
	for range 3 {
		must(t, p.PublishAsync(t.Context(), Message{}, func(err error) { *got = append(*got, err) }))
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errTest)
	begin := time.Now()
	err = p.Close(ctx)
	return time.Since(begin), err
}

// TestCloseCountsTheUnconfirmed: what has no outcome gets ErrUnconfirmed, and
// Close says how many those are, and why it did not wait.
func TestCloseCountsTheUnconfirmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := unconnected()
		p := offlineOf(e, ProducerConfig{})
		close(p.ended)
		var got []error
		took, err := closing(t, p, &got)
		wantErr(t, err, ErrUnconfirmed, errTest)
		var op *OpError
		if !errors.As(err, &op) || op.Op != "close producer on stream" || op.Stream != "s" || !strings.Contains(err.Error(), ": 3 messages: ") {
			t.Errorf("%v", err)
		}
		if took != 0 || len(got) != 3 {
			t.Errorf("took %v; outcomes %v", took, got)
		}
		for _, err := range got {
			wantErr(t, err, ErrUnconfirmed)
		}
		if again := p.Close(t.Context()); again != err {
			t.Errorf("the second Close returned %v, the first %v", again, err)
		}
		if len(e.producers) != 0 || p.life.Err() == nil || e.publishing.used.Load() != 0 {
			t.Error("the Env still has the producer, or counts its bytes, or its goroutine goes on")
		}
		wantErr(t, p.PublishAsync(t.Context(), Message{}, nil), ErrClosed)
		wantErr(t, p.Publish(t.Context(), Message{}), ErrClosed)
		must(t, p.Flush(t.Context()))
	})
}

// TestCloseWithAConnectionThatIsStuck: Close waits for it for closeGrace.
func TestCloseWithAConnectionThatIsStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []error
		took, err := closing(t, offlineOf(unconnected(), ProducerConfig{}), &got)
		if wantErr(t, err, ErrUnconfirmed, errTest); took != closeGrace || len(got) != 3 {
			t.Errorf("took %v; outcomes %v", took, got)
		}
	})
}

// TestCloseWithACallbackThatIsStuck: Close waits for it for closeGrace too. The
// Env counts the bytes of its message no more, neither then nor later.
func TestCloseWithACallbackThatIsStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := unconnected()
		p := offlineOf(e, ProducerConfig{})
		release := make(chan struct{})
		must(t, p.PublishAsync(t.Context(), text("x"), func(error) { <-release }))
		confirm(p, nil, 1)
		var got []error
		took, err := closing(t, p, &got)
		wantErr(t, err, ErrUnconfirmed, errTest)
		if took != 2*closeGrace || !strings.Contains(err.Error(), "callback") || e.publishing.used.Load() != 0 {
			t.Errorf("took %v, %d bytes count: %v", took, e.publishing.used.Load(), err)
		}
		close(release)
		must(t, p.calls.drain(t.Context()))
		if len(got) != 3 || e.publishing.used.Load() != 0 {
			t.Errorf("behind the stuck one ran %d of 3, %d bytes count", len(got), e.publishing.used.Load())
		}
	})
}

// TestCloseInTheNickOfTime: outcomes that come when Close gives up count.
func TestCloseInTheNickOfTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := offlineOf(unconnected(), ProducerConfig{})
		var got []error
		for range 3 {
			must(t, p.PublishAsync(t.Context(), Message{}, func(err error) { got = append(got, err) }))
		}
		ctx, cancel := context.WithCancel(t.Context())
		closed := make(chan error, 1)
		go func() { closed <- p.Close(ctx) }()
		synctest.Wait()
		p.mu.Lock()
		cancel()
		settleLocked(p, nil, 1, 2, 3)
		p.mu.Unlock()
		close(p.ended)
		must(t, <-closed)
		must(t, errors.Join(got...))
		if len(got) != 3 {
			t.Errorf("%d of 3 callbacks ran", len(got))
		}
	})
}

// TestCloseWaitsForOutcomes: for as long as its context lasts.
func TestCloseWaitsForOutcomes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := offlineOf(unconnected(), ProducerConfig{})
		outcome := errTest
		must(t, p.PublishAsync(t.Context(), Message{}, func(err error) { outcome = err }))
		closed := make(chan error, 1)
		go func() { closed <- p.Close(t.Context()) }()
		time.Sleep(time.Hour)
		if len(closed) > 0 || p.life.Err() != nil {
			t.Fatal("closed with a message on its way")
		}
		wantErr(t, refusalOf(p), ErrClosed)
		confirm(p, nil, 1)
		synctest.Wait()
		if p.life.Err() == nil {
			t.Error("the goroutine is not told to end")
		}
		close(p.ended)
		must(t, errors.Join(<-closed, outcome))
	})
}

// TestCloseBesideClose: each obeys its own context, and the first one that ends
// ends the waiting of all.
func TestCloseBesideClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := offlineOf(unconnected(), ProducerConfig{})
		close(p.ended)
		var outcome error
		must(t, p.PublishAsync(t.Context(), text("x"), func(err error) { outcome = err }))
		first := make(chan error, 1)
		go func() { first <- p.Close(t.Context()) }()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begin := time.Now()
		err := p.Close(ctx)
		if took := time.Since(begin); took != time.Second {
			t.Errorf("the second Close took %v", took)
		}
		wantErr(t, err, ErrUnconfirmed, errClosedFirst)
		wantErr(t, outcome, ErrUnconfirmed)
		if got := <-first; got != err {
			t.Errorf("the first returned %v, the second %v", got, err)
		}
	})
}

// TestSecondCloseWithACallbackThatIsStuck: it ends closeGrace after its context.
func TestSecondCloseWithACallbackThatIsStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := offlineOf(unconnected(), ProducerConfig{})
		close(p.ended)
		release := make(chan struct{})
		must(t, p.PublishAsync(t.Context(), text("x"), func(error) { <-release }))
		confirm(p, nil, 1)
		first := make(chan error, 1)
		go func() { first <- p.Close(t.Context()) }()
		synctest.Wait()
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errTest)
		begin := time.Now()
		err := p.Close(ctx)
		if wantErr(t, err, errTest); time.Since(begin) != closeGrace || !strings.Contains(err.Error(), "callback") {
			t.Errorf("after %v: %v", time.Since(begin), err)
		}
		close(release)
		must(t, <-first)
	})
}

// TestCloseEndsTheWaiting: who waits for room, or for outcomes, is told.
func TestCloseEndsTheWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := offlineOf(unconnected(), ProducerConfig{MaxInFlight: 1})
		close(p.ended)
		var all sync.WaitGroup
		all.Go(func() { wantErr(t, p.Publish(t.Context(), text("1")), ErrUnconfirmed) })
		synctest.Wait()
		for range 3 {
			all.Go(func() { wantErr(t, p.Publish(t.Context(), text("2")), ErrClosed) })
			all.Go(func() { must(t, p.Flush(t.Context())) })
		}
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		wantErr(t, p.Close(ctx), ErrUnconfirmed)
		all.Wait()
	})
}

// TestFlush: it waits for what was accepted before, for its callbacks, and for
// nothing later.
func TestFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := offlineOf(unconnected(), ProducerConfig{})
		must(t, p.Flush(t.Context()))
		release := make(chan struct{})
		must(t, p.PublishAsync(t.Context(), Message{}, func(error) { <-release }))
		must(t, p.PublishAsync(t.Context(), Message{}, nil))
		ctx, cancel := context.WithCancelCause(t.Context())
		left, late, stays := make(chan error, 1), make(chan error, 1), make(chan error, 1)
		go func() { left <- p.Flush(ctx) }()
		go func() { stays <- p.Flush(t.Context()) }()
		synctest.Wait()
		must(t, p.PublishAsync(t.Context(), Message{}, nil)) // later than both
		confirm(p, nil, 2)
		synctest.Wait()
		if len(left)+len(stays) > 0 {
			t.Fatal("Flush returned with a message on its way")
		}
		cancel(errTest)
		err := <-left
		var op *OpError
		if wantErr(t, err, errTest); !errors.As(err, &op) || op.Op != "flush to stream" || op.Stream != "s" {
			t.Errorf("%v", err)
		}
		confirm(p, ErrRefused, 1)
		ctx, cancel = context.WithCancelCause(t.Context())
		cancel(errTest)
		go func() { late <- p.Flush(ctx) }()
		synctest.Wait()
		if len(stays) > 0 {
			t.Error("Flush returned before the callback")
		}
		wantErr(t, <-late, errTest)
		close(release)
		must(t, <-stays)
		if len(p.flushes) != 0 {
			t.Errorf("%d Flushes are kept", len(p.flushes))
		}
		endOffline(t, p)
	})
}

// TestWithinCallback: what would wait for its own caller says so at once, and
// changes nothing.
func TestWithinCallback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := offlineOf(unconnected(), ProducerConfig{})
		var errs []error
		must(t, p.PublishAsync(t.Context(), Message{}, func(error) {
			errs = append(errs, p.Flush(t.Context()), p.Close(t.Context()))
		}))
		confirm(p, nil, 1)
		must(t, p.Flush(t.Context()))
		if len(errs) != 2 {
			t.Fatalf("%d calls have returned", len(errs))
		}
		for _, err := range errs {
			wantErr(t, err, errWithinCallback)
		}
		must(t, p.PublishAsync(t.Context(), Message{}, nil))
		endOffline(t, p)
	})
}

// TestFailTellsWhy: the messages of a producer that fails have no outcome, and
// calls after it get the reason alone.
func TestFailTellsWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := unconnected()
		p := offlineOf(e, ProducerConfig{})
		var outcome error
		must(t, p.PublishAsync(t.Context(), Message{}, func(err error) { outcome = err }))
		p.fail(ErrStreamDeleted)
		p.fail(ErrClosed) // only the first reason counts
		close(p.ended)
		if err := p.PublishAsync(t.Context(), Message{}, nil); !errors.Is(err, ErrStreamDeleted) || errors.Is(err, ErrUnconfirmed) {
			t.Errorf("after it, PublishAsync returned %v", err)
		}
		if len(e.producers) != 0 {
			t.Error("it keeps its name")
		}
		err := p.Close(t.Context())
		if wantErr(t, err, ErrUnconfirmed, ErrStreamDeleted); strings.Contains(err.Error(), "Close") || !strings.Contains(err.Error(), ": 1 messages: ") {
			t.Errorf("Close does not say what has left them: %v", err)
		}
		wantErr(t, outcome, ErrUnconfirmed, ErrStreamDeleted)
	})
}

// TestGrace: the last steps of a Close have closeGrace left when its context has
// ended, and end with the context's cause.
func TestGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		later, done := withGrace(ctx)
		defer done()
		cancel(errTest)
		time.Sleep(closeGrace - 1)
		synctest.Wait()
		if later.Err() != nil {
			t.Fatalf("it has ended early: %v", context.Cause(later))
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		wantErr(t, context.Cause(later), errTest)

		never, done := withGrace(t.Context())
		time.Sleep(time.Hour)
		if never.Err() != nil {
			t.Error("it has ended without a reason")
		}
		done()
		wantErr(t, never.Err(), context.Canceled)
	})
}
