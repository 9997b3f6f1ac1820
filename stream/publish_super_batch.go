package stream

import (
	"context"
	"errors"
	"fmt"
)

// batchPart is the messages of a PublishBatch that go to one partition.
type batchPart struct {
	p    *Producer
	msgs []Message
	at   []int // their places in the call
	w    *waiter
}

// publishBatch is PublishBatch: what goes to one partition is a sub-batch there.
func (s *superProducer) publishBatch(ctx context.Context, msgs []Message) error {
	outcomes := make([]error, len(msgs))
	var accepted []*batchPart
	for _, b := range s.split(ctx, msgs, outcomes) {
		b.w = newWaiter(len(b.msgs))
		if err := b.p.acceptBatch(ctx, b.msgs, b.w); err != nil {
			b.all(outcomes, s.partError(b.p, err))
			continue
		}
		b.w.release()
		b.p.offer(true)
		accepted = append(accepted, b)
	}
	for _, b := range accepted {
		b.waitFor(ctx, outcomes)
	}
	return s.failed(publishError(outcomes))
}

// split routes the messages, in order. What has no route gets its outcome.
func (s *superProducer) split(ctx context.Context, msgs []Message, outcomes []error) (list []*batchPart) {
	of := map[*Producer]*batchPart{}
	for i := range msgs {
		p, err := s.routeOne(ctx, &msgs[i])
		if err != nil {
			outcomes[i] = err
			continue
		}
		b := of[p]
		if b == nil {
			b = &batchPart{p: p}
			of[p] = b
			list = append(list, b)
		}
		b.msgs, b.at = append(b.msgs, msgs[i]), append(b.at, i)
	}
	return list
}

// routeOne returns the producer of the one partition that a message is for.
func (s *superProducer) routeOne(ctx context.Context, m *Message) (*Producer, error) {
	for try := 1; ; try++ {
		t := s.table.Load()
		p, others, err := s.route(ctx, t, m)
		switch {
		case err == nil && len(others) > 0:
			return nil, fmt.Errorf("%w: PublishBatch sends a message to one partition, and this one is for %d", ErrInvalidMessage, 1+len(others))
		case err == nil:
			return p, nil
		case try == maxRoutings || !s.rerouted(ctx, t, nil, err):
			if refused := s.refused(); refused != nil {
				err = refused
			}
			return nil, err
		}
	}
}

// all gives all messages of a part their outcome.
func (b *batchPart) all(outcomes []error, err error) {
	for _, i := range b.at {
		outcomes[i] = err
	}
}

// waitFor waits for the outcomes of a part.
func (b *batchPart) waitFor(ctx context.Context, outcomes []error) {
	err := b.w.wait(ctx)
	var several *PublishError
	if !errors.As(err, &several) {
		b.all(outcomes, err)
		return
	}
	for k, i := range b.at {
		outcomes[i] = several.Outcomes[k]
	}
}
