package streamtest

import "github.com/tidemark-go/tidemark/internal/wire"

// stream returns a stream of the virtual host "/", or nil. The caller holds mu.
func (b *Broker) stream(name string) *stream { return b.vhosts[defaultVHost].streams[name] }

// CreateStream creates a stream in the virtual host "/" without a client. The
// arguments are those of the command Create, given as key, value, key, value:
// "max-age", "7D". CreateStream returns the code that the command would be
// answered with, OK if the stream is new. It checks no permission.
func (b *Broker) CreateStream(name string, arguments ...string) Code {
	var args wire.Properties
	for i := 0; i+1 < len(arguments); i += 2 {
		args = append(args, wire.Property{Key: arguments[i], Value: arguments[i+1]})
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	defer b.changed()
	return b.vhosts[defaultVHost].createStream(name, args)
}

// DeleteStream deletes a stream as another client would: each client that uses
// it gets a MetadataUpdate. DeleteStream returns false if the stream does not
// exist.
func (b *Broker) DeleteStream(name string) bool {
	return b.withStream(name, b.deleteStream)
}

// SetAvailable with false makes a stream unavailable, as if its leader were
// down. Each client that uses the stream gets a MetadataUpdate and loses its
// publishers and subscriptions. Until SetAvailable with true, the broker
// answers commands for the stream with StreamNotAvailable and drops
// StoreOffset. Create and Delete work as always. SetAvailable returns false if
// the stream does not exist.
func (b *Broker) SetAvailable(name string, available bool) bool {
	return b.withStream(name, func(s *stream) {
		s.down = !available
		if s.down {
			b.evict(s)
		}
	})
}

// MoveLeader acts as if the leader of a stream had moved to another node. Each
// client that uses the stream gets a MetadataUpdate and loses its publishers
// and subscriptions. The stream is available at once, at the same address.
// MoveLeader returns false if the stream does not exist.
func (b *Broker) MoveLeader(name string) bool {
	return b.withStream(name, b.evict)
}

// SkipOffsets leaves a gap of n offsets before the next message of a stream. In
// RabbitMQ such gaps come from its own entries in the log, for instance from an
// offset stored on a quiet stream. SkipOffsets returns false if the stream does
// not exist.
func (b *Broker) SkipOffsets(name string, n uint64) bool {
	return b.withStream(name, func(s *stream) { s.log.next += n })
}

// withStream calls do, under the mutex, with a stream of the virtual host "/".
// It returns false, without calling do, if the stream does not exist.
func (b *Broker) withStream(name string, do func(*stream)) bool {
	return b.lookAt(name, func(s *stream) { do(s); b.changed() })
}

// lookAt is withStream for a do that changes nothing: it wakes no Await.
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
