package stream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidemark-go/tidemark/internal/broker"
)

// superProducer publishes to the partitions of a super stream. It has a producer
// for each, and what they share (joint). Its goroutine, run, looks after the
// partitions; see publish_super_refresh.go.
type superProducer struct {
	*joint
	env    *Env
	name   string
	cfg    ProducerConfig
	routes routes
	table  atomic.Pointer[partitionTable]

	// The lock of joint guards these.
	parts   map[*Producer]bool // all that have not ended; false: removed, no message is for it any more
	refusal error              // once set, nothing is accepted

	deleted  atomic.Bool // the super stream; its name is free
	wake     chan struct{}
	waitMu   sync.Mutex
	waiting  chan struct{} // closed after the next refresh that begins; nil if nobody waits
	life     context.Context
	cancel   context.CancelFunc
	over     chan struct{}  // closed when run has ended
	retiring sync.WaitGroup // of partitions that were removed
	copying  sync.RWMutex   // read-locked while a message goes to several partitions
}

// startSuper makes a producer to a super stream, for which the caller has added 1
// to e.owned.
func (e *Env) startSuper(ctx context.Context, name string, cfg ProducerConfig) (*Producer, error) {
	s := &superProducer{
		joint: newJoint(e, cfg), env: e, name: name, cfg: cfg,
		parts: map[*Producer]bool{}, wake: make(chan struct{}, 1), over: make(chan struct{}),
	}
	s.routes.ask = s.askRoute
	s.life, s.cancel = context.WithCancel(context.Background())
	p := &Producer{joint: s.joint, env: e, stream: name, cfg: cfg, super: s, closed: make(chan struct{})}
	err := e.adopt(p)
	if err == nil {
		err = s.begin(ctx)
	}
	if err != nil {
		s.cancel()
		e.disown(p)
		close(s.over) // Env.Close may wait for it
		e.owned.Done()
		return nil, err
	}
	go s.run()
	return p, nil
}

// beginners is how many partitions a producer connects at a time at its beginning.
const beginners = 16

// begin asks for the partitions and connects a producer to each. It waits no longer
// than a producer to one stream does: the partitions that have not come by then go
// on by themselves, as those without a leader do.
func (s *superProducer) begin(ctx context.Context) error {
	connecting, done := withinConnectTimeout(ctx)
	defer done()
	names, err := s.env.askPartitions(connecting, s.name)
	if err != nil {
		return err
	}
	if len(names) == 0 {
		return fmt.Errorf("%w: the super stream %q has no partition", ErrStreamNotFound, s.name)
	}
	distinct := slices.Compact(slices.Sorted(slices.Values(names))) // one that is bound with two keys is named twice
	list := make([]partStart, len(distinct))
	turns := make(chan struct{}, beginners)
	var wg sync.WaitGroup
	for i := range list {
		wg.Go(func() {
			turns <- struct{}{}
			defer func() { <-turns }()
			list[i] = s.beginPart(connecting, distinct[i])
		})
	}
	wg.Wait()
	err = beginError(ctx, list)
	if err == nil && !s.adoptAll(names, list) {
		err = s.refused() // by Env.Close
	}
	if err != nil {
		for _, b := range list {
			b.undo()
		}
		return err
	}
	for _, b := range list {
		b.goOn()
	}
	return nil
}

// adoptAll makes the first table. It reports whether the producer still accepts
// messages.
func (s *superProducer) adoptAll(names []string, list []partStart) bool {
	of := map[string]*Producer{}
	var begun []*Producer
	for _, b := range list {
		of[b.p.stream] = b.p
		begun = append(begun, b.p)
	}
	_, adopted := s.swap(newPartitionTable(names, of), &partitionTable{}, begun)
	return adopted
}

// partStart is the producer of a partition before its goroutine runs.
type partStart struct {
	p   *Producer // nil if the Env has refused it
	l   *link     // nil with err
	err error
}

// beginPart makes the producer of a partition and connects it, once.
func (s *superProducer) beginPart(ctx context.Context, name string) partStart {
	p, err := s.newPart(name)
	if err != nil {
		return partStart{err: err}
	}
	var l *link
	if err = p.claim(); err == nil {
		l, err = p.connect(ctx)
	}
	return partStart{p, l, opErr("new producer on stream", name, s.cfg.Name, err)}
}

// newPart makes the producer of a partition. Env.Close waits for its end.
func (s *superProducer) newPart(name string) (*Producer, error) {
	if err := s.env.own(); err != nil {
		return nil, err
	}
	cfg := s.cfg
	cfg.SuperStream, cfg.Routing = false, Routing{}
	p := newProducerIn(s.joint, s.env, name, cfg)
	p.part, p.born = s, time.Now()
	p.stalled.begun = make(chan struct{})
	return p, nil
}

