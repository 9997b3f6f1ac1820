// Command sub prints the messages of a super stream, and remembers on the broker,
// for each partition, which one it has handled: the next run goes on behind it.
//
//	go run ./examples/superstream/sub -super events -name go
//
// Each message is one line: its partition, its offset there, its subject and its
// body. The messages of a partition, hence those of a subject that the example pub
// has published, come in order. Exit codes: 0 ended by a signal or -max, 1 failed,
// 2 wrong usage.
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
		fmt.Fprintf(os.Stderr, "sub: %v\nUsage: sub [flags]; sub -h lists them\n", err)
		os.Exit(2)
	}
	fmt.Fprintf(os.Stderr, "sub: %v\n", err)
	os.Exit(1)
}

// errUsage marks errors of the command line.
var errUsage = errors.New("wrong usage")

// run is main without the process.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	flags := flag.NewFlagSet("sub", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	uri := flags.String("uri", "", "the broker's `URI` (default $RABBITMQ_STREAM_URL, then port 5552 on localhost as guest)")
	super := flags.String("super", "events", "`NAME` of the super stream")
	name := flags.String("name", "go", "`NAME` under which the broker keeps the offsets")
	most := flags.Int("max", 0, "end after so many messages; 0 stands for never")
	err = flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, "sub prints the messages of a super stream, and goes on where it was.\n\nUsage: sub [flags]\n\n")
		flags.SetOutput(stdout)
		flags.PrintDefaults()
		return err
	case err != nil:
		return fmt.Errorf("%w: %w", errUsage, err)
	case flags.NArg() > 0: // not shown: it may be a URI with its password
		return fmt.Errorf("%w: an argument without a flag", errUsage)
	}
	env, err := stream.Connect(ctx, stream.Config{
		URIs:   strings.Split(cmp.Or(*uri, os.Getenv("RABBITMQ_STREAM_URL"), stream.DefaultURI), ","),
		Logger: slog.New(slog.NewTextHandler(stderr, nil)), // connections lost and won back
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, env.Close()) }()
	consumer, err := env.NewConsumer(*super, stream.ConsumerConfig{SuperStream: true, Name: *name})
	if err != nil {
		return err
	}
	ctx, end := context.WithCancel(ctx)
	defer end()
	printed := 0
	// One message at a time, whatever its partition, on this goroutine.
	return consumer.Run(ctx, func(_ context.Context, d *stream.Delivery) error {
		if _, err := fmt.Fprintf(stdout, "%s\t%d\t%s\t%s\n", d.Stream, d.Offset, subject(d), d.Body); err != nil {
			return err
		}
		if printed++; printed == *most {
			end()
		}
		return nil
	})
}

// subject returns the subject of a message, which may have none.
func subject(d *stream.Delivery) string {
	p, err := d.Properties()
	if err != nil || p == nil {
		return ""
	}
	return p.Subject
}
