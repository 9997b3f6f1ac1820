package streamtest

import (
	"fmt"

	"github.com/Azure/go-amqp"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// StreamError is the error of a method of Broker that cannot do what it is asked
// for with a stream.
type StreamError struct {
	// Op says what the method does, such as "create".
	Op string
	// Stream is the name of the stream.
	Stream string
	// Code is the code with which the broker would refuse a client, such as
	// StreamDoesNotExist.
	Code Code
}

// Error returns a text such as: create stream "orders": stream already exists.
func (e *StreamError) Error() string { return fmt.Sprintf("%s stream %q: %v", e.Op, e.Stream, e.Code) }

// stream returns a stream of the virtual host "/", or nil. The caller holds mu.
func (b *Broker) stream(name string) *stream { return b.vhosts[defaultVHost].streams[name] }

// CreateStream creates a stream in the virtual host "/" without a client. The
// arguments are those of the command Create, given as key, value, key, value:
// "max-age", "7D". CreateStream checks no permission. It returns a *StreamError
// with the code that the command would be answered with, unless that is OK: the
// stream exists, or a name or an argument is invalid. An argument without a
// value is invalid too.
func (b *Broker) CreateStream(name string, arguments ...string) error {
	if len(arguments)%2 != 0 {
		return &StreamError{"create", name, PreconditionFailed}
	}
	var args wire.Properties
	for i := 0; i+1 < len(arguments); i += 2 {
		args = append(args, wire.Property{Key: arguments[i], Value: arguments[i+1]})
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	defer b.changed()
	if code := b.vhosts[defaultVHost].createStream(name, args); code != OK {
		return &StreamError{"create", name, code}
	}
	return nil
}

// Publish stores messages in a stream of the virtual host "/" without a client.
// Each has one data section with a body. The messages share chunks as those of
// one Publish frame do. Publish returns a *StreamError if the stream does not
// exist, is unavailable, or the memory is full; then it stores none of them.
func (b *Broker) Publish(name string, bodies ...string) error {
	var messages [][]byte
	for _, body := range bodies {
		raw, err := amqp.NewMessage([]byte(body)).MarshalBinary()
		if err != nil {
			return fmt.Errorf("publish to stream %q: %w", name, err)
		}
		messages = append(messages, raw)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	s, code := b.vhosts[defaultVHost].findLed(name)
	if code == OK && b.full() {
		code = PreconditionFailed
	}
	if code != OK {
		return &StreamError{"publish to", name, code}
	}
	w := newChunkWriter(s)
	for _, raw := range messages {
		w.add("", &wire.PublishEntry{Entry: wire.Entry{Raw: wire.AppendEntry(nil, raw), Records: 1}})
	}
	b.trackSize(s, func() { w.store(b.now().UnixMilli()) })
	s.wakeReaders()
	b.changed()
	return nil
}

// DeleteStream deletes a stream as another client would: each client that uses
// it gets a MetadataUpdate. DeleteStream returns a *StreamError if the stream
// does not exist.
func (b *Broker) DeleteStream(name string) error {
	return b.withStream("delete", name, b.deleteStream)
}

// SetAvailable with false makes a stream unavailable, as if its leader were
// down. Each client that uses the stream gets a MetadataUpdate and loses its
// publishers and subscriptions. Until SetAvailable with true, the broker
// answers commands for the stream with StreamNotAvailable and drops
// StoreOffset. QueryPublisherSequence ends the connection, as in RabbitMQ, which
// has no answer to it. Create and Delete work as always. SetAvailable returns a
// *StreamError if the stream does not exist.
func (b *Broker) SetAvailable(name string, available bool) error {
	return b.withStream("set availability of", name, func(s *stream) {
		s.down = !available
		if s.down {
			b.evict(s)
		}
	})
}

// SetLeader with false takes the leader from a stream while a replica of it
// lives, until SetLeader with true or ClearFaults. Each client that uses the
// stream gets a MetadataUpdate and loses its publishers and subscriptions.
// Meanwhile Metadata names a replica and no leader, with code OK. Subscribe,
// StreamStats and ResolveOffsetSpec work, on the replica. DeclarePublisher and
// QueryOffset are answered with StreamNotAvailable, StoreOffset is dropped, and
// QueryPublisherSequence ends the connection. SetLeader returns a *StreamError if
// the stream does not exist.
func (b *Broker) SetLeader(name string, there bool) error {
	return b.withStream("set leader of", name, func(s *stream) {
		s.leaderless = !there
		if s.leaderless {
			b.evict(s)
		}
	})
}

// MoveLeader acts as if the leader of a stream had moved to another node. Each
// client that uses the stream gets a MetadataUpdate and loses its publishers
// and subscriptions. The stream is available at once, at the same address. What
// was published and not confirmed before is in the stream and will not be
// confirmed, and a connection never gets back its credit for that. MoveLeader
// returns a *StreamError if the stream does not exist.
func (b *Broker) MoveLeader(name string) error {
	return b.withStream("move leader of", name, b.evict)
}

// SkipOffsets leaves a gap of n offsets before the next message of a stream. In
// RabbitMQ such gaps come from its own entries in the log, for instance from an
// offset stored on a quiet stream. SkipOffsets returns a *StreamError if the
// stream does not exist.
func (b *Broker) SkipOffsets(name string, n uint64) error {
	return b.withStream("skip offsets of", name, func(s *stream) { s.log.next += n })
}

// withStream calls do, under the mutex, with a stream of the virtual host "/".
// If the stream does not exist, it returns an error with op instead.
func (b *Broker) withStream(op, name string, do func(*stream)) error {
	if b.lookAt(name, func(s *stream) { do(s); b.changed() }) {
		return nil
	}
	return &StreamError{op, name, StreamDoesNotExist}
}

// lookAt is withStream for a do that changes nothing: it wakes no Await. It
// returns false if the stream does not exist.
func (b *Broker) lookAt(name string, do func(*stream)) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.stream(name)
	if s == nil {
		return false
	}
	do(s)
	return true
}
