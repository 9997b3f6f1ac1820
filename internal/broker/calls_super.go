package broker

import (
	"context"
	"fmt"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// CreateSuper creates a super stream with its partitions, each bound with the key
// at its place. existed reports that the broker has created nothing, because it
// has a super stream of the name, or a stream with the name of a partition.
func (c *Conn) CreateSuper(ctx context.Context, name string, partitions, keys []string, arguments wire.Properties) (existed bool, err error) {
	code, err := c.request(ctx, wire.KeyCreateSuperStream, func(id uint32) wire.Frame {
		return &wire.CreateSuperStream{Correlation: id, Name: name, Partitions: partitions, BindingKeys: keys, Arguments: arguments}
	})
	switch {
	case err != nil:
		return false, err
	case code == wire.CodeStreamAlreadyExists:
		return true, nil
	case code == wire.CodeInternalError:
		return false, fmt.Errorf("%w: code %d (%v), which is the answer to an argument that is invalid", ErrStreamMismatch, uint16(code), code)
	}
	return false, superError(code, name, c.endpoint.User)
}

// DeleteSuper deletes a super stream with its partitions.
func (c *Conn) DeleteSuper(ctx context.Context, name string) error {
	code, err := c.request(ctx, wire.KeyDeleteSuperStream, func(id uint32) wire.Frame {
		return &wire.DeleteSuperStream{Correlation: id, Name: name}
	})
	if err != nil {
		return err
	}
	return superError(code, name, c.endpoint.User)
}

// Partitions returns the streams of a super stream, in their order.
func (c *Conn) Partitions(ctx context.Context, name string) ([]string, error) {
	return c.streams(ctx, name, func(id uint32) wire.Frame {
		return &wire.Partitions{Correlation: id, SuperStream: name}
	})
}

// Route returns the streams that a routing key leads to; none is no error.
func (c *Conn) Route(ctx context.Context, name, key string) ([]string, error) {
	return c.streams(ctx, name, func(id uint32) wire.Frame {
		return &wire.Route{Correlation: id, RoutingKey: key, SuperStream: name}
	})
}

// streams asks for streams of a super stream.
func (c *Conn) streams(ctx context.Context, name string, request func(id uint32) wire.Frame) ([]string, error) {
	var resp wire.StreamsResponse
	if err := c.call(ctx, request, &resp); err != nil {
		return nil, err
	}
	return resp.Streams, superError(resp.Code, name, c.endpoint.User)
}

// superError is codeError for a super stream.
func superError(code wire.Code, name, user string) error {
	if code == wire.CodeStreamDoesNotExist {
		return fmt.Errorf("%w: %q is no super stream: create it with Env.DeclareSuperStream, or check the name and the vhost", ErrStreamNotFound, name)
	}
	return codeError(code, name, user)
}