// claim gives the producer of a partition its name in the Env, once.
func (p *Producer) claim() (err error) {
	if !p.adopted {
		err = p.env.adopt(p)
		p.adopted = err == nil
	}
	return err
}

// undo takes back newPart and what followed.
func (b partStart) undo() {
	if b.p == nil {
		return
	}
	b.p.cancel()
	if b.l != nil {
		b.p.leave(b.l)
	}
	b.p.mu.Lock()
	b.p.quota.end()
	b.p.mu.Unlock()
	b.p.env.disown(b.p)
	b.p.env.owned.Done()
}

// goOn starts the producer's goroutine.
func (b partStart) goOn() {
	if b.err == nil {
		b.p.state(StateChange{State: StateConnected})
	}
	go b.p.run(b.l, b.err)
}

// beginError returns the error that ends a beginning: one that trying again cannot
// mend, or any if no partition could be connected.
func beginError(ctx context.Context, list []partStart) error {
	if ctx.Err() != nil {
		return broker.ContextError(ctx)
	}
	var first error
	connected := false
	for _, b := range list {
		switch {
		case b.err == nil:
			connected = true
		case isFatal(b.err):
			return b.err
		case first == nil:
			first = b.err
		}
	}
	if connected {
		return nil
	}
	return first
}

// failures is why messages of one Publish were not accepted, by partition: what
// follows in a partition is not accepted either, so that nothing passes another
// message.
type failures map[*Producer]error

func (f *failures) note(p *Producer, err error) error {
	if *f == nil {
		*f = failures{}
	}
	(*f)[p] = err
	return err
}

// publish is Publish.
func (s *superProducer) publish(ctx context.Context, msgs []Message) error {
	w := newWaiter(len(msgs))
	var failed failures
	for i := range msgs {
		sl := slot{waits: w, nth: int32(i)}
		if err := s.send(ctx, &msgs[i], sl, &failed, len(msgs) == 1); err != nil {
			w.settleOne(int32(i), err)
		}
	}
	w.release()
	return s.failed(w.wait(ctx))
}

// publishAsync is PublishAsync.
func (s *superProducer) publishAsync(ctx context.Context, m *Message, done func(error)) error {
	return s.failed(s.send(ctx, m, slot{done: done}, &failures{}, false))
}

func (s *superProducer) failed(err error) error {
	return opErr("publish to super stream", s.name, s.cfg.Name, err)
}

// maxRoutings is how often a message is routed whose partitions change meanwhile.
const maxRoutings = 3

// send gives a message to the producers that it is for.
func (s *superProducer) send(ctx context.Context, m *Message, sl slot, failed *failures, now bool) error {
	for try := 1; ; try++ {
		t := s.table.Load()
		first, others, err := s.route(ctx, t, m)
		if err == nil {
			if err := (*failed)[first]; err != nil {
				return err // the partitions were asked for then
			}
			if len(others) > 0 {
				return s.sendCopies(ctx, m, sl, append([]*Producer{first}, others...), failed)
			}
			if err = s.sendTo(ctx, first, m, sl, failed, now); err == nil {
				return nil
			}
		}
		if refused := s.refused(); refused != nil {
			return refused
		}
		if try == maxRoutings || !s.rerouted(ctx, t, first, err) {
			return err
		}
		delete(*failed, first)
	}
}

// sendTo gives a message to the producer of a partition.
func (s *superProducer) sendTo(ctx context.Context, p *Producer, m *Message, sl slot, failed *failures, now bool) error {
	if err := (*failed)[p]; err != nil {
		return err
	}
	l, err := p.accept(ctx, m, &sl, !now)
	switch {
	case err != nil:
		return failed.note(p, s.partError(p, err))
	case now:
		p.offer(true)
	case l != nil:
		l.pub.Ready()
	}
	return nil
}

// partError is the error of what a partition has not accepted. That of a partition
// which was removed is not ErrClosed: the producer goes on.
func (s *superProducer) partError(p *Producer, err error) error {
	if errors.Is(err, ErrClosed) && s.refused() == nil {
		err = fmt.Errorf("%w: the partition was removed meanwhile; publish the message again", ErrStreamUnavailable)
	}
	return p.failed(err)
}

