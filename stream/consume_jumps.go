package stream

import (
	"context"
	"sync"
	"time"

	"github.com/tidemark-go/tidemark/internal/mark"
)

// jumpWatch reports what retention takes in front of a connected consumer. It
// notes gaps where chunks arrive, and asks for the stream's first offset on a
// goroutine of its own: at once, because retention may come to the gap later,
// and less often where the answers show no loss. The subscription of a tee asks
// for all members: they come to the gap when they take the chunk behind it, which
// may be long after it arrived. subscription.mu guards the first group of fields.
type jumpWatch struct {
	jumps   mark.Jumps
	asking  bool // the goroutine runs
	lost    func(mark.Gap)
	judging []mark.Gap    // what the goroutine asks about
	judged  chan struct{} // closed when it has an answer; nil: nobody waits for that

	asked  time.Time     // when the goroutine asked last; it alone uses both
	pause  time.Duration // until it asks again
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// The pause between two questions for a stream's first offset doubles from
// minJumpPause to maxJumpPause.
const (
	minJumpPause = 20 * time.Millisecond
	maxJumpPause = time.Second
)

// watchJumps begins to watch what the subscription delivers. lost is called on a
// goroutine of the subscription, and not after release.
func (s *subscription) watchJumps(jumps mark.Jumps, lost func(mark.Gap)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := &s.jumpWatch
	w.jumps, w.lost = jumps, lost
	w.ctx, w.cancel = context.WithCancel(context.Background())
}

// nextJumps returns Jumps for another subscription that goes on where this one is.
func (s *subscription) nextJumps() mark.Jumps {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.jumpWatch.jumps.Fresh()
}

// noteJump takes note of a chunk that has arrived. The caller holds s.mu.
func (s *subscription) noteJump(arrived waitingChunk) {
	w := &s.jumpWatch
	if w.lost == nil {
		return
	}
	chunk := arrived.chunk()
	if !w.jumps.Arrive(&chunk.ChunkHeader, time.Now) || w.asking || s.dropping.Load() {
		return
	}
	w.asking = true
	w.wg.Go(s.judgeJumps)
}

// judgeJumps asks for the stream's first offset until no gap is left to judge.
func (s *subscription) judgeJumps() {
	w := &s.jumpWatch
	for {
		if w.pause > 0 && sleep(w.ctx, time.Until(w.asked.Add(w.pause))) != nil {
			return
		}
		s.mu.Lock()
		gaps := w.jumps.Take()
		w.asking, w.judging = len(gaps) > 0, gaps
		s.mu.Unlock()
		if len(gaps) == 0 {
			return
		}
		w.asked = time.Now()
		lost, err := s.lostOf(w.ctx, gaps)
		if err != nil {
			return // the subscription ends, or soon will
		}
		for _, gap := range lost {
			w.lost(gap)
		}
		s.noteJudged()
		if w.pause = min(max(2*w.pause, minJumpPause), maxJumpPause); len(lost) > 0 {
			w.pause = 0
		}
	}
}

// lostOf returns what retention has taken of gaps. A member of a tee asks the tee,
// unless a gap was in front of it before it joined.
func (s *subscription) lostOf(ctx context.Context, gaps []mark.Gap) ([]mark.Gap, error) {
	if m := s.inTee.Load(); m != nil && gaps[0].From >= m.tee.from {
		return m.tee.lostOf(ctx, gaps)
	}
	extent, err := s.lease.Stats(ctx, s.stream)
	if err != nil {
		return nil, err
	}
	return mark.Lost(gaps, extent.FirstOffset), nil
}

// noteJudged wakes who waits for an answer.
func (s *subscription) noteJudged() {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := &s.jumpWatch
	w.judging = nil
	if w.judged != nil {
		close(w.judged)
		w.judged = nil
	}
}

// unjudged returns what is closed when the watch knows more of gaps, and nil if it
// knows all of them. The caller holds s.mu.
func (w *jumpWatch) unjudged(gaps []mark.Gap) <-chan struct{} {
	if !mark.Overlap(gaps, w.judging) && !w.jumps.Asks(gaps) {
		return nil
	}
	if w.judged == nil {
		w.judged = make(chan struct{})
	}
	return w.judged
}

// parkJumps ends the watch of a term. Another one may follow.
func (s *subscription) parkJumps() {
	w := &s.jumpWatch
	s.mu.Lock()
	w.lost = nil
	s.mu.Unlock()
	s.endJumps()
	w.asking, w.pause, w.cancel = false, 0, nil
}

// endJumps ends the watch and waits for its goroutine. dropping is set.
func (s *subscription) endJumps() {
	if w := &s.jumpWatch; w.cancel != nil {
		w.cancel()
		w.wg.Wait()
	}
}

// lostInSession reports what retention has taken from a connected consumer.
func (r *run) lostInSession(gap mark.Gap) {
	r.toldBelow.Store(max(r.toldBelow.Load(), gap.To+1)) // one session after the other
	r.reportLost(gap)
}

// reportLost reports messages that nobody will read.
func (r *run) reportLost(gap mark.Gap) {
	r.report(StateChange{State: StateMessagesLost, Lost: gap.To - gap.From + 1, LostFrom: gap.From, LostTo: gap.To})
}
