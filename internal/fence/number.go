package fence

import (
	"crypto/sha256"
	"encoding/hex"
)

// Prefix begins the names of the library's own entries in a stream's offset
// tracking. Lists of consumers leave them out.
const Prefix = "tidemark-producer:"

// Entry is one of the two entries that a producer's name has in the offset
// tracking of its stream.
type Entry uint8

// The entries.
const (
	NoEntry  Entry = iota
	Holder         // who may publish
	Newcomer       // who was last to want to
)

// Name returns the name of an entry of a producer. It has 84 bytes at most, as
// the producer's name is hashed: a name may have 255 bytes alone.
func (e Entry) Name(producer string) string {
	hash := sha256.Sum256([]byte(producer))
	if e == Newcomer {
		return Prefix + "n:" + hex.EncodeToString(hash[:])
	}
	return Prefix + "h:" + hex.EncodeToString(hash[:])
}

// A number is what the entries hold. Retention never takes it, as bit 63 is
// set.
//
//	63       1
//	32..62   the epoch: ids that are given out with a jump begin at epoch * 2^32
//	6..31    the process and its producer, at random
//	1..5     its attempt to take the name
//	0        1: held; 0: given back by this holder
//
// Epochs grow from holder to holder, so that the ids of a later one are above
// those of all earlier ones, also of those that the broker has none of yet.
// Each attempt has a number of its own, so that a store which the broker
// handles late is never taken for the present one.
const (
	numberBit    = 1 << 63
	heldBit      = 1
	epochShift   = 32
	processShift = 6
	processMask  = 1<<26 - 1
	attemptMask  = 1<<5 - 1
	maxEpoch     = 1<<31 - 1
)

// Nobody is what an entry counts as that was never stored, or that a person has
// reset to 0.
const Nobody = 0

// number returns the number of an attempt of a process.
func number(epoch uint64, process, attempt uint32) uint64 {
	return numberBit | epoch<<epochShift | uint64(process&processMask)<<processShift | uint64(attempt&attemptMask)<<1 | heldBit
}

// epochOf returns the epoch of a number; of what is none, 0.
func epochOf(n uint64) uint64 {
	if n&numberBit == 0 {
		return 0
	}
	return n &^ numberBit >> epochShift
}

// givenBack returns the number by which a holder gives the name back.
func givenBack(n uint64) uint64 { return n &^ heldBit }

// sameProcess reports whether two numbers are of one process.
func sameProcess(a, b uint64) bool { return a>>processShift&processMask == b>>processShift&processMask }

// isFree reports whether a name can be taken without a wait: it was never used,
// or who gave it back was the last to want it. If another has wanted it since,
// the holder may have given it back over that one's number.
func isFree(holder, newcomer uint64) bool {
	if holder == Nobody {
		return newcomer == Nobody
	}
	return holder&numberBit != 0 && holder&heldBit == 0 && newcomer == holder|heldBit
}
