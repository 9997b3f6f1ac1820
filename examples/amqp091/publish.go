package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// publish sends the numbers from o.from up to, not including, o.to through the
// default exchange, which routes to the queue named by the routing key, and
// waits until the broker has confirmed them.
func publish(ctx context.Context, o options, stdout io.Writer) (err error) {
	conn, ch, err := open(o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if err := ch.Confirm(false); err != nil {
		return fmt.Errorf("turn on confirms: %w", err)
	}
	var sent []*amqp.DeferredConfirmation
	for n := o.from; n < o.to; n++ {
		c, err := ch.PublishWithDeferredConfirmWithContext(ctx, "", o.stream, false, false, message(n, time.Now()))
		if err != nil {
			return fmt.Errorf("publish %d: %w", n, err)
		}
		sent = append(sent, c)
	}
	for i, c := range sent {
		ok, err := c.WaitContext(ctx)
		if err != nil || !ok {
			return fmt.Errorf("publish %d: not confirmed: %w", o.from+int64(i), errors.Join(err, ctx.Err()))
		}
	}
	_, err = fmt.Fprintf(stdout, "published %d\n", len(sent))
	return err
}

// message returns a number as text, with properties and headers. The broker
// keeps them: readers of the stream protocol get them as AMQP 1.0 properties,
// application properties and annotations.
func message(n int64, now time.Time) amqp.Publishing {
	text := strconv.FormatInt(n, 10)
	return amqp.Publishing{
		ContentType:   "text/plain",
		MessageId:     "id-" + text,
		CorrelationId: "correlation-" + text,
		Timestamp:     now,
		DeliveryMode:  amqp.Persistent,
		Headers:       amqp.Table{"source": "amqp091", "number": n},
		Body:          []byte(text),
	}
}
