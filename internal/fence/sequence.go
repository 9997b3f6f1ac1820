package fence

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
)

const (
	// MaxID is the largest publishing id. Several clients, and the tools of
	// RabbitMQ, read ids as signed.
	MaxID = 1<<63 - 1
)

var (
	// ErrIDsUsedUp says that no id is left above those that the broker has.
	ErrIDsUsedUp = errors.New("the publishing ids of this name are used up")
	// ErrOutranked says that the broker has an id that this process never gave
	// out: another one publishes under the name.
	ErrOutranked = errors.New("the broker has an id that this producer has not come to")
)

// BehindError says that messages are missing which the caller took for stored.
// He was told an id, goes on above it, and the broker has lost the last ones up
// to it: they were written and never committed.
type BehindError struct {
	Stored uint64 // the highest id that the broker has: publish again from there
	Told   uint64 // what the caller was told before
}

func (e *BehindError) Error() string {
	return fmt.Sprintf("the ids %d to %d were never committed: publish again what follows id %d", e.Stored+1, e.Told, e.Stored)
}

// Outcome is what a message ends with that is not sent again.
type Outcome struct {
	ID uint64
	// Absent says that the message is certainly not in the stream. Otherwise it
	// is unknown.
	Absent bool
}

// Sequence knows the publishing ids of one producer with a name: those that it
// gives out, and those of its caller. Its owner reports the answer to each
// QueryPublisherSequence, what was confirmed, and what was refused.
//
// It never takes a message for stored because of an answer alone, for the
// answer counts what is not committed. So the owner sends everything without an
// outcome again after each Answer, in the order of the ids, also what is not
// above the answer: the broker then confirms it together with the original.
type Sequence struct {
	answer  uint64 // the latest
	last    uint64 // the highest id of a message
	first   uint64 // the lowest one of the caller's
	given   bool   // first is set
	counted bool   // an id was given out
	told    uint64 // what the caller has last been told
	// confirmed says that there was a confirm at all, and committed that there
	// was one since the latest answer.
	confirmed, committed bool
	refused              map[uint64]bool // whether each was sent once in all
}

// Answer takes the answer to a query that was sent after DeclarePublisher, and,
// for ids that are given out, in the round of the lease that made it sure or
// after that. The returned outcomes are those of messages that must not be sent
// again. An error is the producer's end:
//
//   - [ErrOutranked]: another process publishes under the name;
//   - [*BehindError]: the caller has to go back.
func (q *Sequence) Answer(s uint64) ([]Outcome, error) {
	q.answer, q.committed = s, false
	if err := q.Look(s); err != nil {
		return nil, err
	}
	var dead []Outcome
	for id, once := range q.refused {
		if id <= s {
			dead = append(dead, Outcome{ID: id, Absent: once})
		}
	}
	slices.SortFunc(dead, func(a, b Outcome) int { return cmp.Compare(a.ID, b.ID) })
	clear(q.refused) // the others are sent again
	if !q.given {
		return dead, nil // Accept looks
	}
	return dead, q.behind(q.first)
}

// Look takes an answer that no DeclarePublisher preceded, as each round of the
// lease brings one. It fails with [ErrOutranked] if it is above all ids that
// were given out.
func (q *Sequence) Look(s uint64) error {
	if q.counted && s > q.last {
		return fmt.Errorf("%w: %d, and the newest here is %d", ErrOutranked, s, q.last)
	}
	return nil
}

// behind says whether ids below the caller's first one, which another process
// has published, were lost since he was told that they are stored.
func (q *Sequence) behind(first uint64) error {
	if told := min(q.told, first-1); !q.confirmed && q.answer < told {
		return &BehindError{Stored: q.answer, Told: told}
	}
	return nil
}

// Last returns Newest, and tells the caller of it.
func (q *Sequence) Last() uint64 {
	last := q.Newest()
	q.Tell(last)
	return last
}

// Newest returns the highest id that was accepted, or that the broker has.
func (q *Sequence) Newest() uint64 { return max(q.last, q.answer) }

// Tell says that the caller goes on above an id, because he was told that
// everything up to it is stored.
func (q *Sequence) Tell(id uint64) {
	if !q.confirmed {
		q.told = id
	}
}

// Accept takes an id of the caller's, from 1 to MaxID. It fails with a
// [*BehindError] if the caller goes by what the broker has lost meanwhile.
func (q *Sequence) Accept(id uint64) error {
	if id == 0 || id > MaxID {
		return fmt.Errorf("publishing id %d is not one from 1 to %d", id, uint64(MaxID))
	}
	first := id
	if q.given {
		first = min(first, q.first)
	}
	if err := q.behind(first); err != nil {
		return err
	}
	q.first, q.given, q.last = first, true, max(q.last, id)
	return nil
}

// Next gives out an id above those before, those that the broker has, and
// Lease.Floor. It fails with [ErrIDsUsedUp] where there is none: ids never wrap
// around.
func (q *Sequence) Next(floor uint64) (uint64, error) {
	from := max(q.last, q.answer, floor)
	if from >= MaxID {
		return 0, fmt.Errorf("%w: %d was the last one; use another name", ErrIDsUsedUp, from)
	}
	q.counted, q.last = true, from+1
	return q.last, nil
}

// Confirm says that a confirm counts. For ids that are given out that is when
// Lease.Sure says so.
func (q *Sequence) Confirm() { q.confirmed, q.committed = true, true }

// Confirmed reports whether there was a confirm that counts.
func (q *Sequence) Confirmed() bool { return q.confirmed }

// Done reports whether the broker has committed an id that it need not be sent
// for again: it is not above the answer, and something was confirmed since.
func (q *Sequence) Done(id uint64) bool { return q.committed && id <= q.answer }

// Refuse takes an id that the broker refused with code 18 (publisher does not
// exist), so that this copy is in no log. once says that the message was sent
// once in all. A message that the latest answer counts is in the log, whatever
// became of this copy.
func (q *Sequence) Refuse(id uint64, once bool) {
	if id <= q.answer {
		return
	}
	if q.refused == nil {
		q.refused = map[uint64]bool{}
	}
	q.refused[id] = once
}
