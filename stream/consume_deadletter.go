package stream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/Azure/go-amqp"

	"github.com/tidemark-go/tidemark/internal/broker"
)

// The application properties that the consumer adds to a message for
// ErrorPolicy.DeadLetter. They replace properties of the same names, which a
// message has if it was a dead letter before. Every other section stays as it
// was, byte for byte. A message that is not AMQP 1.0 becomes the body of a new
// message.
const (
	DeadLetterReason    = "x-tidemark-reason"    // string: the handler's error, 4 KiB at most
	DeadLetterAttempts  = "x-tidemark-attempts"  // int64: how often the handler was called
	DeadLetterConsumer  = "x-tidemark-consumer"  // string: ConsumerConfig.Name
	DeadLetterStream    = "x-tidemark-stream"    // string: the stream it was read from
	DeadLetterOffset    = "x-tidemark-offset"    // int64: its offset in that stream
	DeadLetterTimestamp = "x-tidemark-timestamp" // timestamp: that of its chunk
)

// maxReason is how many bytes DeadLetterReason has at most. The text of an
// error may include a stack.
const maxReason = 4 << 10

// deadLetters publishes the messages of a run whose attempts have failed. It
// makes its producer for the first of them. It is safe for concurrent use.
type deadLetters struct {
	run *run

	mu       sync.Mutex // held while the producer is made
	producer *Producer
	closed   sync.WaitGroup // waits for the producer's end
}

// publish returns when the broker has confirmed the messages. While the stream
// is unreachable it waits, until ctx ends.
func (l *deadLetters) publish(ctx context.Context, h *HandlerError, failed []Delivery) error {
	p, err := l.connect(ctx)
	if err != nil {
		return err
	}
	msgs := make([]Message, len(failed))
	for i := range failed {
		raw, err := letter(&failed[i], h, l.run.consumer.cfg.Name)
		if err != nil {
			return err
		}
		msgs[i] = Message{raw: raw}
	}
	return p.Publish(ctx, msgs...)
}

// connect returns the producer and makes it if need be.
func (l *deadLetters) connect(ctx context.Context) (*Producer, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	to := l.run.consumer.cfg.OnError.DeadLetter
	for attempt := 1; l.producer == nil; attempt++ {
		p, err := l.newProducer(ctx)
		if err == nil {
			l.producer = p
			break
		}
		if isFatal(err) || ctx.Err() != nil {
			return nil, err
		}
		l.run.log("dead-letter stream not reached; trying again", "to", to, "error", err, "attempt", attempt)
		if err := sleep(ctx, l.run.backoff(attempt)); err != nil {
			return nil, err
		}
	}
	return l.producer, nil
}

// newProducer makes the producer. Unlike Env.NewProducer it does so after
// Env.Close too, for the handlers that are still at work. The run closes it.
func (l *deadLetters) newProducer(ctx context.Context) (*Producer, error) {
	cfg, err := ProducerConfig{}.withDefaults()
	if err != nil {
		return nil, err
	}
	env := l.run.consumer.env
	env.owned.Add(1)
	return env.startProducer(ctx, l.run.consumer.cfg.OnError.DeadLetter, cfg, func(*Producer) error { return nil })
}

// check returns an error if the dead-letter stream does not exist. A run calls
// it when it begins, so that the mistake does not show first at night.
func (l *deadLetters) check(ctx context.Context, lease *broker.Lease) error {
	to := l.run.consumer.cfg.OnError.DeadLetter
	if to == "" {
		return nil
	}
	if _, err := lease.Locate(ctx, to); errors.Is(err, ErrStreamNotFound) {
		return fmt.Errorf("dead-letter stream %q: %w", to, err)
	}
	return nil
}

// beginClosing ends the producer under ctx, while the run goes on with its own
// end. None of the producer's messages is in flight, because publish waits for
// the confirms, and no handler is at work.
func (l *deadLetters) beginClosing(ctx context.Context) {
	if l.producer != nil {
		l.closed.Go(func() { _ = l.producer.Close(ctx) })
	}
}

// closeProducer waits until the producer has ended.
func (l *deadLetters) closeProducer() {
	l.beginClosing(l.run.beginClosing()) // the first Close of a producer counts
	l.closed.Wait()
	l.run.endClosing()
}

// letter returns a failed message, in AMQP 1.0, with the reason and the origin
// in its application properties.
func letter(d *Delivery, h *HandlerError, consumer string) ([]byte, error) {
	props := map[string]any{}
	before, after, ok := splitAtProperties(d.Raw())
	if ok {
		m, err := d.decode()
		if ok = err == nil; ok {
			for k, v := range m.ApplicationProperties {
				props[k] = v
			}
		}
	}
	if !ok {
		before, after = nil, appendData(nil, d.Raw())
	}
	props[DeadLetterReason] = reason(h.Err)
	props[DeadLetterAttempts] = int64(h.Attempts)
	props[DeadLetterConsumer] = consumer
	props[DeadLetterStream] = d.Stream
	props[DeadLetterOffset] = int64(d.Offset)
	props[DeadLetterTimestamp] = d.Timestamp
	section, err := (&amqp.Message{ApplicationProperties: props}).MarshalBinary()
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrInvalidMessage, err)
	}
	return slices.Concat(before, section, after), nil
}

// splitAtProperties splits a message where its application properties belong,
// and leaves those out that it has. ok is false for a message that is not AMQP
// 1.0.
func splitAtProperties(raw []byte) (before, after []byte, ok bool) {
	for at := 0; at < len(raw); {
		code, size, _, ok := cutSection(raw[at:])
		if !ok {
			return nil, nil, false
		}
		end := at + 3 + size
		switch {
		case code == sectionApplicationProperties:
			return raw[:at], raw[end:], true
		case code > sectionApplicationProperties:
			return raw[:at], raw[at:], true
		}
		at = end
	}
	return raw, nil, len(raw) > 0
}

// reason returns an error as a property: valid UTF-8 of bounded length.
func reason(err error) string {
	text := err.Error()
	return strings.ToValidUTF8(text[:min(len(text), maxReason)], "")
}
