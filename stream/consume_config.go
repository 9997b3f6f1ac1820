package stream

import (
	"fmt"
	"time"
)

// ConsumerConfig says who reads, and from where. The zero value reads from the
// stream's beginning and stores nothing.
type ConsumerConfig struct {
	// Name is the name under which the broker, or OffsetStore, keeps the offset
	// of the last handled message of this stream. It has 255 bytes at most.
	// Consumers with different names each get every message. Two consumers that
	// use one name at the same time overwrite each other's offset. Default "":
	// nothing is stored.
	Name string
	// Start says where to begin. Default: Stored(First()).
	Start Start
	// Store says when the consumer stores the offset. Default: after each
	// message while traffic is slow, and every 100 ms in a burst; see
	// [StorePolicy].
	Store StorePolicy

	// OffsetStore keeps the offset in place of the broker. It needs Name.
	// Default nil: the broker keeps it.
	OffsetStore OffsetStore
	// OnError says what happens when a handler fails. Default: the run ends.
	OnError ErrorPolicy

	// Workers is the number of goroutines on which Run calls the handler,
	// 10,000 at most. The mark is then the offset of the last message up to
	// which, in the order of the stream, every message is handled. Messages
	// above the mark that are handled come again after a crash, but not after a
	// reconnect. With StorePolicy.Every only the worker that has moved the mark
	// waits for the store. Default 0: one message at a time, on the goroutine
	// that called Run; 1 means the same.
	//
	// The workers run ahead of the first message that is not handled until the
	// chunks from its own to the newest have MaxBuffered bytes, and at least 2
	// * Workers messages from it on are in hand. Then they take no further
	// chunk.
	Workers int
	// KeyOf makes the workers handle messages with the same key one at a time,
	// in the order of the stream. The empty key is a key like any other. KeyOf
	// runs on the goroutine that called Run, before any handler of the message,
	// and must not block. A panic ends the run with a [*HandlerError]. KeyOf
	// needs 2 Workers or more. Default nil: messages have no order among the
	// workers.
	KeyOf func(*Delivery) string

	// MaxBuffered bounds the bytes of the chunks that are on their way, wait,
	// or are being handled. It counts bytes as they come, so compressed ones
	// count compressed. Default 8 MiB, at most 1 GiB.
	//
	// The broker sends whole chunks, and the consumer learns a chunk's size
	// only when the chunk comes. It therefore asks for n chunks at a time,
	// where n is MaxBuffered divided by the typical size of recent chunks, at
	// least 1 and at most 32. If chunks of a larger size L follow, it holds up
	// to n * L bytes until it has handled them. After that it holds a chunk
	// that is larger than MaxBuffered alone.
	//
	// In addition the consumer holds copies of the messages that are being
	// handled: up to 256 of them, and with Workers up to another MaxBuffered. If
	// OnError has Attempts or a DeadLetter, it holds one more copy of each
	// message, or batch, that a handler has.
	MaxBuffered int

	// BatchSize is the number of messages in a full batch of RunBatch. Default
	// 1000, at most 1,000,000.
	BatchSize int
	// BatchWait is how long the first message of a batch waits for the others.
	// Default 100 ms.
	BatchWait time.Duration
}

const (
	maxWorkers   = 10_000
	maxBatchSize = 1_000_000

	defaultMaxBuffered = 8 << 20
	maxMaxBuffered     = 1 << 30

	defaultBatchSize = 1000
	defaultBatchWait = 100 * time.Millisecond
)

// withDefaults returns the configuration of a consumer of a stream with its
// defaults filled in. It fails if a setting cannot work.
func (c ConsumerConfig) withDefaults(stream string) (ConsumerConfig, error) {
	onError, err := c.OnError.withDefaults(stream)
	c.OnError = onError
	if c.BatchSize == 0 {
		c.BatchSize = defaultBatchSize
	}
	if c.BatchWait == 0 {
		c.BatchWait = defaultBatchWait
	}
	if c.MaxBuffered == 0 {
		c.MaxBuffered = defaultMaxBuffered
	}
	for _, err := range []error{err, checkLength("consumer's name", c.Name), c.Start.validate(), c.Store.validate()} {
		if err != nil {
			return c, err
		}
	}
	switch {
	case c.Name == "" && c.Store != (StorePolicy{}):
		return c, fmt.Errorf("%w: a Store policy needs a Name to store the offset under", ErrInvalidConfig)
	case c.Name == "" && c.OffsetStore != nil:
		return c, fmt.Errorf("%w: an OffsetStore needs a Name to store the offset under", ErrInvalidConfig)
	case c.Workers < 0 || c.Workers > maxWorkers:
		return c, fmt.Errorf("%w: Workers is %d; it must be from 0 to %d", ErrInvalidConfig, c.Workers, maxWorkers)
	case c.KeyOf != nil && c.Workers < 2:
		return c, fmt.Errorf("%w: KeyOf orders what Workers do in parallel: set Workers to 2 or more, or leave KeyOf out", ErrInvalidConfig)
	case c.MaxBuffered < 0 || c.MaxBuffered > maxMaxBuffered:
		return c, fmt.Errorf("%w: MaxBuffered is %d bytes; it must be from 1 to %d, or 0 for %d", ErrInvalidConfig, c.MaxBuffered, maxMaxBuffered, defaultMaxBuffered)
	case c.BatchSize < 1 || c.BatchSize > maxBatchSize || c.BatchWait < 0:
		return c, fmt.Errorf("%w: BatchSize is %d and BatchWait %v; they must be from 1 to %d, and not negative", ErrInvalidConfig, c.BatchSize, c.BatchWait, maxBatchSize)
	}
	return c, nil
}
