package stream

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tidemark-go/tidemark/internal/broker"
	"github.com/tidemark-go/tidemark/internal/wire"
)

// This file is the way of a chunk through a subscription: Buffer, Deliver and
// Flush on the goroutine of the connection's reader, then receive and giveBack
// on the consumer's. Chunks may be small and many, so both sides take the lock,
// and the reader wakes the consumer, for as many at a time as there are.

// waitingChunk is a chunk in the queue. Its header was parsed once and is
// parsed again when the consumer takes it, because a parsed one would take more
// memory than a small chunk.
type waitingChunk struct {
	buffer []byte
	start  int // where in buffer the chunk begins
}

// chunk returns the chunk, which Deliver has parsed.
func (w waitingChunk) chunk() wire.Chunk {
	c, _ := wire.ParseChunk(w.buffer[w.start:])
	return c
}

// cost is the memory that a chunk takes.
func (w waitingChunk) cost() int64 { return int64(cap(w.buffer)) + chunkOverhead }

// takenChunks are the chunks that the consumer has taken from the queue.
type takenChunks struct {
	list []waitingChunk
	next int // index of the first one that receive has not returned

	// What giveBack has got and flow does not know yet.
	returned     int
	returnedCost int64
	// From so much on flow is told.
	returnAfter     int
	returnAfterCost int64
}

// Buffer returns memory for the next chunk. The connection's reader calls it.
func (s *subscription) Buffer(n int) []byte {
	if n < minBuffer {
		return s.small.get(n)
	}
	return s.memory.get(n)
}

// Deliver takes a chunk that Flush queues. The connection's reader calls it,
// possibly before openSubscription has set s.lease. A chunk that does not match
// its checksum ends the subscription, and Deliver drops it and what comes
// behind it.
func (s *subscription) Deliver(d wire.Deliver, buffer []byte) error {
	chunk, err := wire.ParseChunk(d.Chunk)
	if err != nil {
		return err
	}
	if s.dropping.Load() {
		s.memory.put(buffer)
		return nil
	}
	if err := chunk.Check(); err != nil {
		if err := s.Flush(); err != nil {
			return err
		}
		s.corruptChunks.Add(1)
		s.drop(fmt.Errorf("%w: %w: from %s: %v", ErrProtocol, ErrCorruptChunk, s.node.Address(), err))
		return nil
	}
	s.came = append(s.came, waitingChunk{buffer, len(buffer) - len(d.Chunk)})
	return nil
}

// drop ends the subscription and has Deliver drop what still comes.
func (s *subscription) drop(reason error) {
	s.dropping.Store(true)
	s.end(reason)
}

// Flush queues what Deliver has taken and wakes the consumer. The queue has
// room for every chunk that credit was given for, so Flush never blocks. The
// connection's reader calls it.
func (s *subscription) Flush() error {
	s.small.endBurst()
	if len(s.came) == 0 {
		return nil
	}
	outcome := arrivalHeld
	if !s.dropping.Load() {
		outcome = s.enqueue()
	}
	clear(s.came)
	if s.came = s.came[:0]; cap(s.came) > minWindow && s.small.next == 0 {
		s.came = nil // the burst is over
	}
	switch outcome {
	case arrivalUnasked:
		return fmt.Errorf("%w: more chunks than there was credit for", wire.ErrMalformed)
	case arrivalTooMuch:
		s.drop(errTooMuch)
	}
	return nil
}

// errTooMuch ends a subscription for which large chunks came where small ones
// were expected. The next one begins at the first message not handled, and asks
// for a few chunks.
var errTooMuch = errors.New("large chunks followed small ones: those that exceed twice MaxBuffered were dropped and are asked for again")

// enqueue queues what came, and returns the outcome of the last chunk. Chunks
// behind one that is not held are left out.
func (s *subscription) enqueue() (outcome arrival) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.came {
		if outcome = s.flow.arrived(w.cost()); outcome != arrivalHeld {
			break
		}
		s.arrivals++
		s.noteJump(w)
		if s.tee != nil {
			s.tee.add(w, time.Now())
			continue
		}
		s.queue = append(s.queue, w)
	}
	s.memory.update(s.share, &s.flow)
	if s.tee != nil {
		s.tee.wake()
	}
	s.wakeUp()
	return outcome
}

