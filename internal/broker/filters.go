package broker

import (
	"context"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// Filters reports whether the peer keeps filter values and skips chunks by them.
// RabbitMQ does from 3.13 on, where it takes version 2 of Publish. Filters asks
// once in the life of the connection.
func (c *Conn) Filters(ctx context.Context) (bool, error) {
	if known := c.filters.Load(); known != nil {
		return *known, nil
	}
	if olderThan(c.version, release{3, 11, 0}) { // it would close the connection at the question
		return false, nil
	}
	var resp wire.ExchangeCommandVersionsResponse
	err := c.call(ctx, func(id uint32) wire.Frame {
		own := []wire.CommandVersion{{Key: wire.KeyPublish, Min: wire.Version1, Max: wire.Version2}}
		return &wire.ExchangeCommandVersions{Correlation: id, Commands: own}
	}, &resp)
	if err == nil {
		err = codeError(resp.Code, "", c.endpoint.User)
	}
	if err != nil {
		return false, err
	}
	offers := false
	for _, v := range resp.Commands {
		offers = offers || v.Key == wire.KeyPublish && v.Max >= wire.Version2
	}
	c.filters.Store(&offers)
	return offers, nil
}

// Filters is [Conn.Filters] for a publisher. It asks only peers below 4.0, for
// each later one keeps filter values.
func (p *Publisher) Filters(ctx context.Context) (bool, error) {
	if !olderThan(p.lease.conn.version, release{4, 0, 0}) {
		return true, nil
	}
	return p.lease.conn.Filters(ctx)
}
