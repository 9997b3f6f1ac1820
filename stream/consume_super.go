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
	"github.com/tidemark-go/tidemark/internal/mark"
)

// superRun is one call of Run, RunBatch or All on a super stream. Each partition
// has a run on a goroutine of its own, so that trouble of one does not hold up the
// others. The goroutine that called Run begins and ends these runs, and calls the
// handler unless there are workers.
type superRun struct {
	consumer *Consumer
	setup    func(*run)     // sets the handler of a partition's run
	cfg      ConsumerConfig // of the partitions' runs
	shared   superPart      // what these runs share
	letters  *deadLetters
	view     *superView
	listed   bool            // the partitions were known once
	pause    time.Duration   // between two stores of a partition that begins now
	left     map[string]bool // partitions whose run has ended in order, because they were unbound
	errs     []error
	// supervised is set once supervise has come to its end: no handler has
	// panicked or has ended the goroutine.
	supervised bool

	taking   context.Context // ends when the run is to end
	end      context.CancelCauseFunc
	handling context.Context // of the handlers

	ended chan partitionEnd // each partition's run sends its end
	wg    sync.WaitGroup
	over  chan struct{} // closed when the run has ended

	mu   sync.Mutex
	runs map[string]*partitionRun // by stream, those that have not ended
}

// superPart is what the run on a partition shares with those on the others. It is
// empty for a stream that is no partition.
type superPart struct {
	relay  handlerRelay    // calls the handlers; zero: the run does, or workers do
	crew   *crew           // the workers; nil: there are none
	mixed  *mixedBatch     // of RunBatch; nil: each partition has a batch of its own
	budget *budget         // for the chunks of all partitions
	endAll func(err error) // ends the runs on all partitions
}

type partitionRun struct {
	run  *run
	stop context.CancelFunc
}

type partitionEnd struct {
	stream string
	err    error
}

// consumeSuper is consume for a super stream. ctx ends with the Env, too.
func (c *Consumer) consumeSuper(ctx context.Context, setup func(*run)) (err error) {
	s, err := c.beginSuper(setup)
	if err != nil {
		return err
	}
	defer func() {
		c.endSuper(s)
		if s.supervised {
			s.report(StateChange{State: StateClosed, Err: withoutLoopEnd(err)})
		}
	}()
	s.taking, s.end = context.WithCancelCause(ctx)
	var stopDraining func()
	s.handling, stopDraining = drainContext(s.taking, c.cfg.Drain)
	defer stopDraining()
	if !c.cfg.BatchPerPartition {
		s.shared.mixed = &mixedBatch{lifetime: lifetime{taking: s.taking, handling: s.handling}, size: c.cfg.BatchSize, wait: c.cfg.BatchWait}
	}
	if c.cfg.Workers > 1 { // RunBatch and All refuse them
		s.shared.crew, s.shared.relay = startCrew(c.cfg), handlerRelay{}
		defer s.shared.crew.close()
	}
	s.view = c.env.watchSuper(c.stream)
	defer s.view.leave()
	defer s.stop()
	return s.supervise(ctx)
}

func (c *Consumer) beginSuper(setup func(*run)) (*superRun, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.super != nil {
		return nil, ErrRunning
	}
	if err := c.env.useName(superKey(c.stream), c.cfg.Name, c.cfg.SingleActive); err != nil {
		return nil, err
	}
	c.super = newSuperRun(c, setup)
	return c.super, nil
}

func (c *Consumer) endSuper(s *superRun) {
	c.mu.Lock()
	c.super = nil
	c.mu.Unlock()
	c.env.giveBackName(superKey(c.stream), c.cfg.Name)
	close(s.over)
}

// superKey tells a super stream from a stream of the same name: no stream's name
// has a line break.
func superKey(super string) string { return "\n" + super }

func newSuperRun(c *Consumer, setup func(*run)) *superRun {
	s := &superRun{consumer: c, setup: setup, cfg: c.cfg, ended: make(chan partitionEnd), over: make(chan struct{}), runs: map[string]*partitionRun{}, left: map[string]bool{}}
	s.cfg.Start = c.cfg.Start.resolve(time.Now())
	s.letters = newDeadLetters(c, c.env.cfg.Logger.With("stream", c.stream, "consumer", c.cfg.Name).Warn)
	s.shared = superPart{relay: newHandlerRelay(), budget: &budget{total: int64(c.cfg.MaxBuffered)}, endAll: func(err error) { s.end(err) }}
	return s
}

