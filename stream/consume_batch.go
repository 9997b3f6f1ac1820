package stream

import (
	"context"
	"fmt"
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
// ctx is the context of RunBatch without its end: it ends ConsumerConfig.Drain
// after that context has ended or Env.Close was called. RunBatch waits until the
// handler has returned; if it then returns nil, its messages count as handled.
type BatchHandler func(ctx context.Context, batch []Delivery) error

// RunBatch is [Consumer.Run] with batches. A batch has ConsumerConfig.BatchSize
// messages. It has fewer if ConsumerConfig.BatchWait has passed since its first
// message came, or if the connection is lost. It is never empty. Messages that
// wait for a batch when ctx ends are not handled. The consumer stores the
// offset as StorePolicy says, which counts messages, and never stores an offset
// in the middle of a batch.
//
// On a super stream a batch has messages of any partitions, and the mark of each
// moves when the batch is handled; see ConsumerConfig.BatchPerPartition. There,
// messages that wait for a batch when their connection is lost stay in it. With
// StorePolicy.Every a partition adds no further message to a batch before its mark
// is stored. A failed batch that is tried again holds up all partitions.
//
// In addition to what Run holds in memory, RunBatch holds the messages of a
// batch, with the memory that they share with others (see [Delivery]).
//
// Like Run it returns nil if the end of ctx has stopped it. The errors are those
// of Run, and [ErrInvalidConfig] where Workers is 2 or more, or with ReuseDelivery.
func (c *Consumer) RunBatch(ctx context.Context, h BatchHandler) error {
	err := c.checkOneAtATime("RunBatch")
	switch {
	case err != nil:
		return err
	case c.cfg.ReuseDelivery:
		return opErr("consume stream", c.stream, c.cfg.Name, fmt.Errorf("%w: RunBatch gives its batches away: leave ReuseDelivery out, or call Run", ErrInvalidConfig))
	case h == nil:
		return c.noHandler("RunBatch")
	}
	return c.consume(ctx, func(r *run) { r.batchHandler = h })
}

// batches is the dispatcher of RunBatch: it collects messages until a batch is
// full or has waited long enough.
type batches struct {
	lifetime
	run   *run
	kept  *originals    // of the batch that is being handled
	size  int           // ConsumerConfig.BatchSize
	wait  time.Duration // ConsumerConfig.BatchWait
	timer *time.Timer   // runs while something is pending

	pending []Delivery
	passed  uint64       // what the filter has left out behind the pending messages ends here
	counts  int          // and counts as so many messages
	chunk   mark.ChunkID // of the last message that is pending, or of passed
}

func newBatches(ctx context.Context, r *run) *batches {
	cfg := r.consumer.cfg
	return &batches{lifetime: lifetime{taking: ctx, handling: r.handling}, run: r, kept: r.originals(), size: cfg.BatchSize, wait: cfg.BatchWait}
}

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
			b.pending = d.batch(b.size)
		} else {
			b.pending = d.fill(b.pending, b.size)
		}
		if len(b.pending) < b.size {
			if d.more() {
				continue
			}
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

// pass lets the mark pass what the filter has left out, together with the
// pending messages.
func (b *batches) pass(offset uint64, chunk mark.ChunkID, n int) error {
	b.passed, b.chunk = offset, chunk
	b.counts += n
	if len(b.pending) > 0 {
		return nil
	}
	return b.markHandled(offset, 0)
}

// markHandled moves the mark to an offset, over n messages and what the filter has
// left out.
func (b *batches) markHandled(offset uint64, n int) error {
	b.run.place.HandledTo(offset, b.chunk)
	n += b.counts
	b.counts = 0
	if b.run.progress.markMany(offset, n) && b.run.named() {
		return unlessStopped(b.taking, b.run.requests.ask(b.taking, storeSent, nil))
	}
	return nil
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
	if b.taking.Err() != nil {
		return errStopped
	}
	last := max(batch[len(batch)-1].Offset, b.passed) // the handler may sort the batch
	if err := b.run.handleBatch(b.lifetime, batch, b.kept); err != nil {
		return err
	}
	return b.markHandled(last, len(batch))
}

func (b *batches) stopTimer() {
	if b.timer != nil {
		b.timer.Stop()
		b.timer = nil
	}
}

// endSession flushes what is pending if the session ended with its connection.
// If it did not, a batch that takes longer to fill than connections last would
// never be handled.
func (b *batches) endSession(err error) error {
	if b.taking.Err() == nil && !isFatal(err) && !endedByHandler(err) {
		if failed := b.flush(); failed != nil {
			return failed
		}
	}
	b.stopTimer()
	return err
}

func (b *batches) end(err error) error { return err }
func (b *batches) abandon() error      { return nil }
