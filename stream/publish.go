package stream

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/tidemark-go/tidemark/internal/fence"
)

// Producer publishes to one stream, or to the partitions of a super stream (see
// ProducerConfig.SuperStream). It is safe for concurrent use; messages
// are in the stream in the order in which they were accepted. A lost
// connection is made again for as long as it takes, and what was not confirmed
// is sent again in order.
//
// It ends by Close, or with an error for every message and call when trying
// again cannot help: [ErrStreamDeleted], [ErrAuthentication], [ErrVirtualHost],
// [ErrAccessRefused], [ErrTLS], [ErrNameInUse]. On a super stream such an error
// ends a partition, whose messages get it, and the others go on.
type Producer struct {
	*joint // its lock guards the fields below
	env    *Env
	stream string
	cfg    ProducerConfig
	room   atomic.Int64 // for the entries of a frame; the current connection's
	// noFilters says that the current connection's broker has no filters.
	noFilters atomic.Bool

	box         outbox
	quota       *quota
	link        *link          // nil while there is no connection
	sequence    fence.Sequence // the ids
	naming      naming
	wanted      int           // how many wait for the name
	wantedSince time.Time     // since when, if any
	refusal     error         // once set, nothing is accepted
	refused     chan struct{} // closed then
	telling     []outcome     // outcomes for callbacks, until told
	stalled     stall         // of a partition
	freed       int           // places that are free, until told
	freedOf     int           // their bytes
	flushes     []flushing

	super *superProducer // of a producer to a super stream: it does all the work
	part  *superProducer // of the producer of a partition: whose partition it is

	// The goroutine of run uses these, and NewProducer before.
	born       time.Time // of a partition
	adopted    bool      // of a partition: the Env has it, and it has its name there
	idleLeader string    // address of a leader that has confirmed nothing

	life    context.Context
	cancel  context.CancelFunc
	ended   chan struct{} // closed when run has ended
	closing atomic.Bool
	left    left          // under mu
	closed  chan struct{} // closed when Close is through
	err     error         // of Close
}

// NewProducer returns once the broker has accepted the producer, or has not done so
// within 10 s. With ProducerConfig.SuperStream the name is that of a super stream,
// and NewProducer returns once the broker has accepted the producers of all
// partitions that have a leader, or after the same 10 s, however many partitions
// there are. The others are connected in the background, unless none was accepted.
//
// Errors wrap [ErrInvalidConfig], [ErrStreamNotFound], [ErrStreamUnavailable],
// [ErrAccessRefused], [ErrNameInUse], [ErrBlocked] or those of [Connect], or are
// the context's.
func (e *Env) NewProducer(ctx context.Context, stream string, cfg ProducerConfig) (*Producer, error) {
	const op = "new producer on stream"
	cfg, err := cfg.withDefaults()
	if err == nil {
		err = checkStream(stream)
	}
	if err == nil {
		err = e.own()
	}
	if err != nil {
		return nil, opErr(op, stream, cfg.Name, err)
	}
	dialing, done := e.under(ctx)
	defer done()
	var p *Producer
	if cfg.SuperStream {
		p, err = e.startSuper(dialing, stream, cfg)
	} else {
		p, err = e.startProducer(dialing, stream, cfg, e.adopt)
	}
	return p, opErr(op, stream, cfg.Name, err)
}

// startProducer makes a producer, for which the caller has added 1 to e.owned.
// adopt may refuse it before it connects.
func (e *Env) startProducer(ctx context.Context, stream string, cfg ProducerConfig, adopt func(*Producer) error) (*Producer, error) {
	p := newProducerOf(e, stream, cfg)
	l, err := p.begin(ctx, adopt)
	if err != nil {
		p.cancel()
		e.disown(p)
		close(p.ended) // Env.Close may wait for it
		e.owned.Done()
		return nil, err
	}
	p.state(StateChange{State: StateConnected})
	go p.run(l, nil)
	return p, nil
}

func newProducerOf(e *Env, stream string, cfg ProducerConfig) *Producer {
	return newProducerIn(newJoint(e, cfg), e, stream, cfg)
}

// newProducerIn returns a producer that shares its lock, callbacks and bounds.
func newProducerIn(j *joint, e *Env, stream string, cfg ProducerConfig) *Producer {
	p := &Producer{
		joint: j, env: e, stream: stream, cfg: cfg,
		box:     outbox{subEntries: cfg.SubEntries, limit: batchBytes},
		naming:  naming{done: make(chan struct{})},
		refused: make(chan struct{}), ended: make(chan struct{}), closed: make(chan struct{}),
	}
	j.mu.Lock()
	p.quota = j.admission.join(&p.box)
	j.mu.Unlock()
	p.life, p.cancel = context.WithCancel(context.Background())
	return p
}

// begin makes the first connection.
func (p *Producer) begin(ctx context.Context, adopt func(*Producer) error) (*link, error) {
	if err := adopt(p); err != nil {
		return nil, err
	}
	return p.connect(ctx)
}

// adopt lets Close find the producer, unless it has begun already, and gives it its
// name. That of a partition is closed by the super stream's producer.
func (e *Env) adopt(p *Producer) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closing && p.part == nil {
		return fmt.Errorf("%w: the Env is closed", ErrClosed)
	}
	for other := range e.producers {
		if (other.super == nil) != (p.super == nil) {
			continue // a stream may have the name of a super stream
		}
		if other.super != nil && other.super.deleted.Load() {
			continue
		}
		if p.cfg.Name != "" && other.cfg.Name == p.cfg.Name && other.stream == p.stream {
			return fmt.Errorf("%w: another producer of this Env has it: the broker would drop the messages of one as the other's repeats", ErrNameInUse)
		}
	}
	e.producers[p] = struct{}{}
	return nil
}

