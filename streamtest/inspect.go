package streamtest

import (
	"slices"
	"strings"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// Offset returns the offset stored on a stream under the name of a consumer. ok
// is false if none is stored or the stream does not exist.
func (b *Broker) Offset(consumer, streamName string) (offset uint64, ok bool) {
	b.lookAt(streamName, func(s *stream) { offset, ok = s.offsets[consumer] })
	return offset, ok
}

// Sequence returns the highest publishing id stored on a stream under the name
// of a producer. ok is false if none is stored or the stream does not exist.
func (b *Broker) Sequence(producer, streamName string) (id uint64, ok bool) {
	b.lookAt(streamName, func(s *stream) {
		var highest sequence
		highest, ok = s.sequences[producer]
		id = highest.id
	})
	return id, ok
}

// Streams returns the names of the streams of the virtual host "/", sorted. The
// partitions of super streams are among them.
func (b *Broker) Streams() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var names []string
	for name := range b.vhosts[defaultVHost].streams {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Connection describes a connection of a client at the time of the call of
// Connections.
type Connection struct {
	// Name is "client address -> broker address", the name RabbitMQ gives
	// it.
	Name string
	// ClientName is the client's property connection_name; empty without
	// one.
	ClientName string
	// User is the name of the user; empty before the login.
	User string
	// VHost is the name of the virtual host; empty before Open.
	VHost string
	// Properties holds all properties that the client sent. It is never
	// nil.
	Properties map[string]string
	// Publishers is the number of publishers that the client has declared.
	Publishers int
	// Subscriptions is the number of subscriptions of the client.
	Subscriptions int
	// Ready says that Open has succeeded and the broker has not sent Close.
	Ready bool
}

// Connections returns the open connections, sorted by Name. It includes those
// that are still in the handshake.
func (b *Broker) Connections() []Connection {
	b.mu.Lock()
	defer b.mu.Unlock()
	var list []Connection
	for c := range b.conns {
		list = append(list, c.describe())
	}
	slices.SortFunc(list, func(x, y Connection) int { return strings.Compare(x.Name, y.Name) })
	return list
}

func (c *conn) describe() Connection {
	d := Connection{
		Name: c.name, Properties: make(map[string]string), Ready: c.phase == phaseReady,
		Publishers: len(c.publishers), Subscriptions: len(c.subs),
	}
	for _, p := range c.properties {
		d.Properties[p.Key] = p.Value
	}
	d.ClientName = d.Properties["connection_name"]
	if c.user != nil {
		d.User = c.user.Name
	}
	if c.vhost != nil {
		d.VHost = c.vhost.name
	}
	return d
}

// maxJournal is the number of commands that Commands returns at most.
const maxJournal = 1024

// journal records the commands that clients have sent.
type journal struct {
	counts map[wire.Key]int
	latest []Received
	first  int // index of the oldest command in latest; 0 until latest is full
}

// Received is a command that a client sent, as Commands reports it.
type Received struct {
	// Connection is the Connection.Name of the client's connection.
	Connection string
	// Command is the command. A client's answer to a command of the broker
	// counts as that command.
	Command Command
}

func (j *journal) add(c *conn, key wire.Key) {
	if j.counts == nil {
		j.counts = make(map[wire.Key]int)
	}
	if id := key.Request(); id <= wire.KeyResolveOffsetSpec {
		j.counts[id]++
	}
	r := Received{Connection: c.name, Command: key.Request()}
	if len(j.latest) < maxJournal {
		j.latest = append(j.latest, r)
		return
	}
	j.latest[j.first] = r
	j.first = (j.first + 1) % maxJournal
}

// Received returns how many frames of a command clients have sent since Start.
// It also counts a client's answers to a command of the broker, such as Tune
// and ConsumerUpdate. It does not count what the broker sends.
func (b *Broker) Received(command Command) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.journal.counts[command.Request()]
}

// Commands returns the latest commands that clients have sent, the oldest
// first. It returns at most 1,024.
func (b *Broker) Commands() []Received {
	b.mu.Lock()
	defer b.mu.Unlock()
	j := &b.journal
	return append(slices.Clone(j.latest[j.first:]), j.latest[:j.first]...)
}
