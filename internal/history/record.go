// Package history judges what a group of consumers did: processes write down what
// they handle, a controller writes down what it broke, and Judge says what the one
// may not have been caused by the other. It is for tests. It is pure: no I/O, no
// clock.
package history

import (
	"encoding/binary"
	"errors"
)

// Kind says what a Record is about.
type Kind uint8

const (
	// Active begins a term: the member became the active one of a partition.
	// Offset is the next message's.
	Active Kind = iota + 1
	// Inactive ends a term: all that was begun in it is handled.
	Inactive
	// Begun says that the handler has a message.
	Begun
	// Ended says that the handler is about to return, with success.
	Ended
	// Lost says that the member has noticed the loss of a connection. It is
	// about all partitions.
	Lost
	// Done says that the member ended as it was asked to. It is about all
	// partitions.
	Done
	// Waits says that the member is in the group of the partition, and not the
	// active one.
	Waits
)

// Record is what a member writes down.
type Record struct {
	Kind      Kind
	Partition uint8
	Member    uint16
	Offset    uint64 // of the message
	Number    uint32 // of the message in its partition, from 0 on
	At        int64  // nanoseconds, of a clock that all members share
}

// Size is the number of bytes of a record.
const Size = 24

// Append appends a record to b.
func Append(b []byte, r Record) []byte {
	b = append(b, byte(r.Kind), r.Partition)
	b = binary.BigEndian.AppendUint16(b, r.Member)
	b = binary.BigEndian.AppendUint32(b, r.Number)
	b = binary.BigEndian.AppendUint64(b, r.Offset)
	return binary.BigEndian.AppendUint64(b, uint64(r.At))
}

// Parse returns the record in b, which has Size bytes.
func Parse(b []byte) (Record, error) {
	if len(b) != Size || Kind(b[0]) < Active || Kind(b[0]) > Waits {
		return Record{}, errors.New("not a record")
	}
	return Record{
		Kind: Kind(b[0]), Partition: b[1], Member: binary.BigEndian.Uint16(b[2:]), Number: binary.BigEndian.Uint32(b[4:]),
		Offset: binary.BigEndian.Uint64(b[8:]), At: int64(binary.BigEndian.Uint64(b[16:])),
	}, nil
}

// Fault is what a controller broke, and when.
type Fault struct {
	Kind FaultKind
	// Member is whom it befell. Moved befalls Partition instead.
	Member    int
	Partition int
	// Begin is before the fault began, End after it ended.
	Begin, End int64
}

// FaultKind is a kind of fault.
type FaultKind string

const (
	// Killed ends a process at once.
	Killed FaultKind = "killed"
	// Stalled stops a process, and lets it go on.
	Stalled FaultKind = "stalled"
	// Cut lets nothing pass between a process and the broker.
	Cut FaultKind = "cut off"
	// Dropped resets a process's connections.
	Dropped FaultKind = "connections reset"
	// Moved moves the leader of a partition, which drops subscriptions, and
	// stores that were not committed.
	Moved FaultKind = "leader moved"
	// Noticed is a loss that a member wrote down, whatever caused it.
	Noticed FaultKind = "loss noticed"
)

// Poll is a stored offset as it was seen from outside.
type Poll struct {
	Partition       uint8
	Offset          uint64
	Asked, Answered int64
}
