package stream

import (
	"context"
	"fmt"
	"time"

	"github.com/tidemark-go/tidemark/internal/broker"
	"github.com/tidemark-go/tidemark/internal/mark"
	"github.com/tidemark-go/tidemark/internal/wire"
)

// checkWithin returns the offset behind which the run begins: the stored one, or
// the last one of the stream if the stored one lies beyond it; see
// mark.BeyondEnd. Only in the second case, and where the session's node lags that
// far, it waits.
func (r *run) checkWithin(ctx context.Context, s *subscription, extent broker.Extent, stored uint64) (uint64, error) {
	if stored == BeforeFirst || !extent.Empty && stored <= extent.CommittedChunk {
		return stored, nil
	}
	chunk, err := s.peek(ctx, wire.OffsetSpec{Type: wire.OffsetAt, Value: stored})
	if err != nil || chunk != nil && chunk.FirstOffset+uint64(chunk.Records) > stored {
		return stored, err
	}
	beyond, err := r.isBeyond(ctx, s, stored)
	if err != nil || beyond == nil {
		return stored, err
	}
	last := beyond.End() - 1 // BeforeFirst for an empty stream
	r.report(StateChange{State: StateOffsetBeyondEnd, Err: fmt.Errorf("the stored offset %d lies beyond the end of the stream; going on at offset %d, behind the last message", stored, beyond.End())})
	return last, nil
}

// lookPause is the time between two looks at a stream that ends before the
// stored offset.
const lookPause = time.Second

// isBeyond looks at the stream until it is certain whether the stored offset
// lies beyond its end. It returns nil if it does not.
func (r *run) isBeyond(ctx context.Context, s *subscription, stored uint64) (*mark.BeyondEnd, error) {
	beyond := mark.NewBeyondEnd(stored)
	for {
		end, known, err := r.endOnLeader(ctx, s)
		if err != nil {
			return nil, err
		}
		if known {
			switch beyond.Look(end, time.Now()) {
			case mark.Within:
				return nil, nil
			case mark.Beyond:
				return &beyond, nil
			}
		}
		if err := sleep(ctx, lookPause); err != nil {
			return nil, err
		}
	}
}

// endOnLeader returns the offset behind the last chunk of the stream's leader.
// It is not known while that chunk is not committed, because the broker does not
// deliver it then.
func (r *run) endOnLeader(ctx context.Context, s *subscription) (end uint64, known bool, err error) {
	location, err := s.lease.Locate(ctx, s.stream)
	if err != nil {
		return 0, false, err
	}
	if location.Leader != s.node {
		c := r.consumer
		s, err = c.env.openSubscription(ctx, location, location.Leader, c.stream, c.cfg.MaxBuffered)
		if err != nil {
			return 0, false, err
		}
		defer s.release(true)
	}
	last, committed, err := s.lease.LastChunk(ctx, s.stream)
	if err != nil || last < 0 {
		return 0, err == nil, err
	}
	chunk, err := s.peek(ctx, wire.OffsetSpec{Type: wire.OffsetAt, Value: uint64(last)})
	switch {
	case err != nil:
		return 0, false, err
	case chunk != nil && chunk.FirstOffset == uint64(last):
		return chunk.FirstOffset + uint64(chunk.Records), true, nil
	case chunk == nil && committed != last:
		return 0, false, nil
	}
	return uint64(last) + 1, true, nil // one of the broker's own entries
}
