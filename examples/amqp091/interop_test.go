package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/tidemark-go/tidemark/internal/realtest"
	"github.com/tidemark-go/tidemark/stream"
)

const patience = time.Minute

// amqp091 runs the program in this process and returns what it printed.
func amqp091(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var stdout, stderr bytes.Buffer
	if code := run(ctx, args, &stdout, &stderr); code != exitOK || ctx.Err() != nil {
		t.Fatalf("%q: exit code %d, %v; stderr: %s", args, code, ctx.Err(), &stderr)
	}
	return stdout.String()
}

// read returns the next n deliveries from a stream's beginning.
func read(t *testing.T, env *stream.Env, name string, n int) (list []*stream.Delivery) {
	t.Helper()
	c, err := env.NewConsumer(name, stream.ConsumerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for d, err := range c.All(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		if list = append(list, d); len(list) == n {
			return list
		}
	}
	return nil
}

// TestPublishedByAMQP091: package stream reads what came in over AMQP 0.9.1,
// properties and headers included.
func TestPublishedByAMQP091(t *testing.T) {
	b := realtest.Broker(t)
	env := realtest.Env(t, b)
	name := realtest.StreamName(t, env)
	before := time.Now().Add(-time.Second) // the property has a resolution of seconds
	if out := amqp091(t, "publish", "-uri", b.AMQPURL(), "-stream", name); out != "published 100\n" {
		t.Fatalf("printed %q", out)
	}
	for i, d := range read(t, env, name, 100) {
		text := fmt.Sprint(500 + i)
		if string(d.Body) != text || d.Offset != uint64(i) {
			t.Fatalf("offset %d: %q; want offset %d: %q", d.Offset, d.Body, i, text)
		}
		p, err := d.Properties()
		if err != nil || p == nil {
			t.Fatalf("properties of %s: %v, %v", text, p, err)
		}
		if p.MessageID != "id-"+text || p.CorrelationID != "correlation-"+text || p.ContentType != "text/plain" {
			t.Errorf("properties of %s: %+v", text, p)
		}
		if p.CreationTime.Before(before) || p.CreationTime.After(time.Now()) {
			t.Errorf("creation time of %s: %v", text, p.CreationTime)
		}
		headers, err := d.ApplicationProperties()
		if want := map[string]any{"source": "amqp091", "number": int64(500 + i)}; err != nil || !maps.Equal(headers, want) {
			t.Errorf("application properties of %s: %v, %v; want %v", text, headers, err, want)
		}
		notes, err := d.Annotations()
		if err != nil || notes["x-routing-key"] != name || notes["x-exchange"] != "" {
			t.Errorf("annotations of %s: %v, %v", text, notes, err)
		}
		if h, err := d.Header(); err != nil || h == nil || !h.Durable {
			t.Errorf("header of %s: %+v, %v; want durable", text, h, err)
		}
	}
}

// TestPublishedByStream: AMQP 0.9.1 reads what package stream published.
func TestPublishedByStream(t *testing.T) {
	b := realtest.Broker(t)
	env := realtest.Env(t, b)
	name := realtest.StreamName(t, env)
	created := time.Now().Truncate(time.Second)
	publishWithStream(t, env, name, created)

	o := options{uri: b.AMQPURL(), stream: name, offset: "first", max: 100}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	i := 0
	err := receive(ctx, o, func(d *amqp.Delivery) error {
		text := fmt.Sprint(i)
		if string(d.Body) != text || d.Headers["x-stream-offset"] != int64(i) {
			return fmt.Errorf("%q with headers %v; want %q", d.Body, d.Headers, text)
		}
		if d.MessageId != "id-"+text || d.CorrelationId != "c-"+text || d.ContentType != "text/plain" || !d.Timestamp.Equal(created) {
			t.Errorf("properties of %s: %q, %q, %q, %v", text, d.MessageId, d.CorrelationId, d.ContentType, d.Timestamp)
		}
		if d.Headers["source"] != "stream" || d.Headers["number"] != int64(i) || d.Headers["x-note"] != "kept" {
			t.Errorf("headers of %s: %v", text, d.Headers)
		}
		i++
		return nil
	})
	if err = errors.Join(err, ctx.Err()); err != nil || i != 100 {
		t.Fatalf("read %d: %v", i, err)
	}
}

func publishWithStream(t *testing.T, env *stream.Env, name string, created time.Time) {
	t.Helper()
	if err := env.DeclareStream(t.Context(), name, stream.StreamConfig{}); err != nil {
		t.Fatal(err)
	}
	p, err := env.NewProducer(t.Context(), name, stream.ProducerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	var msgs []stream.Message
	for i := range 100 {
		text := fmt.Sprint(i)
		msgs = append(msgs, stream.Message{
			Body:                  []byte(text),
			Properties:            &stream.Properties{MessageID: "id-" + text, CorrelationID: "c-" + text, ContentType: "text/plain", CreationTime: created},
			ApplicationProperties: map[string]any{"source": "stream", "number": int64(i)},
			Annotations:           map[string]any{"x-note": "kept"},
		})
	}
	if err := errors.Join(p.Publish(t.Context(), msgs...), p.Close(t.Context())); err != nil {
		t.Fatal(err)
	}
}

// TestOffsets: each kind of x-stream-offset starts where it should.
func TestOffsets(t *testing.T) {
	b := realtest.Broker(t)
	env := realtest.Env(t, b)
	name := realtest.StreamName(t, env)
	amqp091(t, "publish", "-uri", b.AMQPURL(), "-stream", name)
	for offset, want := range map[string]string{
		"first": "0\t500\n", "42": "42\t542\n", "1h": "0\t500\n",
		time.Now().Add(-time.Hour).Format(time.RFC3339): "0\t500\n",
	} {
		if got := amqp091(t, "consume", "-uri", b.AMQPURL(), "-stream", name, "-offset", offset, "-max", "1"); got != want {
			t.Errorf("-offset %s: printed %q, want %q", offset, got, want)
		}
	}
	if got := amqp091(t, "consume", "-uri", b.AMQPURL(), "-stream", name, "-offset", "last", "-max", "1"); strings.Count(got, "\n") != 1 {
		t.Errorf("-offset last: printed %q", got)
	}
	// More messages than the prefetch: acknowledgements bring the rest.
	if got := amqp091(t, "consume", "-uri", b.AMQPURL(), "-stream", name, "-max", "100"); strings.Count(got, "\n") != 100 {
		t.Errorf("printed %q", got)
	}
}

// TestOffsetNext: next prints nothing of what was there before it began.
func TestOffsetNext(t *testing.T) {
	b := realtest.Broker(t)
	name := realtest.StreamName(t, realtest.Env(t, b))
	amqp091(t, "publish", "-uri", b.AMQPURL(), "-stream", name)
	printed := make(chan string, 1)
	go func() {
		var stdout bytes.Buffer
		run(t.Context(), []string{"consume", "-uri", b.AMQPURL(), "-stream", name, "-offset", "next", "-max", "1"}, &stdout, &stdout)
		printed <- stdout.String()
	}()
	for { // until one comes after it has begun
		amqp091(t, "publish", "-uri", b.AMQPURL(), "-stream", name, "-from", "600", "-to", "601")
		select {
		case got := <-printed:
			if !strings.HasSuffix(got, "\t600\n") {
				t.Errorf("printed %q", got)
			}
			return
		default:
		}
	}
}
