package stream

import (
	"context"
	"fmt"
	"time"
)

// ConsumerConfig says who reads, and from where. The zero value reads from the
// stream's beginning and stores nothing.
type ConsumerConfig struct {
	// Name is the name under which the broker, or OffsetStore, keeps the offset
	// of the last handled message of this stream. It has 255 bytes at most.
	// Consumers with different names each get every message. Two consumers that
	// use one name at the same time overwrite each other's offset, unless both
	// have SingleActive; within an Env the second one gets [ErrNameInUse]. Default
	// "": nothing is stored.
	Name string
	// Start says where to begin. Default: Stored(First()).
	Start Start
	// Store says when the consumer stores the offset. Default: after each
	// message while traffic is slow, and every 100 ms in a burst; see
	// [StorePolicy].
	Store StorePolicy

	// SingleActive makes the consumer a member of a group: of all consumers with
	// its Name on the stream, in all processes, the broker has one active, and the
	// others wait. Whoever becomes active goes on behind the stored offset, and
	// whoever does not lets its handlers finish, stores the offset, and only then
	// lets the next one begin. It needs Name, and a Start that is Stored. A
	// consumer that waits asks the broker for nothing and has no memory. All
	// consumers of the name on the stream must have it. Default false.
	//
	// OnState tells of StateActive and StateWaiting. The active member stays so
	// until it ends or its connection does; see [Consumer.Run] for its end. What it
	// handled and had not stored when its connection was lost, its process was
	// killed, or it was cut off, the next one handles again, as after a crash. With
	// StorePolicy.Every too the stores leave on the connection that delivers.
	//
	// Nothing keeps a process that was stopped, or cut off, from going on until it
	// can notice. It looks before each handler, and goes on with no message once
	// the broker was not heard of for two heartbeats (see Config.Heartbeat), by the
	// monotonic clock or that of the wall, whichever says longer. So what may be
	// handled beside the next member is the messages in hand, and what begins
	// within that time. The contexts of the handlers then end with [ErrNotActive]
	// as their cause, nothing is stored any more, and OnState says so with
	// [StateOverlap]. The same happens if handlers take longer than 50 s when
	// another member is to become active, because the broker waits for 60 s.
	//
	// On a super stream RabbitMQ 4.0 may lose a group: if the connection of a
	// partition's active member ends just when another member joins or leaves, all
	// members of the partition wait, until all of them have left. No client can
	// tell that from a slow handler. RabbitMQ 4.3.6 does not (seen in 37 of 100
	// tries on 4.0.5, and in none of 120 on 4.3.6). To get the group back, end all
	// its members and start them again.
	//
	// RabbitMQ 4.1.2 to 4.1.8, 4.2, and 4.3.0 to 4.3.3 may make a member active and
	// not tell it. There, a member that was active before leaves and joins anew if
	// the stored offset stands still for 30 s while messages lie behind it, and, as
	// long as that lasts, again after growing pauses of up to 15 min; OnState says
	// so with [StateReconnecting]. A handler that takes as long, or a service that
	// commits as rarely, looks the same, and then a partition may change its owner.
	SingleActive bool
	// OnActive is called when the consumer becomes the active member, before its
	// first message. next is the offset from which it goes on: no message below it
	// comes. A service that keeps state of its own for the stream loads it there.
	// ctx ends with that of Run, when the broker chooses another member, with the
	// connection, and after 50 s. An error ends the run, unless ctx has ended
	// before, and so does a panic. It runs on the goroutine that called Run, or for
	// a SuperStream on one of the consumer's, and must not wait for that run to
	// end. It needs SingleActive. Default nil.
	OnActive func(ctx context.Context, stream string, next uint64) error
	// OnInactive follows each OnActive that has returned nil, or would have: when
	// the broker has chosen another member, when the run ends, or when the
	// connection is lost, once no handler is at work. The last offset is stored
	// after it, and then the next member begins, so a service can save its state
	// there, and call Commit. An error ends the run and keeps that offset from
	// being stored, and so does a panic.
	//
	// ctx is as the handlers': if it has ended with [ErrNotActive] as its cause,
	// another member may be active already, so that the state is to be dropped and
	// not saved. An error then is logged and ends nothing. It runs where OnActive
	// does. It needs SingleActive. Default nil.
	OnInactive func(ctx context.Context, stream string) error

	// OffsetStore keeps the offset in place of the broker. It needs Name.
	// Default nil: the broker keeps it.
	OffsetStore OffsetStore
	// Filter lets the handler get a part of the stream, and keeps the broker from
	// sending the rest. Default: everything.
	Filter Filter
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
	// The workers run ahead of the first message that is not handled until
	// MaxAhead messages from it on are in hand. They take no further chunk either
	// once the chunks from its own to the newest have a quarter of MaxBuffered,
	// and at least 2 * Workers messages are in hand, or these have 64 MiB more.
	// What is decompressed of a chunk counts.
	Workers int
	// KeyOf makes the workers handle messages with the same key one at a time,
	// in the order of the stream. The empty key is a key like any other. KeyOf
	// runs on the goroutine that called Run, before any handler of the message,
	// and must not block. A panic ends the run with a [*HandlerError]. KeyOf
	// needs 2 Workers or more. Default nil: messages have no order among the
	// workers.
	KeyOf func(*Delivery) string
	// MaxAhead bounds how many messages the workers have in hand: the first one
	// that is not handled and all behind it that were taken, handled or waiting.
	// A crash repeats up to that many, and so does an end of the run where Drain
	// does not suffice. A key that is slower than the others, or a message that
	// takes long, makes the workers wait once they are so far ahead. A larger
	// MaxAhead lets the others go on for longer. Default 10,000; it must be at
	// least Workers.
	MaxAhead int

	// SuperStream makes the consumer read a super stream: the name given to
	// NewConsumer is the super stream's, and Delivery.Stream and
	// StateChange.Stream are the partition's. There is one run and one handler for
	// all partitions. The mark is kept for each partition under Name, so each
	// resumes where it was, and messages come in order within a partition, hence
	// per key. A partition that has no leader, is read again after a lost
	// connection, or waits for a further attempt at a message (see OnError) does
	// not hold up the others.
	//
	// Without Workers the handler still runs on the goroutine that called Run, for
	// one message at a time; the partitions take turns of up to 256 messages. With
	// Workers there are that many for all partitions together, which take turns
	// too, and KeyOf orders within a partition. KeyOf, OnActive, OnInactive, and
	// Load and Save of an OffsetStore run on goroutines of the consumer's, for
	// several partitions at a time, but for one partition never twice at a time.
	// MaxBuffered and MaxAhead are for all partitions together, and each may have
	// one chunk, or one message in hand, whatever they leave. RunBatch has
	// BatchPerPartition.
	//
	// With SingleActive the partitions spread over the members of the group, and
	// each changes its owner by itself. A mixed batch of RunBatch then counts for
	// each of its partitions as a message in hand, and its context does not end
	// when another member may be active on one of them.
	//
	// Start holds for each partition that exists when the run begins. At is
	// [ErrInvalidConfig], because an offset is a place in one stream. The consumers
	// of an Env ask for the partitions together, every 4 to 6 s. One that was added
	// during the run is read from its first message, so that nothing is lost that
	// was published before it was found, or from behind its stored offset. A run
	// that begins after that, of another member of a group too, reads it as Start
	// says: from its first message by default, but Next, if it is the active one and
	// nothing is stored, passes over what was published before. When partitions are
	// added, producers send some keys to other partitions than before: a key's
	// messages are in order on either side of that moment, and not across it.
	//
	// A partition that is unbound ends in order: its messages in hand are handled,
	// and its mark is stored. If it is bound again it goes on behind the stored
	// offset, or without a Name at its first message. One that is deleted ends
	// alone. If the super stream itself is deleted, Run returns
	// [ErrStreamDeleted]. Any other error of a partition, such as
	// [ErrAccessRefused] or [ErrMalformed], ends the run as for a plain stream, and
	// the mark of every partition is stored first. Each partition reports
	// [StateClosed] when it ends, and the consumer does so last, under the super
	// stream's name. Default false.
	SuperStream bool

	// FromLeader reads from the stream's leader alone, which has each message
	// first. While the leader is away the consumer waits for the next one.
	// Default false: from a replica, which leaves the leader to the producers,
	// and from the leader if no replica can be used.
	FromLeader bool

	// OwnSubscription gives the consumer a subscription of its own at the broker.
	// Default false: consumers of one Env that read a stream at the same place
	// share one, so that each chunk comes once, is checked once and lies in memory
	// once; the broker's management then shows one of their names. The first
	// consumer of a stream has its own in any case, and so has one with a Filter,
	// SingleActive or SuperStream. One for which others wait, for 100 ms within a
	// second, gets another. A corrupt chunk makes all that share a subscription
	// connect again.
	OwnSubscription bool

	// ReuseDelivery lends each Delivery to the handler of Run, or to the body of a
	// loop over All, until that returns: the consumer then uses its memory again,
	// with that of Body, of Raw, and of all that its methods and Message return. A
	// handler that keeps something of it copies that first, as with [bytes.Clone],
	// or finds other bytes there. The handler may change what it has until then, and
	// a Producer copies what it accepts. Small messages are read a third faster so,
	// because nothing is copied or allocated for them. Those of a subscription that
	// consumers share are copied nevertheless; see OwnSubscription. Workers and
	// RunBatch do not go with ReuseDelivery: [ErrInvalidConfig]. On a super stream a
	// partition keeps its turn for a chunk, or for 1 ms. Default false: the handler
	// may keep what it gets.
	ReuseDelivery bool

	// MaxBuffered bounds the memory of the chunks that are on their way, wait,
	// or are being handled. It counts bytes as they come, so compressed ones
	// count compressed, and some 100 bytes for each chunk. The consumer uses
	// less if it needs less, or if the Env's other consumers need it; see
	// [Config]. More than 8 MiB it uses only while chunks that large, or the
	// time that the network takes, make it wait for the broker; a slow handler
	// has no use for them. Default 32 MiB, or Config.MaxBuffered if that is
	// less. At most Config.MaxBuffered; above it, NewConsumer returns
	// [ErrInvalidConfig].
	//
	// The broker sends whole chunks, and the consumer learns a chunk's size
	// only when the chunk comes. It asks for as many chunks as MaxBuffered has
	// room for by the size of recent ones, and for no more than it needs to
	// keep busy. If chunks of a larger size L follow, it holds at most the
	// larger of 2 * MaxBuffered and 16 * L bytes until it has handled them. It
	// drops what comes above that, and subscribes anew at the first message not
	// handled; OnState and Logger report that as a reconnect. After that it
	// holds a chunk that is larger than MaxBuffered alone.
	//
	// In addition the consumer holds copies of the messages that are being
	// handled, without ReuseDelivery: up to 256 of them, or a batch, and with
	// Workers up to a quarter of MaxBuffered. If OnError has Attempts or a
	// DeadLetter, it holds one more copy of each message, or batch, that a handler
	// has. The Env's MaxBuffered does not count these.
	MaxBuffered int

	// Drain is how long the handlers at work may go on after the context of Run
	// has ended or Env.Close was called. Until then their own context lives;
	// then it ends too. Meanwhile Run takes no further message. With Workers it
	// still hands out the waiting messages that come, in the order of the
	// stream, before the last one that a worker has begun, so that nothing that
	// is handled comes again, and a message that waits for its next attempt gets
	// it at once, once. If Drain does not suffice, a line in the log says how
	// many messages come again. Run waits for the handlers however long they
	// take, and then up to [CloseTimeout] for the last store. Default 5 s.
	// Negative: the handlers' context ends with that of Run.
	Drain time.Duration

	// BatchSize is the number of messages in a full batch of RunBatch. Default
	// 1000, at most 1,000,000.
	BatchSize int
	// BatchWait is how long the first message of a batch waits for the others.
	// Default 100 ms, at most 24 h.
	BatchWait time.Duration
	// BatchPerPartition gives each partition of a super stream batches of its
	// own, so that all messages of a batch have one Delivery.Stream. RunBatch then
	// holds a batch for each partition in memory. It needs SuperStream. Default
	// false: a batch has messages of any partitions, as they come, those of each
	// partition in order.
	BatchPerPartition bool
}

