package broker

import (
	"errors"
	"fmt"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// The conditions that a caller can tell apart. Package stream exports each
// under the same name and documents it there.
var (
	ErrInvalidConfig     = errors.New("invalid configuration")
	ErrUnreachable       = errors.New("broker unreachable")
	ErrProtocol          = errors.New("not the stream protocol")
	ErrTLS               = errors.New("TLS handshake failed")
	ErrAuthentication    = errors.New("login refused")
	ErrVirtualHost       = errors.New("virtual host refused")
	ErrAccessRefused     = errors.New("access refused")
	ErrStreamNotFound    = errors.New("stream not found")
	ErrStreamMismatch    = errors.New("the broker refuses this declaration")
	ErrStreamUnavailable = errors.New("stream not available")
	ErrNoOffset          = errors.New("no offset stored")
	ErrNotStored         = errors.New("offset not stored")
	ErrUnsupported       = errors.New("not supported by the broker")
	ErrBlocked           = errors.New("the broker takes no messages")
	ErrClosed            = errors.New("closed")
)

// ErrFrameRefused comes with ErrUnreachable where the peer has closed a connection
// because a frame is too large for it: one that it was to send, or was sent.
var ErrFrameRefused = errors.New("a frame is above the limit of the connection")

// codeError turns a response code into an error that says what to do.
func codeError(code wire.Code, stream, user string) error {
	switch code {
	case wire.CodeOK:
		return nil
	case wire.CodeStreamDoesNotExist:
		return fmt.Errorf("%w: create it with Env.DeclareStream, or check the name and the vhost", ErrStreamNotFound)
	case wire.CodeStreamNotAvailable:
		return fmt.Errorf("%w: it has no leader at the moment; try again", ErrStreamUnavailable)
	case wire.CodeAccessRefused:
		return fmt.Errorf("%w: user %q lacks a permission on %q (rabbitmqctl set_permissions)", ErrAccessRefused, user, stream)
	case wire.CodePreconditionFailed:
		return ErrStreamMismatch
	case wire.CodeNoOffset:
		return ErrNoOffset
	}
	return fmt.Errorf("the broker answered with code %d (%v)", uint16(code), code)
}
