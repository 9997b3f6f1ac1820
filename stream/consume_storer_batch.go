package stream

import (
	"context"
	"time"

	"github.com/tidemark-go/tidemark/internal/broker"
)

// The stores of all consumers that read one stream from one node leave together
// (see [broker.OffsetWriter.StoreSoon]). A storer whose mark is due waits for the
// next batch. One of the storers that wait sends the batch, on its own
// goroutine, and calls Take and Taken of the others.
//
// So do the last marks of runs, which are read back once they are sent: a thousand
// consumers that end together would send a thousand packets, of which RabbitMQ
// makes hundreds of chunks. A Commit, for which a handler may wait with every
// message, leaves at once, by itself.

// batch is what a storer shares with the others of its stream.
type batch interface {
	// storeSoon has the mark stored with the next batch, if wanted. leads says
	// that storeSoon is to be called again at a time, wanted or not: this storer
	// then sends the batch.
	storeSoon(ctx context.Context, wanted bool) (at time.Time, leads bool, err error)
	// storeNext is storeSoon, wanted, of a mark that somebody waits for: the next
	// batch leaves sooner.
	storeNext(ctx context.Context) (at time.Time, leads bool, err error)
	// yield says that this storer is busy: another one sends the next batch, if
	// this one had to. The storer calls storeSoon again once it is not.
	yield()
	// retire is yield of a storer that has ended: the connection may end too.
	retire()
	// usable reports whether the batch may take this storer's mark.
	usable() bool
	// settle waits until the broker has what a batch has sent for this storer.
	settle(ctx context.Context)
}

// yieldBatch has the next batch leave without this storer, which is going to wait
// for the broker. The storer looks again after that.
func (s *storer) yieldBatch() {
	if s.batch != nil {
		s.leads = false
		s.batch.yield()
		s.progress.wakeAlways()
	}
}

// storeWithOthers has the mark sent with the next batch, and sends the batch if
// that is up to this storer. Once the mark is sent, or one above it, it reports true:
// that is s.taken, and the caller holds s.sending. It reports false if there is no
// mark, or if the batch did not take it, or was not sent: the caller then does
// without it.
func (s *storer) storeWithOthers(ctx context.Context) (sent bool) {
	wanted, ok := s.progress.snapshot()
	if !ok {
		return false
	}
	handOn := s.awaitBatch()
	defer s.yieldBatch()
	timer := time.NewTimer(batchPatience)
	defer timer.Stop()
	end := time.Now().Add(batchPatience)
	for s.batch.usable() && ctx.Err() == nil && time.Now().Before(end) {
		at, leads, err := s.batch.storeNext(ctx)
		if s.leads = leads; err != nil {
			break
		}
		if !leads || at.After(end) {
			at = end
		}
		timer.Reset(time.Until(at))
		select {
		case sent = <-handOn:
			if !sent || s.tookAtLeast(wanted.Mark) {
				return sent
			}
			handOn = s.awaitBatch() // for the next one
		case <-s.progress.wake:
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	return s.leaveBatch(handOn) && s.tookAtLeast(wanted.Mark)
}

// tookAtLeast reports whether the batch that was sent has taken a mark. One that
// was about to leave when the storer began to wait has taken an older one:
// tookAtLeast gives s.sending up then.
func (s *storer) tookAtLeast(wanted uint64) bool {
	if s.taken.Mark >= wanted {
		return true
	}
	s.sending.Unlock()
	return false
}

// batchPatience is how long a storer waits for a batch to take a mark that
// somebody waits for. It is much longer than a batch ever takes, unless its
// leader's socket is stuck.
const batchPatience = time.Second

// awaitBatch returns a channel that gets whether the next batch that takes the
// mark was sent. If so, Taken leaves s.sending to the receiver.
func (s *storer) awaitBatch() (handOn chan bool) {
	handOn = make(chan bool, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handOn = handOn
	return handOn
}

// leaveBatch ends awaitBatch. It reports whether a batch has sent the mark all the
// same, and left s.sending to the caller.
func (s *storer) leaveBatch(handOn chan bool) (sent bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handOn = nil
	select {
	case sent = <-handOn:
	default:
	}
	return sent
}

// storeInBatch has the mark stored with the next batch if it is due, and sends
// the batch if that is up to this storer. It returns when to look again; a zero
// time says that something will wake the storer.
func (s *storer) storeInBatch(ctx context.Context) time.Time {
	due, at := s.progress.due(true)
	if !due && !s.leads {
		return at
	}
	batchAt, leads, err := s.batch.storeSoon(ctx, due)
	s.leads = leads
	switch {
	case err != nil && ctx.Err() == nil:
		return time.Now().Add(storeRetry) // the session ends with the connection
	case leads && (at.IsZero() || batchAt.Before(at)):
		return batchAt
	}
	return at
}

// Take returns the mark for a batch, and holds s.sending until Taken, or longer
// (see awaitBatch). If a store is under way, the storer looks again once that has
// ended.
func (s *storer) Take() (offset uint64, ok bool) {
	if !s.sending.TryLock() {
		s.progress.wakeAlways()
		return 0, false
	}
	snapshot, ok := s.progress.snapshot()
	if !ok || s.progress.storesPaused() || !s.batch.usable() {
		s.sending.Unlock()
		return 0, false
	}
	s.taken = snapshot
	return snapshot.Mark, true
}

// Taken records that a batch has sent the mark. It reports whether the mark has
// moved since and is to leave with the next batch too.
func (s *storer) Taken(err error) (again bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if handOn := s.handOn; handOn != nil {
		return s.handSending(handOn, err)
	}
	defer s.sending.Unlock()
	if s.stopped {
		return false
	}
	if err == nil {
		s.sent(s.taken.Mark)
		s.progress.storedAt(s.taken)
	}
	due, at := s.progress.due(true)
	if !at.IsZero() {
		s.progress.wakeAlways() // the storer sets its timer
	}
	return due
}

// handSending ends a wait for a batch. If the batch was sent, s.sending is the
// waiting storer's from then on. The mark counts as stored only once that storer has
// read it back. The caller holds s.mu.
func (s *storer) handSending(handOn chan bool, err error) (again bool) {
	s.handOn = nil
	if err == nil {
		s.sent(s.taken.Mark)
	} else {
		s.sending.Unlock()
	}
	handOn <- err == nil
	return false
}

// Doubt makes the storer store its mark again.
func (s *storer) Doubt() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.stopped {
		s.progress.doubtStore()
		s.progress.wakeAlways()
	}
}

// Wake makes the storer look whether its mark is due.
func (s *storer) Wake() { s.progress.wakeAlways() }

var _ broker.OffsetSource = (*storer)(nil)
