package streamtest

import "github.com/tidemark-go/tidemark/internal/wire"

// RabbitMQ writes what is queued for a stream as one chunk of at most so many entries: the limit doubles
// while chunks are full and halves when they are not.
const (
	minChunkEntries = 32
	maxChunkEntries = 8192
)

// chunkWriter turns the entries of one Publish frame into chunks. Nothing is visible before store. All
// chunks of a frame share one piece of memory.
type chunkWriter struct {
	publisher *publisher
	buf       []byte // headers and entries of all chunks so far
	start     int    // of the current chunk in buf
	limit     int    // entries of the current chunk
	current   pending
	full      []pending
	highest   uint64 // publishing id stored with the reference
	known     bool   // whether there is one
	refused   []uint64
}

// pending is a chunk that is not stored yet.
type pending struct {
	chunk   chunk
	entries uint16
	records uint32
}

// newChunkWriter takes the length of the frame's fields: each entry loses at least its publishing id.
func newChunkWriter(p *publisher, version uint16, frame *wire.Publish, length int) *chunkWriter {
	perEntry := 8
	if version == wire.Version2 {
		perEntry = 10
	}
	w := &chunkWriter{publisher: p, limit: max(p.stream.batch, minChunkEntries)}
	size := length - 5 - perEntry*frame.Count + wire.ChunkHeaderLen
	for left, limit := frame.Count, w.limit; left > limit; left, limit = left-limit, grow(limit) {
		size += wire.ChunkHeaderLen
	}
	w.buf = make([]byte, wire.ChunkHeaderLen, max(size, wire.ChunkHeaderLen))
	w.highest, w.known = p.stream.sequences[p.reference]
	return w
}

func grow(limit int) int { return min(2*limit, maxChunkEntries) }

// duplicate reports whether the stream holds this publishing id already, counting those of this frame.
func (w *chunkWriter) duplicate(id uint64) bool {
	if w.publisher.reference == "" {
		return false
	}
	if w.known && id <= w.highest {
		return true
	}
	w.highest, w.known = id, true
	return false
}

// add appends an entry to the current chunk, or to a new one when that is full.
func (w *chunkWriter) add(e *wire.PublishEntry) {
	p := &w.current
	if int(p.entries) == w.limit {
		w.finish()
		w.start, w.limit = len(w.buf), grow(w.limit)
		w.buf = append(w.buf, make([]byte, wire.ChunkHeaderLen)...)
	}
	w.buf = append(w.buf, e.Raw...)
	p.entries++
	p.records += uint32(e.Records)
	if len(e.Filter) == 0 {
		p.chunk.unfiltered = true
		return
	}
	if p.chunk.filters == nil {
		p.chunk.filters = make(map[string]struct{})
	}
	if _, there := p.chunk.filters[string(e.Filter)]; !there { // the look-up does not allocate
		p.chunk.filters[string(e.Filter)] = struct{}{}
	}
}

// finish ends the current chunk.
func (w *chunkWriter) finish() {
	w.current.chunk.trailer = trailerLength(w.publisher.reference)
	w.current.chunk.bytes = w.buf[w.start:len(w.buf):len(w.buf)]
	w.full = append(w.full, w.current)
	w.current = pending{}
}

// trailerLength is what the header of a chunk says of the publisher reference that RabbitMQ keeps behind
// the entries and never delivers: type and length of the reference, the reference, the publishing id.
func trailerLength(reference string) uint32 {
	if reference == "" {
		return 0
	}
	return uint32(1 + 1 + len(reference) + 8)
}

// store appends the chunks to the stream and remembers the publishing id.
func (w *chunkWriter) store(now int64) {
	s := w.publisher.stream
	if w.current.entries > 0 {
		if int(w.current.entries) < w.limit {
			w.limit /= 2
		}
		w.finish()
	}
	s.batch = w.limit
	// Duplicates leave room unused, and chunks stay for long.
	wasteful := cap(w.buf) > 2*len(w.buf)
	for _, p := range w.full {
		if wasteful {
			p.chunk.bytes = append([]byte(nil), p.chunk.bytes...)
		}
		s.log.append(p.chunk, p.entries, p.records, now)
	}
	if w.publisher.reference != "" && w.known {
		if _, known := s.sequences[w.publisher.reference]; !known {
			s.log.size += referenceCost + int64(len(w.publisher.reference))
		}
		s.sequences[w.publisher.reference] = w.highest
	}
}
