package stream

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"testing"
)

func TestPublishError(t *testing.T) {
	lost := fmt.Errorf("%w: %w", ErrUnconfirmed, context.Canceled)
	large := fmt.Errorf("%w: 9 bytes", ErrMessageTooLarge)
	for _, test := range []struct {
		outcomes []error
		text     string
		causes   []error
		retry    bool
	}{
		{nil, "", nil, false},
		{[]error{nil}, "", nil, false},
		{[]error{nil, nil}, "", nil, false},
		{[]error{large}, large.Error(), nil, false},
		{[]error{nil, large}, "1 of 2 messages failed: messages[1]: message too large: 9 bytes", []error{large}, false},
		{
			[]error{nil, lost, fmt.Errorf("%w: %w", ErrUnconfirmed, context.Canceled), large, lost},
			"4 of 5 messages failed: messages[1]: outcome unknown: not confirmed by the broker: context canceled (and 2 more); messages[3]: message too large: 9 bytes",
			[]error{lost, large}, false,
		},
		{
			[]error{errors.New("a"), errors.New("b"), errors.New("c"), errors.New("b"), errors.New("d"), errors.New("e")},
			"6 of 6 messages failed: messages[0]: a; messages[1]: b (and 1 more); messages[2]: c; and 2 other causes",
			[]error{errors.New("a"), errors.New("b"), errors.New("c"), errors.New("d"), errors.New("e")}, false,
		},
		{[]error{ErrUnreachable, nil}, "1 of 2 messages failed: messages[0]: " + ErrUnreachable.Error(), []error{ErrUnreachable}, false},
		{[]error{ErrUnreachable, ErrStreamUnavailable}, "2 of 2 messages failed: messages[0]: " + ErrUnreachable.Error() + "; messages[1]: " + ErrStreamUnavailable.Error(),
			[]error{ErrUnreachable, ErrStreamUnavailable}, true},
		{[]error{ErrUnreachable, ErrUnconfirmed}, "2 of 2 messages failed: messages[0]: " + ErrUnreachable.Error() + "; messages[1]: " + ErrUnconfirmed.Error(),
			[]error{ErrUnreachable, ErrUnconfirmed}, false},
	} {
		err := publishError(test.outcomes)
		if test.text == "" {
			must(t, err)
			continue
		}
		wrapped := opErr("publish to stream", "s", "", err)
		if err.Error() != test.text || wrapped.Error() != `tidemark: publish to stream "s": `+test.text {
			t.Errorf("%v, want %s", wrapped, test.text)
		}
		if SafeToRetry(wrapped) != test.retry {
			t.Errorf("%v: safe to retry is %v", err, !test.retry)
		}
		e := asPublishError(wrapped)
		if e == nil {
			if len(test.outcomes) > 1 {
				t.Errorf("%v is no PublishError", wrapped)
			}
			continue
		}
		if !reflect.DeepEqual(e.Unwrap(), test.causes) || !reflect.DeepEqual(e.Outcomes, test.outcomes) {
			t.Errorf("%v has the causes %v and the outcomes %v", e, e.Unwrap(), e.Outcomes)
		}
	}
}

// uncomparableError cannot be compared with ==.
type uncomparableError struct{ list []int }

func (uncomparableError) Error() string { return "a" }

// TestPublishErrorIs: every cause is found, however often and of whatever type
// it is.
func TestPublishErrorIs(t *testing.T) {
	outcomes := []error{
		errors.New("a"), uncomparableError{[]int{1}}, uncomparableError{}, fmt.Errorf("%w: x", ErrRefused), nil,
		fmt.Errorf("%w: %w", ErrUnconfirmed, context.DeadlineExceeded), fmt.Errorf("%w: x", ErrMessageTooLarge),
	}
	err := opErr("publish to stream", "s", "n", publishError(outcomes))
	for _, want := range []error{ErrRefused, ErrUnconfirmed, context.DeadlineExceeded, ErrMessageTooLarge} {
		wantErr(t, err, want)
	}
	if errors.Is(err, ErrClosed) {
		t.Errorf("%v is ErrClosed", err)
	}
	var custom uncomparableError
	if !errors.As(err, &custom) || len(custom.list) != 1 {
		t.Errorf("the first error of a type is %v", custom)
	}
	if (&PublishError{}).Error() != "0 of 0 messages failed" || SafeToRetry(&PublishError{}) {
		t.Errorf("%v without outcomes", &PublishError{})
	}
}
