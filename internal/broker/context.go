package broker

import (
	"context"
	"errors"
	"fmt"
)

// ownReason is the cause of a context that this library itself has ended.
type ownReason struct{ error }

// Unwrap returns the reason.
func (r ownReason) Unwrap() error { return r.error }

// OwnReason returns the cause with which to end a context of this library's own
// making, as at a limit of its own. [ContextError] then returns err alone:
// nobody has ended the caller's context.
func OwnReason(err error) error { return ownReason{err} }

// ContextError returns why a context has ended. For a context that the caller
// has ended, errors.Is matches both ctx.Err() and its cause.
func ContextError(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	var own ownReason
	switch {
	case errors.As(cause, &own):
		return own.error
	case errors.Is(cause, err):
		return cause
	}
	return fmt.Errorf("%w: %w", err, cause)
}
