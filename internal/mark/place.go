package mark

import "github.com/tidemark-go/tidemark/internal/wire"

// Place is how far a run is in its stream. It also knows by which chunks the
// run recognises the stream: one that was deleted and created again has the
// same name, and the protocol tells the two apart by nothing else. The zero
// Place belongs to a run that has not begun.
type Place struct {
	begun  bool
	next   Position // where this session begins, or goes on
	resume Position // where the session after this one begins

	// oldestChunk is the first chunk that the run received. resumeChunk is the
	// chunk with the last handled message. Before a message is handled, it is
	// oldestChunk if that one begins before next.From or the run began with
	// AfterChunk; otherwise there is none. A chunk that contradicts one of the
	// two lies in another stream.
	resumeChunk, oldestChunk seenChunk
	newest                   uint64 // first offset of the newest chunk received

	afterHandled bool   // next follows a message that was handled, by this run or before
	toldBelow    uint64 // Lost has reported what retention removed below this offset
}

// seenChunk is a chunk that the run received. The zero value stands for none.
type seenChunk struct {
	ChunkID
	end  uint64 // the chunk has messages up to here, and maybe further ones
	seen bool
}

func seen(c *wire.Chunk) seenChunk {
	return seenChunk{ChunkID: IDOf(c), end: c.FirstOffset + uint64(c.Records), seen: true}
}

// contradicts reports whether c cannot lie in the stream in which s was seen.
// Besides what ChunkID.Contradicts finds, no other chunk begins inside s.
func (s *seenChunk) contradicts(c *wire.Chunk) bool {
	return s.seen && (s.Contradicts(c) || s.First < c.FirstOffset && c.FirstOffset < s.end)
}

// Extent is how far a stream reaches at one moment, in offsets of chunks.
type Extent struct {
	Empty          bool // nothing was ever written; the offsets mean nothing
	FirstOffset    uint64
	CommittedChunk uint64 // first offset of the last chunk that a quorum has
}

// Begin sets where the run's first session begins. A later session begins at
// resume as long as nothing is handled. The two differ where first means
// another place by then, as AtLast does.
func (p *Place) Begin(first, resume Position) { p.begun, p.next, p.resume = true, first, resume }

// BeginAfterStored sets that the run begins behind a stored offset.
func (p *Place) BeginAfterStored(offset uint64) {
	p.afterHandled = true
	p.Begin(afterStored(offset), afterStored(offset))
}

// Begun reports whether Begin or BeginAfterStored was called.
func (p *Place) Begun() bool { return p.begun }

// Resume begins another session, which goes on where the run has got to.
func (p *Place) Resume() { p.next = p.resume }

// Next returns where the session begins, and once a message is handled, where
// it goes on.
func (p *Place) Next() Position { return p.next }

// HandledTo records that the message at offset is handled, and everything
// delivered before it, or that workers have it in hand and will handle it
// whatever becomes of the session. The message lies in chunk, with which the next
// session will begin.
func (p *Place) HandledTo(offset uint64, chunk ChunkID) {
	p.next = AtOffset(offset + 1).askingFor(chunk.First)
	p.resume = p.next
	end := offset + 1
	if p.resumeChunk.seen && p.resumeChunk.ChunkID == chunk {
		end = max(end, p.resumeChunk.end)
	}
	p.resumeChunk = seenChunk{chunk, end, true}
	p.afterHandled = true
}

// Receive reports whether a chunk may lie in the stream that the run has read.
// If so, it takes note of the chunk.
func (p *Place) Receive(chunk *wire.Chunk) bool {
	if p.Contradicts(chunk) {
		return false
	}
	p.newest = max(p.newest, chunk.FirstOffset)
	if p.oldestChunk.seen {
		return true
	}
	p.oldestChunk = seen(chunk)
	if chunk.FirstOffset < p.next.From || p.next.hasAfterChunk {
		p.resumeChunk = p.oldestChunk
		p.resume = p.next.askingFor(chunk.FirstOffset)
	}
	return true
}

// Contradicts reports whether a chunk shows that it lies in another stream than
// the one that the run has read.
func (p *Place) Contradicts(chunk *wire.Chunk) bool {
	return p.resumeChunk.contradicts(chunk) || p.oldestChunk.contradicts(chunk)
}

// MustRecognise reports whether a new session has to recognise the stream
// before it may store the mark there. See Recognises.
func (p *Place) MustRecognise() bool { return p.resumeChunk.seen }

// Recognises reports whether a chunk, for which Receive was true, shows that
// the stream is the one that the run has read. The resume chunk shows it. So
// does a chunk behind it; if that is the session's first, retention has removed
// the resume chunk. A chunk before the resume chunk shows nothing, because it
// may lie in a new stream that is not as long yet.
func (p *Place) Recognises(chunk *wire.Chunk) bool {
	return !p.resumeChunk.seen || chunk.FirstOffset >= p.resumeChunk.First
}

// ResumeChunk returns the chunk by which a session recognises the stream. There
// is one if MustRecognise is true.
func (p *Place) ResumeChunk() ChunkID { return p.resumeChunk.ChunkID }

// Newest returns the first offset of the newest chunk that the run received.
func (p *Place) Newest() uint64 { return p.newest }

// Lost returns how many offsets retention has removed before the run read them.
// It reports each of them once: nodes clean up on their own, so another node
// may still have what one has removed. extent is how far the stream reaches on
// the session's node. A run that follows no handled message has lost nothing.
func (p *Place) Lost(extent Extent) uint64 {
	told := max(p.next.From, p.toldBelow)
	if !p.afterHandled || extent.Empty || extent.FirstOffset <= told {
		return 0
	}
	p.toldBelow = extent.FirstOffset
	return extent.FirstOffset - told
}

// Told takes note that what retention removed below an offset was reported.
func (p *Place) Told(below uint64) { p.toldBelow = max(p.toldBelow, below) }

// Jumps returns what watches for losses in the coming session. A run that
// follows no handled message expects no certain chunk.
func (p *Place) Jumps() Jumps {
	if !p.afterHandled {
		return Jumps{}
	}
	return ExpectJumps(max(p.next.From, p.toldBelow))
}

// Probe reports whether the stream is suspect because it ends, on the session's
// node, before what the run has read. It does so if it is a new stream, or if
// the node is behind. To tell one from the other, the caller asks the node for
// the first chunk from spec on and passes it to Contradicts.
//
// Probe asks for the chunk that the run knows best: the resume chunk if the
// stream reaches to it, else the oldest one, else the stream's first.
func (p *Place) Probe(extent Extent) (spec wire.OffsetSpec, suspect bool) {
	if !p.oldestChunk.seen || extent.Empty || extent.CommittedChunk >= p.newest {
		return spec, false // the first chunk that comes will tell
	}
	for _, known := range []*seenChunk{&p.resumeChunk, &p.oldestChunk} {
		if known.seen && known.First <= extent.CommittedChunk {
			return wire.OffsetSpec{Type: wire.OffsetAt, Value: known.First}, true
		}
	}
	return wire.OffsetSpec{Type: wire.OffsetFirst}, true
}
