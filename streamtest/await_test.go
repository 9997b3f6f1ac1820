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
	if calls > 5 {
		t.Errorf("nothing has changed, and the condition was called %d times", calls)
	}
}
