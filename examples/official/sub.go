package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"

	client "github.com/rabbitmq/rabbitmq-stream-go-client/pkg/stream"

	"github.com/tidemark-go/tidemark/stream"
	"github.com/tidemark-go/tidemark/stream/official"
)

// sub prints messages, from the one after the stored offset on, or from the
// first one if nothing is stored. A message whose line is printed is handled, and
// its offset is stored before the next one.
func sub(ctx context.Context, env *client.Environment, o options, stdout io.Writer) error {
	consumer, err := official.NewConsumer(env, o.stream, official.Config{
		Name:  o.name,
		Start: stream.Stored(stream.First()),
		Store: stream.StorePolicy{Every: 1},
	})
	if err != nil {
		return err
	}
	ctx, enough := context.WithCancel(ctx)
	defer enough()
	var printed uint64
	err = consumer.Run(ctx, func(_ context.Context, d *official.Delivery) error {
		if _, err := fmt.Fprintf(stdout, "%d\t%s\n", d.Offset, d.Message.GetData()); err != nil {
			return err // not handled: the next run starts with it
		}
		if printed++; printed == o.max {
			enough()
		}
		return nil
	})
	if errors.Is(err, syscall.EPIPE) && !errors.Is(err, stream.ErrNotStored) {
		return nil // whoever reads our stdout, such as head, has read enough
	}
	return err
}
