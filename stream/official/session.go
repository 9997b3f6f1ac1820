package official

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/rabbitmq/rabbitmq-stream-go-client/pkg/amqp"
	client "github.com/rabbitmq/rabbitmq-stream-go-client/pkg/stream"

	"github.com/tidemark-go/tidemark/internal/mark"
	"github.com/tidemark-go/tidemark/internal/wire"
	"github.com/tidemark-go/tidemark/stream"
)

// session is one consumer of the official client. That client calls hand on a
// goroutine of its own; whoever reads the stream takes what hand passes on.
type session struct {
	gate       *gate
	consumer   *client.Consumer
	deliveries chan delivery
	closed     client.ChannelClose // gets the reason when the consumer has ended
	left       chan struct{}       // closed when nobody takes deliveries any more
	leave      sync.Once
}

// delivery is a message, and which chunk it came in: two of one chunk have equal
// ones.
type delivery struct {
	offset  uint64
	message *amqp.Message
	chunk   client.ConsumerContext
}

const (
	// handedOver is how many messages wait between the official client's
	// goroutine and the one that called Run.
	handedOver = 256
	// unnamed is the name under which a consumer without one subscribes. The
	// broker shows it, and stores nothing under it. The official client asks
	// nothing for a consumer without a name, and open has to ask.
	unnamed = "tidemark-official"
)

// subscribe makes a consumer. ctx bounds that and no more.
func (g *gate) subscribe(ctx context.Context, streamName, name string, from wire.OffsetSpec) (*session, error) {
	s := &session{gate: g, deliveries: make(chan delivery, handedOver), left: make(chan struct{})}
	if name == "" {
		name = unnamed
	}
	options := client.NewConsumerOptions(). // used once: the official client writes to them
						SetConsumerName(name).
						SetManualCommit().
						SetOffset(specification(from))
	_, err := ask(ctx, g, g.opens, func() (*session, error) { return s, s.open(streamName, options) },
		func(s *session) { s.abandon(); _ = s.consumer.Close() })
	if err != nil {
		s.abandon()
		return nil, translate(err)
	}
	return s, nil
}

// open makes the consumer and makes sure that its end is noticed. The official
// client reports it only to who has asked for that before, and that is possible
// only once the consumer is there. So open asks the broker something over the
// consumer's connection after that.
func (s *session) open(streamName string, options *client.ConsumerOptions) error {
	c, err := s.gate.env.NewConsumer(streamName, s.hand, options)
	if err != nil {
		return err
	}
	s.consumer, s.closed = c, c.NotifyClose()
	if _, err := c.QueryOffset(); err != nil && !errors.Is(err, client.OffsetNotFoundError) {
		_ = c.Close()
		return fmt.Errorf("%w: the connection was lost while the consumer subscribed (%w)", stream.ErrUnreachable, err)
	}
	return nil
}

// hand passes a message on. The official client's offset is that of this message
// while hand runs: it moves on before the handler is called.
func (s *session) hand(chunk client.ConsumerContext, m *amqp.Message) {
	select {
	case s.deliveries <- delivery{uint64(chunk.Consumer.GetOffset()), m, chunk}:
	case <-s.left:
	}
}

// abandon lets the official client's goroutine run through its chunk.
func (s *session) abandon() { s.leave.Do(func() { close(s.left) }) }

// end closes the consumer, for which it waits under ctx.
func (s *session) end(ctx context.Context) {
	s.abandon()
	_ = s.gate.shut(ctx, s.consumer.Close)
}

// specification says in the official client's terms where to begin.
func specification(from wire.OffsetSpec) client.OffsetSpecification {
	var o client.OffsetSpecification
	switch from.Type {
	case wire.OffsetLast:
		return o.Last()
	case wire.OffsetNext:
		return o.Next()
	case wire.OffsetAt:
		return o.Offset(int64(from.Value))
	case wire.OffsetTimestamp:
		return o.Timestamp(int64(from.Value))
	}
	return o.First()
}

const (
	// peekTime is how long a peek waits for the first message. The broker sends
	// what is there at once.
	peekTime = time.Second
	// chunkPause tells that a chunk has ended. Its messages are in memory, and
	// are handed over one right after the other.
	chunkPause = 100 * time.Millisecond
)

// peeked are messages of the first chunk that a subscription gets.
type peeked struct {
	any         bool
	first, last uint64
}

// peek returns the first message from a place on. With whole it returns where
// the chunk ends, too: never behind its end, and before it only if the official
// client pauses in the middle of it.
func (g *gate) peek(ctx context.Context, streamName string, from mark.Position, whole bool) (peeked, error) {
	s, err := g.subscribe(ctx, streamName, "", from.Spec)
	if err != nil {
		return peeked{}, err
	}
	defer s.end(ctx)
	var p peeked
	var chunk client.ConsumerContext
	for wait := peekTime; ; wait = chunkPause {
		select {
		case d := <-s.deliveries:
			if !p.any {
				p.any, p.first, chunk = true, d.offset, d.chunk
			}
			if d.chunk != chunk {
				return p, nil
			}
			if p.last = d.offset; !whole {
				return p, nil
			}
		case e := <-s.closed:
			return p, g.lost(ctx, streamName, e)
		case <-time.After(wait):
			return p, nil
		case <-ctx.Done():
			return p, sleep(ctx, time.Hour)
		}
	}
}

// lost says why a consumer has ended. The official client gives the same reason
// for a stream that is deleted and for one whose leader moves, so lost asks.
func (g *gate) lost(ctx context.Context, streamName string, e client.Event) error {
	switch e.Reason {
	case client.UnSubscribe: // not by us: then nobody would ask
		return fmt.Errorf("%w: the official client's Environment", stream.ErrClosed)
	case client.MetaDataUpdate:
		if err := g.exists(ctx, streamName); errors.Is(err, stream.ErrStreamNotFound) {
			return fmt.Errorf("%w; its messages and stored offsets are gone: create it again and start a new run", stream.ErrStreamDeleted)
		}
		return fmt.Errorf("%w: the stream has moved to another node; run again", stream.ErrUnreachable)
	}
	return fmt.Errorf("%w: the connection is lost (the official client: %s); run again", stream.ErrUnreachable, e.Reason)
}
