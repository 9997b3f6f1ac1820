// Package stream reads and writes RabbitMQ streams and never loses a reader's
// place.
//
// A consumer has a name and a handler. The broker keeps the offset of the last
// handled message under the name. After a crash or a deployment, the next run
// goes on at the message after it:
//
//	env, err := stream.Connect(ctx, stream.Config{URIs: []string{uri}})
//	consumer, err := env.NewConsumer("orders", stream.ConsumerConfig{Name: "billing"})
//	err = consumer.Run(ctx, func(ctx context.Context, d *stream.Delivery) error {
//		return bill(ctx, d.Body)
//	})
//
// A producer's Publish returns when the broker has confirmed. Its name is that of
// one process at a time:
//
//	producer, err := env.NewProducer(ctx, "orders", stream.ProducerConfig{Name: "shop"})
//	err = producer.Publish(ctx, stream.Message{Body: order})
//
// # Guarantees
//
//   - The stored offset never passes a message whose handler has not returned
//     nil, unless [ErrorPolicy] has settled its failure.
//   - A consumer handles messages in the order of the stream. Workers with
//     KeyOf keep the order of each key.
//   - After a reconnect a consumer goes on at the first message not handled.
//     One run handles no message twice, unless ErrorPolicy calls the handler
//     again.
//   - A producer publishes again what a lost connection left unconfirmed, in
//     order. With a name the stream holds each message once. Of two processes
//     that count ids under one name, the older ends with [ErrNameInUse].
//   - Every message that a producer accepts has one outcome, and only the
//     broker's confirm makes that nil.
//   - Every wait ends with its context.
//   - A failure that trying again cannot mend ends the call or run with an
//     error that says what to do; see [ErrInvalidConfig] and the sentinels
//     around it.
//
// # Requirements
//
// The broker is RabbitMQ 3.13 or newer with the plugin rabbitmq_stream. This
// process must be able to reach the addresses that the nodes advertise; see
// Config.Resolve.
package stream
