package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"

	amqp "github.com/rabbitmq/amqp091-go"
)

// prefetch is how many messages the broker may send before the first of them is
// acknowledged. A stream accepts no consumer without such a limit, and none
// that acknowledges automatically.
const prefetch = 50

// consume prints messages from o.offset on until ctx ends or o.max are printed.
// An acknowledgement asks for further messages. It stores no offset on the
// broker.
func consume(ctx context.Context, o options, stdout io.Writer) error {
	return receive(ctx, o, func(d *amqp.Delivery) error {
		offset, _ := d.Headers["x-stream-offset"].(int64)
		_, err := fmt.Fprintf(stdout, "%d\t%s\n", offset, lineBreaks.Replace(string(d.Body)))
		if errors.Is(err, syscall.EPIPE) {
			return errPipeClosed
		}
		return err
	})
}

var lineBreaks = strings.NewReplacer("\n", `\n`, "\r", `\r`)

// receive calls handle for each message and then acknowledges the message.
func receive(ctx context.Context, o options, handle func(*amqp.Delivery) error) (err error) {
	conn, ch, err := open(o)
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := conn.Close(); !errors.Is(closeErr, amqp.ErrClosed) {
			err = errors.Join(err, closeErr)
		}
	}()
	lost := ch.NotifyClose(make(chan *amqp.Error, 1))
	if err := ch.Qos(prefetch, 0, false); err != nil {
		return fmt.Errorf("set the prefetch: %w", err)
	}
	deliveries, err := ch.ConsumeWithContext(ctx, o.stream, "", false, false, false, false, amqp.Table{"x-stream-offset": o.offset})
	if err != nil {
		return fmt.Errorf("consume the stream %q from %v: %w", o.stream, o.offset, err)
	}
	var count uint64
	for d := range deliveries { // closed when ctx ends or the connection is lost
		if ctx.Err() != nil {
			return nil
		}
		if err := handle(&d); err != nil {
			return err
		}
		if err := d.Ack(false); err != nil {
			return fmt.Errorf("acknowledge: %w", err)
		}
		if count++; count == o.max {
			return nil
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	if reason := <-lost; reason != nil {
		return fmt.Errorf("connection lost: %w", reason)
	}
	return errors.New("the broker ended the delivery: was the stream deleted?")
}
