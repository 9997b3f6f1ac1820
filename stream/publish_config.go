package stream

import (
	"fmt"
	"time"

	"github.com/tidemark-go/tidemark/internal/broker"
	"github.com/tidemark-go/tidemark/internal/wire"
)

// ProducerConfig says how messages are published. The zero value is a
// producer without deduplication.
type ProducerConfig struct {
	// SuperStream makes the name given to NewProducer that of a super stream: each
	// message goes to the partitions that Routing says, by its Key. The producer
	// asks every 10 s which partitions there are, and at once when one is deleted.
	// So it publishes to a new partition 10 s later at most. One on which another
	// producer of the Env has the Name counts as without a leader until that one is
	// closed, as where a partition is back before its messages are confirmed. A
	// partition that was removed gets nothing more; what it has not confirmed still
	// gets its outcome.
	//
	// When partitions are added or removed, keys move to other partitions: what was
	// published to a key before is in another partition than what follows, and
	// their order is lost for who reads both. With a Name, and ids of the caller's,
	// see LastPublishingID too.
	//
	// MaxInFlight and MaxInFlightBytes are for all partitions together. Half of
	// the places are reserved, the same number for each partition, so that one
	// without a leader holds up its own messages only; the other half is for
	// whoever comes first. A partition may always have one message. If it has had
	// no leader or confirmed nothing for 5 s, and finds no place, its messages are
	// refused at once with [ErrBlocked]; until then PublishAsync and Publish wait.
	// Config.OnState names the partition. Default false: a stream.
	SuperStream bool
	// Routing says to which partitions a message goes. Needs SuperStream. Default:
	// RouteByHash.
	Routing Routing
	// Name makes the broker drop what it has already: after a lost connection
	// everything unconfirmed is sent again, and with a name the stream still
	// holds each message exactly once. It needs permission to read the stream as
	// well as to write it. A stream remembers its 255 latest names. 255 bytes at
	// most. Default "": after a lost connection some messages may be in the stream
	// twice.
	//
	// A name is one process's at a time, because the broker takes the messages of
	// one producer for repeats of the other's, and confirms them. A producer that
	// counts ids, which it does for messages without a PublishingID of their own,
	// therefore makes sure that it has the name to itself: the first message takes
	// a few round trips, and 2 s more if the last process of that name was not
	// closed. If another process then begins with the name, this producer ends with
	// [ErrNameInUse] within 2 s. While the producer publishes it asks the broker
	// three times a second; a broker that takes 1 s to answer holds it up. On a super
	// stream all of this is so for each partition: another process takes it over
	// partition by partition. Producers whose callers number the messages are left
	// alone: two of them with the same ids are a way to be redundant.
	Name string
	// MaxInFlight is how many messages may have no outcome, or a callback that
	// has not returned; PublishAsync and Publish wait while there are so many.
	// Default 10,000; 100,000 for a super stream. It is at most 30,000 times
	// SubEntries, and 900,000: RabbitMQ reads no more from a connection with 50,000
	// unconfirmed entries, so a stream may have 30,000 on a connection. A sub-batch
	// is one entry. For a super stream it is at most 900,000.
	//
	// The default suits a network on which confirms take long. A broker near by may
	// be quicker with fewer on their way, such as 2,000, which costs the producer
	// more CPU time for each.
	MaxInFlight int
	// MaxInFlightBytes is how many bytes these may have, encoded; a larger message
	// goes alone. Config.MaxInFlightBytes bounds all producers of the Env
	// together. Default 64 MiB.
	MaxInFlightBytes int
	// SubEntries publishes up to that many messages as one sub-batch, which is one
	// entry of the stream's log and is compressed as a whole: as many as are
	// waiting, and as fit into a frame before they are compressed. The broker
	// confirms or refuses a sub-batch as a whole, and knows it by the highest id of
	// its messages. What was sent once is sent again as the same sub-batch, so with
	// a Name each message is in the stream once, whatever happens to connections.
	// A process that publishes again what an earlier one may have published needs
	// the same sub-batches: see [Producer.PublishBatch]. Default 0: no sub-batches;
	// at most 10,000.
	SubEntries int
	// Compression is that of the sub-batches. Default: none. Needs SubEntries.
	Compression Compression
	// CreationTime sets Properties.CreationTime to the time of the call for messages
	// that have none. Default false.
	CreationTime bool
	// ConfirmTimeout is how long a broker that is alive may confirm nothing of what
	// was sent before the producer asks the other nodes who leads the stream. If it
	// is another node, the producer goes there. Otherwise it waits, because the
	// messages are in the leader's log. It reports [StateBlocked] after 5 s, or
	// after ConfirmTimeout if that is less. A broker that is silent is left after
	// two heartbeats; see Config.Heartbeat. Default 30 s, at most 24 h.
	ConfirmTimeout time.Duration
	// OwnConnection gives the producer a connection of its own. Default false: the
	// producers of an Env share connections, GOMAXPROCS of them to each node, and
	// more when these have 256 producers each, or when a stream without a quorum
	// holds one up. It does not go with SuperStream: an Env of its own does that.
	OwnConnection bool
}

