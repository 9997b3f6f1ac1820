// Package stream reads and writes RabbitMQ streams and never loses a reader's
// place.
//
// A consumer has a name and a handler. The broker keeps the offset of the last
// handled message under the name, and the next run, after a crash, a
// deployment or a lost connection, goes on at the message after it:
//
//	env, err := stream.Connect(ctx, stream.Config{URIs: []string{uri}})
//	consumer, err := env.NewConsumer("orders", stream.ConsumerConfig{Name: "billing"})
//	err = consumer.Run(ctx, func(ctx context.Context, d *stream.Delivery) error {
//		return bill(ctx, d.Body)
//	})
//
// A producer's Publish returns when the broker has confirmed:
//
//	producer, err := env.NewProducer(ctx, "orders", stream.ProducerConfig{Name: "shop"})
//	err = producer.Publish(ctx, stream.Message{Body: order})
//
// # Guarantees
//
// The stored offset never passes a message whose handler has not returned nil,
// or whose failure [ErrorPolicy] has not settled. Messages come in order, with
// Workers in the order of their key, and after a reconnect from the first one
// not handled; nothing is handled twice within one run. What a lost connection
// left unconfirmed is published again, and a producer's name lets the broker
// drop what it has. Every wait ends with its context. What trying again cannot
// mend ends with an error that says what to do; see [ErrUnreachable] and the
// sentinels around it.
//
// # Requirements
//
// RabbitMQ 3.13 or newer with the plugin rabbitmq_stream. The addresses that
// the nodes advertise must be reachable.
package stream
