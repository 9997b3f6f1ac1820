package broker

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// commitPause is the first pause between two looks at what a majority has, and
// maxCommitPause the longest one.
const (
	commitPause    = time.Millisecond
	maxCommitPause = 50 * time.Millisecond
)

// AwaitCommitted returns once a majority of a stream's replicas has an offset that
// is stored under a reference, so that no election takes it back. The connection
// leads to the node n of the stream's leader. If the node is not the leader, or
// has another offset, the error is ErrStreamUnavailable: the offset is to be
// stored again.
//
// The leader answers QueryOffset once the offset is in its log. So the last chunk
// that it names after that is the offset's or a later one, and once that chunk is
// committed, the offset is. All this is said of one log only while the node leads:
// AwaitCommitted asks before and after. A node that is cut off from its cluster
// takes itself for the leader, but commits nothing any more.
func (c *Conn) AwaitCommitted(ctx context.Context, n Node, reference, stream string, offset uint64) error {
	if err := c.leadsWith(ctx, n, reference, stream, offset); err != nil {
		return err
	}
	last, committed, err := c.LastChunk(ctx, stream)
	for pause := commitPause; err == nil && committed < last; pause = min(2*pause, maxCommitPause) {
		select {
		case <-time.After(pause):
		case <-c.ended:
			return c.Reason()
		case <-ctx.Done():
			return fmt.Errorf("%w; it is stored, and no majority of the stream's replicas has it yet", ContextError(ctx))
		}
		_, committed, err = c.LastChunk(ctx, stream)
	}
	if err != nil {
		return err
	}
	return c.leadsWith(ctx, n, reference, stream, offset)
}

// leadsWith returns an error unless the node takes itself for the stream's leader
// and has an offset stored under a reference.
func (c *Conn) leadsWith(ctx context.Context, n Node, reference, stream string, offset uint64) error {
	l, err := c.Locate(ctx, stream)
	if err != nil {
		return err
	}
	if l.Leader != n {
		return fmt.Errorf("%w: its leader has changed from %s to %s", ErrStreamUnavailable, n.Address(), l.Leader.Address())
	}
	got, err := c.QueryOffset(ctx, reference, stream)
	switch {
	case errors.Is(err, ErrNoOffset), err == nil && got != offset:
		return fmt.Errorf("%w: its leader %s does not have the offset %d that was stored", ErrStreamUnavailable, n.Address(), offset)
	}
	return err
}

// AwaitCommitted is [Conn.AwaitCommitted] on the lease's node.
func (l *Lease) AwaitCommitted(ctx context.Context, reference, stream string, offset uint64) error {
	return l.conn.AwaitCommitted(ctx, l.node, reference, stream, offset)
}
