// Command filter publishes orders of several regions to a RabbitMQ stream, and
// consumes those of one region, while the broker keeps most of the others to
// itself:
//
//	go run ./examples/filter -publish 300
//	go run ./examples/filter -region eu -max 100
//
// The broker is RABBITMQ_STREAM_URL, by default the one on this machine. A run
// with the same region goes on behind the last one. Exit codes: 0 all done or
// interrupted, 1 failed, 2 wrong usage.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/tidemark-go/tidemark/stream"
)

const usage = "Usage: filter -publish N | filter -region REGION [-max N]\n"

var regions = []string{"africa", "asia", "eu"}

// byRegion gives the filter value of an order that is published, and tells which
// orders a consumer wants: the two cannot differ.
var byRegion = stream.FilterBy(func(c stream.Content) string {
	region, _ := c.ApplicationProperties()["region"].(string)
	return region
})

func main() {
	fs := flag.NewFlagSet("filter", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	publish := fs.Int("publish", 0, "publish so many orders of each region")
	region := fs.String("region", "", "print the orders of this region")
	most := fs.Int("max", 0, "end after so many orders; 0 stands for never")
	err := fs.Parse(os.Args[1:])
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Print("filter publishes orders, or prints those of one region.\n\n" + usage + "\n")
		fs.SetOutput(os.Stdout)
		fs.PrintDefaults()
		return
	case err != nil || fs.NArg() > 0 || (*publish > 0) == (*region != ""):
		fmt.Fprint(os.Stderr, "filter: give -publish or -region\n"+usage)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *publish, *region, *most); err != nil {
		fmt.Fprintf(os.Stderr, "filter: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, orders int, region string, most int) (err error) {
	uri := cmp.Or(os.Getenv("RABBITMQ_STREAM_URL"), stream.DefaultURI)
	env, err := stream.Connect(ctx, stream.Config{URIs: []string{uri}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, env.Close()) }()
	if err := env.DeclareStream(ctx, "filtered-orders", stream.StreamConfig{FilterSize: 32}); err != nil {
		return err
	}
	if region != "" {
		return consume(ctx, env, region, most)
	}
	for _, region := range regions { // one after the other: a chunk then has few regions
		if err := publish(ctx, env, region, orders); err != nil {
			return err
		}
	}
	fmt.Printf("published %d\n", orders*len(regions))
	return nil
}

func publish(ctx context.Context, env *stream.Env, region string, orders int) error {
	producer, err := env.NewProducer(ctx, "filtered-orders", stream.ProducerConfig{})
	if err != nil {
		return err
	}
	defer producer.Close(ctx)
	var msgs []stream.Message
	for n := range orders {
		msgs = append(msgs, byRegion.Tag(stream.Message{
			Body: fmt.Appendf(nil, "order %d", n), ApplicationProperties: map[string]any{"region": region},
		}))
	}
	return producer.Publish(ctx, msgs...)
}

func consume(ctx context.Context, env *stream.Env, region string, most int) error {
	consumer, err := env.NewConsumer("filtered-orders", stream.ConsumerConfig{Name: "region-" + region, Filter: byRegion.Filter(region)})
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	return consumer.Run(ctx, func(_ context.Context, d *stream.Delivery) error {
		fmt.Printf("%s %s\n", byRegion.Value(d), d.Body)
		if most--; most == 0 {
			stop()
		}
		return nil
	})
}
