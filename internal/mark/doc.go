// Package mark knows how far a consumer is in its stream. It is pure: it does
// no I/O, starts no goroutine, takes no lock and reads no clock. Its callers
// drive it by method calls, and it returns decisions.
//
//	Tracker    the mark, and how much of it is stored
//	Policy     when to store it
//	LowWater   which messages are finished, when several are handled at a time
//	Position   where a subscription begins
//	Place      how far a run is, and which chunks may lie in its stream
//	Jumps      what retention took between two chunks
//	BeyondEnd  whether a stored offset lies beyond the end of the stream
//	ChunkID    what tells a chunk from another at the same offset
//
// A run is one call of Consumer.Run. A session is what the run reads over one
// subscription. When a connection is lost, another session of the same run
// follows.
//
// The mark is the offset of the last message up to which, in the order of
// delivery, every message is handled. Offsets have gaps, so only the order of
// delivery tells what comes between two of them.
package mark
