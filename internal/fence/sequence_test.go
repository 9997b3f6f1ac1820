package fence

import (
	"errors"
	"slices"
	"testing"
)

// answers gives a sequence an answer, which has to be heeded without complaint.
func answers(t *testing.T, q *Sequence, s uint64) []Outcome {
	t.Helper()
	dead, err := q.Answer(s)
	if err != nil {
		t.Fatalf("Answer(%d): %v", s, err)
	}
	return dead
}

func next(t *testing.T, q *Sequence, floor, want uint64) {
	t.Helper()
	if id, err := q.Next(floor); err != nil || id != want {
		t.Fatalf("Next(%d) = %d, %v; want %d", floor, id, err, want)
	}
}

func TestSequenceCounts(t *testing.T) {
	var q Sequence
	answers(t, &q, 600)
	next(t, &q, 0, 601)
	next(t, &q, 1<<32-1, 1<<32)
	next(t, &q, 0, 1<<32+1)
}

// An id that was given out stays where the broker's answer goes back.
func TestSequenceGoesBack(t *testing.T) {
	var q Sequence
	answers(t, &q, 600)
	answers(t, &q, 550) // the leader was lost before anything was given out
	next(t, &q, 0, 551)
	answers(t, &q, 540)
	next(t, &q, 0, 552)
}

func TestSequenceOutranked(t *testing.T) {
	var q Sequence
	answers(t, &q, 5)
	next(t, &q, 0, 6)
	answers(t, &q, 6)
	if _, err := q.Answer(7); !errors.Is(err, ErrOutranked) {
		t.Errorf("Answer above all ids: %v", err)
	}
	if err := q.Look(7); !errors.Is(err, ErrOutranked) {
		t.Errorf("Look above all ids: %v", err)
	}
	var given Sequence
	answers(t, &given, 5)
	if err := given.Accept(3); err != nil {
		t.Fatal(err)
	}
	answers(t, &given, 9) // two publishers with the same ids are no fault
}

// At the edge ids are refused, and never wrap around.
func TestSequenceEnds(t *testing.T) {
	var q Sequence
	answers(t, &q, 0)
	if err := q.Accept(MaxID - 1); err != nil {
		t.Fatal(err)
	}
	next(t, &q, 0, MaxID)
	for range 2 {
		if id, err := q.Next(0); !errors.Is(err, ErrIDsUsedUp) {
			t.Errorf("Next after the last id: %d, %v", id, err)
		}
	}
	for _, id := range []uint64{0, MaxID + 1, 1<<64 - 1} {
		if q.Accept(id) == nil {
			t.Errorf("Accept(%d) takes it", id)
		}
	}
	var foreign Sequence
	answers(t, &foreign, 1<<64-1)
	if id, err := foreign.Next(0); !errors.Is(err, ErrIDsUsedUp) {
		t.Errorf("Next behind 2^64-1: %d, %v", id, err)
	}
}

// A caller with ids of his own who was told more than the broker has in the end
// gets to know where to go on.
func TestSequenceBehind(t *testing.T) {
	behind := func(err error, stored, told uint64) {
		t.Helper()
		var b *BehindError
		if !errors.As(err, &b) || b.Stored != stored || b.Told != told {
			t.Errorf("%v; want stored %d, told %d", err, stored, told)
		}
	}
	begin := func(first uint64) *Sequence {
		q := &Sequence{}
		answers(t, q, 600)
		if last := q.Last(); last != 600 {
			t.Errorf("Last is %d", last)
		}
		if first != 0 && q.Accept(first) != nil {
			t.Errorf("Accept(%d) fails", first)
		}
		return q
	}
	_, err := begin(601).Answer(550)
	behind(err, 550, 600)
	_, err = begin(580).Answer(550) // he has 580 and what follows
	behind(err, 550, 579)
	_, err = begin(551).Answer(550) // he has all that is lost
	behindNot(t, err)
	q := begin(601)
	q.Confirm() // so that 600 is committed
	_, err = q.Answer(550)
	behindNot(t, err)
	q = begin(0)
	answers(t, q, 550)
	behind(q.Accept(601), 550, 600)
	q = begin(0)
	answers(t, q, 550)
	if q.Last() != 550 { // he asks again
		t.Errorf("Last is %d", q.Last())
	}
	behindNot(t, q.Accept(601)) // ids need not be dense
	q = &Sequence{}
	answers(t, q, 600) // of which nobody was told
	behindNot(t, q.Accept(601))
	_, err = q.Answer(550)
	behindNot(t, err)
}

func behindNot(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Errorf("%v; want no error", err)
	}
}

// Nothing counts as done because of an answer alone.
func TestSequenceDone(t *testing.T) {
	var q Sequence
	answers(t, &q, 10)
	if q.Done(5) || q.Confirmed() {
		t.Error("done before a confirm")
	}
	q.Confirm()
	if !q.Done(10) || q.Done(11) || !q.Confirmed() {
		t.Error("what the answer counts is committed together with what came after")
	}
	answers(t, &q, 20)
	if q.Done(5) {
		t.Error("done before a confirm since the latest answer")
	}
}

func TestSequenceRefusals(t *testing.T) {
	var q Sequence
	answers(t, &q, 10)
	for range 5 {
		if _, err := q.Next(0); err != nil {
			t.Fatal(err)
		}
	}
	q.Refuse(13, true)
	q.Refuse(11, true)
	q.Refuse(12, false)
	q.Refuse(10, true) // which the log has
	if dead := answers(t, &q, 12); !slices.Equal(dead, []Outcome{{11, true}, {12, false}}) {
		t.Errorf("outcomes %v", dead)
	}
	if dead := answers(t, &q, 15); len(dead) != 0 { // 13 was sent again since
		t.Errorf("outcomes %v", dead)
	}
}

// TestSequenceFirstOfTheCaller: what counts is the caller's lowest id. Who has
// begun at 551 himself misses nothing when the broker falls back to 550.
func TestSequenceFirstOfTheCaller(t *testing.T) {
	q := &Sequence{}
	answers(t, q, 600)
	if last := q.Last(); last != 600 {
		t.Fatalf("Last is %d", last)
	}
	for _, id := range []uint64{551, 700} {
		if err := q.Accept(id); err != nil {
			t.Fatal(err)
		}
	}
	answers(t, q, 550)
}

// TestSequenceTold: who was told a lower id than the stored one goes on from there,
// and what is lost above it is no concern of his.
func TestSequenceTold(t *testing.T) {
	var q Sequence
	if _, err := q.Answer(100); err != nil || q.Newest() != 100 {
		t.Fatalf("%v, %d", err, q.Newest())
	}
	q.Tell(40) // by another partition
	if _, err := q.Answer(90); err != nil {
		t.Fatal(err)
	}
	if err := q.Accept(95); err != nil {
		t.Errorf("he goes on above 40, and 90 is stored: %v", err)
	}
	q = Sequence{}
	if _, err := q.Answer(100); err != nil {
		t.Fatal(err)
	}
	q.Tell(40)
	if _, err := q.Answer(30); err != nil {
		t.Fatal(err)
	}
	var behind *BehindError
	if err := q.Accept(41); !errors.As(err, &behind) || behind.Stored != 30 || behind.Told != 40 {
		t.Errorf("31 to 40 are lost: %v", err)
	}
}
