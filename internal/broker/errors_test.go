package broker

import (
	"errors"
	"testing"

	"github.com/tidemark-go/tidemark/internal/check"
	"github.com/tidemark-go/tidemark/internal/wire"
)

func TestCodeError(t *testing.T) {
	for code, want := range map[wire.Code]error{
		wire.CodeStreamDoesNotExist: ErrStreamNotFound,
		wire.CodeStreamNotAvailable: ErrStreamUnavailable,
		wire.CodeAccessRefused:      ErrAccessRefused,
		wire.CodePreconditionFailed: ErrStreamMismatch,
		wire.CodeNoOffset:           ErrNoOffset,
	} {
		check.Err(t, codeError(code, "s", "u"), want)
	}
	if err := codeError(wire.CodeOK, "s", "u"); err != nil {
		t.Error(err)
	}
	for _, code := range []wire.Code{0, wire.CodeInternalError, 999} {
		if err := codeError(code, "s", "u"); err == nil || errors.Unwrap(err) != nil {
			t.Errorf("code %d: %v; it should wrap nothing", code, err)
		}
	}
}