// disown ends adopt: the name is free again.
func (e *Env) disown(p *Producer) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.producers, p)
}

// Publish publishes the messages in order and returns when all of them are
// confirmed: they are in the stream. It waits for room while MaxInFlight
// messages are on their way.
//
// An error means that at least one is not confirmed: [ErrRefused] and
// [ErrMessageTooLarge] for a message that is not in the stream,
// [ErrUnconfirmed] if it may be. For several messages it is a [PublishError],
// which has the outcome of each. After the first message that cannot be accepted,
// Publish accepts none of the rest; on a super stream, none of the rest for its
// partition. A message that no partition is for has [ErrNoRoute] alone. When ctx
// ends, its error comes together with [ErrUnconfirmed] if something had been
// accepted, which goes on being sent.
func (p *Producer) Publish(ctx context.Context, msgs ...Message) error {
	if len(msgs) == 0 {
		return nil
	}
	if p.super != nil {
		return p.super.publish(ctx, msgs)
	}
	w := newWaiter(len(msgs))
	if n, err := p.acceptAll(ctx, msgs, w); n == 0 {
		return p.failed(err)
	} else if err != nil {
		w.refuse(n, err)
	}
	return p.await(ctx, w)
}

// await sends what Publish has accepted and waits for the outcomes.
func (p *Producer) await(ctx context.Context, w *waiter) error {
	w.release()
	p.offer(true)
	return p.failed(w.wait(ctx))
}

func (p *Producer) failed(err error) error {
	return opErr("publish to stream", p.stream, p.cfg.Name, err)
}

// PublishBatch is Publish of one sub-batch: these messages, and no others, are
// one entry of the stream's log. It needs ProducerConfig.SubEntries, which is how
// many messages there may be. It serves programs that publish again what an
// earlier process may have published: with a Name, and the same messages in the
// same batches with the same ids, each is in the stream exactly once. A sub-batch
// has a single id for the broker, the highest one of its messages. Either all of
// them have a PublishingID, or none.
//
// What does not fit into one frame is [ErrMessageTooLarge], and nothing of it is
// published. On a super stream the messages for a partition, of which each is for
// one, are a sub-batch there, and what is said of a sub-batch holds for each.
func (p *Producer) PublishBatch(ctx context.Context, msgs ...Message) error {
	if len(msgs) == 0 {
		return nil
	}
	if p.super != nil {
		return p.super.publishBatch(ctx, msgs)
	}
	w := newWaiter(len(msgs))
	if err := p.acceptBatch(ctx, msgs, w); err != nil {
		return p.failed(err)
	}
	return p.await(ctx, w)
}

// PublishAsync accepts a message and returns; done gets its outcome: nil for
// confirmed, else an error as for Publish. It waits for room under ctx while
// MaxInFlight messages, or MaxInFlightBytes, are on their way. With a ctx that
// has ended already nothing is accepted. Either done is called exactly once, or
// an error is returned. done may be nil: see Flush. With a name, the first message
// whose id the producer counts waits until the name is its own: see
// ProducerConfig.Name.
//
// Callbacks run one after the other, in the order of the outcomes, on a
// goroutine of the producer. A message keeps its place until its callback has
// returned, so slow callbacks hold up publishing. A callback may publish again:
// it waits while MaxInFlight messages, or MaxInFlightBytes, have no outcome, and
// not for callbacks. Flush and Close are errors within it, and so is Publish for a
// message that goes to several partitions. It must not wait for another goroutine
// that publishes. A panic of done ends the process; runtime.Goexit within it counts
// as its return.
func (p *Producer) PublishAsync(ctx context.Context, m Message, done func(error)) error {
	if p.super != nil {
		return p.super.publishAsync(ctx, &m, done)
	}
	l, err := p.accept(ctx, &m, &slot{done: done}, true)
	if err != nil {
		return p.failed(err)
	}
	if l != nil {
		l.pub.Ready()
	}
	return nil
}

// LastPublishingID returns the newest publishing id that was accepted, or that
// the broker had stored under the producer's name when it was made; 0 if none.
//
// On a super stream it is the smallest one of LastPublishingIDs. A caller who
// numbers his messages in one sequence and goes on with the message after it loses
// nothing: every partition has what is up to it. What follows and is in a partition
// already is dropped there as a repeat, and confirmed. A partition that has nothing
// yet makes it 0, and so does one that NewProducer could not reach: the caller then
// begins with his first message, unless he goes by LastPublishingIDs.
//
// That holds as long as the partitions are the same. A message that an earlier
// process did not get confirmed, and whose key has moved since to a partition with
// a higher id, would be dropped there. So let a producer settle all it has before
// partitions are added or removed, or go on under another name.
func (p *Producer) LastPublishingID() uint64 {
	if p.super != nil {
		return p.super.lastPublishingID()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sequence.Last()
}

// LastPublishingIDs returns LastPublishingID of each partition of the super stream,
// by name; of a producer to a stream, that of the stream. A caller who knows where
// each of his messages goes publishes those whose id is above that of the
// partition.
func (p *Producer) LastPublishingIDs() map[string]uint64 {
	if p.super != nil {
		return p.super.lastPublishingIDs()
	}
	return map[string]uint64{p.stream: p.LastPublishingID()}
}
