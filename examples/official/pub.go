package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/rabbitmq/rabbitmq-stream-go-client/pkg/amqp"
	"github.com/rabbitmq/rabbitmq-stream-go-client/pkg/message"
	client "github.com/rabbitmq/rabbitmq-stream-go-client/pkg/stream"

	"github.com/tidemark-go/tidemark/stream/official"
)

// pub publishes the numbers from 100 to 299 and returns when the broker has
// confirmed them.
func pub(ctx context.Context, env *client.Environment, o options, stdout io.Writer) (err error) {
	if err := env.DeclareStream(o.stream, nil); err != nil {
		return fmt.Errorf("declare the stream %q: %w", o.stream, err)
	}
	producer, err := official.NewProducer(ctx, env, o.stream, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, producer.Close(ctx)) }()
	var msgs []message.StreamMessage
	for n := 100; n < 300; n++ {
		msgs = append(msgs, amqp.NewMessage([]byte(strconv.Itoa(n))))
	}
	if err := producer.Publish(ctx, msgs...); err != nil { // nil: all confirmed
		return err
	}
	_, err = fmt.Fprintf(stdout, "published %d\n", len(msgs))
	return err
}
