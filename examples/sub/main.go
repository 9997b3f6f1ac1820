// Command sub prints the messages of a RabbitMQ stream and remembers, on the
// broker, which one it has handled: the next run goes on at the one after it.
//
//	go run ./examples/sub -stream stream_queue -name go
//
// Each message is one line on stdout: its offset, a tab and its body, in which
// line breaks are shown as \n and \r. Everything else goes to stderr. sub
// writes the line before the message counts as handled, and stores the offset
// before it handles the next message, so that a crash repeats one message at
// most.
//
// SIGINT, SIGTERM, -max and a reader that closes the pipe end sub in order. Exit
// codes: 0 ended in order, 1 failed, 2 wrong usage.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/tidemark-go/tidemark/internal/pipe"
	"github.com/tidemark-go/tidemark/stream"
)

// Exit codes of the built program. "go run" makes 1 of 2.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	// A closed pipe is an error of the write, not the end of the process.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	ctx = pipe.WhileRead(ctx, os.Stdout)
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is main without the process. It returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parse(args, stdout)
	switch {
	case errors.Is(err, errHelp):
		return exitOK
	case err != nil:
		fmt.Fprintf(stderr, "sub: %v\nUsage: sub [flags]; sub -h lists them\n", err)
		return exitUsage
	}
	err = consume(ctx, o, stdout, stderr)
	switch {
	case inOrder(ctx, err):
		return exitOK
	case errors.Is(err, stream.ErrInvalidConfig):
		fmt.Fprintf(stderr, "sub: %v\n", err)
		return exitUsage
	}
	fmt.Fprintf(stderr, "sub: %s\n", explain(err, o))
	return exitFailed
}

// consume prints messages until ctx ends, o.max of them are printed, or
// something fails.
func consume(ctx context.Context, o options, stdout, stderr io.Writer) error {
	env, err := stream.Connect(ctx, stream.Config{
		URIs:   o.uris,
		Logger: slog.New(slog.NewTextHandler(stderr, nil)), // connections lost and won back
	})
	if err != nil {
		return err
	}
	consumer, err := env.NewConsumer(o.stream, stream.ConsumerConfig{Name: o.name, Start: o.start, Store: o.store})
	if err != nil {
		return errors.Join(err, env.Close())
	}
	ctx, enough := context.WithCancel(ctx)
	defer enough()
	var printed, last uint64
	err = consumer.Run(ctx, func(ctx context.Context, d *stream.Delivery) error {
		if o.hold >= 0 && d.Offset == uint64(o.hold) {
			fmt.Fprintf(stderr, "sub: holding the message at offset %d until sub ends\n", d.Offset)
			<-ctx.Done()
			return ctx.Err() // not handled
		}
		if err := printLine(stdout, d); err != nil {
			return err // not handled: the next run starts with it
		}
		last = d.Offset
		if printed++; printed == o.max {
			enough()
		}
		return nil // handled: from here on its offset is stored
	})
	if printed > 0 {
		fmt.Fprintf(stderr, "sub: printed %d messages, the last one at offset %d\n", printed, last)
	}
	return errors.Join(err, env.Close())
}

var lineBreaks = strings.NewReplacer("\n", `\n`, "\r", `\r`)

// printLine writes OFFSET<TAB>BODY in one unbuffered write.
func printLine(w io.Writer, d *stream.Delivery) error {
	_, err := fmt.Fprintf(w, "%d\t%s\n", d.Offset, lineBreaks.Replace(string(d.Body)))
	return err
}

// inOrder reports whether a run ended because the user wanted it to: it was
// stopped, at the latest while it connected, or the reader of a pipe, such as
// head, has closed it because it has read enough.
func inOrder(ctx context.Context, err error) bool {
	var failed *stream.HandlerError
	return err == nil || ctx.Err() != nil && errors.Is(err, ctx.Err()) ||
		errors.As(err, &failed) && errors.Is(failed, syscall.EPIPE) && !errors.Is(err, stream.ErrNotStored)
}

const startBroker = `go run ./tools/rabbitmq up && eval "$(go run ./tools/rabbitmq env)"`

// explain turns the errors that a newcomer meets into a sentence with the
// remedy.
func explain(err error, o options) string {
	switch {
	case errors.Is(err, stream.ErrNotStored):
		return fmt.Sprintf("the next run repeats messages: %v", err)
	case errors.Is(err, stream.ErrUnreachable):
		return fmt.Sprintf("no RabbitMQ to reach, start one with: %s (%v)", startBroker, err)
	case errors.Is(err, stream.ErrStreamNotFound):
		return fmt.Sprintf("there is no stream %q: create it and publish to it with: go run ./examples/pub -stream %s", o.stream, o.stream)
	}
	return err.Error()
}
