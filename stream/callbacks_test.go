package stream

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
)

func TestCallbacksRunInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startCallbacks()
		var got []int
		added := make(chan struct{})
		c.add(func() { <-added })
		for i := range 100 {
			c.add(func() {
				got = append(got, i)
				if i < 3 { // a callback may add another
					c.add(func() { got = append(got, 100+i) })
				}
			})
		}
		close(added)
		if err := c.drain(t.Context()); err != nil {
			t.Fatal(err)
		}
		if len(got) != 103 || !slices.IsSorted(got) {
			t.Errorf("ran %v", got)
		}
		if err := c.drain(t.Context()); err != nil {
			t.Errorf("closed twice: %v", err)
		}
	})
}

func TestCallbacksNeverBlockTheirAdder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startCallbacks()
		hold := make(chan struct{})
		ran := 0
		c.add(func() { <-hold })
		for range 10_000 {
			c.add(func() { ran++ })
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errTest)
		if err := c.drain(ctx); !errors.Is(err, errTest) {
			t.Errorf("closing while a callback is stuck: %v", err)
		}
		close(hold)
		if err := c.drain(t.Context()); err != nil || ran != 10_000 {
			t.Errorf("%d of 10000 ran behind it: %v", ran, err)
		}
	})
}

// TestCallbacksThatHaveEnded: who drains them under a context that has ended is
// told of the callbacks, not of the context.
func TestCallbacksThatHaveEnded(t *testing.T) {
	c := startCallbacks()
	ran := 0
	for range 3 {
		c.add(func() { ran++ })
	}
	must(t, c.drain(t.Context()))
	if ran != 3 {
		t.Errorf("%d of 3 ran", ran)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 50 {
		must(t, c.drain(ctx))
	}
}

// TestCallbacksWakeUp: what is added to callbacks that are idle runs.
func TestCallbacksWakeUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startCallbacks()
		ran := 0
		for i := range 3 {
			synctest.Wait()
			if ran != i {
				t.Fatalf("%d of %d ran", ran, i)
			}
			c.add(func() { ran++ })
		}
		must(t, c.drain(t.Context()))
	})
}