// supervise runs the partitions until ctx ends or an error ends the run. It
// returns that error.
func (s *superRun) supervise(ctx context.Context) error {
	stopping := s.taking.Done()
	for s.taking.Err() == nil || len(s.runs) > 0 {
		select {
		case call := <-s.shared.relay.calls:
			call.serve()
		case e := <-s.ended:
			s.afterEnd(e)
		case <-s.view.changed:
			s.look()
		case <-s.shared.mixed.due():
			if err := s.shared.mixed.flush(); err != nil && err != errStopped {
				s.fail(err)
			}
		case <-stopping:
			stopping = nil
		}
	}
	s.supervised = true
	return s.result(ctx)
}

// stop ends the runs that are left, which there are only if a handler has
// panicked or has ended the goroutine, and waits for everything that the run owns.
func (s *superRun) stop() {
	s.end(nil)
	for len(s.runs) > 0 {
		select {
		case call := <-s.shared.relay.calls:
			call.refuse()
		case e := <-s.ended:
			s.forget(e.stream)
		}
	}
	s.wg.Wait()
	s.letters.closed.Wait()
}

// look begins and ends the runs of partitions that have come and gone.
func (s *superRun) look() {
	found := s.view.latest()
	switch {
	case s.taking.Err() != nil:
	case found.err == nil:
		s.adopt(found.partitions)
	case s.listed && errors.Is(found.err, ErrStreamNotFound):
		s.fail(fmt.Errorf("%w: the super stream is gone: declare it again and start a new run", ErrStreamDeleted))
	case isFatal(found.err):
		s.fail(found.err)
	case !s.listed: // later on the partitions report what is wrong
		s.report(StateChange{State: StateReconnecting, Err: found.err, Attempt: found.attempt})
	}
}

// adopt makes the partitions those that have a run.
func (s *superRun) adopt(partitions []string) {
	if !s.listed {
		if err := s.checkLetters(); err != nil {
			s.fail(err)
			return
		}
	}
	for stream, p := range s.runs {
		if !slices.Contains(partitions, stream) {
			p.stop()
		}
	}
	s.pause = storePause(len(partitions))
	for _, stream := range partitions {
		if s.runs[stream] == nil && s.taking.Err() == nil {
			s.begin(stream)
		}
	}
	s.listed = true
}

// checkLetters returns an error if the dead-letter stream does not exist. A broker
// that cannot be asked is the partitions' matter.
func (s *superRun) checkLetters() error {
	if s.cfg.OnError.DeadLetter == "" {
		return nil
	}
	err := s.consumer.env.cluster.Ask(s.taking, func(ctx context.Context, c *broker.Conn) error {
		return s.letters.check(ctx, c)
	})
	if errors.Is(err, ErrStreamNotFound) {
		return err
	}
	return nil
}

const (
	// storeShare is the time for each partition between two stores of one: a
	// consumer makes 100 stores a second, as soon as 10 partitions are busy. One
	// costs RabbitMQ 4.0.5 0.13 ms, so that 100 partitions with 10 stores a second
	// each would take an eighth of a core for their stores.
	storeShare = 10 * time.Millisecond
	// maxStorePause bounds what a crash repeats, however many partitions there are.
	maxStorePause = 5 * time.Second
)

// storePause returns the time between two stores of one of so many partitions in a
// burst.
func storePause(partitions int) time.Duration {
	return min(max(mark.AutoInterval, time.Duration(partitions)*storeShare), maxStorePause)
}

// startOf returns where a partition's run begins. Whatever Start says, a partition
// that has appeared during the run is read from its first message, or from behind
// its stored offset: all of it is newer than the run. One that was unbound and is
// bound again has been read up to its stored offset, if there is a name.
func (s *superRun) startOf(stream string) Start {
	switch {
	case s.left[stream] && s.cfg.Name != "":
		return Stored(First())
	case s.listed:
		return s.cfg.Start.inNewStream()
	}
	return s.cfg.Start
}

