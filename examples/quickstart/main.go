// Command quickstart shows what tidemark is for, in one process and without a
// RabbitMQ: it starts the in-process broker of package streamtest, publishes,
// stops a consumer half-way, and has the next one go on at exactly the next
// message. It checks what it tells:
//
//	go run ./examples/quickstart
//
// Exit codes: 0 if all was as promised, 2 for wrong usage, else 1.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/tidemark-go/tidemark/stream"
	"github.com/tidemark-go/tidemark/streamtest"
)

const (
	orders = 1000
	half   = orders / 2
)

const help = `quickstart publishes and consumes on a broker inside its own process: it stops a
consumer half-way, and the next one goes on at exactly the next message.

Usage: quickstart
`

func main() {
	err := parse(os.Args[1:], os.Stdout)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return
	case err != nil:
		fmt.Fprintf(os.Stderr, "quickstart: %v\nUsage: quickstart\n", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err = run(ctx, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "quickstart: %v\n", err)
		os.Exit(1)
	}
}

// parse reads a command line that may ask for the help and nothing else. Help
// goes to stdout.
func parse(args []string, stdout io.Writer) error {
	fs := flag.NewFlagSet("quickstart", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	err := fs.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, help)
	case err == nil && fs.NArg() > 0:
		err = fmt.Errorf("it takes no argument, not %q", fs.Arg(0))
	}
	return err
}

// run tells the story.
func run(ctx context.Context, out io.Writer) error {
	broker, err := streamtest.Start()
	if err != nil {
		return err
	}
	defer broker.Close()
	fmt.Fprintf(out, "broker   in this process, on %s; it keeps nothing on disk.\n", broker.Addr())

	if err := publish(ctx, broker.URI()); err != nil {
		return err
	}
	fmt.Fprintf(out, "publish  %d orders; the broker confirmed each.\n", orders)

	fmt.Fprintf(out, "consume  as %q, and stop half-way:\n", "billing")
	if err := consume(ctx, broker.URI(), out, 0, half); err != nil {
		return err
	}
	stored, ok := broker.Offset("billing", "orders")
	if !ok || stored != half-1 {
		return fmt.Errorf("the broker has offset %d stored (%v), want %d", stored, ok, half-1)
	}
	fmt.Fprintf(out, "broker   has offset %d stored for %q.\n", stored, "billing")

	fmt.Fprintf(out, "consume  over a new connection, telling only the name %q:\n", "billing")
	if err := consume(ctx, broker.URI(), out, half, orders); err != nil {
		return err
	}
	fmt.Fprintf(out, "checked  %d of %d orders handled, in order, 0 missing, 0 handled twice.\n", orders, orders)
	return nil
}

// publish returns when the broker has confirmed every order.
func publish(ctx context.Context, uri string) (err error) {
	env, err := stream.Connect(ctx, stream.Config{URIs: []string{uri}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, env.Close()) }()
	if err := env.DeclareStream(ctx, "orders", stream.StreamConfig{}); err != nil {
		return err
	}
	producer, err := env.NewProducer(ctx, "orders", stream.ProducerConfig{})
	if err != nil {
		return err
	}
	var msgs []stream.Message
	for n := range orders {
		msgs = append(msgs, stream.Message{Body: fmt.Appendf(nil, "order %d", n)})
	}
	return producer.Publish(ctx, msgs...) // nil: all of them are in the stream
}

// consume handles the orders from first up to, not including, end. It gives
// only its name, and the broker knows where to begin.
func consume(ctx context.Context, uri string, out io.Writer, first, end int) (err error) {
	env, err := stream.Connect(ctx, stream.Config{URIs: []string{uri}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, env.Close()) }()
	consumer, err := env.NewConsumer("orders", stream.ConsumerConfig{Name: "billing"})
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	next := first
	err = consumer.Run(ctx, func(_ context.Context, d *stream.Delivery) error {
		if want := fmt.Sprintf("order %d", next); string(d.Body) != want {
			return fmt.Errorf("got %q, want %q", d.Body, want)
		}
		switch {
		case next == first && first > 0:
			fmt.Fprintf(out, "%15d  %s  <- exactly the next one\n", d.Offset, d.Body)
		case next == first, next == end-1:
			fmt.Fprintf(out, "%15d  %s\n", d.Offset, d.Body)
		}
		if next++; next == end {
			stop() // the run ends when this handler has returned
		}
		return nil // handled: from here on its offset may be stored
	})
	return err // nil if we stopped it and the last offset is stored
}
