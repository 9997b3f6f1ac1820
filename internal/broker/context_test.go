package broker

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-go/tidemark/internal/check"
)

// TestContextError: the caller's end is both the context's error and its cause,
// through any contexts between; an end of ours is its reason and nothing else.
func TestContextError(t *testing.T) {
	own := errors.New("own")
	past := time.Now().Add(-time.Hour)
	for _, test := range []struct {
		name string
		end  func(context.Context) (context.Context, context.CancelFunc)
		is   []error
		not  []error
	}{
		{"cancelled", func(ctx context.Context) (context.Context, context.CancelFunc) {
			return cancelled(ctx, nil)
		}, []error{context.Canceled}, []error{context.DeadlineExceeded}},
		{"cancelled with a cause", func(ctx context.Context) (context.Context, context.CancelFunc) {
			return cancelled(ctx, check.ErrTest)
		}, []error{context.Canceled, check.ErrTest}, []error{context.DeadlineExceeded}},
		{"a deadline", func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithDeadline(ctx, past)
		}, []error{context.DeadlineExceeded}, []error{context.Canceled}},
		{"a deadline with a cause", func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithDeadlineCause(ctx, past, check.ErrTest)
		}, []error{context.DeadlineExceeded, check.ErrTest}, []error{context.Canceled}},
		{"a cause that says it already", func(ctx context.Context) (context.Context, context.CancelFunc) {
			return cancelled(ctx, fmt.Errorf("the server stops: %w", context.Canceled))
		}, []error{context.Canceled}, nil},
		{"an end of ours", func(ctx context.Context) (context.Context, context.CancelFunc) {
			return cancelled(ctx, OwnReason(own))
		}, []error{own}, []error{context.Canceled}},
		{"a limit of ours", func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithDeadlineCause(ctx, past, OwnReason(own))
		}, []error{own}, []error{context.DeadlineExceeded}},
	} {
		t.Run(test.name, func(t *testing.T) {
			ctx, cancel := test.end(t.Context())
			defer cancel()
			below, cancel := context.WithTimeoutCause(ctx, time.Hour, OwnReason(errors.New("not this one")))
			defer cancel()
			for _, ctx := range []context.Context{ctx, below} {
				err := ContextError(ctx)
				check.Err(t, err, test.is...)
				for _, not := range test.not {
					if errors.Is(err, not) {
						t.Errorf("%v is %v too", err, not)
					}
				}
			}
		})
	}
}

func cancelled(ctx context.Context, cause error) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	cancel(cause)
	return ctx, func() { cancel(nil) }
}

// TestCallsEndWithTheContext: wherever a call waits, its error is both the
// context's and the cause.
func TestCallsEndWithTheContext(t *testing.T) {
	for name, call := range map[string]func(context.Context, *Conn) error{
		"a call":   func(ctx context.Context, c *Conn) error { return c.Ping(ctx) },
		"a store":  func(ctx context.Context, c *Conn) error { return c.StoreOffset(ctx, "me", "s", 1) },
		"a credit": func(ctx context.Context, c *Conn) error { return c.credit(ctx, 1, 1) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, _ := piped(t, time.Hour)
				for range writeQueueLen + 1 { // the peer reads nothing
					check.Nil(t, c.credit(t.Context(), 1, 1))
					synctest.Wait()
				}
				ctx, cancel := context.WithCancelCause(t.Context())
				time.AfterFunc(time.Second, func() { cancel(check.ErrTest) })
				check.Err(t, call(ctx, c), context.Canceled, check.ErrTest)
				check.Err(t, call(ctx, c), context.Canceled, check.ErrTest) // before it begins
			})
		})
	}
}
