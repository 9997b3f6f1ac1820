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
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"

	"github.com/tidemark-go/tidemark/stream"
)

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

type options struct{ file, uri, stream, name string }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is main without the process. It returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parse(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitOK
	case err != nil:
		fmt.Fprintf(stderr, "fromfile: %v\n", err)
		return exitUsage
	}
	if err := publishFile(ctx, o, stdout, stderr); err != nil {
		fmt.Fprintf(stderr, "fromfile: %v\nrun it again: what is in the stream is skipped\n", err)
		return exitFailed
	}
	return exitOK
}

func parse(args []string, stderr io.Writer) (o options, err error) {
	fs := flag.NewFlagSet("fromfile", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.StringVar(&o.file, "file", "", "publish the lines of this `FILE`")
	fs.StringVar(&o.uri, "uri", os.Getenv("RABBITMQ_STREAM_URL"), "broker `URIs`, separated by commas (default $RABBITMQ_STREAM_URL, or the one on this machine)")
	fs.StringVar(&o.stream, "stream", "lines", "`NAME` of the stream; it is created if it does not exist")
	fs.StringVar(&o.name, "name", "fromfile", "`NAME` under which the broker keeps how far this file got; each file needs its own")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if o.file == "" || fs.NArg() > 0 {
		return o, errors.New("want -file FILE, and no further arguments")
	}
	return o, nil
}

// publishFile publishes the file's lines that are not in the stream yet.
func publishFile(ctx context.Context, o options, stdout, stderr io.Writer) (err error) {
	file, err := os.Open(o.file)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }() // it was only read
	cfg := stream.Config{Logger: slog.New(slog.NewTextHandler(stderr, nil))}
	if o.uri != "" {
		cfg.URIs = []string{o.uri}
	}
	env, err := stream.Connect(ctx, cfg)
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
