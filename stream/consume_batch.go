package stream

import (
	"context"
	"time"

	"github.com/tidemark-go/tidemark/internal/mark"
	"github.com/tidemark-go/tidemark/internal/wire"
)

// BatchHandler handles several messages as one step, such as a bulk insert. If
// it returns nil, all of them are handled; if it returns an error, none is. A
// panic counts as an error, with its stack. The handler may keep the slice, sort
// it, and change what is in it. It runs on the goroutine that called RunBatch,
// for one batch at a time, in the order of the stream.
//
// ctx ends with the context of RunBatch and with Env.Close. RunBatch waits
// until the handler has returned; if it then returns nil, its messages count as
// handled.
type BatchHandler func(ctx context.Context, batch []Delivery) error

// RunBatch is [Consumer.Run] with batches. A batch has ConsumerConfig.BatchSize
// messages. It has fewer if ConsumerConfig.BatchWait has passed since its first
// message came, or if the connection is lost. It is never empty. Messages that
// wait for a batch when ctx ends are not handled. The consumer stores the
// offset as StorePolicy says, which counts messages, and never stores an offset
// in the middle of a batch.
//
// In addition to what Run holds in memory, RunBatch holds the messages of a
// batch, with the memory that they share with others (see [Delivery]).
//
// The errors are those of Run, and [ErrInvalidConfig] where Workers is 2 or
// more.
func (c *Consumer) RunBatch(ctx context.Context, h BatchHandler) error {
	if err := c.checkOneAtATime("RunBatch"); err != nil {
		return err
	}
	return c.consume(ctx, func(r *run) { r.batchHandler = r.settlingBatch(h) })
}

// batches is the dispatcher of RunBatch: it collects messages until a batch is
// full or has waited long enough.
type batches struct {
	ctx   context.Context
	run   *run
	size  int           // ConsumerConfig.BatchSize
	wait  time.Duration // ConsumerConfig.BatchWait
	timer *time.Timer   // runs while something is pending

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

// dispatch handles each batch that the chunk's messages fill. What is left over
// stays pending.
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

// flushOverdue flushes if the pending messages have waited long enough. receive
// prefers a chunk to flushDue, so while chunks keep coming only this looks at
// the timer.
func (b *batches) flushOverdue() error {
	select {
	case <-b.flushDue():
		return b.flush()
	default:
		return nil
	}
}

// flush calls the handler for the pending messages and moves the mark over
// them.
func (b *batches) flush() error {
	b.stopTimer()
	batch := b.pending
	if b.pending = nil; len(batch) == 0 {
		return nil
	}
	if b.ctx.Err() != nil {
		return context.Cause(b.ctx)
	}
	last := batch[len(batch)-1].Offset // the handler may sort the batch
	if err := b.run.batchHandler(b.ctx, batch); err != nil {
		return err
	}
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

// end flushes what is pending if the session ended with its connection. If it
// did not, a batch that takes longer to fill than connections last would never
// be handled.
func (b *batches) end(err error) error {
	if b.ctx.Err() == nil && !isFatal(err) && !endedByHandler(err) {
		if failed := b.flush(); failed != nil {
			return failed
		}
	}
	b.stopTimer()
	return err
}
