package stream

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidemark-go/tidemark/internal/fence"
)

// Producer publishes to one stream. It is safe for concurrent use; messages
// are in the stream in the order in which they were accepted. A lost
// connection is made again for as long as it takes, and what was not confirmed
// is sent again in order.
//
// It ends by Close, or with an error for every message and call when trying
// again cannot help: [ErrStreamDeleted], [ErrAuthentication], [ErrVirtualHost],
// [ErrAccessRefused], [ErrTLS], [ErrNameInUse].
type Producer struct {
	env    *Env
	stream string
	cfg    ProducerConfig
	calls  *outcomeCalls
	room   atomic.Int64 // for the entries of a frame; the current connection's
	// noFilters says that the current connection's broker has no filters.
	noFilters atomic.Bool

	mu          sync.Mutex
	box         outbox
	admission   admission
	link        *link          // nil while there is no connection
	sequence    fence.Sequence // the ids
	naming      naming
	wanted      int           // how many wait for the name
	wantedSince time.Time     // since when, if any
	refusal     error         // once set, nothing is accepted
	refused     chan struct{} // closed then
	telling     []outcome     // outcomes for callbacks, until told
	freed       int           // places that are free, until told
	freedOf     int           // their bytes
	flushes     []flushing
	slack       chan struct{} // closed when a callback that publishes may go on; or nil
	inLine      atomic.Int32  // how many wait for a place

	// The goroutine of run uses these, and NewProducer before.
	idleLeader string // address of a leader that has confirmed nothing

	life    context.Context
	cancel  context.CancelFunc
	ended   chan struct{} // closed when run has ended
	closing atomic.Bool
	dropped int           // under mu: how many messages were left without outcome
	closed  chan struct{} // closed when Close is through
	err     error         // of Close
}

// NewProducer returns once the broker has accepted the producer.
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
	p, err := e.startProducer(dialing, stream, cfg, e.adopt)
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
		e.owned.Done()
		return nil, err
	}
	p.state(StateChange{State: StateConnected})
	go p.run(l)
	return p, nil
}

func newProducerOf(e *Env, stream string, cfg ProducerConfig) *Producer {
	p := &Producer{
		env: e, stream: stream, cfg: cfg,
		box:       outbox{subEntries: cfg.SubEntries, limit: batchBytes},
		admission: admission{most: cfg.MaxInFlight, mostBytes: cfg.MaxInFlightBytes, env: &e.publishing},
		naming:    naming{done: make(chan struct{})},
		refused:   make(chan struct{}), ended: make(chan struct{}), closed: make(chan struct{}),
	}
	p.calls = newOutcomeCalls(p.returned, p.awaited)
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

// adopt lets Close find the producer, unless it has begun already.
func (e *Env) adopt(p *Producer) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closing {
		return fmt.Errorf("%w: the Env is closed", ErrClosed)
	}
	for other := range e.producers {
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
// Publish accepts none of the rest. When ctx ends, its error comes together with
// [ErrUnconfirmed] if something had been accepted, which goes on being sent.
func (p *Producer) Publish(ctx context.Context, msgs ...Message) error {
	if len(msgs) == 0 {
		return nil
	}
	w := newWaiter(len(msgs))
	for i := range msgs {
		if _, err := p.accept(ctx, &msgs[i], slot{waits: w, nth: int32(i)}, false); err != nil {
			if i == 0 {
				return p.failed(err)
			}
			w.refuse(i, err)
			break
		}
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
// published.
func (p *Producer) PublishBatch(ctx context.Context, msgs ...Message) error {
	if len(msgs) == 0 {
		return nil
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
// not for callbacks. It must not call Flush or Close, nor wait for another
// goroutine that publishes. A panic of done ends the process.
func (p *Producer) PublishAsync(ctx context.Context, m Message, done func(error)) error {
	l, err := p.accept(ctx, &m, slot{done: done}, true)
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
func (p *Producer) LastPublishingID() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sequence.Last()
}