// sendCopies gives a message to several partitions. It returns an error if none
// has accepted it. A Publish within a callback would wait for itself: the outcome of
// copies comes on the goroutine of the callbacks.
func (s *superProducer) sendCopies(ctx context.Context, m *Message, sl slot, parts []*Producer, failed *failures) error {
	if sl.waits != nil && s.calls.mine() {
		return errWithinCallback
	}
	s.copying.RLock()
	defer s.copying.RUnlock()
	c := newCopies(len(parts))
	settle := func(n int, err error) {
		done, err := c.settle(n, err)
		switch {
		case !done:
		case sl.waits != nil:
			sl.waits.settleOne(sl.nth, err)
		case sl.done != nil:
			sl.done(err)
		}
	}
	copied := slot{done: func(err error) { settle(1, err) }}
	for i, p := range parts {
		err := s.sendTo(ctx, p, m, copied, failed, false)
		switch {
		case err == nil:
		case i == 0:
			return err
		default:
			s.calls.add(outcome{slots: []slot{{done: func(error) { settle(len(parts)-i, err) }}}, to: new(returns)})
			return nil
		}
	}
	return nil
}

// refused returns why nothing is accepted any more, or nil.
func (s *superProducer) refused() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refusal
}

// rerouted reports whether a message that p did not accept, or that had no route,
// is to be routed again: the partitions are others now.
func (s *superProducer) rerouted(ctx context.Context, t *partitionTable, p *Producer, err error) bool {
	var missing *missingError
	if p != nil && s.isRetired(p) {
		return true // the table was changed before
	}
	if !errors.Is(err, ErrStreamDeleted) && !errors.As(err, &missing) {
		return false
	}
	s.refreshed(ctx)
	return s.table.Load() != t && ctx.Err() == nil
}

func (s *superProducer) isRetired(p *Producer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.parts[p]
}

// lastPublishingID is LastPublishingID. The producers of the partitions are told
// what the caller was told: he goes by that.
func (s *superProducer) lastPublishingID() (last uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	parts := s.table.Load().parts
	for i, p := range parts {
		if id := p.sequence.Newest(); i == 0 || id < last {
			last = id
		}
	}
	for _, p := range parts {
		p.sequence.Tell(last)
	}
	return last
}

func (s *superProducer) lastPublishingIDs() map[string]uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := map[string]uint64{}
	for _, p := range s.table.Load().parts {
		ids[p.stream] = p.sequence.Last()
	}
	return ids
}

// flush waits for the outcomes of all that was accepted.
func (s *superProducer) flush(ctx context.Context) error {
	for _, p := range s.all() {
		if err := p.flush(ctx, p.lastAccepted()); err != nil {
			return err
		}
	}
	return nil
}

// all returns the producers of the partitions that have not ended.
func (s *superProducer) all() (list []*Producer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for p := range s.parts {
		list = append(list, p)
	}
	return list
}

// close ends the producers of all partitions, side by side.
func (s *superProducer) close(ctx context.Context) error {
	defer s.disown()
	s.refuse(fmt.Errorf("%w: the producer is closed", ErrClosed))
	s.cancel()
	list := s.all()
	errs := make([]error, len(list)+1)
	var wg sync.WaitGroup
	for i, p := range list {
		wg.Go(func() { errs[i] = closePart(ctx, p) })
	}
	wg.Wait()
	s.awaitCopies()
	ending, done := withGrace(ctx)
	defer done()
	select {
	case <-s.over:
	case <-ending.Done():
	}
	calling, done := withGrace(ctx)
	defer done()
	errs[len(list)] = s.calls.drain(calling)
	return errors.Join(errs...)
}

// awaitCopies waits for who has begun to copy a message before all was refused:
// nobody adds a callback any more after that. It does not keep the lock, because a
// callback may copy too, and Close waits for callbacks.
func (s *superProducer) awaitCopies() {
	s.copying.Lock()
	defer s.copying.Unlock()
}

// closePart closes the producer of a partition. A partition that was deleted has
// taken its messages with it, as their outcomes say: that is no error of Close,
// whether a refresh has removed its producer by now or not.
func closePart(ctx context.Context, p *Producer) error {
	deleted := isDeleted(p)
	if err := p.Close(ctx); !deleted {
		return err
	}
	return nil
}

// disown frees the name in the Env.
func (s *superProducer) disown() {
	s.env.mu.Lock()
	defer s.env.mu.Unlock()
	for p := range s.env.producers {
		if p.super == s {
			delete(s.env.producers, p)
		}
	}
}

// refuse keeps further messages from being accepted. Only the first reason counts.
func (s *superProducer) refuse(err error) {
	s.mu.Lock()
	if s.refusal == nil {
		s.refusal = err
	}
	s.mu.Unlock()
	for _, p := range s.all() {
		p.refuse(err)
	}
}

// abandon gives what is left its outcome.
func (s *superProducer) abandon(reason error) {
	for _, p := range s.all() {
		p.abandon(reason)
	}
}
