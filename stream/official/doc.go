// Package official gives offset tracking to services that have an Environment of
// the official client, github.com/rabbitmq/rabbitmq-stream-go-client, and want
// its consumers to be right without a rewrite.
//
//	consumer, err := official.NewConsumer(env, "orders", official.Config{Name: "billing"})
//	err = consumer.Run(ctx, func(ctx context.Context, d *official.Delivery) error {
//		return bill(ctx, d.Message)
//	})
//
// Run asks for the offset that is stored under the name, begins where Start says
// if there is none, hands over message after message, stores the offset after
// each handled one, and resumes at the next. [stream.Start], [stream.StorePolicy]
// and the errors are those of package stream, and a consumer may move between
// the two packages: what one has stored, the other goes on from.
//
// A producer's Publish returns when the broker has confirmed:
//
//	producer, err := official.NewProducer(ctx, env, "orders", nil)
//	err = producer.Publish(ctx, amqp.NewMessage(order))
//
// docs/migrating-from-the-official-client.md has a table of its calls and those
// here.
//
// # What is fenced
//
// The official client, v1.8.3, has faults that a service meets under stress. This
// package keeps these away:
//
//   - Its consumer's offset moves on before the handler runs, and its
//     auto-commit stores that. Here the mark is that of handled messages, and
//     auto-commit is off.
//   - Its Consumer.Close does not wait for the handler. Here handlers run on the
//     goroutine that called Run, and none runs after Run has returned.
//   - Its ReliableConsumer resumes at 1 where nothing was received, and a stored 0
//     is easily taken for none. Here nothing is stored that was not handled, except for the
//     place where a run with Stored(Next()) or the like begins.
//   - Consumer.StoreCustomOffset ignores a rewind. [StoreOffset] rewinds, and
//     reads back what it has stored.
//   - Its consumer stores over the connection on which messages arrive. If the
//     process is killed with unread messages, the broker drops stores that it has
//     not read. Here they go over the locator's connection.
//   - A stored offset beyond the end of the stream makes it drop every message up
//     to that one. Here the run looks for 10 s, and then begins at the end.
//   - A stream that was deleted and one that has moved look alike to it. Here Run
//     asks, and returns [stream.ErrStreamDeleted] for the first. A mark is not
//     stored into a stream that was created again meanwhile, if anything was
//     stored before that tells the two apart.
//   - The end of a consumer that comes before NotifyClose is never reported. Here
//     the broker is asked something after NotifyClose.
//   - Calls on an Environment whose broker is away block for ever. Here each
//     waits under its context, and is left behind when that ends. An Environment
//     has one stranded call of each kind at most, and later ones wait for it, so
//     that no old store lands on a new one.
//   - A consumer or producer that is refused leaves its connection open. A missing
//     stream, or for consumers a missing permission, is noticed before.
//   - The connection of a consumer that is closed may be given to one that is
//     made, whose Subscribe then times out. Here the two wait for each other.
//   - One options value that two consumers share is a race, and so is
//     NotifyPublishConfirmation after Send. Here each consumer has its own options,
//     and a producer registers before it sends.
//   - Producer.Close gives up on what is in flight. Here Close waits for it.
//   - A confirm that nobody takes stalls the connection. Here they are always
//     taken.
//   - A confirm that is late by 10 s counts as failed. Here the context decides.
//   - The wait for room in its own queue can miss its wake-up. Here a limit below
//     it holds.
//   - Two messages with one publishing id have one confirm. Here ids have to
//     grow.
//   - An empty filter value makes a frame that the broker cannot read. Here such a
//     message is [stream.ErrInvalidMessage].
//   - BatchSend above the frame limit fails as a whole. Here the messages then go
//     one by one.
//   - It closes the connection at a chunk that does not match its checksum. Here Run
//     ends with [stream.ErrUnreachable], nothing of the chunk is handled, and the
//     next run fetches it again.
//   - Panics on our goroutines, and errors with the password of a URI in them,
//     are caught and cleaned.
//
// # What is not
//
// These cannot be mended around an Environment that is not ours. Package stream
// has none of them.
//
//   - No recovery. When the connection is lost, or the stream moves, Run ends with
//     [stream.ErrUnreachable] and may be called again, and a producer is made
//     anew. On the same Environment the official client often takes 10 s for
//     that; on a new one it takes milliseconds. Rebalancing is not in it either.
//   - Bodies that are not AMQP 1.0 arrive empty or half-decoded, and only the
//     official client's log says so. They count as handled like others.
//   - Cancellation while the broker is away. The call returns when its context
//     ends, but goes on inside the official client, and a store, a delete or a
//     declaration may happen when the broker is back. A store that is on its way
//     while its stream is deleted and created again lands in the new stream.
//   - A call that waits for an answer when the locator's connection drops waits for
//     10 s, the official client's limit, or until its context ends.
//   - Single active consumers. With auto-commit the official client stores, for the
//     one that is deactivated, offsets of messages that nobody has handled. Config
//     does not offer them; package stream has them.
//   - A peer that falls silent is noticed after two or three heartbeats, 60 s each
//     unless SetRequestedHeartbeat says otherwise, and not at all while it stops
//     reading.
//   - Messages that retention removes in front of a connected consumer are not
//     reported. What it has removed before Run is a line in the log.
//   - Socket buffers of 8 KiB, which stall consumption. The Environment has to be
//     made with SetReadBuffer(-1) and SetWriteBuffer(-1).
//   - A password with @, / or % in a URI. It has to be escaped, or set with
//     SetPassword.
//   - A producer that lacks the write permission leaves a connection open.
//   - A race inside the official client between Environment.Close, or its
//     reconnect of the locator, and other calls. End runs and producers before
//     Close.
//   - Sub-entries are not deduplicated by a producer's name, and panic on 32-bit
//     systems.
//   - Who reads: the official client chooses a replica by chance, and a consumer
//     needs a connection of its own unless SetMaxConsumersPerClient says
//     otherwise.
package official
