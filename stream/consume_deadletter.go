package stream

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"

	"github.com/Azure/go-amqp"

	"github.com/tidemark-go/tidemark/internal/broker"
)

// The application properties that the consumer adds to a message for
// ErrorPolicy.DeadLetter. They replace properties of the same names, which a
// message has if it was a dead letter before. Every other property and section
// stays as it came, byte for byte, whatever the handler did to the Delivery. A
// message that is not AMQP 1.0 becomes the body of a new message.
//
// If a message does not fit into a frame with all of them, the consumer shortens
// the reason. If that does not suffice, it leaves the reason out, and at last it
// publishes the message as it came, without these properties.
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

// deadLetters publishes the messages of a consumer's run whose attempts have
// failed. It makes its producer for the first of them. It is safe for concurrent
// use: the runs on a super stream's partitions share one.
type deadLetters struct {
	consumer *Consumer
	log      func(msg string, args ...any)

	making   turn       // held while the producer is made, by a run that has joined
	mu       sync.Mutex // guards runs and producer
	runs     int        // whose handlers may still fail
	producer *Producer
	closed   sync.WaitGroup // waits for the producer's end
}

func newDeadLetters(c *Consumer, log func(string, ...any)) *deadLetters {
	return &deadLetters{consumer: c, log: log, making: newTurn()}
}

// join counts a run that uses the letters until it calls leave.
func (l *deadLetters) join() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.runs++
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
		raw, err := letter(&failed[i], h, l.consumer.cfg.Name, p.largestMessage())
		if err != nil {
			return err
		}
		msgs[i] = messageOver(raw)
	}
	return p.Publish(ctx, msgs...)
}

// connect returns the producer and makes it if need be. Runs that join or leave do
// not wait for it.
func (l *deadLetters) connect(ctx context.Context) (*Producer, error) {
	if err := l.making.LockWithin(ctx); err != nil {
		return nil, err
	}
	defer l.making.Unlock()
	if p := l.made(); p != nil {
		return p, nil
	}
	to := l.consumer.cfg.OnError.DeadLetter
	for attempt := 1; ; attempt++ {
		p, err := l.newProducer(ctx)
		if err == nil {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.producer = p
			return p, nil
		}
		if isFatal(err) || ctx.Err() != nil {
			return nil, err
		}
		l.log("dead-letter stream not reached; trying again", "to", to, "error", err, "attempt", attempt)
		if err := sleep(ctx, l.consumer.env.cfg.Backoff.pause(attempt, rand.Float64)); err != nil {
			return nil, err
		}
	}
}

// made returns the producer, or nil if there is none yet.
func (l *deadLetters) made() *Producer {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.producer
}

// newProducer makes the producer. Unlike Env.NewProducer it does so after
// Env.Close too, for the handlers that are still at work. The run closes it.
func (l *deadLetters) newProducer(ctx context.Context) (*Producer, error) {
	cfg, err := ProducerConfig{}.withDefaults()
	if err != nil {
		return nil, err
	}
	env := l.consumer.env
	env.owned.Add(1)
	return env.startProducer(ctx, l.consumer.cfg.OnError.DeadLetter, cfg, func(*Producer) error { return nil })
}

// locator is a connection or a lease.
type locator interface {
	Locate(ctx context.Context, stream string) (broker.Location, error)
}

// check returns an error if the dead-letter stream does not exist. A run calls
// it when it begins, so that the mistake does not show first at night.
func (l *deadLetters) check(ctx context.Context, from locator) error {
	to := l.consumer.cfg.OnError.DeadLetter
	if to == "" {
		return nil
	}
	if _, err := from.Locate(ctx, to); errors.Is(err, ErrStreamNotFound) {
		return fmt.Errorf("dead-letter stream %q: %w", to, err)
	}
	return nil
}

// leave is called once by each run that has joined, when its last handler has
// returned. The last one ends the producer, as far as the time of ctx goes, while
// the run goes on with its own end. None of the producer's messages is in flight,
// because publish waits for the confirms.
func (l *deadLetters) leave(ctx context.Context) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.runs--; l.runs > 0 || l.producer == nil {
		return
	}
	producer := l.producer
	l.producer = nil
	end, _ := ctx.Deadline()
	l.closed.Go(func() {
		ctx, cancel := context.WithDeadline(context.Background(), end)
		defer cancel()
		_ = producer.Close(ctx)
	})
}

