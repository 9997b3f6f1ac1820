package stream

import (
	"errors"
	"fmt"
	"strings"

	"github.com/tidemark-go/tidemark/internal/broker"
)

// The conditions that a caller can tell apart with [errors.Is]. The errors that
// the package returns wrap them with the operation, the stream, the value and
// the remedy.
var (
	// ErrInvalidConfig reports a URI, name, setting or start that cannot work.
	// It comes before any I/O, except for what only shows then: see
	// Consumer.Run.
	ErrInvalidConfig = broker.ErrInvalidConfig
	// ErrUnreachable reports that no broker answers: the host is unknown, the
	// port is closed, the peer stays silent, or the connection is lost.
	ErrUnreachable = broker.ErrUnreachable
	// ErrProtocol reports a peer that does not speak the stream protocol, or
	// breaks it.
	ErrProtocol = broker.ErrProtocol
	// ErrCorruptChunk reports a chunk that does not match its checksum. The
	// consumer does not deliver the chunk but fetches it again, and gives this
	// reason in StateChange.Err.
	ErrCorruptChunk = errors.New("corrupt chunk")
	// ErrTLS reports that the TLS handshake failed: the certificate is not
	// trusted or is for another name, the broker demands a client certificate or
	// refuses it (see Config.TLS), or the port is a plain one. A plain port
	// stays silent, as a broker does that is not up yet, so that error wraps
	// ErrUnreachable too.
	ErrTLS = broker.ErrTLS
	// ErrAuthentication reports that the broker refuses the login. The broker
	// delays that answer by 3 s (RabbitMQ 4.0).
	ErrAuthentication = broker.ErrAuthentication
	// ErrVirtualHost reports that the virtual host does not exist, or that the
	// user may not use it. The broker delays that answer by 3 s too.
	ErrVirtualHost = broker.ErrVirtualHost
	// ErrAccessRefused reports that the user lacks a permission on the stream.
	ErrAccessRefused = broker.ErrAccessRefused
	// ErrStreamNotFound reports that the stream does not exist.
	ErrStreamNotFound = broker.ErrStreamNotFound
	// ErrStreamDeleted reports that the stream was deleted while in use. A
	// consumer reports it if nobody creates the stream again within a second.
	ErrStreamDeleted = errors.New("stream deleted while in use")
	// ErrStreamRecreated reports that the stream was deleted and created again
	// while a consumer read it. StateChange.Err holds it when the consumer
	// starts over. If the run ends before that, Run returns it with
	// ErrNotStored, because the mark belongs to the old stream.
	ErrStreamRecreated = errors.New("stream deleted and created again")
	// ErrStreamMismatch reports, from DeclareStream, that the stream exists
	// with other arguments, or that the broker does not accept its name or
	// arguments.
	ErrStreamMismatch = broker.ErrStreamMismatch
	// ErrStreamUnavailable reports that the stream has no leader at the moment,
	// as during an election. The remedy is to try again later.
	ErrStreamUnavailable = broker.ErrStreamUnavailable
	// ErrNoOffset reports, from QueryOffset, that nothing is stored under the
	// name. For a stored offset 0 there is no error.
	ErrNoOffset = broker.ErrNoOffset
	// ErrNotStored reports that an offset could not be stored, or not be read
	// back after that.
	ErrNotStored = broker.ErrNotStored
	// ErrOffsetStore reports that the Load or the Save of an OffsetStore
	// failed.
	ErrOffsetStore = errors.New("the OffsetStore failed")
	// ErrUnconfirmed means that the outcome of a published message is unknown:
	// it was accepted, and the broker has neither confirmed nor refused it.
	ErrUnconfirmed = errors.New("outcome unknown: not confirmed by the broker")
	// ErrRefused means that the broker refused a published message: it is not
	// in the stream.
	ErrRefused = errors.New("message refused by the broker")
	// ErrBlocked means that the broker is alive and takes no messages: it has a
	// disk alarm, the stream has no quorum, or the broker does not keep up. A
	// producer that exists waits, reports [StateBlocked], and goes on by itself
	// when that ends; one of a super stream refuses what it has no room for, so
	// that the other partitions go on. No frame of the protocol says which it is.
	ErrBlocked = broker.ErrBlocked
	// ErrUnsupported means that the broker is too old for what was asked of it,
	// such as a [Filter].
	ErrUnsupported = broker.ErrUnsupported
	// ErrSequenceBehind means that the broker has lost messages that an earlier
	// process of the producer's name had published and that were never confirmed,
	// after LastPublishingID has counted them. The text says from which id on they
	// are to be published again.
	ErrSequenceBehind = errors.New("the broker has lost the last messages of an earlier process")
	// ErrNameInUse means that another producer publishes to the stream under
	// the same name, or that another consumer of the same Env runs on the stream
	// under the same name, and not both have SingleActive. The broker takes the
	// messages of one producer for repeats of the other's; each of two consumers
	// would overwrite the other's offset. The Env does not notice a consumer of
	// another process.
	ErrNameInUse = errors.New("name in use")
	// ErrNoRoute reports a message to a super stream that no partition is for: none
	// is bound with its key, or ProducerConfig.Routing has chosen none. The message
	// is not in the stream.
	ErrNoRoute = errors.New("no partition for the message")
	// ErrMessageTooLarge reports a message that does not fit into one frame as
	// negotiated with the broker (1 MiB unless configured). It also ends a run
	// whose next chunk the broker does not send, because the chunk is above its
	// stream.frame_max.
	ErrMessageTooLarge = errors.New("message too large")
	// ErrInvalidMessage reports a message that cannot be encoded, because a
	// value does not fit into its field or has no AMQP 1.0 type, or a publishing
	// id that does not grow.
	ErrInvalidMessage = errors.New("invalid message")
	// ErrMalformed reports bytes that are not an AMQP 1.0 message; the methods
	// of a Delivery return it. It also ends a run that meets messages which
	// cannot be decoded, once all before them are handled. The error then names
	// their offsets, and the offset to store to go on at the first message
	// behind them that can be read.
	ErrMalformed = errors.New("malformed message")
	// ErrNoName reports a Commit of a consumer without a name.
	ErrNoName = errors.New("the consumer has no name")
	// ErrNotActive reports that a consumer with SingleActive is not the active
	// member of its group, or that another member may be active beside it. Commit
	// returns it; the contexts of handlers and OnInactive have it as their cause
	// when they end for that; and StateChange.Err holds it with StateOverlap.
	ErrNotActive = errors.New("not the active member of its group")
	// ErrRunning reports a second Run, RunBatch or All of a Consumer while the
	// first one is running.
	ErrRunning = errors.New("the consumer is already running")
	// ErrNotRunning reports a Commit while the consumer is not running.
	ErrNotRunning = errors.New("the consumer is not running")
	// ErrClosed reports a call on an Env or Producer after its Close. It also
	// ends the calls and runs that are in progress at Close.
	ErrClosed = broker.ErrClosed
)

