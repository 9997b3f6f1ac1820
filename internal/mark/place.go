package mark

import "github.com/tidemark-go/tidemark/internal/wire"

// Place is how far a run is in its stream, and by which chunks the run recognises
// the stream. The protocol names streams and not their incarnations: a stream
// that was deleted and created again has the same name. The zero Place belongs to
// a run that has not begun.
type Place struct {
	begun bool
	next  Position // where the session begins, or goes on
	retry Position // where the session after it begins, if it handles nothing

	// resumeChunk lies at next or before it. oldestChunk is the first chunk that
	// the run received. A chunk that contradicts one of them lies in another
	// stream.
	resumeChunk, oldestChunk ChunkID
	hasResume, hasOldest     bool
	newest                   uint64 // first offset of the newest chunk received

	follows   bool   // next follows a message that was handled, by this run or before
	lostBelow uint64 // what retention has removed below it was reported
}

// Extent is how far a stream reaches at one moment, in offsets of chunks.
type Extent struct {
	Empty          bool // nothing was ever written; the offsets mean nothing
	FirstOffset    uint64
	CommittedChunk uint64 // first offset of the last chunk that a quorum has
}

// Begin sets where the run begins. retry is where to begin again after a session
// that has handled nothing. The two differ where the first one means another
// place by then.
func (p *Place) Begin(first, retry Position) { p.begun, p.next, p.retry = true, first, retry }

// BeginAfterStored begins behind a stored offset.
func (p *Place) BeginAfterStored(offset uint64) {
	p.follows = true
	p.Begin(AfterStored(offset), AfterStored(offset))
}

// Begun reports whether Begin was called.
func (p *Place) Begun() bool { return p.begun }

// Retry makes the coming session begin where the last one has got to.
func (p *Place) Retry() { p.next = p.retry }

// Next returns where the session begins, or goes on.
func (p *Place) Next() Position { return p.next }

// HandledTo makes the next session begin behind a handled message, which lies in
// a chunk.
func (p *Place) HandledTo(offset uint64, chunk ChunkID) {
	p.next = AtOffset(offset + 1).askingFor(chunk.First)
	p.retry = p.next
	p.resumeChunk, p.hasResume = chunk, true
	p.follows = true
}

// Receive takes note of a chunk. It reports whether the chunk may lie in the
// stream that the run has read.
func (p *Place) Receive(chunk *wire.Chunk) bool {
	if p.hasResume && p.resumeChunk.Contradicts(chunk) || p.hasOldest && p.oldestChunk.Contradicts(chunk) {
		return false
	}
	p.newest = max(p.newest, chunk.FirstOffset)
	if p.hasOldest {
		return true
	}
	p.oldestChunk, p.hasOldest = IDOf(chunk), true
	if chunk.FirstOffset < p.next.From || p.next.hasAfterChunk {
		p.resumeChunk, p.hasResume = p.oldestChunk, true
		p.retry = p.next.askingFor(chunk.FirstOffset)
	}
	return true
}

// MustRecognise reports whether a new session has to recognise the stream before
// the mark means anything in it.
func (p *Place) MustRecognise() bool { return p.hasResume }

// Recognises reports whether a chunk that Receive took shows that the stream is
// the one that the run has read. An earlier chunk shows nothing: it may as well
// lie in a new stream that is not as long yet.
func (p *Place) Recognises(chunk *wire.Chunk) bool {
	return !p.hasResume || chunk.FirstOffset >= p.resumeChunk.First
}

// ResumeChunk returns the chunk at the place or before it.
func (p *Place) ResumeChunk() ChunkID { return p.resumeChunk }

// Newest returns the first offset of the newest chunk that the run received.
func (p *Place) Newest() uint64 { return p.newest }

// Lost returns how many offsets retention has removed before the run read them,
// as far as it has not been told yet. Nodes clean up on their own: what one has
// removed, another may still have.
func (p *Place) Lost(now Extent) uint64 {
	read := max(p.next.From, p.lostBelow)
	if !p.follows || now.Empty || now.FirstOffset <= read {
		return 0
	}
	p.lostBelow = now.FirstOffset
	return now.FirstOffset - read
}

// Probe returns the chunk to look at when a stream ends before what the run has
// read of it, which a node that is behind does too. suspect is false where there
// is nothing to look at. See ProbeContradicts.
func (p *Place) Probe(now Extent) (spec wire.OffsetSpec, suspect bool) {
	if !p.hasOldest || now.Empty || now.CommittedChunk >= p.newest {
		return spec, false // the first chunk that comes will tell
	}
	if p.oldestChunk.First <= now.CommittedChunk {
		return wire.OffsetSpec{Type: wire.OffsetAt, Value: p.oldestChunk.First}, true
	}
	return wire.OffsetSpec{Type: wire.OffsetFirst}, true
}

// ProbeContradicts reports whether the chunk that Probe asked for lies in another
// stream.
func (p *Place) ProbeContradicts(chunk *wire.Chunk) bool { return p.oldestChunk.Contradicts(chunk) }
