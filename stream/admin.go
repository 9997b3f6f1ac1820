package stream

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/tidemark-go/tidemark/internal/broker"
	"github.com/tidemark-go/tidemark/internal/wire"
)

// StreamConfig says how much a stream keeps and where. The zero value is the
// broker's default: the stream keeps everything, in segments of 500 MB.
type StreamConfig struct {
	// MaxBytes bounds the stream's size in bytes. Once the stream exceeds it,
	// the broker removes whole segments from its beginning. Default 0: no
	// bound.
	MaxBytes int64
	// MaxAge is the age at which the broker removes a whole segment. It is at
	// least 1 s; fractions of a second are dropped. Default 0: no bound.
	MaxAge time.Duration
	// SegmentBytes is the size of a segment in bytes, at most 3 GB. Default 0:
	// the broker's 500 MB.
	SegmentBytes int64
	// InitialClusterSize is the number of replicas. Default 0: what the
	// broker's configuration says; if it says nothing, every node has a
	// replica.
	InitialClusterSize int
	// LeaderLocator places the leader: "client-local" or "balanced". Default
	// "": what the broker's configuration says.
	LeaderLocator string
	// FilterSize is the size in bytes, from 16 to 255, of the Bloom filter that
	// the broker keeps of each chunk's filter values; see [Filter]. The default,
	// 16 bytes, is for about 50 values in a chunk. If a chunk has more, the
	// broker sends more chunks by mistake. RabbitMQ below 3.13 ignores it.
	// Default 0: the broker's 16.
	FilterSize int
	// Arguments are further arguments of the stream, by the broker's names, for
	// what a newer broker has. The broker ignores what it does not know, and some
	// values that make no sense. An argument that one of the fields above sets as well is
	// [ErrInvalidConfig]. Default nil: none.
	Arguments map[string]string
}

// maxSegmentBytes is the largest segment that RabbitMQ accepts.
const maxSegmentBytes = 3_000_000_000

// minFilterSize and maxFilterSize are what RabbitMQ accepts. The first is its
// default.
const minFilterSize, maxFilterSize = 16, 255

// arguments returns the settings as the arguments of the Create command.
func (c StreamConfig) arguments() (wire.Properties, error) {
	if c.MaxBytes < 0 || c.SegmentBytes < 0 || c.MaxAge < 0 || c.InitialClusterSize < 0 {
		return nil, fmt.Errorf("%w: MaxBytes, MaxAge, SegmentBytes and InitialClusterSize must not be negative; 0 is the broker's default", ErrInvalidConfig)
	}
	switch {
	case c.MaxAge > 0 && c.MaxAge < time.Second:
		return nil, fmt.Errorf("%w: MaxAge is %v; it must be at least 1s", ErrInvalidConfig, c.MaxAge)
	case c.SegmentBytes > maxSegmentBytes:
		return nil, fmt.Errorf("%w: SegmentBytes is %d; the broker takes at most %d", ErrInvalidConfig, c.SegmentBytes, int64(maxSegmentBytes))
	case c.FilterSize != 0 && (c.FilterSize < minFilterSize || c.FilterSize > maxFilterSize):
		return nil, fmt.Errorf("%w: FilterSize is %d bytes; it must be from %d to %d, or 0 for the broker's %d", ErrInvalidConfig, c.FilterSize, minFilterSize, maxFilterSize, minFilterSize)
	case c.InitialClusterSize > maxClusterSize:
		return nil, fmt.Errorf("%w: InitialClusterSize is %d; it must be at most %d", ErrInvalidConfig, c.InitialClusterSize, maxClusterSize)
	}
	var args wire.Properties
	add := func(key string, set bool, value string) {
		if set {
			args = append(args, wire.Property{Key: key, Value: value})
		}
	}
	add("max-length-bytes", c.MaxBytes > 0, strconv.FormatInt(c.MaxBytes, 10))
	add("max-age", c.MaxAge > 0, strconv.FormatInt(int64(c.MaxAge/time.Second), 10)+"s")
	add("stream-max-segment-size-bytes", c.SegmentBytes > 0, strconv.FormatInt(c.SegmentBytes, 10))
	add("initial-cluster-size", c.InitialClusterSize > 0, strconv.Itoa(c.InitialClusterSize))
	add("stream-filter-size-bytes", c.FilterSize > 0, strconv.Itoa(c.FilterSize))
	add("queue-leader-locator", c.LeaderLocator != "", c.LeaderLocator)
	for _, key := range slices.Sorted(maps.Keys(c.Arguments)) {
		value := c.Arguments[key]
		switch _, named := args.Get(key); {
		case named:
			return nil, fmt.Errorf("%w: Arguments has %q, which another field of StreamConfig sets: leave one of them out", ErrInvalidConfig, key)
		case key == "" || len(key) > maxString || len(value) > maxString:
			return nil, fmt.Errorf("%w: Arguments has %.20q: %.20q; a name must not be empty, and neither may have more than %d bytes", ErrInvalidConfig, key, value, maxString)
		}
		add(key, true, value)
	}
	return args, nil
}

