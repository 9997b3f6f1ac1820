package stream_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"

	"github.com/tidemark-go/tidemark/stream"
)

// A service that handles every message of the stream orders. Stopped, killed or
// disconnected, it goes on at the first message that it had not handled.
func Example() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	env, err := stream.Connect(ctx, stream.Config{}) // the broker on this machine
	if err != nil {
		log.Fatal(err)
	}
	defer env.Close()

	consumer, err := env.NewConsumer("orders", stream.ConsumerConfig{Name: "billing"})
	if err != nil {
		log.Fatal(err)
	}
	err = consumer.Run(ctx, func(ctx context.Context, d *stream.Delivery) error {
		fmt.Printf("%d: %s\n", d.Offset, d.Body)
		return nil // handled: from here on its offset may be stored
	})
	if err != nil {
		log.Fatal(err)
	}
}

// Publish returns when the broker has confirmed every message.
func ExampleProducer_Publish() {
	ctx := context.Background()
	env, err := stream.Connect(ctx, stream.Config{
		URIs: []string{"rabbitmq-stream://guest:guest@localhost:5552/%2f"},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer env.Close()

	if err := env.DeclareStream(ctx, "orders", stream.StreamConfig{}); err != nil {
		log.Fatal(err)
	}
	producer, err := env.NewProducer(ctx, "orders", stream.ProducerConfig{})
	if err != nil {
		log.Fatal(err)
	}
	defer producer.Close(ctx)
	err = producer.Publish(ctx,
		stream.Message{Body: []byte("first")},
		stream.Message{Body: []byte("second"), Properties: &stream.Properties{ContentType: "text/plain"}},
	)
	if err != nil {
		log.Fatal(err) // ErrUnconfirmed: the outcome is unknown; anything else says why
	}
}

// PublishAsync does not wait; Close does, for every outcome.
func ExampleProducer_PublishAsync() {
	// env is what stream.Connect returned.
	var env *stream.Env
	ctx := context.Background()
	// A name is one process's at a time.
	producer, err := env.NewProducer(ctx, "orders", stream.ProducerConfig{Name: "shop"})
	if err != nil {
		log.Fatal(err)
	}
	for i := range 1000 {
		err := producer.PublishAsync(ctx, stream.Message{Body: fmt.Appendf(nil, "order %d", i)}, func(err error) {
			if err != nil {
				log.Printf("order %d: %v", i, err)
			}
		})
		if err != nil {
			log.Printf("order %d was not accepted: %v", i, err)
			break
		}
	}
	if err := producer.Close(ctx); err != nil {
		log.Fatal(err)
	}
}

// A producer to a super stream publishes each message to the partition of its key.
func ExampleProducer_superStream() {
	// env is what stream.Connect returned.
	var env *stream.Env
	ctx := context.Background()
	if err := env.DeclareSuperStream(ctx, "orders", stream.SuperStreamConfig{Partitions: 3}); err != nil {
		log.Fatal(err)
	}
	producer, err := env.NewProducer(ctx, "orders", stream.ProducerConfig{SuperStream: true})
	if err != nil {
		log.Fatal(err)
	}
	defer producer.Close(ctx)
	err = producer.Publish(ctx,
		stream.Message{Key: "customer-7", Body: []byte("first")},
		stream.Message{Key: "customer-7", Body: []byte("second")}, // in the same partition, behind it
	)
	if err != nil {
		log.Fatal(err)
	}
}

// All is Run as a loop. Asking for the next message marks the last as handled.
func ExampleConsumer_All() {
	// env is what stream.Connect returned.
	var env *stream.Env
	consumer, err := env.NewConsumer("orders", stream.ConsumerConfig{Start: stream.First()}) // no Name: nothing is stored
	if err != nil {
		log.Fatal(err)
	}
	for d, err := range consumer.All(context.Background()) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(d.Offset, string(d.Body))
	}
}

// RunBatch is for bulk inserts: nil means that the whole batch is handled.
func ExampleConsumer_RunBatch() {
	// env is what stream.Connect returned.
	var env *stream.Env
	consumer, err := env.NewConsumer("orders", stream.ConsumerConfig{Name: "warehouse", BatchSize: 500})
	if err != nil {
		log.Fatal(err)
	}
	err = consumer.RunBatch(context.Background(), func(ctx context.Context, batch []stream.Delivery) error {
		fmt.Println(len(batch), "rows, from offset", batch[0].Offset)
		return nil
	})
	log.Fatal(err)
}

// An order that fails five times is set aside, with the reason; meanwhile the
// orders of other customers go on.
func ExampleErrorPolicy() {
	// env is what stream.Connect returned.
	var env *stream.Env
	consumer, err := env.NewConsumer("orders", stream.ConsumerConfig{
		Name:    "billing",
		Workers: 8,
		KeyOf: func(d *stream.Delivery) string {
			props, _ := d.ApplicationProperties()
			customer, _ := props["customer"].(string)
			return customer
		},
		OnError: stream.ErrorPolicy{Attempts: 5, DeadLetter: "orders-failed"},
	})
	if err != nil {
		log.Fatal(err)
	}
	err = consumer.Run(context.Background(), func(ctx context.Context, d *stream.Delivery) error {
		return errors.New("no such customer")
	})
	log.Fatal(err)
}

// Offset 0 is an offset like any other; nothing stored is ErrNoOffset.
func ExampleEnv_QueryOffset() {
	// env is what stream.Connect returned.
	var env *stream.Env
	offset, err := env.QueryOffset(context.Background(), "billing", "orders")
	switch {
	case errors.Is(err, stream.ErrNoOffset):
		fmt.Println("billing has handled nothing yet")
	case err != nil:
		log.Fatal(err)
	default:
		fmt.Println("billing has handled everything up to offset", offset)
	}
}

// The broker keeps to itself the chunks without an order of the region.
func ExampleFilterBy() {
	byRegion := stream.FilterBy(func(c stream.Content) string {
		region, _ := c.ApplicationProperties()["region"].(string)
		return region
	})
	// env is what stream.Connect returned, and producer what env.NewProducer did.
	var env *stream.Env
	var producer *stream.Producer
	order := stream.Message{Body: []byte("order 7"), ApplicationProperties: map[string]any{"region": "eu"}}
	if err := producer.Publish(context.Background(), byRegion.Tag(order)); err != nil {
		log.Fatal(err)
	}
	consumer, err := env.NewConsumer("orders", stream.ConsumerConfig{Name: "billing-eu", Filter: byRegion.Filter("eu")})
	if err != nil {
		log.Fatal(err)
	}
	err = consumer.Run(context.Background(), func(_ context.Context, d *stream.Delivery) error {
		fmt.Println(byRegion.Value(d), d.Offset)
		return nil
	})
	log.Fatal(err)
}
