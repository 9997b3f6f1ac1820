// Command sqlite adds up the numbers of a stream in a SQLite database, each
// exactly once, whatever is killed and when: it writes the offset in the
// transaction that adds the numbers.
//
//	go run . -uri rabbitmq-stream://localhost:5552 -stream numbers -db total.db
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"

	"github.com/tidemark-go/tidemark/stream"
)

func main() {
	uri := flag.String("uri", stream.DefaultURI, "broker `URIs`, separated by commas")
	name := flag.String("stream", "numbers", "`NAME` of the stream to read; each message is a decimal number")
	consumer := flag.String("name", "ledger", "`NAME` under which the database keeps total and offset")
	file := flag.String("db", "total.db", "`FILE` of the database; it is created if it does not exist")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *uri, *name, *consumer, *file, report); err != nil {
		log.Fatal(err)
	}
}

func report(numbers, sum int64) { fmt.Println(numbers, sum) }

// run adds up numbers until ctx ends, and reports the total after each batch.
func run(ctx context.Context, uri, streamName, consumer, file string, report func(numbers, sum int64)) error {
	l, err := openLedger(ctx, file, consumer)
	if err != nil {
		return err
	}
	defer l.db.Close()
	env, err := stream.Connect(ctx, stream.Config{URIs: []string{uri}})
	if err != nil {
		return err
	}
	defer env.Close()
	c, err := env.NewConsumer(streamName, stream.ConsumerConfig{
		Name:        consumer,
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