// DeclareStream creates a stream and blocks until the broker has answered. It
// returns nil for a stream that exists with the same arguments, and
// [ErrStreamMismatch] for one that exists with others.
//
// A name that no stream can work under is [ErrInvalidConfig]: one that is not
// valid UTF-8, has a line break, or is too long. The name and the vhost's have
// at most 234 characters together, so that in the vhost "/" the name has at most
// 233.
//
// Other errors wrap [ErrInvalidConfig], [ErrAccessRefused] or [ErrClosed], or
// are those of [Connect].
func (e *Env) DeclareStream(ctx context.Context, name string, cfg StreamConfig) error {
	const op = "declare stream"
	args, err := cfg.arguments()
	if err == nil {
		err = checkNewStream(name, e.vhost)
	}
	if err != nil {
		return opErr(op, name, "", err)
	}
	return e.ask(ctx, op, name, "", func(ctx context.Context, c *broker.Conn) error {
		err := c.Create(ctx, name, args)
		if errors.Is(err, ErrStreamMismatch) {
			return explainMismatch(ctx, c, name, err)
		}
		return err
	})
}

// explainMismatch adds to a refused declaration which reason it has. The broker
// answers with the same code to all of them.
func explainMismatch(ctx context.Context, c *broker.Conn, name string, err error) error {
	switch _, locateErr := c.Locate(ctx, name); {
	case locateErr == nil, errors.Is(locateErr, ErrStreamUnavailable):
		return fmt.Errorf("%w: the stream exists with other arguments; declare it with those, or delete it first", err)
	case errors.Is(locateErr, ErrStreamNotFound):
		return fmt.Errorf("%w: the stream does not exist, so its name or an argument is invalid, or a queue has the name", err)
	}
	return err
}

// DeleteStream deletes a stream with its messages and stored offsets and blocks
// until the broker has answered. For a stream that does not exist it returns
// [ErrStreamNotFound]. If the connection drops before the broker has answered,
// DeleteStream asks once more, so this error can also mean that the first
// attempt worked.
//
// Other errors wrap [ErrAccessRefused] or [ErrClosed], or are those of
// [Connect].
func (e *Env) DeleteStream(ctx context.Context, name string) error {
	return e.ask(ctx, "delete stream", name, "", func(ctx context.Context, c *broker.Conn) error {
		return c.Delete(ctx, name)
	})
}

// Stats is the extent of a stream at one moment. Its offsets are those of
// chunks, which are the batches of messages that the broker writes together.
// The broker's own tracking entries take offsets too.
type Stats struct {
	// Empty is true for a stream to which nothing was ever written. The offsets
	// then mean nothing.
	Empty bool
	// FirstOffset is the first offset that retention has left.
	FirstOffset uint64
	// CommittedChunk is the first offset of the last chunk that a quorum of
	// replicas has. The stream's last offset is that or a higher one.
	CommittedChunk uint64
}

