// Command pub publishes the events of a few customers to a super stream: the
// events of a customer are in one partition, in order.
//
//	go run ./examples/superstream/pub -partitions 3 -customers 5 -events 20
//
// It creates the super stream if it does not exist. The customer is the message's
// Key, which decides the partition, and its Subject, which readers see. Exit
// codes: 0 every event is confirmed, 1 failed or interrupted, 2 wrong usage.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/tidemark-go/tidemark/stream"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	switch {
	case err == nil || errors.Is(err, flag.ErrHelp):
		return
	case errors.Is(err, errUsage), errors.Is(err, stream.ErrInvalidConfig):
		fmt.Fprintf(os.Stderr, "pub: %v\nUsage: pub [flags]; pub -h lists them\n", err)
		os.Exit(2)
	}
	fmt.Fprintf(os.Stderr, "pub: %v\n", err)
	os.Exit(1)
}

// errUsage marks errors of the command line.
var errUsage = errors.New("wrong usage")

// run is main without the process.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	flags := flag.NewFlagSet("pub", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	uri := flags.String("uri", "", "the broker's `URI` (default $RABBITMQ_STREAM_URL, then port 5552 on localhost as guest)")
	name := flags.String("super", "events", "`NAME` of the super stream; it is created if it does not exist")
	partitions := flags.Int("partitions", 3, "how many partitions it is created with")
	customers := flags.Int("customers", 5, "how many customers there are")
	events := flags.Int("events", 20, "how many events each of them has")
	err = flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, "pub publishes the events of a few customers to a super stream.\n\nUsage: pub [flags]\n\n")
		flags.SetOutput(stdout)
		flags.PrintDefaults()
		return err
	case err != nil:
		return fmt.Errorf("%w: %w", errUsage, err)
	case flags.NArg() > 0: // not shown: it may be a URI with its password
		return fmt.Errorf("%w: an argument without a flag", errUsage)
	case *customers < 1 || *events < 1:
		return fmt.Errorf("%w: give at least one customer and one event", errUsage)
	}
	env, err := stream.Connect(ctx, stream.Config{
		URIs:   strings.Split(cmp.Or(*uri, os.Getenv("RABBITMQ_STREAM_URL"), stream.DefaultURI), ","),
		Logger: slog.New(slog.NewTextHandler(stderr, nil)), // connections lost and won back
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, env.Close()) }()
	if err := env.DeclareSuperStream(ctx, *name, stream.SuperStreamConfig{Partitions: *partitions}); err != nil {
		return err
	}
	// The name makes the broker drop what is sent again after a lost connection. It is
	// that of one process at a time: a second pub ends the first with ErrNameInUse.
	producer, err := env.NewProducer(ctx, *name, stream.ProducerConfig{SuperStream: true, Name: "shop"})
	if err != nil {
		return err
	}
	for event := range *events {
		var batch []stream.Message
		for customer := range *customers {
			key := fmt.Sprintf("customer-%d", customer)
			batch = append(batch, stream.Message{
				Key:        key,
				Body:       fmt.Appendf(nil, "event %d", event),
				Properties: &stream.Properties{Subject: key},
			})
		}
		if err := producer.Publish(ctx, batch...); err != nil { // nil: every partition has confirmed
			return err
		}
	}
	fmt.Fprintf(stdout, "published %d events of %d customers to %s\n", *events**customers, *customers, *name)
	return producer.Close(ctx)
}
