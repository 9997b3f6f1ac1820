package stream

import (
	"errors"
	"fmt"
	"strings"
)

// The conditions that a caller can tell apart with [errors.Is]. The errors
// returned wrap them with the operation, the stream, the value and the remedy.
var (
	// ErrInvalidConfig is returned at once, before any I/O, for a URI, name,
	// setting or start that cannot work.
	ErrInvalidConfig = errors.New("invalid configuration")
	// ErrUnreachable is returned when no broker of the list answers: unknown
	// host, closed port, or a peer that stays silent.
	ErrUnreachable = errors.New("broker unreachable")
	// ErrProtocol is returned for a peer that does not speak the stream
	// protocol, or breaks it.
	ErrProtocol = errors.New("not the stream protocol")
	// ErrCorruptChunk is why a consumer connects again, in StateChange.Err, when
	// a chunk did not match its checksum. It is not delivered but fetched again.
	ErrCorruptChunk = errors.New("corrupt chunk")
	// ErrTLS is returned when the TLS handshake fails: a plain port (together
	// with ErrUnreachable, as it may be a broker that is not up yet), a
	// certificate that is not trusted or is for another name.
	ErrTLS = errors.New("TLS handshake failed")
	// ErrAuthentication is returned when the broker refuses the login. The
	// broker itself delays that answer by 3 s (RabbitMQ 4.0).
	ErrAuthentication = errors.New("login refused")
	// ErrVirtualHost is returned when the virtual host does not exist or the
	// user may not use it. The broker delays that answer by 3 s too.
	ErrVirtualHost = errors.New("virtual host refused")
	// ErrAccessRefused is returned when the user lacks the permission.
	ErrAccessRefused = errors.New("access refused")
	// ErrStreamNotFound is returned when the stream does not exist.
	ErrStreamNotFound = errors.New("stream not found")
	// ErrStreamDeleted is returned when the stream was deleted while in use, by a
	// consumer if it was not created again within a second.
	ErrStreamDeleted = errors.New("stream deleted while in use")
	// ErrStreamRecreated is in StateChange.Err when a consumer's stream was
	// deleted and created again under it, and beside ErrNotStored when that
	// has happened by the end of its run: the mark belongs to the old stream.
	ErrStreamRecreated = errors.New("stream deleted and created again")
	// ErrStreamMismatch is returned by DeclareStream for a stream that exists
	// with other arguments, or a name that the broker does not accept.
	ErrStreamMismatch = errors.New("stream exists with different arguments, or the broker does not accept its name or arguments")
	// ErrStreamUnavailable is returned when the stream has no leader for the
	// moment, as during an election. Trying again later is the remedy.
	ErrStreamUnavailable = errors.New("stream not available")
	// ErrNoOffset is returned by QueryOffset when nothing is stored under the
	// name. Offset 0 is something.
	ErrNoOffset = errors.New("no offset stored")
	// ErrNotStored is returned when a stored offset could not be read back.
	ErrNotStored = errors.New("offset not stored")
	// ErrOffsetStore is returned when the Load or Save of an OffsetStore failed.
	ErrOffsetStore = errors.New("the OffsetStore failed")
	// ErrUnconfirmed means that the outcome of a published message is
	// unknown: it was accepted, and neither confirmed nor refused.
	ErrUnconfirmed = errors.New("outcome unknown: not confirmed by the broker")
	// ErrRefused means that the broker refused a published message: it is
	// not in the stream.
	ErrRefused = errors.New("message refused by the broker")
	// ErrNameInUse means that another producer publishes to the stream under the
	// same name: the broker takes the messages of the one for repeats of the other's.
	ErrNameInUse = errors.New("producer name in use")
	// ErrMessageTooLarge is returned for a message that does not fit into one
	// frame as negotiated with the broker (1 MiB unless configured).
	ErrMessageTooLarge = errors.New("message too large")
	// ErrInvalidMessage is returned for a message that cannot be encoded, or
	// a publishing id that does not grow.
	ErrInvalidMessage = errors.New("invalid message")
	// ErrMalformed is returned by the methods of a Delivery whose bytes are
	// not an AMQP 1.0 message, and ends the run of a consumer that comes to a
	// chunk whose sub-batches cannot be taken apart.
	ErrMalformed = errors.New("malformed message")
	// ErrNoName is returned when an offset is to be stored by a consumer
	// without a name.
	ErrNoName = errors.New("the consumer has no name")
	// ErrRunning is returned by a second Run or All of the same Consumer
	// while the first is running.
	ErrRunning = errors.New("the consumer is already running")
	// ErrNotRunning is returned by Commit while the consumer is not running.
	ErrNotRunning = errors.New("the consumer is not running")
	// ErrClosed is returned by what was used after, or ended by, Close.
	ErrClosed = errors.New("closed")
)

// OpError is what the package's operations return: which operation failed, on
// what, and why. Err wraps one of the sentinels, or the context's error.
type OpError struct {
	Op     string // "connect", "declare stream", "publish", ...
	Stream string // the stream, if one was named
	Name   string // the consumer's or producer's name, if it has one
	Err    error
}

// Error gives the operation, its operands and the cause in one line.
func (e *OpError) Error() string {
	var b strings.Builder
	b.WriteString("tidemark: " + e.Op)
	if e.Stream != "" {
		fmt.Fprintf(&b, " %q", e.Stream)
	}
	if e.Name != "" {
		fmt.Fprintf(&b, " as %q", e.Name)
	}
	b.WriteString(": " + e.Err.Error())
	return b.String()
}

// Unwrap returns the cause.
func (e *OpError) Unwrap() error { return e.Err }

// HandlerError ends [Consumer.Run] when the handler returned an error. The
// message at Offset counts as not handled: the next run starts with it, or with
// one before it that Workers had not finished.
type HandlerError struct {
	Stream   string
	Offset   uint64
	Attempts int   // how often the handler was called for it
	Err      error // what the handler returned at last
}

// Error names the message and the handler's error.
func (e *HandlerError) Error() string {
	return fmt.Sprintf("tidemark: handler failed on %q at offset %d: %v", e.Stream, e.Offset, e.Err)
}

// Unwrap returns the handler's error.
func (e *HandlerError) Unwrap() error { return e.Err }

// SafeToRetry reports whether the failed operation certainly had no effect, so
// that doing it again cannot repeat anything: nothing was reached, or the
// stream had no leader. It is false for an unknown outcome ([ErrUnconfirmed]).
func SafeToRetry(err error) bool {
	if err == nil || errors.Is(err, ErrUnconfirmed) {
		return false
	}
	return errors.Is(err, ErrUnreachable) || errors.Is(err, ErrStreamUnavailable)
}

// opErr wraps err with the operation, once.
func opErr(op, stream, name string, err error) error {
	if err == nil {
		return nil
	}
	var done *OpError
	if errors.As(err, &done) {
		return err
	}
	return &OpError{Op: op, Stream: stream, Name: name, Err: err}
}

// isFatal reports whether trying again cannot help until a person has changed
// something. What is unreachable for the moment may come back, whatever it
// looked like (see tlsError).
func isFatal(err error) bool {
	if errors.Is(err, ErrUnreachable) && !errors.Is(err, ErrOffsetStore) {
		return false
	}
	for _, target := range []error{
		ErrInvalidConfig, ErrTLS, ErrAuthentication, ErrVirtualHost, ErrAccessRefused,
		ErrStreamNotFound, ErrStreamDeleted, ErrStreamRecreated, ErrStreamMismatch, ErrMalformed, ErrClosed, ErrOffsetStore, ErrNameInUse,
	} {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}
