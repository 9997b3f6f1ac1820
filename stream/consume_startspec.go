package stream

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/tidemark-go/tidemark/internal/startspec"
)

// Package official has the same Start, StorePolicy and rules. It gets their
// insides through startspec, since they are nobody else's.
func init() {
	startspec.Of = func(start any, now time.Time) startspec.Start { return start.(Start).insides(now) }
	startspec.CheckConsumer = func(stream, name string, start, policy any) error {
		_, err := ConsumerConfig{Name: name, Start: start.(Start), Store: policy.(StorePolicy)}.withDefaults(stream)
		return errors.Join(checkStream(stream), err)
	}
	startspec.CheckOffset = func(stream, name string, offset uint64) error {
		return errors.Join(checkStream(stream), checkName(name), checkOffset(offset))
	}
}

// insides takes the start apart.
func (s Start) insides(now time.Time) startspec.Start {
	s = s.resolve(now)
	kinds := map[startKind]startspec.Kind{
		startFirst: startspec.First, startLast: startspec.Last, startNext: startspec.Next,
		startAt: startspec.At, startSince: startspec.Since,
	}
	return startspec.Start{Stored: s.usesStored(), Kind: kinds[s.kind], Offset: s.offset, Time: s.time}
}

// checkOffset rejects an offset that no message can have and that is not
// BeforeFirst.
func checkOffset(offset uint64) error {
	if offset > math.MaxInt64 && offset != BeforeFirst {
		return fmt.Errorf("%w: offset %d is beyond the largest possible one, %d, and is not BeforeFirst", ErrInvalidConfig, offset, int64(math.MaxInt64))
	}
	return nil
}
