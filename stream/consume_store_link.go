package stream

import (
	"context"
	"errors"
	"time"

	"github.com/tidemark-go/tidemark/internal/broker"
	"github.com/tidemark-go/tidemark/internal/mark"
)

// brokerOffsets stores a session's offsets on the broker, over the connection
// on which chunks come, or with StorePolicy.Every over one that carries only
// stores.
type brokerOffsets struct {
	writer  *broker.OffsetWriter
	session *subscription
	commits *commits      // nil: what was read back counts as stored
	batched bool          // stores may leave together with those of other consumers
	gap     time.Duration // between two batches
}

// brokerOffsets returns where a session stores its offsets. With
// StorePolicy.Every it joins or makes a connection for that.
func (e *Env) brokerOffsets(ctx context.Context, s *subscription, consumer string, p StorePolicy) (*brokerOffsets, error) {
	var writer *broker.OffsetWriter
	var err error
	if p.Every == 0 || s.member != nil {
		writer, err = s.lease.Offsets(consumer, s.stream)
	} else {
		writer, err = e.cluster.NewOffsetWriter(ctx, s.lease.Contact(), s.node, consumer, s.stream, s.Moved)
	}
	if err != nil {
		return nil, err
	}
	o := &brokerOffsets{writer: writer, session: s, batched: p.Every == 0 && s.member == nil, gap: p.forMark().BatchGap()}
	if p.Committed {
		o.commits = &commits{env: e, consumer: consumer}
	}
	return o, nil
}

// store sends an offset. Once the stream is gone it stores nothing: the run
// still handles the messages that are buffered, and stores their mark in its
// next session, if that leads to the same stream.
func (o *brokerOffsets) store(ctx context.Context, offset uint64, moreFollow bool) error {
	if o.session.streamGone() {
		return errMoved
	}
	send := func() error { return o.writer.Store(ctx, offset, moreFollow) }
	if m := o.session.member; m != nil {
		return o.endSessionIfLost(ctx, m.store(send))
	}
	return o.endSessionIfLost(ctx, send())
}

// verify reads an offset back and, if the store was lost, sends it once more.
func (o *brokerOffsets) verify(ctx context.Context, offset uint64) error {
	if o.session.streamGone() {
		return errMoved
	}
	return o.endSessionIfLost(ctx, o.writer.Verify(ctx, offset, func() error { return o.store(ctx, offset, false) }))
}

// commit waits until a majority of the stream's replicas has an offset that was
// read back, with StorePolicy.Committed. An error ends the session, unless it is
// that of ctx: the next session finds the new leader, and stores again.
func (o *brokerOffsets) commit(ctx context.Context, offset uint64) error {
	if o.commits == nil {
		return nil
	}
	err := o.commits.await(ctx, o.session, offset)
	if err != nil && ctx.Err() == nil {
		o.session.end(err)
	}
	return err
}

// joinBatch lets a storer store with others, unless the consumer's stores have a
// connection of their own.
func (o *brokerOffsets) joinBatch(s *storer) batch {
	if !o.batched {
		return nil
	}
	o.writer.JoinBatch(s)
	return o
}

// storeSoon is [broker.OffsetWriter.StoreSoon].
func (o *brokerOffsets) storeSoon(ctx context.Context, wanted bool) (at time.Time, leads bool, err error) {
	at, leads, err = o.writer.StoreSoon(ctx, wanted, o.gap)
	return at, leads, o.endSessionIfLost(ctx, err)
}

// storeNext is [broker.OffsetWriter.StoreNext].
func (o *brokerOffsets) storeNext(ctx context.Context) (at time.Time, leads bool, err error) {
	at, leads, err = o.writer.StoreNext(ctx, mark.AutoInterval)
	return at, leads, o.endSessionIfLost(ctx, err)
}

// endSessionIfLost ends the session if the writer's connection is lost, because
// only the next session has another one. err is the error of the last call of
// the writer, and endSessionIfLost returns it.
func (o *brokerOffsets) endSessionIfLost(ctx context.Context, err error) error {
	switch lost := o.writer.Reason(); {
	case lost != nil:
		o.session.end(lost)
	case err != nil && ctx.Err() == nil && errors.Is(err, ErrUnreachable):
		o.session.end(err)
	}
	return err
}

// yield is [broker.OffsetWriter.Yield].
func (o *brokerOffsets) yield() { o.writer.Yield() }

// retire is [broker.OffsetWriter.Retire].
func (o *brokerOffsets) retire() { o.writer.Retire() }

// usable reports whether the stream is still there to store an offset on.
func (o *brokerOffsets) usable() bool { return !o.session.streamGone() }

// settle is [broker.OffsetWriter.Settle].
func (o *brokerOffsets) settle(ctx context.Context) { o.writer.Settle(ctx) }

// release gives up the connection that carries only stores, if there is one.
// inOrder says that what was stored has arrived. So does the place on a connection
// to the leader's node end.
func (o *brokerOffsets) release(ctx context.Context, inOrder bool) {
	if o.commits != nil {
		o.commits.close(ctx)
	}
	o.writer.CloseWithin(ctx, inOrder)
}
