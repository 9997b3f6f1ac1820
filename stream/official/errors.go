package official

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"runtime/debug"
	"time"

	client "github.com/rabbitmq/rabbitmq-stream-go-client/pkg/stream"

	"github.com/tidemark-go/tidemark/internal/broker"
	"github.com/tidemark-go/tidemark/stream"
)

// known maps the official client's errors to the sentinels of package stream.
// A nil sentinel stands for an answer of the broker that has none.
var known = []struct{ theirs, ours error }{
	{client.StreamDoesNotExist, stream.ErrStreamNotFound},
	{client.StreamNotAvailable, stream.ErrStreamUnavailable},
	{client.LeaderNotReady, stream.ErrStreamUnavailable},
	{client.CodeAccessRefused, stream.ErrAccessRefused},
	{client.AuthenticationFailure, stream.ErrAuthentication},
	{client.AuthenticationFailureLoopbackError, stream.ErrAuthentication},
	{client.VirtualHostAccessFailure, stream.ErrVirtualHost},
	{client.OffsetNotFoundError, stream.ErrNoOffset},
	{client.FrameTooLarge, stream.ErrMessageTooLarge},
	{client.PreconditionFailed, nil},
	{client.InternalError, nil},
	{client.UnknownFrame, nil},
}

// translate returns an error of the official client with the sentinel that it
// stands for. errors.Is matches the official client's error too. What it does
// not know is an error of the network, or an answer that did not come.
func translate(err error) error {
	if err == nil {
		return nil
	}
	err = scrub(err)
	if isOurs(err) {
		return err
	}
	for _, k := range known {
		if errors.Is(err, k.theirs) {
			if k.ours == nil {
				return err
			}
			return fmt.Errorf("%w (the official client: %w)", k.ours, err)
		}
	}
	return fmt.Errorf("%w (the official client: %w)", stream.ErrUnreachable, err)
}

// isOurs reports whether an error is one of this library or of a context.
func isOurs(err error) bool {
	for _, e := range []error{
		context.Canceled, context.DeadlineExceeded, stream.ErrUnreachable, stream.ErrClosed, stream.ErrInvalidConfig,
		stream.ErrNoOffset, stream.ErrNotStored, stream.ErrStreamNotFound, stream.ErrStreamDeleted,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// login is the part of a URI with user and password. The official client puts
// whole URIs into errors.
var login = regexp.MustCompile(`(rabbitmq-stream(?:\+tls)?://)[^\s"]*@`)

// scrub hides the login in the text of an error. What the error wraps stays.
func scrub(err error) error {
	text := err.Error()
	clean := login.ReplaceAllString(text, "${1}***@")
	if clean == text {
		return err
	}
	return &scrubbed{clean, err}
}

// scrubbed is an error whose cause is matched but not shown.
type scrubbed struct {
	text  string
	cause error
}

func (s *scrubbed) Error() string        { return s.text }
func (s *scrubbed) Is(target error) bool { return errors.Is(s.cause, target) }

// opErr says which operation failed, as the errors of package stream do.
func opErr(op, streamName, name string, err error) error {
	if err == nil {
		return nil
	}
	return &stream.OpError{Op: op, Stream: streamName, Name: name, Err: err}
}

// protected calls a handler and turns its panic into an error.
func protected(ctx context.Context, h Handler, d *Delivery) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v\n%s", v, debug.Stack())
		}
	}()
	return h(ctx, d)
}

// within returns a context that ends after d, with an error that says so.
func within(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, d, broker.OwnReason(fmt.Errorf("%w: the official client has not answered within %v", stream.ErrUnreachable, d)))
}
