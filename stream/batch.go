package stream

import (
	"context"
	"fmt"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// BatchHandler handles several messages as one step, such as a bulk insert: nil
// means that all of them are handled, an error that none is. It runs on the
// goroutine that called RunBatch, one batch at a time, in the order of the
// stream. A panic counts as an error, with its stack. The slice may be kept.
//
// ctx ends with the run's. A handler that is at work then is waited for, and
// if it returns nil its messages count as handled.
type BatchHandler func(ctx context.Context, batch []Delivery) error

const (
	defaultBatchSize = 1000
	defaultBatchWait = 100 * time.Millisecond
)

// RunBatch is [Consumer.Run] with batches: h gets up to
// ConsumerConfig.BatchSize messages, and fewer when ConsumerConfig.BatchWait
// has passed since the first of them came, or the connection is lost. A batch
// is never empty. The offset is stored as StorePolicy says, which counts
// messages, and never points into the middle of a batch.
//
// Memory: the messages of a batch, and the chunks that they came with, are held
// beside what Run holds.
//
// The errors are those of Run; Offset of a [*HandlerError] is that of the first
// message of its batch. [ErrInvalidConfig] if Workers is set.
func (c *Consumer) RunBatch(ctx context.Context, h BatchHandler) error {
	if err := c.oneAtATime("RunBatch"); err != nil {
		return err
	}
	return c.consume(ctx, func(r *run) { r.batch = r.settlingBatch(h) })
}

// oneAtATime refuses a setting that would be ignored.
func (c *Consumer) oneAtATime(what string) error {
	if c.cfg.Workers > 1 {
		return opErr("consume stream", c.stream, c.cfg.Name, fmt.Errorf("%w: %s handles one thing at a time: leave Workers at 0, or call Run", ErrInvalidConfig, what))
	}
	return nil
}

// batches collects the messages of one session.
type batches struct {
	ctx   context.Context
	r     *run
	size  int
	wait  time.Duration
	timer *time.Timer // runs while something is pending

	pending []Delivery
	id      chunkID // of the chunk of the last one pending
}

func newBatches(ctx context.Context, r *run) *batches {
	return &batches{ctx: ctx, r: r, size: r.c.cfg.BatchSize, wait: r.c.cfg.BatchWait}
}

func (b *batches) context() context.Context { return b.ctx }

func (b *batches) due() <-chan time.Time {
	if b.timer == nil {
		return nil
	}
	return b.timer.C
}

// take handles the batches that a chunk fills, and keeps the rest.
func (b *batches) take(chunk *wire.Chunk, d *decoder) error {
	b.id = idOf(chunk)
	for {
		if b.pending == nil {
			b.pending = d.block(b.size)
		} else {
			b.pending = d.fill(b.pending, b.size)
		}
		if len(b.pending) < b.size {
			break
		}
		if err := b.flush(); err != nil {
			return err
		}
	}
	if len(b.pending) > 0 && b.timer == nil {
		b.timer = time.NewTimer(b.wait)
	}
	return b.overdue()
}

// overdue handles what has waited long enough: while chunks keep coming nobody
// looks at the timer.
func (b *batches) overdue() error {
	select {
	case <-b.due():
		return b.flush()
	default:
		return nil
	}
}

// flush handles what is pending.
func (b *batches) flush() error {
	if b.timer != nil {
		b.timer.Stop()
		b.timer = nil
	}
	batch := b.pending
	if b.pending = nil; len(batch) == 0 {
		return nil
	}
	if b.ctx.Err() != nil {
		return context.Cause(b.ctx)
	}
	if err := b.r.batch(b.ctx, batch); err != nil {
		return err
	}
	last := batch[len(batch)-1].Offset
	b.r.reached(last, b.id)
	if b.r.progress.handleAll(last, len(batch)) && b.r.c.cfg.Name != "" {
		return request(b.ctx, b.r.requests, false, nil)
	}
	return nil
}

// end handles what is pending when a connection is lost: batches that take
// longer than connections last would never be complete.
func (b *batches) end(err error) error {
	if b.ctx.Err() == nil && !isFatal(err) && !b.r.stopped(err) {
		if failed := b.flush(); failed != nil {
			return failed
		}
	}
	if b.timer != nil {
		b.timer.Stop()
	}
	return err
}
