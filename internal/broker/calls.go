package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// The calls of a connection. Each blocks until the broker has answered, ctx has
// ended, callTimeout has passed, or the connection is lost. StoreOffset alone has
// no answer to wait for. A refusal is an error of errors.go.
//
//	Create, Delete           a stream
//	Stats                    its extent
//	Locate                   the nodes that have it
//	QueryOffset              the offset stored under a reference
//	StoreOffset, VerifyOffset  store an offset; read it back
//	Ping                     does the peer answer?
//	CreateSuper, DeleteSuper, Partitions, Route  super streams, in calls_super.go
//	Filters                  does it keep filter values?
//
// A Lease adds what a subscription needs.

// Extent is how far a stream reaches at one moment, in offsets of chunks.
type Extent struct {
	Empty          bool   // nothing was ever written; the offsets mean nothing
	FirstOffset    uint64 // the first offset that retention has left
	CommittedChunk uint64 // first offset of the last chunk that a quorum has
}

// Create creates a stream. A stream that exists with the same arguments is no
// error.
func (c *Conn) Create(ctx context.Context, stream string, arguments wire.Properties) error {
	code, err := c.request(ctx, wire.KeyCreate, func(id uint32) wire.Frame {
		return &wire.Create{Correlation: id, Stream: stream, Arguments: arguments}
	})
	if err != nil || code == wire.CodeStreamAlreadyExists {
		return err
	}
	return codeError(code, stream, c.endpoint.User)
}

// Delete deletes a stream.
func (c *Conn) Delete(ctx context.Context, stream string) error {
	code, err := c.request(ctx, wire.KeyDelete, func(id uint32) wire.Frame {
		return &wire.Delete{Correlation: id, Stream: stream}
	})
	if err != nil {
		return err
	}
	return codeError(code, stream, c.endpoint.User)
}

// Stats returns the extent of a stream on this node.
func (c *Conn) Stats(ctx context.Context, stream string) (Extent, error) {
	values, err := c.stats(ctx, stream)
	if err != nil {
		return Extent{}, err
	}
	first, committed := values["first_chunk_id"], values["committed_chunk_id"]
	if first < 0 || committed < 0 {
		return Extent{Empty: true}, nil
	}
	return Extent{FirstOffset: uint64(first), CommittedChunk: uint64(committed)}, nil
}

// LastChunk returns the first offsets of the last chunk that this node has of a
// stream, and of the last one of which it knows that a quorum has it. They are
// -1 where there is none. Only the leader's last chunk says where the stream
// ends.
func (c *Conn) LastChunk(ctx context.Context, stream string) (last, committed int64, err error) {
	values, err := c.stats(ctx, stream)
	return values["last_chunk_id"], values["committed_chunk_id"], err
}

// stats returns what the node counts of a stream.
func (c *Conn) stats(ctx context.Context, stream string) (map[string]int64, error) {
	var resp wire.StreamStatsResponse
	err := c.call(ctx, func(id uint32) wire.Frame { return &wire.StreamStats{Correlation: id, Stream: stream} }, &resp)
	if err == nil {
		err = codeError(resp.Code, stream, c.endpoint.User)
	}
	if err != nil {
		return nil, err
	}
	values := map[string]int64{"first_chunk_id": -1, "committed_chunk_id": -1, "last_chunk_id": -1}
	for _, s := range resp.Stats {
		values[s.Key] = s.Value
	}
	return values, nil
}

// Locate returns the nodes that have a stream.
func (c *Conn) Locate(ctx context.Context, stream string) (Location, error) {
	var resp wire.MetadataResponse
	err := c.call(ctx, func(id uint32) wire.Frame {
		return &wire.Metadata{Correlation: id, Streams: []string{stream}}
	}, &resp)
	if err != nil {
		return Location{}, err
	}
	nodes := map[uint16]Node{}
	for _, b := range resp.Brokers {
		nodes[b.Reference] = Node{b.Host, int(b.Port)}
	}
	for _, s := range resp.Streams {
		if s.Stream != stream {
			continue
		}
		if s.Code != wire.CodeOK {
			return Location{}, codeError(s.Code, stream, c.endpoint.User)
		}
		return c.location(s, nodes)
	}
	return Location{}, fmt.Errorf("%w: the answer does not mention the stream", ErrProtocol)
}

