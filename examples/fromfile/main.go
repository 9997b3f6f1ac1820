// Command fromfile publishes the lines of a file to a RabbitMQ stream, each
// exactly once, however often it is killed and started again.
//
//	go run ./examples/fromfile -file orders.txt -stream orders -name orders.txt
//
// A line's number is its publishing id. The broker keeps the last id under the
// producer's name. A new run asks for it and skips the lines that are in the
// stream, and the broker drops a line that comes twice. The file may have grown
// meanwhile; its lines must not have changed.
//
// fromfile prints "from line N" on stdout once it is connected, and "published
// N, skipped M" at the end. Exit codes: 0 every line is in the stream, 1 failed
// or interrupted (run it again), 2 wrong usage.
package main

import (
	"bufio"
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
	"sync/atomic"
	"syscall"

	"github.com/tidemark-go/tidemark/stream"
)

// Exit codes of the built program. "go run" makes 1 of 2.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

type options struct {
	uris               []string
	file, stream, name string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is main without the process. It returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parse(args, stdout)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitOK
	case err != nil:
		fmt.Fprintf(stderr, "fromfile: %v\nUsage: fromfile -file FILE [flags]; fromfile -h lists them\n", err)
		return exitUsage
	}
	err = publishFile(ctx, o, stdout, stderr)
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, stream.ErrInvalidConfig):
		fmt.Fprintf(stderr, "fromfile: %v\n", err)
		return exitUsage
	}
	fmt.Fprintf(stderr, "fromfile: %s\n", explain(err))
	return exitFailed
}

const startBroker = `go run ./tools/rabbitmq up && eval "$(go run ./tools/rabbitmq env)"`

// explain adds the remedy to an error.
func explain(err error) string {
	switch {
	case errors.Is(err, errFile):
		return fmt.Sprintf("%v: give a file that can be read with -file", err)
	case errors.Is(err, stream.ErrUnreachable):
		return fmt.Sprintf("no RabbitMQ to reach, start one with: %s (%v)", startBroker, err)
	}
	return fmt.Sprintf("%v\nrun it again: what is in the stream is skipped", err)
}

// parse reads the command line. Help goes to stdout. No default shows the URI,
// which may have a password in it.
func parse(args []string, stdout io.Writer) (o options, err error) {
	fs := flag.NewFlagSet("fromfile", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.StringVar(&o.file, "file", "", "publish the lines of this `FILE`")
	uri := fs.String("uri", "", "the broker's `URI`, or those of several nodes separated by commas\n"+
		"(default $RABBITMQ_STREAM_URL, then port 5552 on localhost as guest)")
	fs.StringVar(&o.stream, "stream", "lines", "`NAME` of the stream; it is created if it does not exist")
	fs.StringVar(&o.name, "name", "fromfile", "`NAME` under which the broker keeps how far this file got; each file needs its own")
	err = fs.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, "fromfile publishes the lines of a file to a stream, each exactly once.\n\nUsage: fromfile -file FILE [flags]\n\n")
		fs.SetOutput(stdout)
		fs.PrintDefaults()
		return o, err
	case err != nil:
		return o, err
	case fs.NArg() > 0: // not shown: it may be a URI with its password
		return o, errors.New("an argument without a flag: the file goes with -file, the broker with -uri")
	case o.file == "":
		return o, errors.New("no -file: give the file whose lines to publish")
	}
	o.uris = strings.Split(cmp.Or(*uri, os.Getenv("RABBITMQ_STREAM_URL"), stream.DefaultURI), ",")
	return o, nil
}

// errFile marks errors of the file, as against those of the broker.
var errFile = errors.New("nothing was published")

// publishFile publishes the file's lines that are not in the stream yet.
func publishFile(ctx context.Context, o options, stdout, stderr io.Writer) (err error) {
	file, err := openFile(o.file)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }() // it was only read
	env, err := stream.Connect(ctx, stream.Config{
		URIs:   o.uris,
		Logger: slog.New(slog.NewTextHandler(stderr, nil)), // connections lost and won back
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, env.Close()) }()
	if err := env.DeclareStream(ctx, o.stream, stream.StreamConfig{}); err != nil {
		return err
	}
	producer, err := env.NewProducer(ctx, o.stream, stream.ProducerConfig{Name: o.name})
	if err != nil {
		return err
	}
	stored := producer.LastPublishingID()
	fmt.Fprintf(stdout, "from line %d\n", stored+1)
	lines, err := publishLines(ctx, producer, file, stored)
	if err = errors.Join(err, producer.Close(ctx)); err != nil { // nil: all are confirmed
		return err
	}
	skipped := min(lines, stored)
	_, err = fmt.Fprintf(stdout, "published %d, skipped %d\n", lines-skipped, skipped)
	return err
}

// openFile opens a file that has lines, which a directory has not.
func openFile(name string) (*os.File, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errFile, err)
	}
	info, err := file.Stat()
	if err == nil && info.IsDir() {
		err = fmt.Errorf("%s is a directory", name)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errFile, errors.Join(err, file.Close()))
	}
	return file, nil
}

// publishLines publishes the lines after the first stored ones and returns how
// many lines the file has. It ends at a message that the broker refuses.
func publishLines(ctx context.Context, producer *stream.Producer, file io.Reader, stored uint64) (n uint64, err error) {
	var refused atomic.Pointer[error]
	done := func(err error) {
		if err != nil {
			refused.CompareAndSwap(nil, &err)
		}
	}
	in := bufio.NewReaderSize(file, 1<<20)
	for {
		line, err := in.ReadBytes('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return n, err
		}
		last := err != nil
		if last && len(line) == 0 {
			break
		}
		if n++; n > stored {
			if len(line) > 0 && line[len(line)-1] == '\n' {
				line = line[:len(line)-1]
			}
			if err := producer.PublishAsync(ctx, stream.Message{Body: line, PublishingID: n}, done); err != nil {
				return n, fmt.Errorf("line %d: %w", n, err)
			}
		}
		if e := refused.Load(); e != nil || last {
			break
		}
	}
	if err := producer.Flush(ctx); err != nil {
		return n, err
	}
	if e := refused.Load(); e != nil {
		return n, *e
	}
	return n, nil
}
