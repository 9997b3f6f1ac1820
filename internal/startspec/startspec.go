// Package startspec shows the packages above stream what a stream.Start and
// the other values of a consumer's configuration hold inside. Their types are
// declared in stream, and only stream sees their insides. Package stream sets
// the functions of this package when it is loaded; whoever has a stream.Start
// has loaded it.
package startspec

import (
	"crypto/sha256"
	"encoding/hex"
	"time"
)

// Start is a stream.Start, taken apart.
type Start struct {
	Stored bool // the stored offset comes first
	Kind   Kind
	Offset uint64    // of At
	Time   time.Time // of Since
}

// Kind is the place where a Start begins if no stored offset comes first.
type Kind uint8

// The kinds of a Start.
const (
	First Kind = iota
	Last
	Next
	At
	Since
)

// Moves reports whether the Start means another place later.
func (s Start) Moves() bool { return s.Kind != First && s.Kind != At }

var (
	// Of takes a stream.Start apart. What is relative to the beginning of a run,
	// as stream.Ago is, counts from now.
	Of func(start any, now time.Time) Start
	// CheckConsumer applies the rules of stream.ConsumerConfig to the name, the
	// stream.Start and the stream.StorePolicy of a consumer of a stream.
	CheckConsumer func(stream, name string, start, policy any) error
	// CheckOffset applies the rules of stream.Env.StoreOffset to the names and
	// the offset.
	CheckOffset func(stream, name string, offset uint64) error
)

const (
	// StartedPrefix begins the names of the library's own under which it
	// stores that a consumer has begun. See stream.Stored.
	StartedPrefix = "tidemark-started:"
	// StartedMark is what is stored there. RabbitMQ drops stored offsets that
	// retention has overtaken, and never a number above 2^63.
	StartedMark = 1<<63 + 1
	// maxName is how many bytes a name may have on RabbitMQ.
	maxName = 255
)

// StartedName returns the name under which the broker keeps that a consumer has
// begun. A name that would become too long is replaced by its hash.
func StartedName(consumer string) string {
	if len(StartedPrefix)+len(consumer) <= maxName {
		return StartedPrefix + consumer
	}
	hash := sha256.Sum256([]byte(consumer))
	return StartedPrefix + hex.EncodeToString(hash[:])
}
