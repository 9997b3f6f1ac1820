package stream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tidemark-go/tidemark/internal/broker"
)

const (
	// refreshEvery is how often a producer asks which partitions there are.
	refreshEvery = 10 * time.Second
	// refreshTimeout bounds the answer to that.
	refreshTimeout = 10 * time.Second
	// restartAfter is how long a partition's producer has to live to be replaced
	// at once when its stream is deleted.
	restartAfter = time.Second
)

// run follows the partitions until Close: every refreshEvery, and whenever somebody
// asks for it.
func (s *superProducer) run() {
	defer s.env.owned.Done()
	defer close(s.over)
	defer s.retiring.Wait()
	tick := time.NewTicker(refreshEvery)
	defer tick.Stop()
	for {
		select {
		case <-s.life.Done():
			return
		case <-s.wake:
		case <-tick.C:
		}
		waiting := s.takeWaiting()
		ctx, cancel := context.WithTimeoutCause(s.life, refreshTimeout, broker.OwnReason(fmt.Errorf("%w: no answer within %v", ErrUnreachable, refreshTimeout)))
		followed := s.refresh(ctx)
		if waiting != nil {
			close(waiting)
		}
		if followed {
			s.routes.refresh(ctx) // nobody waits for that: find asks for the keys of partitions that are gone
		}
		cancel()
	}
}

// refreshed waits for a refresh that begins from now on.
func (s *superProducer) refreshed(ctx context.Context) {
	s.waitMu.Lock()
	if s.waiting == nil {
		s.waiting = make(chan struct{})
	}
	waiting := s.waiting
	s.waitMu.Unlock()
	s.poke()
	select {
	case <-waiting:
	case <-s.life.Done():
	case <-ctx.Done():
	}
}

func (s *superProducer) takeWaiting() chan struct{} {
	s.waitMu.Lock()
	defer s.waitMu.Unlock()
	waiting := s.waiting
	s.waiting = nil
	return waiting
}

func (s *superProducer) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// ended is told of a partition's producer that has ended by itself. If its stream
// was deleted, the partition may be gone. It does not wait.
func (s *superProducer) ended(p *Producer, err error) {
	if errors.Is(err, ErrStreamDeleted) && time.Since(p.born) >= restartAfter {
		s.poke()
	}
}

// refresh asks for the partitions and follows what has changed. It leaves
// everything as it is if nobody answers. It reports whether the super stream is
// there.
func (s *superProducer) refresh(ctx context.Context) (followed bool) {
	if s.refused() != nil {
		return false
	}
	names, err := s.env.lookAtSuper(ctx, s.name, s.table.Load().names)
	switch {
	case errors.Is(err, ErrStreamNotFound):
		s.deleted.Store(true) // first: who hears of the end may use the name
		s.refuse(fmt.Errorf("%w: create the super stream again with Env.DeclareSuperStream and make a new producer", ErrStreamDeleted))
	case err != nil:
		s.env.cfg.Logger.Debug("the partitions are not known anew", "super stream", s.name, "error", err)
	default:
		s.follow(names)
		return true
	}
	return false
}

// follow makes the table one of these partitions: it begins producers to new ones,
// and ends those to others. A new one whose name another producer has still, as that
// of a partition which was removed and is back, connects once it is free.
func (s *superProducer) follow(names []string) {
	old := s.table.Load()
	of := map[string]*Producer{}
	var begun []*Producer
	for _, name := range names {
		if of[name] != nil {
			continue // it is bound with two keys
		}
		p := old.of[name]
		if p == nil || isDeleted(p) {
			var err error
			if p, err = s.newPart(name); err != nil {
				undoAll(begun)
				return // the Env is being closed
			}
			begun = append(begun, p)
		}
		of[name] = p
	}
	if len(begun) > 0 || !slices.Equal(names, old.names) {
		s.replace(newPartitionTable(names, of), old, begun)
	}
}

// undoAll takes back newPart.
func undoAll(begun []*Producer) {
	for _, p := range begun {
		partStart{p: p}.undo()
	}
}

// isDeleted reports whether a producer has ended because its stream was deleted.
func isDeleted(p *Producer) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return errors.Is(p.refusal, ErrStreamDeleted)
}

// replace makes a table the one that messages are routed by, unless the producer
// accepts none any more. begun are those of its producers that are new.
func (s *superProducer) replace(t, old *partitionTable, begun []*Producer) {
	gone, replaced := s.swap(t, old, begun)
	if !replaced {
		undoAll(begun)
		return
	}
	for _, p := range begun {
		go s.connectPart(p)
	}
	for _, p := range gone {
		s.retire(p)
	}
}

// swap is replace without what takes time. It returns the producers that no message
// is for any more.
func (s *superProducer) swap(t, old *partitionTable, begun []*Producer) (gone []*Producer, replaced bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refusal != nil {
		return nil, false
	}
	for _, p := range begun {
		s.parts[p] = true
	}
	s.table.Store(t)
	for _, p := range old.parts {
		if t.of[p.stream] != p {
			s.parts[p] = false
			gone = append(gone, p)
		}
	}
	return gone, true
}

// connectPart connects the producer of a new partition, and becomes its goroutine.
func (s *superProducer) connectPart(p *Producer) {
	stop := p.stallAfter(blockedAfter)
	l, err := p.connectClaimed()
	stop()
	if errors.Is(err, ErrStreamNotFound) {
		err = fmt.Errorf("%w: the partition is not there any more", ErrStreamDeleted)
	}
	if err == nil {
		p.state(StateChange{State: StateConnected})
	}
	p.run(l, err)
}

// connectClaimed is connect for the producer of a partition that may not have its
// name yet.
func (p *Producer) connectClaimed() (*link, error) {
	if p.part == nil {
		return p.connect(p.life)
	}
	if err := p.claim(); err != nil {
		return nil, fmt.Errorf("%w: its name is another producer's of this Env still: the broker would drop the messages of one as the other's repeats", ErrStreamUnavailable)
	}
	return p.connect(p.life)
}

// retire ends the producer of a partition that was removed, once its messages have
// their outcomes.
func (s *superProducer) retire(p *Producer) {
	p.refuse(fmt.Errorf("%w: the partition was removed from the super stream", ErrClosed))
	s.retiring.Go(func() {
		_ = p.Close(context.Background()) // ends at the latest with Close of the super stream's producer
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.parts, p)
	})
}