// OpError says which operation failed, on what, and why. The package's calls
// return it, except where they return a [HandlerError]. Err wraps a sentinel, or
// both the context's error and its cause, except for an answer of the broker
// that has no sentinel.
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

// HandlerError ends [Consumer.Run] when a failure of the handler was not
// settled; see [ErrorPolicy]. The message at Offset counts as not handled. The
// next run of a consumer with a name starts with that message, or with an
// earlier one that Workers had not finished.
type HandlerError struct {
	Stream   string
	Offset   uint64 // of the message, or of the first message of a batch
	Attempts int    // how often the handler was called for the message
	Err      error  // the handler's last error, and what kept it from being settled
}

// Error names the message and the handler's error.
func (e *HandlerError) Error() string {
	return fmt.Sprintf("tidemark: handler failed on %q at offset %d: %v", e.Stream, e.Offset, e.Err)
}

// Unwrap returns the handler's error.
func (e *HandlerError) Unwrap() error { return e.Err }

// SafeToRetry reports whether the caller can repeat the failed call: the broker
// was not reached or took nothing, the connection was lost, or the stream had no
// leader. It is false if that may publish a message twice: the outcome of one is
// unknown ([ErrUnconfirmed]), one of several is confirmed ([PublishError], whose
// Outcomes say which to publish again), or one of several copies in a super stream
// is. The other calls are idempotent. If the connection was lost, the first attempt
// may have worked; a repeated DeleteStream then returns [ErrStreamNotFound].
func SafeToRetry(err error) bool {
	if err == nil || errors.Is(err, ErrUnconfirmed) || isCopies(err) {
		return false
	}
	if several := asPublishError(err); several != nil {
		return several.safeToRetry()
	}
	return errors.Is(err, ErrUnreachable) || errors.Is(err, ErrStreamUnavailable) || errors.Is(err, ErrBlocked)
}

// opErr wraps err in an OpError, unless it contains one already.
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
// something. An unreachable broker may come back, so ErrUnreachable is not
// fatal whatever it comes with: a broker that restarts behind TLS also gives
// ErrTLS. Within ErrOffsetStore it says nothing about the broker.
func isFatal(err error) bool {
	if errors.Is(err, ErrUnreachable) && !errors.Is(err, ErrOffsetStore) {
		return false
	}
	for _, fatal := range []error{
		ErrInvalidConfig, ErrTLS, ErrAuthentication, ErrVirtualHost, ErrAccessRefused,
		ErrStreamNotFound, ErrStreamDeleted, ErrStreamRecreated, ErrStreamMismatch, ErrMalformed, ErrClosed, ErrOffsetStore, ErrNameInUse, ErrMessageTooLarge, ErrSequenceBehind, ErrUnsupported,
	} {
		if errors.Is(err, fatal) {
			return true
		}
	}
	return false
}
