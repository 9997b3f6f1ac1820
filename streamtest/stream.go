package streamtest

import (
	"strings"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// vhost is a virtual host: a namespace of streams and super streams.
type vhost struct {
	b       *Broker
	name    string
	streams map[string]*stream
	supers  map[string]*superStream
}

func newVHost(b *Broker, name string) *vhost {
	return &vhost{b: b, name: name, streams: make(map[string]*stream), supers: make(map[string]*superStream)}
}

// stream is a stream with everything that is stored in it.
type stream struct {
	name      string
	vhost     *vhost
	arguments wire.Properties
	log       streamLog
	offsets   map[string]uint64   // stored offset, by consumer reference
	sequences map[string]sequence // by publisher reference
	groups    map[string]*group   // groups of single active consumers, by name
	readers   map[*subscription]struct{}
	batch     int  // entries that the next chunk may have, see chunkWriter
	down      bool // a test made the stream unavailable

	leaderless bool // a test took the leader, see SetLeader

	writes     uint64 // counts the writes, from 1 on
	quorumLost bool   // the leader commits nothing, see SetQuorum
	tail       uncommitted
}

// validName reports whether a stream or super stream may have the name.
func validName(name string) bool { return name != "" && !strings.HasPrefix(name, "amq.") }

// cleanName removes the characters that RabbitMQ removes from a name on
// creation. RabbitMQ does so in no other command.
func cleanName(name string) string { return strings.NewReplacer("\r", "", "\n", "").Replace(name) }

// createStream creates a stream. It returns CodeOK, or the code that says why
// not.
func (vh *vhost) createStream(name string, args wire.Properties) wire.Code {
	l, ok := parseArguments(args)
	if !ok || !validName(name) {
		return wire.CodePreconditionFailed
	}
	if s := vh.streams[name]; s != nil {
		if equivalent(s.arguments, args) {
			return wire.CodeStreamAlreadyExists
		}
		return wire.CodePreconditionFailed
	}
	if vh.b.full() {
		return wire.CodeInternalError
	}
	vh.b.addStored(streamCost, false)
	vh.streams[name] = &stream{
		name: name, vhost: vh, arguments: args, log: streamLog{limits: l, size: streamCost},
		offsets: make(map[string]uint64), sequences: make(map[string]sequence), writes: 1,
		groups: make(map[string]*group), readers: make(map[*subscription]struct{}),
	}
	return wire.CodeOK
}

// deleteStream deletes a stream and tells the connections that use it.
func (b *Broker) deleteStream(s *stream) {
	for c := range b.conns {
		c.dropUnwritten(s)
	}
	delete(s.vhost.streams, s.name)
	for _, super := range s.vhost.supers {
		super.unbind(s.name)
	}
	s.groups = make(map[string]*group)
	s.tail, s.quorumLost = uncommitted{}, false
	b.addStored(-s.log.size, b.full())
	b.evict(s)
}

// evict removes all publishers and subscriptions from a stream that was
// deleted, moved or made unavailable. It tells each connection that used the
// stream once. What they have published before is stored, and is not confirmed
// if it was not yet.
func (b *Broker) evict(s *stream) {
	b.writeAll()
	b.commitTail(s, false)
	for c := range b.conns {
		c.loseHeld(s)
		c.forget(s)
	}
	b.changed()
}

// find returns a stream of the connection's virtual host, or the code that says
// why not.
func (c *conn) find(name string) (*stream, wire.Code) { return c.vhost.find(name) }

// find returns a stream, or the code that says why not.
func (vh *vhost) find(name string) (*stream, wire.Code) {
	s := vh.streams[name]
	if s == nil {
		return nil, wire.CodeStreamDoesNotExist
	}
	if s.down {
		return nil, wire.CodeStreamNotAvailable
	}
	return s, wire.CodeOK
}

// findLed is find for a command that only the leader of a stream handles.
func (vh *vhost) findLed(name string) (*stream, wire.Code) {
	s, code := vh.find(name)
	if code == wire.CodeOK && s.leaderless {
		return nil, wire.CodeStreamNotAvailable
	}
	return s, code
}

// findReadable is find with a check that the user may read the stream.
func (c *conn) findReadable(name string) (*stream, wire.Code) {
	if !c.may(read, name) {
		return nil, wire.CodeAccessRefused
	}
	return c.find(name)
}

// findLedReadable is findLed with a check that the user may read the stream.
func (c *conn) findLedReadable(name string) (*stream, wire.Code) {
	if !c.may(read, name) {
		return nil, wire.CodeAccessRefused
	}
	return c.vhost.findLed(name)
}

// wakeReaders makes all subscriptions of the stream look for new chunks.
func (s *stream) wakeReaders() {
	if s.vhost.b.cfg.subscriptionDelay > 0 {
		s.committed()
		return
	}
	for r := range s.readers {
		r.beginSending()
	}
}