const (
	maxWorkers   = 10_000
	maxBatchSize = 1_000_000

	defaultMaxAhead = 10_000

	defaultMaxBuffered = 32 << 20

	defaultDrain = 5 * time.Second

	defaultBatchSize = 1000
	defaultBatchWait = 100 * time.Millisecond
)

// withBudget returns the configuration with a MaxBuffered that fits the Env's.
func (c ConsumerConfig) withBudget(total int) (ConsumerConfig, error) {
	if c.MaxBuffered == 0 {
		c.MaxBuffered = min(defaultMaxBuffered, total)
	}
	if c.MaxBuffered > total {
		return c, fmt.Errorf("%w: the consumer's MaxBuffered is %d bytes, and that of all consumers of the Env %d: lower it, or raise Config.MaxBuffered", ErrInvalidConfig, c.MaxBuffered, total)
	}
	return c, nil
}

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
	if c.Drain == 0 {
		c.Drain = defaultDrain
	}
	if c.MaxAhead == 0 {
		c.MaxAhead = defaultMaxAhead
	}
	if c.MaxBuffered == 0 {
		c.MaxBuffered = defaultMaxBuffered
	}
	filter, filterErr := c.Filter.checked()
	c.Filter = filter
	for _, err := range []error{err, filterErr, checkLength("consumer's name", c.Name), checkOwnName(c.Name), c.Start.validate(), c.Store.validate()} {
		if err != nil {
			return c, err
		}
	}
	switch {
	case c.Name == "" && c.Store != (StorePolicy{}):
		return c, fmt.Errorf("%w: a Store policy needs a Name to store the offset under", ErrInvalidConfig)
	case c.Name == "" && c.OffsetStore != nil:
		return c, fmt.Errorf("%w: an OffsetStore needs a Name to store the offset under", ErrInvalidConfig)
	case c.OffsetStore != nil && c.Store.Committed:
		return c, fmt.Errorf("%w: Store.Committed is about the broker's replicas, and the OffsetStore keeps the offset: leave one of them out", ErrInvalidConfig)
	case c.BatchPerPartition && !c.SuperStream:
		return c, fmt.Errorf("%w: BatchPerPartition is about the partitions of a super stream: set SuperStream, or leave it out", ErrInvalidConfig)
	case c.SuperStream && c.Start.kind == startAt:
		return c, fmt.Errorf("%w: Start is %v, and an offset is a place in one stream, not in each partition of a super stream: start with First, Next or Since, or store an offset for each partition with Env.StoreOffset", ErrInvalidConfig, c.Start)
	case c.SingleActive && c.Name == "":
		return c, fmt.Errorf("%w: SingleActive needs a Name, which is that of the group", ErrInvalidConfig)
	case c.SingleActive && !c.Start.usesStored():
		return c, fmt.Errorf("%w: the members of a group go on behind the stored offset: with SingleActive, Start must be Stored", ErrInvalidConfig)
	case !c.SingleActive && (c.OnActive != nil || c.OnInactive != nil):
		return c, fmt.Errorf("%w: OnActive and OnInactive are about the active member of a group: set SingleActive, or leave them out", ErrInvalidConfig)
	case c.Workers < 0 || c.Workers > maxWorkers:
		return c, fmt.Errorf("%w: Workers is %d; it must be from 0 to %d", ErrInvalidConfig, c.Workers, maxWorkers)
	case c.KeyOf != nil && c.Workers < 2:
		return c, fmt.Errorf("%w: KeyOf orders what Workers do in parallel: set Workers to 2 or more, or leave KeyOf out", ErrInvalidConfig)
	case c.ReuseDelivery && c.Workers > 1:
		return c, fmt.Errorf("%w: ReuseDelivery is for one message at a time, and Workers is %d: leave one of them out", ErrInvalidConfig, c.Workers)
	case c.MaxAhead < c.Workers:
		return c, fmt.Errorf("%w: MaxAhead is %d messages; it must be at least Workers, which is %d, or 0 for %d", ErrInvalidConfig, c.MaxAhead, c.Workers, defaultMaxAhead)
	case c.Drain > maxDuration:
		return c, fmt.Errorf("%w: Drain is %v; it must be at most %v, negative for none, or 0 for %v", ErrInvalidConfig, c.Drain, maxDuration, defaultDrain)
	case c.MaxBuffered < 0:
		return c, fmt.Errorf("%w: MaxBuffered is %d bytes; it must be at least 1, or 0 for %d", ErrInvalidConfig, c.MaxBuffered, defaultMaxBuffered)
	case c.BatchSize < 1 || c.BatchSize > maxBatchSize || c.BatchWait < 0 || c.BatchWait > maxDuration:
		return c, fmt.Errorf("%w: BatchSize is %d and BatchWait %v; they must be from 1 to %d, and not negative and at most %v", ErrInvalidConfig, c.BatchSize, c.BatchWait, maxBatchSize, maxDuration)
	}
	return c, nil
}
