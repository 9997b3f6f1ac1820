package official

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/rabbitmq/rabbitmq-stream-go-client/pkg/message"
	client "github.com/rabbitmq/rabbitmq-stream-go-client/pkg/stream"

	"github.com/tidemark-go/tidemark/internal/broker"
	"github.com/tidemark-go/tidemark/internal/startspec"
	"github.com/tidemark-go/tidemark/stream"
)

// Producer publishes with a producer of the official client, which it owns. Make
// one with [NewProducer] and end it with Close. Its methods may be called from
// several goroutines.
type Producer struct {
	gate         *gate
	stream, name string
	subEntries   bool
	filterValue  client.FilterValue // nil: without a filter

	producer *client.Producer
	sending  turn          // held while the messages of one Publish are handed over
	room     chan struct{} // has an item for each message without outcome
	queue    chan *sent    // has room for all of them
	stop     chan struct{} // closed when the sender has to end
	lost     chan struct{} // closed when the official producer has ended

	// sending guards these: the highest publishing id that the producer or the
	// broker has had, and the producer's newest one, -1 for none. The second is
	// lower where the caller's ids repeat what the broker has already.
	lastID uint64
	newest int64

	mu      sync.Mutex
	open    int // messages without outcome
	idle    chan struct{}
	closing chan struct{} // nil before Close; closed when the first Close has ended
	reason  error         // why the official producer has ended
	ended   error         // what Close returns
}

const (
	// maxInFlight bounds the messages without outcome. The official client's
	// own limit lies above it, because there a wake-up can be missed.
	maxInFlight = 10_000
	queueSize   = 2 * maxInFlight
	// never is for the official client's time-out of confirms: who publishes
	// decides how long to wait.
	never = 24 * time.Hour
)

// NewProducer makes a producer for a stream, and blocks until the broker has
// answered or ctx ends. env stays the caller's.
//
// options are the official client's, such as a name, sub-entries, compression or
// a filter; nil stands for its defaults. NewProducer works on a copy. It sets
// QueueSize and ConfirmationTimeOut itself: 10,000 messages are in flight at
// most, and how long a confirm is waited for is the context's to say.
//
// A producer's name is one process's. The broker drops what two producers of one
// name publish at the same time, and confirms it.
//
// Errors wrap [stream.ErrInvalidConfig], [stream.ErrStreamNotFound],
// [stream.ErrStreamUnavailable], [stream.ErrAccessRefused],
// [stream.ErrUnreachable] or [stream.ErrClosed], or are the context's.
// errors.Is matches the official client's own error as well.
func NewProducer(ctx context.Context, env *client.Environment, streamName string, options *client.ProducerOptions) (*Producer, error) {
	o := copyOptions(options)
	p, err := newProducer(ctx, env, streamName, o)
	return p, opErr("new producer on stream", streamName, o.Name, err)
}

func newProducer(ctx context.Context, env *client.Environment, streamName string, o client.ProducerOptions) (*Producer, error) {
	if err := errors.Join(checkEnv(env), checkOptions(streamName, o)); err != nil {
		return nil, err
	}
	g := enter(env)
	p := &Producer{
		gate: g, stream: streamName, name: o.Name, subEntries: o.SubEntrySize > 1, newest: -1,
		sending: newTurn(), room: make(chan struct{}, maxInFlight), queue: make(chan *sent, maxInFlight),
		stop: make(chan struct{}), lost: make(chan struct{}), idle: make(chan struct{}),
	}
	if o.Filter != nil {
		p.filterValue = o.Filter.FilterValue
		o.Filter = client.NewProducerFilter(func(m message.StreamMessage) string { return m.(*sent).filter })
	}
	if err := p.connect(ctx, &o); err != nil {
		g.leave()
		return nil, translate(err)
	}
	return p, nil
}

// copyOptions returns a copy with the defaults filled in.
func copyOptions(options *client.ProducerOptions) client.ProducerOptions {
	o := *client.NewProducerOptions()
	o.QueueSize, o.ConfirmationTimeOut = queueSize, never
	if options == nil {
		return o
	}
	o.Name, o.Compression, o.Filter = options.Name, options.Compression, options.Filter
	o.BatchSize = cmp.Or(options.BatchSize, o.BatchSize)
	o.SubEntrySize = cmp.Or(options.SubEntrySize, o.SubEntrySize)
	o.ClientProvidedName = cmp.Or(options.ClientProvidedName, o.ClientProvidedName)
	return o
}

