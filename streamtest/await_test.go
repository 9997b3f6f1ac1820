package streamtest

import (
	"context"
	"errors"
	"testing"
	"time"
)

// A condition that looks at the broker is no change of the broker: Await does not
// spin.
func TestAwaitDoesNotWakeItself(t *testing.T) {
	b := NewBroker(t)
	b.CreateStream("s")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	calls := 0
	err := b.Await(ctx, func() bool {
		calls++
		_, stored := b.Offset("c", "s")
		_, published := b.Sequence("p", "s")
		return stored || published || len(b.Messages("s"))+len(b.Bodies("s")) > 0
	})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	if calls > 100 { // a spinning one calls it many thousands of times
		t.Errorf("nothing has changed, and the condition was called %d times", calls)
	}
}

// A condition about what only the test knows is looked at again, though nothing
// in the broker changes.
func TestAwaitPollsTheTestsOwnCondition(t *testing.T) {
	b := NewBroker(t)
	calls := 0
	awaitCond(t, b, "called three times", func() bool { calls++; return calls == 3 })
}
