package stream

import "context"

// commits waits until a majority of a stream's replicas has an offset, with
// StorePolicy.Committed. Only the leader's node can tell.
type commits struct {
	env      *Env
	consumer string
	leader   *subscription // to ask the leader's node with; nil: not connected
}

// await returns once a majority has an offset that was read back over s. If the
// leader's node cannot be asked, or does not have the offset, that is an error.
func (c *commits) await(ctx context.Context, s *subscription, offset uint64) error {
	if err := c.connect(ctx, s); err != nil {
		return err
	}
	return c.leader.lease.AwaitCommitted(ctx, c.consumer, s.stream, offset)
}

// connect takes a place on a connection to the leader's node, unless it has one.
func (c *commits) connect(ctx context.Context, s *subscription) error {
	if c.leader != nil {
		return nil // a lost one ends the session
	}
	location, err := s.lease.Locate(ctx, s.stream)
	if err == nil {
		c.leader, err = c.env.openSubscription(ctx, location, location.Leader, s.stream, defaultMaxBuffered)
	}
	return err
}

// close gives the place up.
func (c *commits) close(ctx context.Context) {
	if c.leader != nil {
		c.leader.releaseWithin(ctx, true)
		c.leader = nil
	}
}