// Ping returns once the peer has answered.
func (c *Conn) Ping(ctx context.Context) error {
	return c.call(ctx, func(id uint32) wire.Frame { return &wire.Metadata{Correlation: id} }, &wire.MetadataResponse{})
}

// QueryOffset returns the offset stored under a reference, or ErrNoOffset.
func (c *Conn) QueryOffset(ctx context.Context, reference, stream string) (uint64, error) {
	var resp wire.QueryOffsetResponse
	err := c.call(ctx, func(id uint32) wire.Frame {
		return &wire.QueryOffset{Correlation: id, Reference: reference, Stream: stream}
	}, &resp)
	if err != nil {
		return 0, err
	}
	return resp.Offset, codeError(resp.Code, stream, c.endpoint.User)
}

// StoreOffset sends an offset and returns when the socket has taken it. The
// broker never answers a store: see VerifyOffset.
func (c *Conn) StoreOffset(ctx context.Context, reference, stream string, offset uint64) error {
	return c.send(ctx, &wire.StoreOffset{Reference: reference, Stream: stream, Offset: offset})
}

// VerifyOffset reads back an offset that was stored on this connection. It
// stores the offset once more before it gives up with ErrNotStored.
func (c *Conn) VerifyOffset(ctx context.Context, reference, stream string, offset uint64) error {
	return c.readBack(ctx, reference, stream, offset, func() error { return c.StoreOffset(ctx, reference, stream, offset) })
}

const (
	verifyTries = 20
	verifyPause = 50 * time.Millisecond
)

// readBack queries an offset until it is the one that was stored, up to
// verifyTries times. The first answer is that one, unless the store was lost or
// the broker dropped it without a word, for want of a permission or a leader.
// Half-way, resend stores it once more.
func (c *Conn) readBack(ctx context.Context, reference, stream string, offset uint64, resend func() error) error {
	var got uint64
	var err error
	for try := range verifyTries {
		if got, err = c.QueryOffset(ctx, reference, stream); err == nil && got == offset {
			return nil
		}
		if err != nil && !errors.Is(err, ErrNoOffset) && !errors.Is(err, ErrStreamUnavailable) {
			return err
		}
		if try == verifyTries/2 {
			if err := resend(); err != nil {
				return err
			}
		}
		select {
		case <-time.After(verifyPause):
		case <-ctx.Done():
			return ContextError(ctx)
		}
	}
	if err == nil {
		err = fmt.Errorf("the broker has offset %d", got)
	}
	return fmt.Errorf("%w: %d was sent, but on being asked: %w; does another consumer use the same name, or does the user lack a permission?", ErrNotStored, offset, err)
}

// subscribe asks for the chunks of a stream, under an id of this connection.
func (c *Conn) subscribe(ctx context.Context, f wire.Subscribe) (wire.Code, error) {
	return c.request(ctx, wire.KeySubscribe, func(id uint32) wire.Frame {
		f.Correlation = id
		return &f
	})
}

// answerUpdate answers a ConsumerUpdate. It does not wait for the socket, unless
// the writer's queue is full.
func (c *Conn) answerUpdate(ctx context.Context, correlation uint32, from wire.OffsetSpec) error {
	_, err := c.post(ctx, &wire.ConsumerUpdateResponse{Correlation: correlation, Code: wire.CodeOK, Spec: from})
	return err
}

// unsubscribe returns when the broker sends nothing more for a subscription. The
// broker need not have the subscription.
func (c *Conn) unsubscribe(ctx context.Context, id uint8) error {
	_, err := c.request(ctx, wire.KeyUnsubscribe, func(correlation uint32) wire.Frame {
		return &wire.Unsubscribe{Correlation: correlation, SubscriptionID: id}
	})
	return err
}

// credit asks for n more chunks. It does not wait for the socket, unless the
// writer's queue is full.
func (c *Conn) credit(ctx context.Context, id uint8, n int) error {
	_, err := c.post(ctx, &wire.Credit{SubscriptionID: id, Credit: int16(n)})
	return err
}