// wakeUp wakes the consumer if it waits.
func (s *subscription) wakeUp() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// receive waits for the next chunk and gives credit for further ones. It
// returns errFlushDue if flushDue gets an item first, and errCrossed once the
// lookout has found something and what came before that was returned. After the
// connection is lost it still returns the chunks that have come before. The
// caller passes each chunk to giveBack.
func (s *subscription) receive(ctx context.Context, flushDue <-chan time.Time) (receivedChunk, error) {
	for {
		if s.take(ctx) {
			if ctx.Err() != nil {
				return receivedChunk{}, broker.ContextError(ctx)
			}
			chunk := s.taken.pop()
			chunk.shared = s.inTee.Load() != nil
			return chunk, nil
		}
		if s.upTo != nil && s.alive() { // a chunk that was dropped may lie before it
			return receivedChunk{}, errCrossed
		}
		var over error
		shared := s.waitShared()
		select {
		case s.upTo = <-s.crossed:
			continue
		case <-s.wake:
			shared.woken()
			continue
		case <-shared.late:
			shared.tee.credit(ctx, shared.detachSlow())
			continue
		case <-s.ended:
			over = s.whyEnded()
		case <-s.lease.Ended():
			over = s.whyEnded()
		case <-shared.ended:
			over = s.whyEnded()
		case <-shared.lost:
			over = s.whyEnded()
		case <-flushDue:
			return receivedChunk{}, errFlushDue
		case <-ctx.Done():
			return receivedChunk{}, broker.ContextError(ctx)
		}
		if !s.take(ctx) { // what came before the end was queued before it
			return receivedChunk{}, over
		}
	}
}

// take makes sure that a chunk is taken, if there is one. When the consumer has
// used up those that it had, take takes all that wait.
func (s *subscription) take(ctx context.Context) bool {
	t := &s.taken
	if t.next < len(t.list) {
		return true
	}
	if s.inTee.Load() != nil {
		return !s.cutOff() && s.takeShared(ctx)
	}
	s.mu.Lock()
	t.list, s.queue, t.next = s.queue, t.reuse(), 0
	now := time.Now()
	if len(t.list) == 0 {
		s.flow.waits(now)
	} else {
		s.flow.resumes(now)
	}
	credit := s.settle(now)
	s.mu.Unlock()
	s.giveCredit(ctx, credit)
	return len(t.list) > 0
}

// reuse returns the memory of the list, if it is not too large to be kept for a
// quiet stream.
func (t *takenChunks) reuse() []waitingChunk {
	if cap(t.list) > 4*minWindow && len(t.list) < cap(t.list)/4 {
		return nil
	}
	return t.list[:0]
}

// pop returns the next chunk and forgets it, so that its memory can go.
func (t *takenChunks) pop() receivedChunk {
	w := t.list[t.next]
	t.list[t.next] = waitingChunk{}
	t.next++
	return receivedChunk{Chunk: w.chunk(), buffer: w.buffer}
}

// waiting returns how many chunks receive returns without waiting.
func (s *subscription) waiting() int { return len(s.taken.list) - s.taken.next }

// settle tells flow what was given back, and returns the credit to give. The
// caller holds s.mu.
func (s *subscription) settle(now time.Time) (credit int) {
	t := &s.taken
	s.flow.returned(t.returned, t.returnedCost)
	t.returned, t.returnedCost = 0, 0
	credit = s.memory.grant(s.share, &s.flow, now)
	t.returnAfter, t.returnAfterCost = s.flow.returnAfter()
	return credit
}

// giveBack takes the memory of a chunk back from the caller of receive, and
// gives credit for further chunks.
func (s *subscription) giveBack(ctx context.Context, chunk receivedChunk) {
	if m := s.inTee.Load(); m != nil {
		m.tee.credit(ctx, m.giveBack(int64(cap(chunk.buffer))+chunkOverhead))
		return
	}
	t := &s.taken
	t.returned++
	t.returnedCost += int64(cap(chunk.buffer)) + chunkOverhead
	s.memory.put(chunk.buffer)
	if t.returned < t.returnAfter && t.returnedCost < t.returnAfterCost {
		return
	}
	s.mu.Lock()
	credit := s.settle(time.Now())
	s.mu.Unlock()
	s.giveCredit(ctx, credit)
}

// cutOff reports whether the subscription itself or its connection has ended. Its
// tee may go on and have chunks for ever, whose offsets could not be stored.
func (s *subscription) cutOff() bool {
	select {
	case <-s.ended:
		return true
	case <-s.lease.Ended():
		return true
	default:
		return false
	}
}

// takeShared is take for a member of a tee. If the member was detached, it joins
// another tee at its place. If that fails, the subscription ends, unless ctx has
// ended: then the run goes on to use its connection for the last store. The
// subscription ends as well if the old tee has: the stream may be another one of
// the same name by now, which the next session finds out.
func (s *subscription) takeShared(ctx context.Context) bool {
	t := &s.taken
	for {
		m := s.inTee.Load()
		list, detached, credit := m.take(t.reuse())
		if !detached {
			t.list, t.next = list, 0
			s.noteJumps(list)
			m.tee.credit(ctx, credit)
			return len(list) > 0
		}
		if s.endReason() != nil || ctx.Err() != nil {
			return false
		}
		err := m.tee.over()
		if err == nil {
			err = s.env.joinTee(ctx, s, m.from, s.name)
		}
		if err != nil {
			if ctx.Err() == nil {
				s.end(err)
			}
			return false
		}
	}
}

// noteJumps is noteJump for several chunks.
func (s *subscription) noteJumps(list []waitingChunk) {
	if len(list) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range list {
		s.noteJump(w)
	}
}
