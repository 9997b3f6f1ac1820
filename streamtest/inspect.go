package streamtest

import (
	"slices"
	"strings"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// Offset returns the offset stored on a stream under a consumer's name; ok is false when there is none.
func (b *Broker) Offset(streamName, consumer string) (offset uint64, ok bool) {
	b.with(streamName, func(s *stream) { offset, ok = s.offsets[consumer] })
	return offset, ok
}

// Sequence returns the highest publishing id stored on a stream under a producer's name; ok is false when
// there is none.
func (b *Broker) Sequence(streamName, producer string) (id uint64, ok bool) {
	b.with(streamName, func(s *stream) { id, ok = s.sequences[producer] })
	return id, ok
}

// Streams returns the names of the streams of the virtual host "/", sorted.
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

// Connection is a client's connection as Connections reports it.
type Connection struct {
	Name          string // peer address -> own address, as RabbitMQ names them
	ClientName    string // the client's property connection_name
	User          string
	VHost         string
	Properties    map[string]string // of the client
	Publishers    int
	Subscriptions int
	Ready         bool // the handshake is over
}

// Connections returns the connections that are open, sorted by name.
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

// maxJournal is how many commands the journal keeps.
const maxJournal = 1024

// journal is what clients have sent.
type journal struct {
	counts map[wire.Key]int
	latest []Received
	first  int // index of the oldest of latest, once it is full
}

// Received is a command that a client sent.
type Received struct {
	Connection string // Connection.Name
	Command    Command
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

// Received returns how many frames of a command the broker was sent, answers to it included.
func (b *Broker) Received(command Command) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.journal.counts[command.Request()]
}

// Commands returns the latest 1,024 commands received, the oldest first.
func (b *Broker) Commands() []Received {
	b.mu.Lock()
	defer b.mu.Unlock()
	j := &b.journal
	return append(slices.Clone(j.latest[j.first:]), j.latest[:j.first]...)
}
