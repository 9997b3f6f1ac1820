package mark

import "github.com/tidemark-go/tidemark/internal/wire"

// Place is how far a run is in its stream, and by which chunks the run recognises
// the stream. The protocol names streams, not their incarnations: a stream that
// was deleted and created again has the same name. The zero Place belongs to a run
// that has not begun.
type Place struct {
	begun bool
	next  Position // where this session begins, or goes on
	retry Position // where the session after this one begins

	// oldestChunk is the first chunk that the run received. resumeChunk is the one
	// with the last handled message. Before a message is handled, oldestChunk takes
	// its place if it begins before next.From or the run began with AfterChunk. A
	// chunk that contradicts one of the two lies in another stream.
	resumeChunk, oldestChunk ChunkID
	hasResume, hasOldest     bool
	newest                   uint64 // first offset of the newest chunk received

	afterHandled bool   // next follows a message that was handled, by this run or before
	toldBelow    uint64 // Lost has told what retention removed below this offset
}

// Extent is how far a stream reaches at one moment, in offsets of chunks.
type Extent struct {
	Empty          bool // nothing was ever written; the offsets mean nothing
	FirstOffset    uint64
	CommittedChunk uint64 // first offset of the last chunk that a quorum has
}

// Begin sets where the run begins. retry is where a later session begins as long
// as nothing is handled. The two differ where first means another place by then,
// as AtLast does.
func (p *Place) Begin(first, retry Position) { p.begun, p.next, p.retry = true, first, retry }

// BeginAfterStored makes the run begin behind a stored offset.
func (p *Place) BeginAfterStored(offset uint64) {
	p.afterHandled = true
	p.Begin(afterStored(offset), afterStored(offset))
}

// Begun reports whether Begin or BeginAfterStored was called.
func (p *Place) Begun() bool { return p.begun }

// Retry begins another session, which goes on where the run has got to.
func (p *Place) Retry() { p.next = p.retry }

// Next returns where the session begins, and once a message is handled, where it
// goes on.
func (p *Place) Next() Position { return p.next }

// HandledTo records that the message at offset is handled, and everything
// delivered before it. The message lies in chunk, with which the next session will
// begin.
func (p *Place) HandledTo(offset uint64, chunk ChunkID) {
	p.next = AtOffset(offset + 1).askingFor(chunk.First)
	p.retry = p.next
	p.resumeChunk, p.hasResume = chunk, true
	p.afterHandled = true
}

// Receive reports whether a chunk may lie in the stream that the run has read. If
// so, it takes note of the chunk.
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
// the mark means anything in it. See Recognises.
func (p *Place) MustRecognise() bool { return p.hasResume }

// Recognises reports whether the run may take the stream for the one that it has
// read, after a chunk for which Receive was true. It may not after a chunk before
// the resume chunk: that one may as well lie in a new stream that is not as long
// yet. It may after a chunk behind the resume chunk, even if that is the session's
// first: retention has removed the resume chunk then.
func (p *Place) Recognises(chunk *wire.Chunk) bool {
	return !p.hasResume || chunk.FirstOffset >= p.resumeChunk.First
}

// ResumeChunk returns the chunk by which a session recognises the stream. There is
// one if MustRecognise is true.
func (p *Place) ResumeChunk() ChunkID { return p.resumeChunk }

// Newest returns the first offset of the newest chunk that the run received.
func (p *Place) Newest() uint64 { return p.newest }

// Lost returns how many offsets retention has removed before the run read them,
// without those that it has told of before. now is how far the stream reaches on
// the session's node. Nodes clean up on their own: what one has removed, another
// may still have. As long as the run follows no handled message, nothing counts as
// lost.
func (p *Place) Lost(now Extent) uint64 {
	told := max(p.next.From, p.toldBelow)
	if !p.afterHandled || now.Empty || now.FirstOffset <= told {
		return 0
	}
	p.toldBelow = now.FirstOffset
	return now.FirstOffset - told
}

// Probe reports whether the stream is suspect because it ends, on the session's
// node, before what the run has read. A new stream does, and so does a node that
// is behind. To tell one from the other, the caller asks the node for the first
// chunk from spec on and passes it to ProbeContradicts.
func (p *Place) Probe(now Extent) (spec wire.OffsetSpec, suspect bool) {
	if !p.hasOldest || now.Empty || now.CommittedChunk >= p.newest {
		return spec, false // the first chunk that comes will tell
	}
	if p.oldestChunk.First <= now.CommittedChunk {
		return wire.OffsetSpec{Type: wire.OffsetAt, Value: p.oldestChunk.First}, true
	}
	return wire.OffsetSpec{Type: wire.OffsetFirst}, true
}

// ProbeContradicts reports whether the chunk that Probe asked for shows that it
// lies in another stream.
func (p *Place) ProbeContradicts(chunk *wire.Chunk) bool { return p.oldestChunk.Contradicts(chunk) }
