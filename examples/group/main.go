// Command group reads a RabbitMQ stream as a member of a group: start it twice,
// and one process prints the messages while the other waits. End the first one, in
// whatever way, and the other goes on where it has stopped.
//
//	go run ./examples/group -stream stream_queue
//
// The stream must exist: examples/pub creates it. The broker is
// RABBITMQ_STREAM_URL, by default the one on this machine. group prints a line
// "active" or "waiting" on stderr when that changes, and each message on stdout.
// Exit codes: 0 ended by a signal, 1 failed, 2 wrong usage.
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

const usage = "Usage: group [-stream STREAM] [-group GROUP]\n"

func main() {
	fs := flag.NewFlagSet("group", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	name := fs.String("stream", "stream_queue", "`NAME` of the stream")
	group := fs.String("group", "readers", "`NAME` of the group")
	err := fs.Parse(os.Args[1:])
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Print("group prints a stream's messages while it is the active one of its group.\n\n" + usage + "\n")
		fs.SetOutput(os.Stdout)
		fs.PrintDefaults()
		return
	case err != nil || fs.NArg() > 0:
		fmt.Fprint(os.Stderr, "group: it takes -stream and -group\n"+usage)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := consume(ctx, *name, *group); err != nil {
		fmt.Fprintln(os.Stderr, "group:", err)
		os.Exit(1)
	}
}

func consume(ctx context.Context, name, group string) (err error) {
	uri := cmp.Or(os.Getenv("RABBITMQ_STREAM_URL"), stream.DefaultURI)
	env, err := stream.Connect(ctx, stream.Config{URIs: []string{uri}, OnState: tell})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, env.Close()) }()
	consumer, err := env.NewConsumer(name, stream.ConsumerConfig{Name: group, SingleActive: true})
	if err != nil {
		return err
	}
	return consumer.Run(ctx, func(_ context.Context, d *stream.Delivery) error {
		_, err := fmt.Printf("%s\n", d.Body)
		return err
	})
}

// tell prints what concerns the group.
func tell(c stream.StateChange) {
	switch c.State {
	case stream.StateActive, stream.StateWaiting:
		fmt.Fprintln(os.Stderr, c.State)
	case stream.StateOverlap: // some messages may be handled twice
		fmt.Fprintln(os.Stderr, c.State, c.Err)
	}
}
