package stream

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// StreamConfig says how much a stream keeps and where. The zero value is the
// broker's default: everything is kept, in segments of 500 MB.
type StreamConfig struct {
	// MaxBytes bounds the stream's size in bytes: whole segments are removed
	// from its beginning once it is exceeded. Default 0: no bound.
	MaxBytes int64
	// MaxAge removes whole segments older than this, with a resolution of
	// seconds. Default 0: no bound.
	MaxAge time.Duration
	// SegmentBytes is the size of a segment in bytes, at most 3 GB. Default 0:
	// the broker's 500 MB.
	SegmentBytes int64
	// InitialClusterSize is the number of replicas. Default 0: one on every
	// node, as far as the broker's configuration says.
	InitialClusterSize int
	// LeaderLocator places the leader: "client-local" or "balanced". Default
	// "": as the broker's configuration says.
	LeaderLocator string
}

func (c StreamConfig) arguments() (wire.Properties, error) {
	if c.MaxBytes < 0 || c.SegmentBytes < 0 || c.MaxAge < 0 || c.InitialClusterSize < 0 {
		return nil, fmt.Errorf("%w: MaxBytes, MaxAge, SegmentBytes and InitialClusterSize must not be negative; 0 is the broker's default", ErrInvalidConfig)
	}
	if c.MaxAge > 0 && c.MaxAge < time.Second {
		return nil, fmt.Errorf("%w: MaxAge is %v; it must be at least 1s", ErrInvalidConfig, c.MaxAge)
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
	add("queue-leader-locator", c.LeaderLocator != "", c.LeaderLocator)
	return args, nil
}

// DeclareStream creates the stream. If it is there already with the same
// arguments, that is nil; with others, [ErrStreamMismatch].
func (e *Env) DeclareStream(ctx context.Context, name string, cfg StreamConfig) error {
	const op = "declare stream"
	args, err := cfg.arguments()
	if err == nil {
		err = checkStream(name)
	}
	if err != nil {
		return opErr(op, name, "", err)
	}
	return e.query(ctx, op, name, "", func(ctx context.Context, c *conn) error {
		resp := wire.Response{Key: wire.KeyCreate}
		err := c.call(ctx, func(id uint32) wire.Frame {
			return &wire.Create{Correlation: id, Stream: name, Arguments: args}
		}, &resp)
		if err != nil || resp.Code == wire.CodeStreamAlreadyExists {
			return err
		}
		return codeError(resp.Code, name, c.endpoint.user)
	})
}

// DeleteStream deletes the stream with its messages and stored offsets. A
// stream that does not exist is [ErrStreamNotFound]. If the connection drops
// before the broker's answer, it is asked again, so that this error can also
// mean that the first attempt worked.
func (e *Env) DeleteStream(ctx context.Context, name string) error {
	return e.query(ctx, "delete stream", name, "", func(ctx context.Context, c *conn) error {
		resp := wire.Response{Key: wire.KeyDelete}
		err := c.call(ctx, func(id uint32) wire.Frame {
			return &wire.Delete{Correlation: id, Stream: name}
		}, &resp)
		if err != nil {
			return err
		}
		return codeError(resp.Code, name, c.endpoint.user)
	})
}

// Stats tells the extent of a stream at one moment. Offsets are those of
// chunks: the broker counts in batches of messages written together, and some
// offsets belong to its own tracking entries.
type Stats struct {
	// Empty is true for a stream that nothing was ever written to; the
	// offsets then mean nothing.
	Empty bool
	// FirstOffset is the first offset that retention has left.
	FirstOffset uint64
	// CommittedChunk is the first offset of the last chunk that a quorum of
	// replicas has.
	CommittedChunk uint64
}

// Stats asks the broker for the extent of a stream.
func (e *Env) Stats(ctx context.Context, stream string) (Stats, error) {
	var s Stats
	err := e.query(ctx, "stats of stream", stream, "", func(ctx context.Context, c *conn) (err error) {
		s, err = c.stats(ctx, stream)
		return err
	})
	return s, err
}

func (c *conn) stats(ctx context.Context, stream string) (Stats, error) {
	var resp wire.StreamStatsResponse
	err := c.call(ctx, func(id uint32) wire.Frame { return &wire.StreamStats{Correlation: id, Stream: stream} }, &resp)
	if err == nil {
		err = codeError(resp.Code, stream, c.endpoint.user)
	}
	if err != nil {
		return Stats{}, err
	}
	values := map[string]int64{"first_chunk_id": -1, "committed_chunk_id": -1}
	for _, s := range resp.Stats {
		values[s.Key] = s.Value
	}
	first, committed := values["first_chunk_id"], values["committed_chunk_id"]
	if first < 0 || committed < 0 {
		return Stats{Empty: true}, nil
	}
	return Stats{FirstOffset: uint64(first), CommittedChunk: uint64(committed)}, nil
}

// QueryOffset returns the offset stored on the broker under a consumer's name,
// by whatever client: that of the last handled message, by the convention of
// this library, of rstream's and of the Java client's examples. Nothing stored
// is [ErrNoOffset].
func (e *Env) QueryOffset(ctx context.Context, consumer, stream string) (uint64, error) {
	const op = "query offset on stream"
	if err := checkName(consumer); err != nil {
		return 0, opErr(op, stream, consumer, err)
	}
	var offset uint64
	err := e.query(ctx, op, stream, consumer, func(ctx context.Context, c *conn) (err error) {
		offset, err = c.queryOffset(ctx, consumer, stream)
		return err
	})
	return offset, err
}

func (c *conn) queryOffset(ctx context.Context, consumer, stream string) (uint64, error) {
	var resp wire.QueryOffsetResponse
	err := c.call(ctx, func(id uint32) wire.Frame {
		return &wire.QueryOffset{Correlation: id, Reference: consumer, Stream: stream}
	}, &resp)
	if err != nil {
		return 0, err
	}
	return resp.Offset, codeError(resp.Code, stream, c.endpoint.user)
}

// StoreOffset stores an offset under a consumer's name and returns when the
// broker gives it back on being asked, since it never answers the store
// itself. A lower offset than the one stored rewinds the consumer: its next
// run begins after it. A consumer that is running goes on where it is, and its
// next store overwrites this one, as does the reading back of one that it sent
// in the two seconds before.
func (e *Env) StoreOffset(ctx context.Context, consumer, stream string, offset uint64) error {
	const op = "store offset on stream"
	err := checkName(consumer)
	if err == nil && offset > math.MaxInt64 {
		err = fmt.Errorf("%w: offset %d is beyond the largest possible one, %d", ErrInvalidConfig, offset, int64(math.MaxInt64))
	}
	if err != nil {
		return opErr(op, stream, consumer, err)
	}
	return e.query(ctx, op, stream, consumer, func(ctx context.Context, c *conn) error {
		if err := c.storeOffset(ctx, consumer, stream, offset); err != nil {
			return err
		}
		return c.verifyOffset(ctx, consumer, stream, offset)
	})
}

// storeOffset returns when the socket has taken the store; see verifyOffset.
func (c *conn) storeOffset(ctx context.Context, consumer, stream string, offset uint64) error {
	return c.send(ctx, &wire.StoreOffset{Reference: consumer, Stream: stream, Offset: offset})
}

const (
	verifyTries = 20
	verifyPause = 50 * time.Millisecond
)

// verifyOffset reads back an offset that was stored on this connection.
func (c *conn) verifyOffset(ctx context.Context, consumer, stream string, offset uint64) error {
	return c.readBack(ctx, consumer, stream, offset, func() error { return c.storeOffset(ctx, consumer, stream, offset) })
}

// readBack is verifyOffset with a way to store it again. The first answer is the
// new offset unless the broker dropped the store silently (no permission, no
// leader) or it was lost: it is stored again once before giving up.
func (c *conn) readBack(ctx context.Context, consumer, stream string, offset uint64, again func() error) error {
	var got uint64
	var err error
	for try := range verifyTries {
		if got, err = c.queryOffset(ctx, consumer, stream); err == nil && got == offset {
			return nil
		}
		if err != nil && !errors.Is(err, ErrNoOffset) && !errors.Is(err, ErrStreamUnavailable) {
			return err
		}
		if try == verifyTries/2 {
			if err := again(); err != nil {
				return err
			}
		}
		select {
		case <-time.After(verifyPause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if err == nil {
		err = fmt.Errorf("the broker has offset %d", got)
	}
	return fmt.Errorf("%w: %d was sent, but on being asked: %w; does another consumer use the same name, or does the user lack a permission?", ErrNotStored, offset, err)
}

const maxName = 255

// checkName rejects a consumer or producer name that the broker would drop
// silently.
func checkName(name string) error {
	if name == "" {
		return fmt.Errorf("%w: the name is empty", ErrInvalidConfig)
	}
	return checkLength("name", name)
}

func checkStream(name string) error {
	if name == "" {
		return fmt.Errorf("%w: the stream's name is empty", ErrInvalidConfig)
	}
	return checkLength("stream's name", name)
}

func checkLength(what, name string) error {
	if len(name) > maxName {
		return fmt.Errorf("%w: the %s %.20q... has %d bytes; the broker allows %d", ErrInvalidConfig, what, name, len(name), maxName)
	}
	return nil
}
