package stream

import (
	"context"
	"errors"
	"testing"
)

// TestWaiter: the call ends when the last outcome has come, and not before the
// accepting has ended.
func TestWaiter(t *testing.T) {
	w := newWaiter(3)
	for nth, err := range []error{nil, ErrRefused, nil} {
		w.settle([]slot{{nth: int32(nth)}}, err)
		if isClosed(w.done) {
			t.Fatal("done before release")
		}
	}
	w.release()
	err := w.wait(t.Context())
	e := asPublishError(err)
	if e == nil || len(e.Outcomes) != 3 || e.Outcomes[0] != nil || e.Outcomes[1] != ErrRefused || e.Outcomes[2] != nil {
		t.Errorf("%v", err)
	}
}

// TestWaiterOfOne: the error of one message is its own.
func TestWaiterOfOne(t *testing.T) {
	for _, want := range []error{nil, ErrRefused} {
		w := newWaiter(1)
		w.release()
		w.settle([]slot{{nth: 0}}, want)
		if err := w.wait(t.Context()); err != want {
			t.Errorf("%v, want %v", err, want)
		}
	}
}

// TestWaiterWhoseContextEnds: what has no outcome then gets ErrUnconfirmed, the
// rest keeps its outcome, and what comes later changes nothing.
func TestWaiterWhoseContextEnds(t *testing.T) {
	ended, cancel := context.WithCancelCause(t.Context())
	cancel(errTest)
	w := newWaiter(4)
	w.settle([]slot{{nth: 0}}, nil)
	w.settle([]slot{{nth: 2}}, ErrRefused)
	w.release()
	err := w.wait(ended)
	w.settle([]slot{{nth: 1}}, ErrMessageTooLarge)
	w.settle([]slot{{nth: 3}}, nil)
	e := asPublishError(err)
	if e == nil || e.Outcomes[0] != nil || e.Outcomes[2] != ErrRefused {
		t.Fatalf("%v", err)
	}
	for _, nth := range []int{1, 3} {
		wantErr(t, e.Outcomes[nth], ErrUnconfirmed, errTest)
	}
	for range 20 { // the outcomes are all there, so the context does not count
		if e := asPublishError(w.wait(ended)); e == nil || errors.Is(e, ErrUnconfirmed) || e.Outcomes[1] != ErrMessageTooLarge {
			t.Fatalf("%v", e)
		}
	}

	one := newWaiter(1)
	one.release()
	err = one.wait(ended)
	if wantErr(t, err, ErrUnconfirmed, errTest); asPublishError(err) != nil {
		t.Errorf("the error of one message is a PublishError: %v", err)
	}
}

// TestWaiterRefuses: what was not accepted has the error that ended the call.
func TestWaiterRefuses(t *testing.T) {
	w := newWaiter(4)
	w.settle([]slot{{nth: 0}}, nil)
	w.refuse(2, ErrInvalidMessage)
	w.release()
	if isClosed(w.done) {
		t.Fatal("done with a message on its way")
	}
	w.settle([]slot{{nth: 1}}, nil)
	e := asPublishError(w.wait(t.Context()))
	if e == nil || e.Outcomes[0] != nil || e.Outcomes[1] != nil || e.Outcomes[2] != ErrInvalidMessage || e.Outcomes[3] != ErrInvalidMessage {
		t.Errorf("%v", e)
	}
}
