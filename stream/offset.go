package stream

import (
	"fmt"
	"math"
	"time"
)

// Start says where a consumer begins to read. The zero Start is
// Stored(First()): resume after the last stored offset and, where none is
// stored, read the stream from its beginning.
type Start struct {
	// ignoreStored is inverted so that the zero Start is Stored(First()).
	ignoreStored bool
	kind         startKind
	offset       uint64
	time         time.Time
	ago          time.Duration
}

type startKind uint8

const (
	startFirst startKind = iota
	startLast
	startNext
	startAt
	startSince
	startAgo
)

// First starts at the oldest message the stream still has.
func First() Start { return explicit(Start{kind: startFirst}) }

// Last starts at the last chunk: the messages that the broker wrote together
// most recently, one or many. On an empty stream it waits for the first one.
func Last() Start { return explicit(Start{kind: startLast}) }

// Next starts after the messages that are in the stream when [Consumer.Run]
// begins: only what is published from then on is delivered, also when the
// connection drops before the first of them arrives. All of a stream that is
// created again meanwhile is.
func Next() Start { return explicit(Start{kind: startNext}) }

// At starts at the message with this offset, the first of a stream being 0.
// If retention has already removed it, the oldest message follows; if it does
// not exist yet, the consumer waits for it.
func At(offset uint64) Start { return explicit(Start{kind: startAt, offset: offset}) }

// Since starts at the first chunk that the broker wrote at t or later, by the
// broker's clock with a resolution of milliseconds. If there is none, the
// consumer waits for the next message.
func Since(t time.Time) Start { return explicit(Start{kind: startSince, time: t}) }

// Ago starts like Since(time.Now().Add(-d)), where now is when
// [Consumer.Run] begins.
func Ago(d time.Duration) Start { return explicit(Start{kind: startAgo, ago: d}) }

// Stored starts at the message after the offset stored under the consumer's
// name, and as orElse says where nothing is stored. Offset 0 is stored like
// any other: it is not the same as nothing.
func Stored(orElse Start) Start {
	orElse.ignoreStored = false
	return orElse
}

// explicit marks a start that ignores the stored offset.
func explicit(s Start) Start {
	s.ignoreStored = true
	return s
}

// useStored reports whether the stored offset goes first.
func (s Start) useStored() bool { return !s.ignoreStored }

// String gives the start as a person would say it, for logs.
func (s Start) String() string {
	text := s.fallback()
	if s.useStored() {
		return "stored, else " + text
	}
	return text
}

func (s Start) fallback() string {
	switch s.kind {
	case startLast:
		return "last"
	case startNext:
		return "next"
	case startAt:
		return fmt.Sprintf("offset %d", s.offset)
	case startSince:
		return "since " + s.time.Format(time.RFC3339)
	case startAgo:
		return s.ago.String() + " ago"
	default:
		return "first"
	}
}

// validate rejects what no stream can have.
func (s Start) validate() error {
	switch {
	case s.kind == startAt && s.offset > math.MaxInt64:
		return fmt.Errorf("%w: start offset %d is beyond the largest possible one, %d", ErrInvalidConfig, s.offset, int64(math.MaxInt64))
	case s.kind == startAgo && s.ago < 0:
		return fmt.Errorf("%w: start %v ago is in the future; give a positive duration", ErrInvalidConfig, s.ago)
	case s.kind == startSince && s.time.IsZero():
		return fmt.Errorf("%w: Since needs a time; use First for the beginning of the stream", ErrInvalidConfig)
	}
	return nil
}

// inNewStream is where to start in a stream that was created under the run. All
// of it was published after the run began: none of it is what Next leaves out or
// Last has passed.
func (s Start) inNewStream() Start {
	if s.kind == startNext || s.kind == startLast {
		s.kind = startFirst
	}
	return s
}

// resolve fixes relative times at now.
func (s Start) resolve(now time.Time) Start {
	if s.kind == startAgo {
		s.kind, s.time = startSince, now.Add(-s.ago)
	}
	return s
}
