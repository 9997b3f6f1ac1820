package official

import (
	"context"
	"errors"
	"fmt"
	"time"

	client "github.com/rabbitmq/rabbitmq-stream-go-client/pkg/stream"

	"github.com/tidemark-go/tidemark/internal/broker"
	"github.com/tidemark-go/tidemark/internal/mark"
	"github.com/tidemark-go/tidemark/internal/startspec"
	"github.com/tidemark-go/tidemark/stream"
)

// QueryOffset returns the offset that the broker has stored under a consumer's
// name, whichever client stored it: that of the last handled message, or
// [stream.BeforeFirst]. If nothing is stored, the error is [stream.ErrNoOffset];
// for a stored offset 0 there is none. QueryOffset blocks until the broker has
// answered or ctx ends.
//
// Other errors wrap [stream.ErrInvalidConfig], [stream.ErrStreamNotFound],
// [stream.ErrStreamUnavailable], [stream.ErrAccessRefused] or
// [stream.ErrUnreachable], or are the context's.
func QueryOffset(ctx context.Context, env *client.Environment, consumer, streamName string) (uint64, error) {
	const op = "query offset on stream"
	if err := errors.Join(checkEnv(env), startspec.CheckOffset(streamName, consumer, 0)); err != nil {
		return 0, opErr(op, streamName, consumer, err)
	}
	g := enter(env)
	defer g.leave()
	offset, err := g.query(ctx, streamName, consumer)
	return offset, opErr(op, streamName, consumer, err)
}

// StoreOffset stores an offset under a consumer's name. The broker never answers
// a store, so StoreOffset reads the offset back, and returns when the broker has
// it. If it cannot be read back, the error is [stream.ErrNotStored]. Other
// errors are those of [QueryOffset].
//
// An offset below the stored one rewinds the consumer, which the official
// client's Consumer.StoreCustomOffset ignores without a word: the next run begins
// after that offset, and after [stream.BeforeFirst] at the first message. End the
// consumer's run before.
//
// If ctx ends while the broker is away, the store may still happen when the
// broker is back. Nothing that this package stores over the same Environment
// comes before it then.
func StoreOffset(ctx context.Context, env *client.Environment, consumer, streamName string, offset uint64) error {
	const op = "store offset on stream"
	err := errors.Join(checkEnv(env), startspec.CheckOffset(streamName, consumer, offset))
	if err == nil {
		g := enter(env)
		defer g.leave()
		err = g.storeVerified(ctx, streamName, consumer, offset)
	}
	return opErr(op, streamName, consumer, err)
}

// checkEnv rejects an Environment that cannot be used.
func checkEnv(env *client.Environment) error {
	switch {
	case env == nil:
		return fmt.Errorf("%w: the Environment is nil; stream.NewEnvironment of the official client makes one", stream.ErrInvalidConfig)
	case env.IsClosed():
		return fmt.Errorf("%w: the official client's Environment", stream.ErrClosed)
	}
	return nil
}

// query asks for a stored offset over the locator's connection.
func (g *gate) query(ctx context.Context, streamName, name string) (uint64, error) {
	offset, err := ask(ctx, g, g.calls, func() (int64, error) { return g.env.QueryOffset(name, streamName) }, nil)
	return uint64(offset), translate(err)
}

// store sends an offset over the locator's connection. Nothing else is on it, so
// that the broker has the store even if the process is killed: on a connection
// with unread deliveries it would be dropped with them.
func (g *gate) store(ctx context.Context, streamName, name string, offset uint64) error {
	_, err := ask(ctx, g, g.calls, func() (struct{}, error) {
		return struct{}{}, g.env.StoreOffset(name, streamName, int64(offset))
	}, nil)
	return translate(err)
}

func (g *gate) storeVerified(ctx context.Context, streamName, name string, offset uint64) error {
	if err := g.store(ctx, streamName, name, offset); err != nil {
		return err
	}
	return g.verify(ctx, streamName, name, offset)
}

const (
	verifyTries = 20
	verifyPause = 50 * time.Millisecond
)

// verify queries an offset until it is the one that was stored. The connection
// may be another one than that of the store, which sees it some milliseconds
// later. Half-way verify stores it once more.
func (g *gate) verify(ctx context.Context, streamName, name string, offset uint64) error {
	var got uint64
	var err error
	for try := range verifyTries {
		if got, err = g.query(ctx, streamName, name); err == nil && got == offset {
			return nil
		}
		if err != nil && !errors.Is(err, stream.ErrNoOffset) && !errors.Is(err, stream.ErrStreamUnavailable) {
			return err
		}
		if try == verifyTries/2 {
			if err := g.store(ctx, streamName, name, offset); err != nil {
				return err
			}
		}
		if err := sleep(ctx, verifyPause); err != nil {
			return err
		}
	}
	if err == nil {
		err = fmt.Errorf("the broker has offset %d", got)
	}
	return fmt.Errorf("%w: %d was sent, but on being asked: %w; does another consumer use the same name, or does the user lack a permission?", stream.ErrNotStored, offset, err)
}

// extent asks how far a stream reaches.
func (g *gate) extent(ctx context.Context, streamName string) (mark.Extent, error) {
	stats, err := ask(ctx, g, g.calls, func() (*client.StreamStats, error) { return g.env.StreamStats(streamName) }, nil)
	if err != nil {
		return mark.Extent{}, translate(err)
	}
	first, err := stats.FirstOffset()
	if err != nil { // this says that the stream is empty
		return mark.Extent{Empty: true}, nil
	}
	committed, err := stats.CommittedChunkId()
	if err != nil {
		return mark.Extent{Empty: true}, nil
	}
	return mark.Extent{FirstOffset: uint64(first), CommittedChunk: uint64(committed)}, nil
}

// exists returns an error unless the stream exists and has a leader.
func (g *gate) exists(ctx context.Context, streamName string) error {
	_, err := ask(ctx, g, g.calls, func() (*client.StreamMetadata, error) { return g.env.StreamMetaData(streamName) }, nil)
	return translate(err)
}

// sleep waits for d, or until ctx ends, which is its error.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return broker.ContextError(ctx)
	}
}
