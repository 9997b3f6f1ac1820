// Command sqlite adds up the numbers of a stream in a SQLite database, each
// exactly once, whatever is killed and when: it writes the offset in the
// transaction that adds the numbers.
//
//	go run . -stream numbers -db total.db
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/tidemark-go/tidemark/stream"
)

func main() {
	o, err := parse(os.Args[1:], os.Stdout)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return
	case err != nil:
		fmt.Fprintf(os.Stderr, "sqlite: %v\nUsage: sqlite [flags]; sqlite -h lists them\n", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o, report); err != nil {
		log.Fatal(err)
	}
}

// options are what the command line says.
type options struct {
	uris                   []string
	stream, consumer, file string
}

// parse reads the command line. Help goes to stdout. No default shows the URI,
// which may have a password in it.
func parse(args []string, stdout io.Writer) (o options, err error) {
	fs := flag.NewFlagSet("sqlite", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	uri := fs.String("uri", "", "the broker's `URI`, or those of several nodes separated by commas\n"+
		"(default $RABBITMQ_STREAM_URL, then port 5552 on localhost as guest)")
	fs.StringVar(&o.stream, "stream", "numbers", "`NAME` of the stream to read; each message is a decimal number")
	fs.StringVar(&o.consumer, "name", "ledger", "`NAME` under which the database keeps total and offset")
	fs.StringVar(&o.file, "db", "total.db", "`FILE` of the database; it is created if it does not exist")
	err = fs.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, "sqlite adds up the numbers of a stream in a SQLite database, each exactly once.\n\nUsage: sqlite [flags]\n\n")
		fs.SetOutput(stdout)
		fs.PrintDefaults()
		return o, err
	case err != nil:
		return o, err
	case fs.NArg() > 0: // not shown: it may be a URI with its password
		return o, errors.New("an argument without a flag: the broker goes with -uri, the stream with -stream")
	}
	o.uris = strings.Split(cmp.Or(*uri, os.Getenv("RABBITMQ_STREAM_URL"), stream.DefaultURI), ",")
	return o, nil
}

func report(numbers, sum int64) { fmt.Println(numbers, sum) }

// run adds up numbers until ctx ends, and reports the total after each batch.
func run(ctx context.Context, o options, report func(numbers, sum int64)) error {
	l, err := openLedger(ctx, o.file, o.consumer)
	if err != nil {
		return err
	}
	defer l.db.Close()
	env, err := stream.Connect(ctx, stream.Config{
		URIs:   o.uris,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)), // connections lost and won back
	})
	if err != nil {
		return err
	}
	defer env.Close()
	c, err := env.NewConsumer(o.stream, stream.ConsumerConfig{
		Name:        o.consumer,
		OffsetStore: l,
		Store:       stream.StorePolicy{Manual: true}, // the handler stores
		BatchSize:   100,
	})
	if err != nil {
		return err
	}
	return c.RunBatch(ctx, func(ctx context.Context, batch []stream.Delivery) error {
		if err := l.add(ctx, batch); err != nil {
			return err
		}
		numbers, sum, err := l.total(ctx)
		if err != nil {
			return err
		}
		report(numbers, sum)
		return nil
	})
}