// Compression is how a sub-batch is compressed.
type Compression uint8

// The compressions that RabbitMQ's clients have in common.
const (
	CompressionNone   = Compression(wire.CompressionNone)
	CompressionGzip   = Compression(wire.CompressionGzip)
	CompressionSnappy = Compression(wire.CompressionSnappy)
	CompressionLZ4    = Compression(wire.CompressionLZ4)
	CompressionZstd   = Compression(wire.CompressionZstd)
)

const (
	maxMaxInFlight = 900_000 // messages, and broker.MaxUnconfirmed entries
	maxSubEntries  = 10_000

	defaultMaxInFlight      = 10_000
	defaultMaxInFlightBytes = 64 << 20
	// superMaxInFlight lets the frames to each of many partitions be large ones
	// where the broker is what is slow: with 10,000 they have a few messages.
	superMaxInFlight = 100_000
)

func (c ProducerConfig) withDefaults() (ProducerConfig, error) {
	if c.MaxInFlight == 0 {
		c.MaxInFlight = c.usualInFlight()
	}
	if c.MaxInFlightBytes == 0 {
		c.MaxInFlightBytes = defaultMaxInFlightBytes
	}
	if c.ConfirmTimeout == 0 {
		c.ConfirmTimeout = 30 * time.Second
	}
	switch {
	case c.MaxInFlight < 1 || c.MaxInFlight > c.mostInFlight():
		return c, fmt.Errorf("%w: MaxInFlight is %d; it must be from 1 to %d, or 0 for %d", ErrInvalidConfig, c.MaxInFlight, c.mostInFlight(), c.usualInFlight())
	case c.MaxInFlightBytes < 0:
		return c, fmt.Errorf("%w: MaxInFlightBytes is %d; it must be positive, or 0 for 64 MiB", ErrInvalidConfig, c.MaxInFlightBytes)
	case c.SubEntries < 0 || c.SubEntries > maxSubEntries:
		return c, fmt.Errorf("%w: SubEntries is %d; it must be from 0 to %d", ErrInvalidConfig, c.SubEntries, maxSubEntries)
	case c.Compression > CompressionZstd:
		return c, fmt.Errorf("%w: Compression %d is not one of the five there are", ErrInvalidConfig, c.Compression)
	case c.Compression != CompressionNone && c.SubEntries < 2:
		return c, fmt.Errorf("%w: Compression is for sub-batches: set SubEntries to 2 or more, such as 100", ErrInvalidConfig)
	case c.SuperStream && c.OwnConnection:
		return c, fmt.Errorf("%w: OwnConnection does not go with SuperStream, whose partitions have several leaders: use an Env of its own", ErrInvalidConfig)
	case !c.SuperStream && c.Routing.by != nil:
		return c, fmt.Errorf("%w: Routing is for super streams: set SuperStream", ErrInvalidConfig)
	case c.ConfirmTimeout < 0 || c.ConfirmTimeout > maxDuration:
		return c, fmt.Errorf("%w: ConfirmTimeout is %v; it must not be negative, and at most %v", ErrInvalidConfig, c.ConfirmTimeout, maxDuration)
	}
	return c, checkLength("producer's name", c.Name)
}

// usualInFlight is the default of MaxInFlight.
func (c ProducerConfig) usualInFlight() int {
	if c.SuperStream {
		return superMaxInFlight
	}
	return defaultMaxInFlight
}

// mostInFlight is the largest MaxInFlight: what the broker lets a connection have
// unconfirmed, in entries of the log. What is more in a partition waits unsent.
func (c ProducerConfig) mostInFlight() int {
	if c.SuperStream {
		return maxMaxInFlight
	}
	return min(maxMaxInFlight, broker.MaxUnconfirmed*min(max(1, c.SubEntries), maxSubEntries))
}