// checkOptions rejects what the official client would refuse after it has made a
// connection, which it then leaves open.
func checkOptions(streamName string, o client.ProducerOptions) error {
	err := startspec.CheckConsumer(streamName, "", stream.Start{}, stream.StorePolicy{})
	const maxName = 255
	switch {
	case err != nil:
		return err
	case len(o.Name) > maxName:
		return fmt.Errorf("%w: the producer's name %.20q... has %d bytes; the broker allows %d", stream.ErrInvalidConfig, o.Name, len(o.Name), maxName)
	case o.BatchSize < 1 || o.BatchSize > 10_000:
		return fmt.Errorf("%w: BatchSize is %d; it must be from 1 to 10,000, or 0 for the default", stream.ErrInvalidConfig, o.BatchSize)
	case o.SubEntrySize < 1 || o.SubEntrySize > 65_535:
		return fmt.Errorf("%w: SubEntrySize is %d; it must be from 1 to 65,535, or 0 for none", stream.ErrInvalidConfig, o.SubEntrySize)
	case o.SubEntrySize > 1 && o.Filter != nil:
		return fmt.Errorf("%w: SubEntrySize goes without Filter", stream.ErrInvalidConfig)
	case o.SubEntrySize == 1 && o.Compression != (client.Compression{}) && o.Compression != client.Compression{}.None():
		return fmt.Errorf("%w: Compression needs a SubEntrySize of 2 or more", stream.ErrInvalidConfig)
	}
	return nil
}

// connect makes the official producer and the goroutines around it.
func (p *Producer) connect(ctx context.Context, o *client.ProducerOptions) error {
	ctx, cancel := within(ctx, openTimeout)
	defer cancel()
	// A producer that is refused leaves its connection open. So a stream that is
	// missing is noticed before.
	if err := p.gate.exists(ctx, p.stream); err != nil {
		return err
	}
	m, err := ask(ctx, p.gate, p.gate.opens, func() (made, error) { return p.make(o) }, func(m made) { _ = m.producer.Close() })
	if err != nil {
		return err
	}
	p.producer, p.lastID = m.producer, m.lastID
	go p.send()
	go p.drain(m.confirms)
	go p.watch(m.closed)
	return nil
}

// made is a new producer of the official client.
type made struct {
	producer *client.Producer
	confirms client.ChannelPublishConfirm
	closed   client.ChannelClose
	lastID   uint64
}

// make registers for confirms before anything is sent, as the official client
// needs it, and for the end before it asks the broker: a loss before that would
// never be reported.
func (p *Producer) make(o *client.ProducerOptions) (made, error) {
	producer, err := p.gate.env.NewProducer(p.stream, o)
	if err != nil {
		return made{}, err
	}
	m := made{producer: producer, confirms: producer.NotifyPublishConfirmation(), closed: producer.NotifyClose()}
	id, err := producer.GetLastPublishingId()
	if p.name == "" && errors.Is(err, client.CodeAccessRefused) {
		err = nil // it needs no read permission, and the connection has answered
	}
	if err != nil {
		_ = producer.Close()
		return made{}, err
	}
	m.lastID = uint64(max(id, 0))
	return m, nil
}

// send hands messages to the official client, in which it may get stuck while
// the broker does not read. It ends with the producer.
func (p *Producer) send() {
	var batch []*sent
	for {
		select {
		case <-p.stop:
			return
		case m := <-p.queue:
			batch = p.gather(append(batch[:0], m))
			p.sendBatch(batch)
		}
	}
}

const (
	// maxBatch and maxBatchBytes bound a batch. A frame has room for 1 MiB
	// unless somebody has configured less.
	maxBatch      = 1000
	maxBatchBytes = 512 << 10
)

// gather adds to a batch what waits.
func (p *Producer) gather(batch []*sent) []*sent {
	for size := len(batch[0].body); len(batch) < maxBatch && size < maxBatchBytes; {
		select {
		case m := <-p.queue:
			batch = append(batch, m)
			size += len(m.body)
		default:
			return batch
		}
	}
	return batch
}

// sendBatch sends a batch in one frame, or message for message if it does not
// fit into one. The official client refuses it before it writes anything.
func (p *Producer) sendBatch(batch []*sent) {
	err := p.batchSend(batch)
	if errors.Is(err, client.FrameTooLarge) && len(batch) > 1 {
		for i := range batch {
			p.sendBatch(batch[i : i+1])
		}
		return
	}
	if err != nil {
		for _, m := range batch {
			p.settle(m, sendError(err))
		}
	}
}

