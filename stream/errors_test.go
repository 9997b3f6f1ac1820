package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
)

func TestOpErrorText(t *testing.T) {
	for want, e := range map[string]*OpError{
		"tidemark: connect: broker unreachable":         {Op: "connect", Err: ErrUnreachable},
		`tidemark: declare stream "s": closed`:          {Op: "declare stream", Stream: "s", Err: ErrClosed},
		`tidemark: query offset on "s" as "c": EOF`:     {Op: "query offset on", Stream: "s", Name: "c", Err: io.EOF},
		`tidemark: x "with \"quotes\"" as "\n": closed`: {Op: "x", Stream: `with "quotes"`, Name: "\n", Err: ErrClosed},
	} {
		if e.Error() != want {
			t.Errorf("%q, want %q", e.Error(), want)
		}
	}
	h := &HandlerError{Stream: "s", Offset: 0, Err: io.EOF}
	if got, want := h.Error(), `tidemark: handler failed on "s" at offset 0: EOF`; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestErrorsUnwrap(t *testing.T) {
	err := fmt.Errorf("outer: %w", opErr("publish", "s", "p", fmt.Errorf("%w: %w", ErrUnconfirmed, context.Canceled)))
	wantErr(t, err, ErrUnconfirmed, context.Canceled)
	var op *OpError
	if !errors.As(err, &op) || op.Op != "publish" || op.Stream != "s" || op.Name != "p" {
		t.Errorf("As gave %+v", op)
	}
	var h *HandlerError
	if err := error(&HandlerError{Err: io.EOF}); !errors.As(err, &h) || !errors.Is(err, io.EOF) {
		t.Error("a HandlerError hides its cause")
	}
}

func TestOpErrWrapsOnce(t *testing.T) {
	if opErr("x", "", "", nil) != nil {
		t.Error("nil became an error")
	}
	inner := opErr("inner", "s", "", io.EOF)
	if got := opErr("outer", "", "", inner); got != inner {
		t.Errorf("wrapped twice: %v", got)
	}
}

func TestSafeToRetry(t *testing.T) {
	for _, test := range []struct {
		err  error
		want bool
	}{
		{nil, false},
		{io.EOF, false},
		{ErrUnreachable, true},
		{ErrStreamUnavailable, true},
		{opErr("x", "", "", fmt.Errorf("%w: no", ErrUnreachable)), true},
		{ErrUnconfirmed, false},
		{fmt.Errorf("%w: %w", ErrUnconfirmed, ErrUnreachable), false},
		{errors.Join(ErrUnreachable, ErrUnconfirmed), false},
		{ErrRefused, false},
		{ErrAuthentication, false},
		{context.Canceled, false},
	} {
		if got := SafeToRetry(test.err); got != test.want {
			t.Errorf("SafeToRetry(%v) = %v", test.err, got)
		}
	}
}

func TestIsFatal(t *testing.T) {
	for _, err := range []error{
		ErrInvalidConfig, ErrTLS, ErrAuthentication, ErrVirtualHost, ErrAccessRefused,
		ErrStreamNotFound, ErrStreamDeleted, ErrStreamRecreated, ErrClosed,
	} {
		if !isFatal(opErr("x", "s", "", fmt.Errorf("%w: why", err))) {
			t.Errorf("%v is tried again", err)
		}
	}
	for _, err := range []error{nil, ErrUnreachable, ErrStreamUnavailable, ErrProtocol, errMoved, io.EOF} {
		if isFatal(err) {
			t.Errorf("%v is not tried again", err)
		}
	}
}

// TestIsFatalWithSeveralCauses: a broker that is not reached may come back,
// whatever else its error looks like. An OffsetStore's own failure is not the
// broker's.
func TestIsFatalWithSeveralCauses(t *testing.T) {
	for _, err := range []error{ErrStreamMismatch, ErrMalformed, ErrOffsetStore, ErrNameInUse, errors.Join(ErrOffsetStore, ErrUnreachable)} {
		if !isFatal(fmt.Errorf("%w: why", err)) {
			t.Errorf("%v is tried again", err)
		}
	}
	for _, err := range []error{errors.Join(ErrTLS, ErrUnreachable), errors.Join(ErrUnreachable, ErrAccessRefused), ErrUnconfirmed, ErrRefused, context.Canceled} {
		if isFatal(err) {
			t.Errorf("%v is not tried again", err)
		}
	}
}

func TestOpErrNamesTheOperation(t *testing.T) {
	var op *OpError
	if err := opErr("publish", "s", "p", io.EOF); !errors.As(err, &op) || *op != (OpError{"publish", "s", "p", io.EOF}) {
		t.Errorf("%+v", op)
	}
	inner := fmt.Errorf("further out: %w", op)
	if got := opErr("close", "x", "y", inner); got != inner {
		t.Errorf("wrapped twice: %v", got)
	}
}
