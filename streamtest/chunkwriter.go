package streamtest

import "github.com/tidemark-go/tidemark/internal/wire"

// RabbitMQ writes the entries queued for a stream as chunks of limited length.
// The limit doubles after a full chunk and halves after one that is not,
// between these two bounds.
const (
	minChunkEntries = 32
	maxChunkEntries = 8192
)

// chunkWriter turns the entries of one Publish frame into chunks. Readers see
// none of them before store. All chunks of a frame share one buffer.
type chunkWriter struct {
	publisher *publisher
	buf       []byte // headers and entries of all chunks so far
	start     int    // where the current chunk begins in buf
	limit     int    // entries the current chunk may have
	current   pending
	full      []pending
	highest   uint64   // highest publishing id of the reference, this frame included
	known     bool     // highest is set
	refused   []uint64 // publishing ids that are not stored
}

// pending is a chunk that is not stored yet.
type pending struct {
	chunk   chunk
	entries uint16
	records uint32
}

// newChunkWriter returns a writer for the entries of frame, whose fields are
// length bytes long. It computes the size of the buffer from that length: an
// entry in a chunk lacks at least its publishing id, and each chunk adds a
// header.
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

// duplicate reports whether id is a duplicate: the publisher has a reference,
// and the stream or this frame has an id as high under that reference. An id
// that is no duplicate becomes the highest.
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

// add appends an entry to the current chunk. If that chunk is full, add begins
// the next one.
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
	if _, found := p.chunk.filters[string(e.Filter)]; !found { // the look-up does not allocate
		p.chunk.filters[string(e.Filter)] = struct{}{}
	}
}

// finish moves the current chunk to the full ones.
func (w *chunkWriter) finish() {
	w.current.chunk.trailer = trailerLength(w.publisher.reference)
	w.current.chunk.bytes = w.buf[w.start:len(w.buf):len(w.buf)]
	w.full = append(w.full, w.current)
	w.current = pending{}
}

// trailerLength returns the trailer length in the header of a chunk. RabbitMQ
// stores a publisher reference behind the entries, as type, length, reference
// and publishing id. It never delivers those bytes, but the header counts them.
func trailerLength(reference string) uint32 {
	if reference == "" {
		return 0
	}
	return uint32(1 + 1 + len(reference) + 8)
}

// store appends the chunks to the stream and records the highest publishing id.
func (w *chunkWriter) store(now int64) {
	s := w.publisher.stream
	if w.current.entries > 0 {
		if int(w.current.entries) < w.limit {
			w.limit /= 2
		}
		w.finish()
	}
	s.batch = w.limit
	// Duplicates leave a part of the buffer unused. Chunks may stay for
	// long, so those of a buffer that is less than half full are copied.
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
