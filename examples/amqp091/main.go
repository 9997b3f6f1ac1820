// Command amqp091 uses a stream like a queue, over AMQP 0.9.1 and with the
// client github.com/rabbitmq/amqp091-go alone:
//
//	go run ./examples/amqp091 publish -stream stream_queue -from 500 -to 600
//	go run ./examples/amqp091 consume -stream stream_queue -offset 290
//
// Both declare the stream as a durable queue. publish ends with the line
// "published N" on stdout, where N counts confirmed messages. consume prints
// OFFSET<TAB>BODY for each message until SIGINT, SIGTERM, -max or a reader that
// closes the pipe ends it. Exit codes: 0 done, 1 failed, 2 wrong usage.
//
// Over AMQP 0.9.1 the broker remembers no offset: each run starts where -offset
// says. Package stream remembers it, and also connects again by itself.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/tidemark-go/tidemark/internal/pipe"
)

// Exit codes of the built program. "go run" makes 1 of 2.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

const (
	dialTimeout = 5 * time.Second
	startBroker = `go run ./tools/rabbitmq up && eval "$(go run ./tools/rabbitmq env)"`
)

// errPipeClosed says that whoever reads our stdout, such as head, has read
// enough. That is an end in order.
var errPipeClosed = errors.New("stdout is closed")

func main() {
	signal.Ignore(syscall.SIGPIPE) // a closed pipe is an error of the write
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	ctx = pipe.WhileRead(ctx, os.Stdout)
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is main without the process. It returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parse(args, stdout)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitOK
	case err != nil:
		fmt.Fprintf(stderr, "amqp091: %v\nUsage: amqp091 publish|consume [flags]; amqp091 -h lists them\n", err)
		return exitUsage
	}
	if err := o.verb(ctx, o, stdout); err != nil && !errors.Is(err, errPipeClosed) {
		fmt.Fprintf(stderr, "amqp091: %v\n", err)
		return exitFailed
	}
	return exitOK
}

// open connects and declares the stream as AMQP 0.9.1 does: as a durable queue
// of the type stream. The end of the connection closes the channel too.
func open(o options) (*amqp.Connection, *amqp.Channel, error) {
	conn, err := amqp.DialConfig(o.uri, amqp.Config{Dial: amqp.DefaultDial(dialTimeout)})
	if err != nil {
		if unreachable := (*net.OpError)(nil); errors.As(err, &unreachable) {
			err = fmt.Errorf("no RabbitMQ to reach, start one with: %s (%w)", startBroker, err)
		}
		return nil, nil, fmt.Errorf("connect: %w", err)
	}
	ch, err := conn.Channel()
	if err == nil {
		_, err = ch.QueueDeclare(o.stream, true, false, false, false, amqp.Table{"x-queue-type": "stream"})
	}
	if err != nil {
		conn.Close()
		if refused := (*amqp.Error)(nil); errors.As(err, &refused) && refused.Code == amqp.PreconditionFailed {
			err = fmt.Errorf("it exists with other arguments; delete it first, or give another one with -stream (%w)", err)
		}
		return nil, nil, fmt.Errorf("declare the stream %q: %w", o.stream, err)
	}
	return conn, ch, nil
}
