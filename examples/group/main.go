// Command group reads a RabbitMQ stream as a member of a group: start it twice,
// and one process prints the messages while the other waits. End the first one, in
// whatever way, and the other goes on where it has stopped.
//
//	go run ./examples/group -stream stream_queue
//
// It prints a line "active" or "waiting" on stderr when that changes, and each
// message on stdout.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/tidemark-go/tidemark/stream"
)

func main() {
	name := flag.String("stream", "stream_queue", "the stream to read")
	group := flag.String("group", "readers", "the name of the group")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := consume(ctx, *name, *group); err != nil {
		fmt.Fprintln(os.Stderr, "group:", err)
		os.Exit(1)
	}
}

func consume(ctx context.Context, name, group string) error {
	env, err := stream.Connect(ctx, stream.Config{URIs: []string{os.Getenv("RABBITMQ_STREAM_URL")}, OnState: tell})
	if err != nil {
		return err
	}
	defer env.Close()
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
