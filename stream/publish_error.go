package stream

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
)

// PublishError says which of the messages of one [Producer.Publish] failed. It
// comes within an [OpError]; errors.As finds it. [errors.Is] finds each cause
// that occurs among the outcomes. The error of a Publish of one message is that
// message's own.
type PublishError struct {
	// Outcomes has an element for each message, in the order of the call: nil
	// if the broker has confirmed the message, else an error as for a Publish
	// of that message alone. A message that was never accepted, because one
	// before it was not or because the context ended, has the error that ended
	// the call.
	Outcomes []error
}

// publishError returns the error of a Publish, given the outcome of each
// message.
func publishError(outcomes []error) error {
	if len(outcomes) == 1 {
		return outcomes[0]
	}
	for _, err := range outcomes {
		if err != nil {
			return &PublishError{Outcomes: outcomes}
		}
	}
	return nil
}

// shownCauses is how many different causes the text of a PublishError has.
const shownCauses = 3

// Error returns how many messages failed, and the first few causes, each with
// the place of the first message that has it.
func (e *PublishError) Error() string {
	failed, causes := e.causes()
	var b strings.Builder
	fmt.Fprintf(&b, "%d of %d messages failed", failed, len(e.Outcomes))
	for i, c := range causes[:min(len(causes), shownCauses)] {
		separator := "; "
		if i == 0 {
			separator = ": "
		}
		fmt.Fprintf(&b, "%smessages[%d]: %v", separator, c.first, c.err)
		if c.messages > 1 {
			fmt.Fprintf(&b, " (and %d more)", c.messages-1)
		}
	}
	if n := len(causes) - shownCauses; n > 0 {
		fmt.Fprintf(&b, "; and %d other causes", n)
	}
	return b.String()
}

// Unwrap returns the causes, those that are alike once, in the order of the
// messages.
func (e *PublishError) Unwrap() []error {
	_, causes := e.causes()
	list := make([]error, len(causes))
	for i, c := range causes {
		list[i] = c.err
	}
	return list
}

// publishCause is an error that some messages have in common.
type publishCause struct {
	err      error
	first    int // the place of the first message
	messages int
}

// causes returns how many messages failed, and of what. Errors of one type and
// text are one cause.
func (e *PublishError) causes() (failed int, causes []publishCause) {
	type likeness struct {
		kind reflect.Type
		text string
	}
	known := map[likeness]int{} // places in causes
	for i, err := range e.Outcomes {
		if err == nil {
			continue
		}
		failed++
		like := likeness{reflect.TypeOf(err), err.Error()}
		at, ok := known[like]
		if !ok {
			at = len(causes)
			known[like] = at
			causes = append(causes, publishCause{err: err, first: i})
		}
		causes[at].messages++
	}
	return failed, causes
}

// safeToRetry reports whether none of the messages is in the stream, or may be.
func (e *PublishError) safeToRetry() bool {
	for _, err := range e.Outcomes {
		if !SafeToRetry(err) {
			return false
		}
	}
	return len(e.Outcomes) > 0
}

// asPublishError returns the PublishError that an error contains, or nil.
func asPublishError(err error) *PublishError {
	var e *PublishError
	if errors.As(err, &e) {
		return e
	}
	return nil
}
