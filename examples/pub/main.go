// Command pub publishes numbers to a RabbitMQ stream and returns when the
// broker has confirmed every one of them.
//
//	go run ./examples/pub -stream stream_queue -from 100 -to 300
//
// It creates the stream if it does not exist. While it works, it shows the
// progress on stderr if that is a terminal. At the end it prints one line on
// stdout, "published N", where N counts confirmed messages. Exit codes: 0 all
// published, 1 failed or interrupted, 2 wrong usage.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"github.com/tidemark-go/tidemark/stream"
)

// Exit codes of the built program. "go run" makes 1 of 2.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

// batchSize is how many messages pub sends before it waits for their confirms.
const batchSize = 1000

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is main without the process. It returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parse(args, stdout)
	switch {
	case errors.Is(err, errHelp):
		return exitOK
	case err != nil:
		fmt.Fprintf(stderr, "pub: %v\nUsage: pub [flags]; pub -h lists them\n", err)
		return exitUsage
	}
	confirmed, err := publish(ctx, o, stderr)
	if err == nil || confirmed > 0 {
		_, writeErr := fmt.Fprintf(stdout, "published %d\n", confirmed)
		err = errors.Join(err, writeErr)
	}
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, stream.ErrInvalidConfig):
		fmt.Fprintf(stderr, "pub: %v\n", err)
		return exitUsage
	}
	fmt.Fprintf(stderr, "pub: %s\n", explain(err))
	return exitFailed
}

// publish declares the stream, publishes the numbers from o.from up to, not
// including, o.to, and returns how many of them the broker has confirmed.
func publish(ctx context.Context, o options, stderr io.Writer) (confirmed int64, err error) {
	env, err := stream.Connect(ctx, stream.Config{
		URIs:   o.uris,
		Logger: slog.New(slog.NewTextHandler(stderr, nil)), // connections lost and won back
	})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, env.Close()) }()

	if err := env.DeclareStream(ctx, o.stream, stream.StreamConfig{}); err != nil {
		return 0, err
	}
	producer, err := env.NewProducer(ctx, o.stream, stream.ProducerConfig{})
	if err != nil {
		return 0, err
	}
	show, end := progress(stderr, o.to-o.from)
	defer end()
	for next := o.from; next < o.to; {
		batch := numbers(next, min(next+batchSize, o.to))
		if err := producer.Publish(ctx, batch...); err != nil { // nil: all confirmed
			return confirmed, err
		}
		next += int64(len(batch))
		confirmed += int64(len(batch))
		show(confirmed)
	}
	return confirmed, nil
}

// numbers returns the messages from, from+1, ... up to, not including, to.
func numbers(from, to int64) []stream.Message {
	var list []stream.Message
	for n := from; n < to; n++ {
		list = append(list, stream.Message{Body: strconv.AppendInt(nil, n, 10)})
	}
	return list
}

const startBroker = `go run ./tools/rabbitmq up && eval "$(go run ./tools/rabbitmq env)"`

// explain turns the errors that a newcomer meets into a sentence with the
// remedy.
func explain(err error) string {
	switch {
	case errors.Is(err, stream.ErrUnreachable):
		return fmt.Sprintf("no RabbitMQ to reach, start one with: %s (%v)", startBroker, err)
	case errors.Is(err, stream.ErrStreamMismatch):
		return fmt.Sprintf("%v; or give another one with -stream", err)
	case errors.Is(err, context.Canceled) && errors.Is(err, stream.ErrUnconfirmed):
		return fmt.Sprintf("interrupted, and the last messages may be in the stream or not: %v", err)
	case errors.Is(err, context.Canceled):
		return "interrupted before everything was published"
	}
	return err.Error()
}
