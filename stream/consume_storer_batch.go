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

// batch is what a storer shares with the others of its stream.
type batch interface {
	// storeSoon has the mark stored with the next batch, if wanted. leads says
	// that storeSoon is to be called again at a time, wanted or not: this storer
	// then sends the batch.
	storeSoon(ctx context.Context, wanted bool) (at time.Time, leads bool, err error)
	// yield makes another storer send the next batch, if this one had to.
	yield()
	// usable reports whether the batch may take this storer's mark.
	usable() bool
	// settle waits until the broker has what a batch has sent for this storer.
	settle(ctx context.Context)
}

// yieldBatch makes another storer send the next batch, because this one is going
// to wait for the broker.
func (s *storer) yieldBatch() {
	if s.leads {
		s.leads = false
		s.batch.yield()
	}
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

// Take returns the mark for a batch, and holds s.sending until Taken. If a store
// is under way, the storer looks again once that has ended.
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
	defer s.sending.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
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
