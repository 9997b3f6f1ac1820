package stream

import (
	"errors"
	"fmt"
	"strings"

	"github.com/tidemark-go/tidemark/internal/broker"
)

// The conditions that a caller can tell apart with [errors.Is]. The errors that
// the package returns wrap them with the operation, the stream, the value and the
// remedy.
var (
	// ErrInvalidConfig reports a URI, name, setting or start that cannot work.
	// It comes at once, before any I/O.
	ErrInvalidConfig = broker.ErrInvalidConfig
	// ErrUnreachable reports that no broker of the list answers: the host is
	// unknown, the port is closed, or the peer stays silent.
	ErrUnreachable = broker.ErrUnreachable
	// ErrProtocol reports a peer that does not speak the stream protocol, or
	// breaks it.
	ErrProtocol = broker.ErrProtocol
	// ErrCorruptChunk reports a chunk that does not match its checksum. The
	// consumer does not deliver the chunk but fetches it again, and gives this
	// reason in StateChange.Err.
	ErrCorruptChunk = errors.New("corrupt chunk")
	// ErrTLS reports that the TLS handshake failed: the certificate is not
	// trusted or is for another name, or the port is a plain one. With a plain
	// port the error wraps ErrUnreachable too, because a broker that is not up
	// yet looks the same.
	ErrTLS = broker.ErrTLS
	// ErrAuthentication reports that the broker refuses the login. The broker
	// delays that answer by 3 s (RabbitMQ 4.0).
	ErrAuthentication = broker.ErrAuthentication
	// ErrVirtualHost reports that the virtual host does not exist, or that the
	// user may not use it. The broker delays that answer by 3 s too.
	ErrVirtualHost = broker.ErrVirtualHost
	// ErrAccessRefused reports that the user lacks the permission.
	ErrAccessRefused = broker.ErrAccessRefused
	// ErrStreamNotFound reports that the stream does not exist.
	ErrStreamNotFound = broker.ErrStreamNotFound
	// ErrStreamDeleted reports that the stream was deleted while in use. A
	// consumer reports it if nobody creates the stream again within a second.
	ErrStreamDeleted = errors.New("stream deleted while in use")
	// ErrStreamRecreated reports that the stream was deleted and created again
	// under a consumer. It is in StateChange.Err when the consumer starts over.
	// It comes with ErrNotStored when the run ends before that: the mark belongs
	// to the old stream.
	ErrStreamRecreated = errors.New("stream deleted and created again")
	// ErrStreamMismatch reports, from DeclareStream, that the stream exists with
	// other arguments, or that the broker does not accept its name.
	ErrStreamMismatch = broker.ErrStreamMismatch
	// ErrStreamUnavailable reports that the stream has no leader at the moment,
	// as during an election. The remedy is to try again later.
	ErrStreamUnavailable = broker.ErrStreamUnavailable
	// ErrNoOffset reports, from QueryOffset, that nothing is stored under the
	// name. A stored offset 0 is not nothing.
	ErrNoOffset = broker.ErrNoOffset
	// ErrNotStored reports that a stored offset could not be read back.
	ErrNotStored = broker.ErrNotStored
	// ErrOffsetStore reports that the Load or the Save of an OffsetStore failed.
	ErrOffsetStore = errors.New("the OffsetStore failed")
	// ErrUnconfirmed means that the outcome of a published message is unknown:
	// it was accepted, and the broker has neither confirmed nor refused it.
	ErrUnconfirmed = errors.New("outcome unknown: not confirmed by the broker")
	// ErrRefused means that the broker refused a published message: it is not in
	// the stream.
	ErrRefused = errors.New("message refused by the broker")
	// ErrNameInUse means that another producer publishes to the stream under the
	// same name. The broker takes the messages of the one for repeats of the
	// other's.
	ErrNameInUse = errors.New("producer name in use")
	// ErrMessageTooLarge reports a message that does not fit into one frame as
	// negotiated with the broker (1 MiB unless configured).
	ErrMessageTooLarge = errors.New("message too large")
	// ErrInvalidMessage reports a message that cannot be encoded, or a
	// publishing id that does not grow.
	ErrInvalidMessage = errors.New("invalid message")
	// ErrMalformed reports bytes that are not an AMQP 1.0 message; the methods
	// of a Delivery return it. It also ends the run of a consumer that meets a
	// chunk whose sub-batches cannot be taken apart.
	ErrMalformed = errors.New("malformed message")
	// ErrNoName reports that a consumer without a name is to store an offset.
	ErrNoName = errors.New("the consumer has no name")
	// ErrRunning reports a second Run, RunBatch or All of a Consumer while the
	// first one is running.
	ErrRunning = errors.New("the consumer is already running")
	// ErrNotRunning reports a Commit while the consumer is not running.
	ErrNotRunning = errors.New("the consumer is not running")
	// ErrClosed reports the use of something after its Close, and ends what was
	// in progress at Close.
	ErrClosed = broker.ErrClosed
)

// OpError is what the package's operations return: which operation failed, on
// what, and why. Err wraps one of the sentinels, or the context's error.
type OpError struct {
	Op     string // "connect", "declare stream", "publish", ...
	Stream string // the stream, if the operation names one
	Name   string // the consumer's or producer's name, if it has one
	Err    error
}

// Error returns the operation, its operands and the cause in one line.
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
// message at Offset counts as not handled. The next run starts with that message,
// or with an earlier one that Workers had not finished.
type HandlerError struct {
	Stream   string
	Offset   uint64
	Attempts int   // how often the handler was called for the message
	Err      error // what the handler returned last
}

// Error names the message and the handler's error.
func (e *HandlerError) Error() string {
	return fmt.Sprintf("tidemark: handler failed on %q at offset %d: %v", e.Stream, e.Offset, e.Err)
}

// Unwrap returns the handler's error.
func (e *HandlerError) Unwrap() error { return e.Err }

// SafeToRetry reports whether the failed operation certainly had no effect, so
// that repeating it repeats nothing: the broker was not reached, or the stream
// had no leader. It is false for an unknown outcome ([ErrUnconfirmed]).
func SafeToRetry(err error) bool {
	if err == nil || errors.Is(err, ErrUnconfirmed) {
		return false
	}
	return errors.Is(err, ErrUnreachable) || errors.Is(err, ErrStreamUnavailable)
}

// opErr wraps err with the operation, unless an operation within has done so.
func opErr(op, stream, name string, err error) error {
	if err == nil {
		return nil
	}
	var wrapped *OpError
	if errors.As(err, &wrapped) {
		return err
	}
	return &OpError{Op: op, Stream: stream, Name: name, Err: err}
}

// isFatal reports whether trying again cannot help until a person has changed
// something. A broker that is unreachable may come back, whatever its error
// looks like: a plain port and a broker that restarts both look like a failure
// of TLS.
func isFatal(err error) bool {
	if errors.Is(err, ErrUnreachable) && !errors.Is(err, ErrOffsetStore) {
		return false
	}
	for _, fatal := range []error{
		ErrInvalidConfig, ErrTLS, ErrAuthentication, ErrVirtualHost, ErrAccessRefused,
		ErrStreamNotFound, ErrStreamDeleted, ErrStreamRecreated, ErrStreamMismatch, ErrMalformed, ErrClosed, ErrOffsetStore, ErrNameInUse,
	} {
		if errors.Is(err, fatal) {
			return true
		}
	}
	return false
}