func (p *Producer) batchSend(batch []*sent) error {
	msgs := make([]message.StreamMessage, len(batch))
	for i, m := range batch {
		msgs[i] = m
	}
	_, err := recovered(func() (struct{}, error) { return struct{}{}, p.producer.BatchSend(msgs) })
	return err
}

// sendError returns the outcome of messages that the official client did not
// take.
func sendError(err error) error {
	if errors.Is(err, client.FrameTooLarge) {
		return fmt.Errorf("%w: it does not fit into a frame of the Environment", stream.ErrMessageTooLarge)
	}
	return fmt.Errorf("%w: %w (the official client: %w)", stream.ErrUnconfirmed, stream.ErrUnreachable, err)
}

// drain takes every confirm at once: while one waits, the official client reads
// nothing from the connection. It ends when the official producer is closed.
func (p *Producer) drain(confirms client.ChannelPublishConfirm) {
	for list := range confirms {
		for _, status := range list {
			// BatchSend has returned codeTooLarge as an error, too.
			if m, ok := status.GetMessage().(*sent); ok && status.GetErrorCode() != codeTooLarge {
				p.settle(m, outcome(status))
			}
		}
	}
}

// The codes that the official client makes up: a confirm did not come in time,
// or the producer was closed. Neither is an answer of the broker.
const (
	codeTimeout   = 62
	codeClosed    = 63
	codeTooLarge  = 14
	codePublisher = 18
)

func outcome(s *client.ConfirmationStatus) error {
	if s.IsConfirmed() {
		return nil
	}
	switch code := s.GetErrorCode(); code {
	case codeTimeout, codeClosed:
		return fmt.Errorf("%w: the producer has ended", stream.ErrUnconfirmed)
	case codePublisher:
		return fmt.Errorf("%w: it does not know the producer any more; make a new one", stream.ErrRefused)
	default:
		return fmt.Errorf("%w: code %d", stream.ErrRefused, code)
	}
}

// watch waits for the end of the official producer. What has no outcome then
// gets none any more.
func (p *Producer) watch(closed client.ChannelClose) {
	e := <-closed
	reason := fmt.Errorf("%w: the producer has ended (the official client: %s); make a new one", stream.ErrUnreachable, e.Reason)
	if e.Reason == client.DeletePublisher { // by us, or by Environment.Close
		reason = stream.ErrClosed
	}
	p.mu.Lock()
	p.reason = reason
	p.mu.Unlock()
	close(p.lost)
}

// Close waits until every message that Publish has accepted has an outcome, and
// then closes the official producer, which itself gives up on what is in
// flight. If ctx ends first, what is left is unknown, and the error wraps
// [stream.ErrUnconfirmed]. A further Close waits for the first one under its own
// ctx and returns the same. No Publish begins after Close was called.
func (p *Producer) Close(ctx context.Context) error {
	return opErr("close producer on stream", p.stream, p.name, p.closeOnce(ctx))
}

func (p *Producer) closeOnce(ctx context.Context) error {
	p.mu.Lock()
	closing := p.closing
	if closing == nil {
		p.closing = make(chan struct{})
		if p.open == 0 {
			close(p.idle)
		}
	}
	p.mu.Unlock()
	if closing == nil {
		p.ended = p.close(ctx)
		close(p.closing)
		return p.ended
	}
	select {
	case <-closing:
		return p.ended
	case <-ctx.Done():
		return broker.ContextError(ctx)
	}
}

func (p *Producer) close(ctx context.Context) error {
	defer p.gate.leave()
	var err error
	select {
	case <-p.idle:
	case <-p.lost:
		err = p.unconfirmed(nil)
	case <-ctx.Done():
		err = p.unconfirmed(broker.ContextError(ctx))
	}
	close(p.stop)
	closing, cancel := within(context.Background(), stream.CloseTimeout)
	defer cancel()
	_ = p.gate.shut(closing, p.producer.Close)
	return err
}

// unconfirmed says how many messages have no outcome, or returns nil.
func (p *Producer) unconfirmed(why error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.open == 0:
		return nil
	case why == nil:
		why = p.reason
	}
	return fmt.Errorf("%w: %d messages: %w", stream.ErrUnconfirmed, p.open, why)
}