// begin begins the run of a partition.
func (s *superRun) begin(stream string) {
	c := &Consumer{env: s.consumer.env, stream: stream, cfg: s.cfg, superStream: s.consumer.stream, pause: s.pause}
	c.cfg.Start = s.startOf(stream)
	if stream == c.cfg.OnError.DeadLetter {
		s.fail(fmt.Errorf("%w: OnError.DeadLetter is %q, which is a partition of the super stream: its dead letters would come back", ErrInvalidConfig, stream))
		return
	}
	if err := c.env.useName(stream, c.cfg.Name, c.cfg.SingleActive); err != nil {
		s.failPartition(stream, err)
		return
	}
	r := newRun(c)
	r.superPart, r.handling, r.letters = s.shared, s.handling, s.letters
	r.letters.join()
	s.setup(r)
	if r.grouped() && !r.mixesBatches() { // a mixedBatch looks itself
		r.guardHandlers()
	}
	ctx, stop := context.WithCancel(s.taking)
	s.mu.Lock()
	s.runs[stream] = &partitionRun{r, stop}
	s.mu.Unlock()
	s.wg.Go(func() { s.runPartition(ctx, r) })
}

// runPartition runs a partition to its end, on a goroutine of the partition's.
func (s *superRun) runPartition(ctx context.Context, r *run) {
	c := r.consumer
	err := errors.New("Filter.Match, KeyOf, OnActive, OnInactive or the OffsetStore ended its goroutine with runtime.Goexit")
	supervised := false
	defer func() {
		r.finishClosing()
		c.env.giveBackName(c.stream, c.cfg.Name)
		if supervised {
			r.reportClosed(err)
		}
		close(r.ended)
		s.ended <- partitionEnd{c.stream, err}
	}()
	defer r.dropWorkers()
	err = r.supervise(ctx)
	supervised = true
}

// afterEnd decides what the end of a partition's run means for the others. A
// partition that was deleted leaves them alone.
func (s *superRun) afterEnd(e partitionEnd) {
	s.forget(e.stream)
	deleted := errors.Is(e.err, ErrStreamDeleted) || errors.Is(e.err, ErrStreamNotFound)
	s.left[e.stream] = !deleted
	switch {
	case e.err == nil, e.err == errEnvClosed:
	case deleted && !errors.Is(e.err, ErrNotStored):
		s.view.lookNow()
	default:
		s.failPartition(e.stream, e.err)
	}
}

// forget removes a run that has ended.
func (s *superRun) forget(stream string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.runs[stream].stop()
	delete(s.runs, stream)
}

// failPartition is fail for an error of a partition, which it names.
func (s *superRun) failPartition(stream string, err error) {
	var h *HandlerError
	if !errors.As(err, &h) && !errors.Is(err, errLoopLeft) {
		err = opErr("consume stream", stream, s.cfg.Name, err)
	}
	s.fail(err)
}

// fail ends the run with an error, or with one more.
func (s *superRun) fail(err error) {
	s.errs = append(s.errs, err)
	s.end(err)
}

// result returns the error of the run, which has ended. ctx is that of Run.
func (s *superRun) result(ctx context.Context) error {
	err := endedBy(ctx, errStopped)
	if len(s.errs) == 0 {
		return err
	}
	for _, e := range s.errs {
		if err == nil || errors.Is(e, err) {
			err = joinErrors(nil, e)
			continue
		}
		err = joinErrors(err, e)
	}
	return err
}

// report reports a change of the consumer as a whole, under the super stream's
// name.
func (s *superRun) report(c StateChange) {
	c.Role, c.Stream, c.Name = RoleConsumer, s.consumer.stream, s.consumer.cfg.Name
	s.consumer.env.states.change(c)
}

// commit is Consumer.Commit for all partitions side by side. One whose run has
// ended has stored its mark, or has none any more.
func (s *superRun) commit(ctx context.Context) error {
	s.mu.Lock()
	runs := make([]*run, 0, len(s.runs))
	for _, p := range s.runs {
		runs = append(runs, p.run)
	}
	s.mu.Unlock()
	errs := make([]error, len(runs))
	var wg sync.WaitGroup
	var waiting atomic.Int64
	for i, r := range runs {
		wg.Go(func() {
			switch err := r.commit(ctx); {
			case errors.Is(err, ErrNotActive):
				waiting.Add(1)
			case !errors.Is(err, ErrNotRunning):
				errs[i] = opErr("commit offset on stream", r.consumer.stream, s.cfg.Name, err)
			}
		})
	}
	wg.Wait()
	if n := len(runs); n > 0 && int(waiting.Load()) == n {
		return opErr("commit offset on super stream", s.consumer.stream, s.cfg.Name, fmt.Errorf("%w on any partition", ErrNotActive))
	}
	return errors.Join(errs...)
}