// letter returns a failed message with the reason and the origin in its
// application properties, in room bytes at most; 0 stands for any size. If they
// do not fit, it shortens the reason, leaves it out, and at last returns the
// message as it came, whatever its size.
func letter(d *Delivery, h *HandlerError, consumer string, room int) ([]byte, error) {
	text := reason(h.Err)
	origin := map[string]any{
		DeadLetterReason:    text,
		DeadLetterAttempts:  int64(h.Attempts),
		DeadLetterConsumer:  consumer,
		DeadLetterStream:    d.Stream,
		DeadLetterOffset:    int64(d.Offset),
		DeadLetterTimestamp: d.Timestamp,
	}
	raw := d.Raw()
	out, err := addProperties(raw, origin)
	if err != nil || room == 0 || len(out) <= room {
		return out, err
	}
	if excess := len(out) - room; excess < len(text) {
		origin[DeadLetterReason] = cutText(text, len(text)-excess)
	} else {
		delete(origin, DeadLetterReason)
	}
	if out, err = addProperties(raw, origin); err != nil || len(out) <= room {
		return out, err
	}
	return raw, nil
}

// addProperties returns a message with further application properties, which
// replace those of the same names. It copies what the message has byte for
// byte, whatever the values are. A message that is not AMQP 1.0, or whose
// properties are no map, becomes the body of a new one.
func addProperties(raw []byte, props map[string]any) ([]byte, error) {
	section, err := (&amqp.Message{ApplicationProperties: props}).MarshalBinary()
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrInvalidMessage, err)
	}
	pairs, count, ok := propertiesWithout(raw, props)
	if !ok {
		raw, pairs, count = appendData(nil, raw), nil, 0
	}
	added, items, _ := elements(section[sectionHead], section[sectionHead+5:])
	b := []byte{0, 0x53, sectionApplicationProperties}
	b = openCompound(b, 0xd1, count+int(added))
	b = closeCompound(append(append(b, pairs...), items...), sectionHead)
	return appendReplaced(nil, raw, [places][]byte{placeApplicationProperties: b}), nil
}

// propertiesWithout returns the encoded keys and values of a message's
// application properties, and how many they are, without those that have
// certain names. ok is false for a message that is not AMQP 1.0, or has
// something else in place of properties.
func propertiesWithout(raw []byte, names map[string]any) (pairs []byte, count int, ok bool) {
	if _, isAMQP := bodyOf(raw); !isAMQP {
		return nil, 0, false
	}
	for len(raw) > 0 {
		var s section
		s, raw, _ = cutSection(raw)
		if s.code != sectionApplicationProperties || s.value[0] == 0x40 {
			continue
		}
		items, isMap := mapItems(s.value)
		if !isMap {
			return nil, 0, false
		}
		for len(items) > 0 {
			key := sizeOfValue(items)
			if key < 0 {
				return nil, 0, false
			}
			value := sizeOfValue(items[key:])
			if value < 0 {
				return nil, 0, false
			}
			if !named(items[:key], names) {
				pairs, count = append(pairs, items[:key+value]...), count+2
			}
			items = items[key+value:]
		}
	}
	return pairs, count, true
}

// mapItems returns the encoded keys and values of a map.
func mapItems(value []byte) (items []byte, ok bool) {
	if value[0] != 0xc1 && value[0] != 0xd1 {
		return nil, false
	}
	_, head := valueSize(value)
	_, items, ok = elements(value[0], value[head:])
	return items, ok
}

// named reports whether an encoded key is one of certain names.
func named(key []byte, names map[string]any) bool {
	if !isBytes(key[0]) {
		return false
	}
	size, head := valueSize(key)
	_, found := names[string(key[head:size])]
	return found
}

// reason returns an error as a property: valid UTF-8 of bounded length.
func reason(err error) string { return cutText(err.Error(), maxReason) }

// cutText returns the first n bytes of a text, as far as they are UTF-8.
func cutText(text string, n int) string {
	return strings.ToValidUTF8(text[:min(len(text), n)], "")
}
