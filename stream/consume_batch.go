package stream

import (
	"context"
	"time"

	"github.com/tidemark-go/tidemark/internal/mark"
	"github.com/tidemark-go/tidemark/internal/wire"
)

// BatchHandler handles several messages as one step, such as a bulk insert. Nil
// means that all of them are handled, an error that none is. A panic counts as an
// error, with its stack. The handler may keep the slice. It runs on the goroutine
// that called RunBatch, for one batch at a time, in the order of the stream.
//
// ctx ends with the run's. RunBatch waits for a handler that is at work then, and
// if the handler returns nil its messages count as handled.
type BatchHandler func(ctx context.Context, batch []Delivery) error

// RunBatch is [Consumer.Run] with batches. A batch has ConsumerConfig.BatchSize
// messages, or fewer when ConsumerConfig.BatchWait has passed since its first
// message came, or when the connection is lost. It is never empty. The offset is
// stored as StorePolicy says, which counts messages, and never points into the
// middle of a batch.
//
// In addition to what Run holds in memory, RunBatch holds the messages of a batch,
// with the memory that they share with others (see [Delivery]).
//
// The errors are those of Run. The Offset of a [*HandlerError] is that of the
// first message of its batch. [ErrInvalidConfig] if Workers is set.
func (c *Consumer) RunBatch(ctx context.Context, h BatchHandler) error {
	if err := c.checkOneAtATime("RunBatch"); err != nil {
		return err
	}
	return c.consume(ctx, func(r *run) { r.batch = r.settlingBatch(h) })
}

// batches collects the messages of one session.
type batches struct {
	ctx   context.Context
	run   *run
	size  int
	wait  time.Duration
	timer *time.Timer // runs while something is pending

	pending []Delivery
	chunk   mark.ChunkID // of the last message that is pending
}

func newBatches(ctx context.Context, r *run) *batches {
	cfg := r.consumer.cfg
	return &batches{ctx: ctx, run: r, size: cfg.BatchSize, wait: cfg.BatchWait}
}

func (b *batches) context() context.Context { return b.ctx }

func (b *batches) flushDue() <-chan time.Time {
	if b.timer == nil {
		return nil
	}
	return b.timer.C
}

// dispatch handles the batches that a chunk fills, and keeps the rest.
func (b *batches) dispatch(chunk *wire.Chunk, d *decoder) error {
	b.chunk = mark.IDOf(chunk)
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
	return b.flushOverdue()
}

// flushOverdue handles what has waited long enough. Nobody else looks at the
// timer while chunks keep coming.
func (b *batches) flushOverdue() error {
	select {
	case <-b.flushDue():
		return b.flush()
	default:
		return nil
	}
}

// flush handles what is pending.
func (b *batches) flush() error {
	b.stopTimer()
	batch := b.pending
	if b.pending = nil; len(batch) == 0 {
		return nil
	}
	if b.ctx.Err() != nil {
		return context.Cause(b.ctx)
	}
	if err := b.run.batch(b.ctx, batch); err != nil {
		return err
	}
	last := batch[len(batch)-1].Offset
	b.run.place.HandledTo(last, b.chunk)
	if b.run.progress.markMany(last, len(batch)) && b.run.named() {
		return b.run.requests.ask(b.ctx, false, nil)
	}
	return nil
}

func (b *batches) stopTimer() {
	if b.timer != nil {
		b.timer.Stop()
		b.timer = nil
	}
}

// end handles what is pending when a connection is lost. Batches that take longer
// than connections last would otherwise never be complete.
func (b *batches) end(err error) error {
	if b.ctx.Err() == nil && !isFatal(err) && !endedByHandler(err) {
		if failed := b.flush(); failed != nil {
			return failed
		}
	}
	b.stopTimer()
	return err
}
