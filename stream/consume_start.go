package stream

import (
	"fmt"
	"math"
	"time"

	"github.com/tidemark-go/tidemark/internal/mark"
)

// Start says where a consumer begins to read. The zero Start is
// Stored(First()): it resumes after the stored offset and, where none is
// stored, reads the stream from its beginning.
type Start struct {
	// ignoreStored is a negative flag so that the zero Start is
	// Stored(First()).
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

// First starts at the oldest message that the stream still has. It ignores a
// stored offset, as every Start does but Stored.
func First() Start { return explicit(Start{kind: startFirst}) }

// Last starts at the last chunk: the messages, one or many, that the broker
// wrote together most recently when [Consumer.Run] begins. On an empty stream the
// consumer waits for the first message.
func Last() Start { return explicit(Start{kind: startLast}) }

// Next starts after the messages that are in the stream when [Consumer.Run]
// begins. The consumer gets everything that is published from then on, even if
// the connection drops before the first message arrives. It also gets all of a
// stream that is created again meanwhile.
func Next() Start { return explicit(Start{kind: startNext}) }

// At starts at the message with this offset. A stream begins with offset 0. If
// retention has removed the message, the consumer starts at the oldest one. If
// the message does not exist yet, the consumer waits for it.
func At(offset uint64) Start { return explicit(Start{kind: startAt, offset: offset}) }

// Since starts at the first chunk that the broker wrote at t or later, by the
// broker's clock, which counts milliseconds. If there is no such chunk when
// [Consumer.Run] begins, the consumer gets every message that is published from
// then on, as with [Next]; it finds that out within a second.
func Since(t time.Time) Start { return explicit(Start{kind: startSince, time: t}) }

// Ago starts like Since(time.Now().Add(-d)), where now is when [Consumer.Run]
// begins.
func Ago(d time.Duration) Start { return explicit(Start{kind: startAgo, ago: d}) }

// BeforeFirst is the stored offset that means "nothing handled yet": a consumer
// whose Start is [Stored] begins at the first message of the stream. Store it
// with [Env.StoreOffset] to have a consumer read a stream from its beginning, or
// return it from [OffsetStore].Load. What retention has removed of the stream by
// then is reported as lost; see [StateMessagesLost].
//
// It is the largest number there is, 2^64-1, and the offset after it is 0, by
// the wrap-around of 64 bits. RabbitMQ keeps it like any other, also on an empty
// stream. The Java and the official Go client add 1 to the stored offset, so
// they begin at offset 0 as well. A client that does not add 1, but drops what
// lies at or below the stored offset, drops every message: the pattern in
// rstream's documentation does that.
const BeforeFirst uint64 = mark.BeforeFirst

// Stored starts at the message after the offset that is stored under the
// consumer's name. If nothing is stored, or if the consumer has no name, it
// starts as orElse says. Offset 0 is an offset like any other, and after
// [BeforeFirst] it starts at the first message.
//
// If the stored offset lies beyond the end of the stream, the consumer looks at
// the stream's leader for 10 s at least. If it is certain then, the consumer goes
// on behind the last message and reports [StateOffsetBeyondEnd].
//
// Where orElse is Next, Last, Since or Ago, the first run stores its place when
// it begins: the offset before the place, or BeforeFirst on an empty stream. So
// the next run goes on there even if the first one has handled nothing. With
// StorePolicy.Manual and with an OffsetStore the run stores no place: until the
// service has stored an offset of its own, each run begins as orElse says, and
// does not get what came between two runs.
//
// RabbitMQ forgets an offset that retention has overtaken, and then answers as
// if nothing had ever been stored. Unless orElse is First, the consumer
// therefore keeps a second entry with the broker, whose name is the consumer's
// with "tidemark-started:" in front (and a hash in place of a name that becomes
// too long). Names that begin so, or with "tidemark-producer:", are the library's
// own, and NewConsumer refuses them. If that entry is there and the offset is
// not, the consumer begins at the oldest message and reports
// [StateMessagesLost]. Where orElse is First, it begins there in any case. Where
// orElse is At, the entry is there from the first run on that finds an offset.
func Stored(orElse Start) Start {
	orElse.ignoreStored = false
	return orElse
}

// explicit returns a start that ignores the stored offset.
func explicit(s Start) Start {
	s.ignoreStored = true
	return s
}

// usesStored reports whether the stored offset comes first.
func (s Start) usesStored() bool { return !s.ignoreStored }

// String returns the start in words, for logs.
func (s Start) String() string {
	text := s.withoutStored()
	if s.usesStored() {
		return "stored, else " + text
	}
	return text
}

func (s Start) withoutStored() string {
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

// validate rejects a start that no stream can have.
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

// inNewStream returns where to start in a stream that was created again during
// the run. All of that stream is newer than the run, so only At leaves a part
// of it out.
func (s Start) inNewStream() Start {
	if s.kind == startAt {
		return s
	}
	return Start{ignoreStored: s.ignoreStored}
}

// resolve turns Ago into Since, by the time at which the run begins.
func (s Start) resolve(now time.Time) Start {
	if s.kind == startAgo {
		s.kind, s.time = startSince, now.Add(-s.ago)
	}
	return s
}
