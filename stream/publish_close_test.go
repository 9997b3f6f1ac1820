package stream

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// closing closes a producer that has three messages without outcome and whose
// callbacks put their outcomes into the list. It returns how long Close
// took and what it returned. The context has ended, with errTest.
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
		p := offlineOf(e, ProducerConfig{Name: "p"})
		close(p.ended)
		var got []error
		took, err := closing(t, p, &got)
		wantErr(t, err, ErrUnconfirmed, errTest)
		var op *OpError
		if !errors.As(err, &op) || op.Op != "close producer on stream" || op.Stream != "s" || op.Name != "p" || !strings.Contains(err.Error(), ": 3 messages: ") {
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
		if len(e.producers) != 0 || p.life.Err() == nil {
			t.Error("the Env still has the producer, or its sender goes on")
		}
		wantErr(t, p.PublishAsync(t.Context(), Message{}, nil), ErrClosed)
		wantErr(t, p.Publish(t.Context(), Message{}), ErrClosed)
	})
}

// TestCloseWithASenderThatIsStuck: Close waits for it for closeGrace.
func TestCloseWithASenderThatIsStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []error
		took, err := closing(t, offlineOf(unconnected(), ProducerConfig{}), &got)
		if wantErr(t, err, ErrUnconfirmed, errTest); took != closeGrace || len(got) != 3 {
			t.Errorf("took %v; outcomes %v", took, got)
		}
	})
}

// TestCloseWithACallbackThatIsStuck: Close waits for it for closeGrace too.
func TestCloseWithACallbackThatIsStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := offlineOf(unconnected(), ProducerConfig{})
		release := make(chan struct{})
		p.calls.add(func() { <-release })
		var got []error
		took, err := closing(t, p, &got)
		wantErr(t, err, ErrUnconfirmed, errTest)
		if took != 2*closeGrace || !strings.Contains(err.Error(), "callback") {
			t.Errorf("took %v: %v", took, err)
		}
		close(release)
		must(t, p.calls.drain(t.Context()))
		if len(got) != 3 {
			t.Errorf("behind the stuck one ran %d of 3", len(got))
		}
	})
}

// TestCloseInTheNickOfTime: outcomes that come while the sender ends count.
func TestCloseInTheNickOfTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := offlineOf(unconnected(), ProducerConfig{})
		go func() {
			<-p.life.Done()
			p.flight.settle(nil, 1, 2, 3)
			close(p.ended)
		}()
		var got []error
		if took, err := closing(t, p, &got); err != nil || took != 0 {
			t.Errorf("everything was confirmed, after %v, and Close returned %v", took, err)
		}
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
		wantErr(t, p.flight.refusal(), ErrClosed)
		p.flight.settle(nil, 1)
		synctest.Wait()
		if p.life.Err() == nil {
			t.Error("the sender is not told to end")
		}
		close(p.ended)
		must(t, errors.Join(<-closed, outcome))
	})
}
