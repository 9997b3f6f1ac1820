// Command official publishes and reads numbers with the official Go client, and
// keeps the reader's place with package official:
//
//	go run ./examples/official pub
//	go run ./examples/official sub -name go -max 3
//
// pub creates the stream if it does not exist, and prints "published 200" once
// the broker has confirmed the numbers from 100 to 299. sub prints OFFSET<TAB>BODY
// for each message and stores its offset: the next run goes on at the one after
// it. SIGINT, SIGTERM, -max and a reader that closes the pipe end sub in order.
// Exit codes: 0 done, 1 failed, 2 wrong usage.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/signal"
	"syscall"

	client "github.com/rabbitmq/rabbitmq-stream-go-client/pkg/stream"

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
		fmt.Fprintf(stderr, "official: %v\nUsage: official pub|sub [flags]; official -h lists them\n", err)
		return exitUsage
	}
	if err := withEnvironment(o, func(env *client.Environment) error { return o.verb(ctx, env, o, stdout) }); err != nil {
		fmt.Fprintf(stderr, "official: %v\n", err)
		return exitFailed
	}
	return exitOK
}

// withEnvironment calls do with an Environment, which it closes. The socket
// buffers are those of the operating system: the official client's own stall.
func withEnvironment(o options, do func(*client.Environment) error) error {
	env, err := client.NewEnvironment(client.NewEnvironmentOptions().SetUri(o.uri).SetReadBuffer(-1).SetWriteBuffer(-1))
	if env != nil { // even with an error
		defer env.Close()
	}
	if err != nil {
		return fmt.Errorf("connect to RabbitMQ; to start one: go run ./tools/rabbitmq up && eval \"$(go run ./tools/rabbitmq env)\": %w", err)
	}
	return do(env)
}

type verb func(context.Context, *client.Environment, options, io.Writer) error

// options are what the command line says.
type options struct {
	verb   verb
	uri    string
	stream string
	name   string
	max    uint64 // 0: no limit
}

// parse reads the command line. Help goes to stdout. No message shows the URI,
// which may have a password in it.
func parse(args []string, stdout io.Writer) (o options, err error) {
	fs := flag.NewFlagSet("official", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.StringVar(&o.uri, "uri", "", "the broker's `URI`\n(default $RABBITMQ_STREAM_URL, then port 5552 on localhost as guest)")
	fs.StringVar(&o.stream, "stream", "stream_queue", "`NAME` of the stream")
	fs.StringVar(&o.name, "name", "go", "`NAME` under which the broker keeps the offset of sub")
	fs.Uint64Var(&o.max, "max", 0, "sub ends after `N` messages (default no limit)")
	if len(args) > 0 {
		if o.verb = map[string]verb{"pub": pub, "sub": sub}[args[0]]; o.verb != nil {
			args = args[1:]
		}
	}
	switch err := fs.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, "official publishes and reads numbers with the official Go client.\n\nUsage: official pub|sub [flags]\n\n")
		fs.SetOutput(stdout)
		fs.PrintDefaults()
		return o, err
	case err != nil:
		return o, err
	case o.verb == nil:
		return o, errors.New("the first argument must be pub or sub")
	case fs.NArg() > 0: // not shown: it may be a URI with its password
		return o, errors.New("an argument without a flag: the broker goes with -uri, the stream with -stream")
	case o.name == "":
		return o, errors.New("-name is empty: give the name under which the broker is to keep the offset")
	}
	o.uri = cmp.Or(o.uri, os.Getenv("RABBITMQ_STREAM_URL"), stream.DefaultURI)
	if _, err := url.Parse(o.uri); err != nil {
		return o, errors.New("the URI cannot be read: percent-encode special characters (@ as %40, / as %2F)")
	}
	return o, nil
}