// Stats asks the broker for the extent of a stream and blocks until it has
// answered. Errors wrap [ErrStreamNotFound], [ErrStreamUnavailable],
// [ErrAccessRefused] or [ErrClosed], or are those of [Connect].
func (e *Env) Stats(ctx context.Context, stream string) (Stats, error) {
	var extent broker.Extent
	err := e.ask(ctx, "stats of stream", stream, "", func(ctx context.Context, c *broker.Conn) (err error) {
		extent, err = c.Stats(ctx, stream)
		return err
	})
	return Stats(extent), err
}

// QueryOffset returns the offset that the broker has stored under a consumer's
// name, whichever client stored it, and blocks until the broker has answered.
// By the convention of this library, of rstream and of the Java client's
// examples, that is the offset of the last handled message, or [BeforeFirst]. If
// nothing is stored, the error is [ErrNoOffset].
//
// Other errors wrap [ErrInvalidConfig] or are those of [Env.Stats].
func (e *Env) QueryOffset(ctx context.Context, consumer, stream string) (uint64, error) {
	const op = "query offset on stream"
	if err := checkName(consumer); err != nil {
		return 0, opErr(op, stream, consumer, err)
	}
	var offset uint64
	err := e.ask(ctx, op, stream, consumer, func(ctx context.Context, c *broker.Conn) (err error) {
		offset, err = c.QueryOffset(ctx, consumer, stream)
		return err
	})
	return offset, err
}

// StoreOffset stores an offset under a consumer's name. The broker never
// answers a store, so StoreOffset reads the offset back and returns when the
// broker has it. If it cannot be read back, the error is [ErrNotStored].
//
// An offset below the stored one rewinds the consumer: its next run begins
// after that offset, and after [BeforeFirst] at the first message of the stream.
// Stop the consumer before. A consumer that is running goes
// on where it is, and its next store overwrites this one. So does its check of
// a store that it sent in the two seconds before.
//
// Other errors wrap [ErrInvalidConfig] or are those of [Env.Stats].
func (e *Env) StoreOffset(ctx context.Context, consumer, stream string, offset uint64) error {
	const op = "store offset on stream"
	err := checkName(consumer)
	if err == nil {
		err = checkOffset(offset)
	}
	if err != nil {
		return opErr(op, stream, consumer, err)
	}
	return e.ask(ctx, op, stream, consumer, func(ctx context.Context, c *broker.Conn) error {
		if err := c.StoreOffset(ctx, consumer, stream, offset); err != nil {
			return err
		}
		return c.VerifyOffset(ctx, consumer, stream, offset)
	})
}

const (
	// maxName is how many bytes a reference may have on RabbitMQ.
	maxName = 255
	// maxString is how many bytes the protocol has room for in a string.
	maxString = math.MaxInt16
	// maxClusterSize is far more nodes than a cluster has.
	maxClusterSize = 1000
)

// checkName rejects a consumer or producer name under which the broker would
// silently store nothing.
func checkName(name string) error {
	if name == "" {
		return fmt.Errorf("%w: the name is empty", ErrInvalidConfig)
	}
	return checkLength("name", name)
}

// checkStream rejects a stream name that no stream can have. What a new stream
// may be called is narrower; see checkNewStream.
func checkStream(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("%w: the stream's name is empty", ErrInvalidConfig)
	case len(name) > maxString:
		return fmt.Errorf("%w: the stream's name %.20q... has %d bytes; the protocol has room for %d", ErrInvalidConfig, name, len(name), maxString)
	}
	return nil
}

func checkLength(what, name string) error {
	if len(name) > maxName {
		return fmt.Errorf("%w: the %s %.20q... has %d bytes; the broker allows %d", ErrInvalidConfig, what, name, len(name), maxName)
	}
	return nil
}
