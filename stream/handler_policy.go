package stream

import (
	"context"
	"fmt"
	"runtime/debug"
)

// settling returns h with what happens to its errors: nil from it means that
// the outcome of the message is settled.
func (r *run) settling(h Handler) Handler {
	return func(ctx context.Context, d *Delivery) error {
		if err := protect(ctx, h, d); err != nil {
			return &HandlerError{Stream: d.Stream, Offset: d.Offset, Attempts: 1, Err: err}
		}
		return nil
	}
}

// settlingBatch is settling for batches.
func (r *run) settlingBatch(h BatchHandler) BatchHandler {
	return func(ctx context.Context, batch []Delivery) error {
		if err := protectBatch(ctx, h, batch); err != nil {
			return &HandlerError{Stream: batch[0].Stream, Offset: batch[0].Offset, Attempts: 1, Err: err}
		}
		return nil
	}
}

// protect turns a handler's panic into an error.
func protect(ctx context.Context, h Handler, d *Delivery) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = panicError(r)
		}
	}()
	return h(ctx, d)
}

// protectBatch is protect for batches.
func protectBatch(ctx context.Context, h BatchHandler, batch []Delivery) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = panicError(r)
		}
	}()
	return h(ctx, batch)
}

// panicError is called while panicking, so that the stack is the panic's.
func panicError(v any) error { return fmt.Errorf("panic: %v\n%s", v, debug.Stack()) }
