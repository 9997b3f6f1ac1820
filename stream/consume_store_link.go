package stream

import (
	"context"
	"errors"

	"github.com/tidemark-go/tidemark/internal/broker"
)

// brokerOffsets stores a session's offsets on the broker. Its writer uses the
// connection that delivers, or with StorePolicy.Every one beside it.
type brokerOffsets struct {
	writer  *broker.OffsetWriter
	session *subscription
}

// brokerOffsets connects to where a session stores, if need be.
func (e *Env) brokerOffsets(ctx context.Context, s *subscription, consumer string, p StorePolicy) (*brokerOffsets, error) {
	var w *broker.OffsetWriter
	var err error
	if p.Every == 0 {
		w, err = s.lease.Offsets(consumer, s.stream)
	} else {
		w, err = e.cluster.NewOffsetWriter(ctx, s.lease.Contact(), s.node, consumer, s.stream, s.Moved)
	}
	if err != nil {
		return nil, err
	}
	return &brokerOffsets{writer: w, session: s}, nil
}

// store sends an offset. Once the stream is gone it stores nothing: messages that
// are buffered are still handled, and their mark is stored on the next connection
// if that leads to the same stream.
func (o *brokerOffsets) store(ctx context.Context, offset uint64, more bool) error {
	if o.session.streamGone() {
		return errMoved
	}
	return o.endSessionIfLost(ctx, o.writer.Store(ctx, offset, more))
}

// verify reads an offset back and, if the store was lost, sends it once more.
func (o *brokerOffsets) verify(ctx context.Context, offset uint64) error {
	if o.session.streamGone() {
		return errMoved
	}
	return o.endSessionIfLost(ctx, o.writer.Verify(ctx, offset, func() error { return o.store(ctx, offset, false) }))
}

// endSessionIfLost ends the session if an attempt failed because of the
// connection: the next session has another one. It returns the attempt's error.
func (o *brokerOffsets) endSessionIfLost(ctx context.Context, err error) error {
	switch lost := o.writer.Reason(); {
	case lost != nil:
		o.session.end(lost)
	case err != nil && ctx.Err() == nil && errors.Is(err, ErrUnreachable):
		o.session.end(err)
	}
	return err
}

// release lets go of the writer's connection. polite says goodbye to the broker.
func (o *brokerOffsets) release(polite bool) { o.writer.Close(polite) }
