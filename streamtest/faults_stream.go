package streamtest

import "github.com/tidemark-go/tidemark/internal/wire"

// stream returns a stream of the virtual host "/", or nil.
func (b *Broker) stream(name string) *stream { return b.vhosts[defaultVHost].streams[name] }

// CreateStream creates a stream in the virtual host "/" without a client, with the arguments of Create
// given as key, value, key, value. It returns what a client would be answered.
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

// DeleteStream deletes a stream as if somebody else had: clients that use it get a metadata update. It
// reports whether there was one.
func (b *Broker) DeleteStream(name string) bool {
	return b.with(name, b.deleteStream)
}

// SetAvailable makes a stream unavailable, as when its leader is down: clients that use it get a metadata
// update, and commands are answered with StreamNotAvailable until it is set to true again. It reports
// whether there is such a stream.
func (b *Broker) SetAvailable(name string, available bool) bool {
	return b.with(name, func(s *stream) {
		s.down = !available
		if s.down {
			b.evict(s)
		}
	})
}

// MoveLeader acts as if the leader of a stream had moved to another node: publishers and subscriptions are
// gone, clients get a metadata update, and find the stream at the same address at once. It reports
// whether there is such a stream.
func (b *Broker) MoveLeader(name string) bool {
	return b.with(name, b.evict)
}

// SkipOffsets leaves a gap of n offsets before the next message, as RabbitMQ's own entries in the log do,
// for instance for a stored offset on a quiet stream. It reports whether there is such a stream.
func (b *Broker) SkipOffsets(name string, n uint64) bool {
	return b.with(name, func(s *stream) { s.log.next += n })
}

// with runs do on a stream of the virtual host "/" under the lock.
func (b *Broker) with(name string, do func(*stream)) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.stream(name)
	if s == nil {
		return false
	}
	do(s)
	b.changed()
	return true
}
