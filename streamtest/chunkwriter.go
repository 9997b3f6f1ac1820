package streamtest

import "github.com/tidemark-go/tidemark/internal/wire"

// RabbitMQ writes the entries that wait for a stream as chunks of limited
// length. The limit doubles after a full chunk and halves after one that is
// not, between these two bounds.
const (
	minChunkEntries = 32
	maxChunkEntries = 8192
)

// chunkWriter turns entries that are written together into chunks of one
// stream. Readers see none of them before store.
type chunkWriter struct {
	stream  *stream
	buf     []byte // headers and entries of the current chunk and some before it
	start   int    // where the current chunk begins in buf
	limit   int    // entries the current chunk may have
	current pending
	full    []pending
	names   int64 // memory of the references that are new on the stream
}

// pending is a chunk that is not stored yet.
type pending struct {
	chunk      chunk
	entries    uint16
	records    uint32
	references []string // of the publishers, each once
}

func newChunkWriter(s *stream) *chunkWriter {
	return &chunkWriter{stream: s, limit: max(s.batch, minChunkEntries)}
}

// reserve makes room for entries of the given total length, so that adding them
// does not copy the current chunk more than once.
func (w *chunkWriter) reserve(entries, length int) {
	need := length + wire.ChunkHeaderLen
	for left, limit := entries, w.limit; left > limit; left, limit = left-limit, grow(limit) {
		need += wire.ChunkHeaderLen
	}
	if cap(w.buf)-len(w.buf) >= need {
		return
	}
	// The chunks before the current one keep the old memory.
	current := w.buf[w.start:]
	w.buf = append(make([]byte, 0, max(2*len(current), len(current)+need)), current...)
	w.start = 0
}

func grow(limit int) int { return min(2*limit, maxChunkEntries) }

// duplicate reports whether id is a duplicate: the publisher has a reference,
// under which the stream has an id as high. An id that is no duplicate becomes
// the highest at once, as in RabbitMQ, so that no other connection writes it
// too.
func (w *chunkWriter) duplicate(reference string, id uint64) bool {
	if reference == "" {
		return false
	}
	highest, known := w.stream.sequences[reference]
	if known && id <= highest.id {
		return true
	}
	if !known {
		w.names += referenceCost + int64(len(reference))
	}
	w.stream.noteSequence(reference, id)
	return false
}

// add appends an entry of a publisher with this reference to the current chunk.
// If that chunk is full, add begins the next one.
func (w *chunkWriter) add(reference string, e *wire.PublishEntry) {
	p := &w.current
	if int(p.entries) == w.limit {
		w.finish()
		w.limit = grow(w.limit)
	}
	if p.entries == 0 {
		w.start = len(w.buf)
		w.buf = append(w.buf, make([]byte, wire.ChunkHeaderLen)...)
	}
	w.buf = append(w.buf, e.Raw...)
	p.entries++
	p.records += uint32(e.Records)
	p.note(reference)
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

// note adds the trailer of a reference to the chunk, unless it is there. RabbitMQ
// stores each publisher reference behind the entries, as type, length, reference
// and publishing id. It never delivers those bytes, but the header counts them.
func (p *pending) note(reference string) {
	if reference == "" {
		return
	}
	for i := len(p.references) - 1; i >= 0; i-- {
		if p.references[i] == reference {
			return
		}
	}
	p.references = append(p.references, reference)
	p.chunk.trailer += uint32(1 + 1 + len(reference) + 8)
}

// finish moves the current chunk to the full ones.
func (w *chunkWriter) finish() {
	w.current.chunk.bytes = w.buf[w.start:len(w.buf):len(w.buf)]
	w.full = append(w.full, w.current)
	w.current = pending{}
	w.start = len(w.buf)
}

// store appends the chunks to the stream, or to what it holds uncommitted. It
// reports whether readers can get any of them.
func (w *chunkWriter) store(now int64) bool {
	s := w.stream
	if w.current.entries > 0 {
		if int(w.current.entries) < w.limit {
			w.limit /= 2
		}
		w.finish()
	}
	s.batch = w.limit
	// Duplicates and growth leave a part of the buffer unused. Chunks may
	// stay for long, so those of a buffer that is less than half full are
	// copied.
	wasteful := cap(w.buf) > 2*len(w.buf)
	for _, p := range w.full {
		if wasteful {
			p.chunk.bytes = append([]byte(nil), p.chunk.bytes...)
		}
		if s.quorumLost {
			s.log.size += s.tail.add(p, now)
			continue
		}
		s.append(p, now)
	}
	s.log.size += w.names
	s.writes++
	return len(w.full) > 0 && !s.quorumLost
}

// append appends a chunk to the log. If it begins a segment, the stream forgets
// all writers but the latest.
func (s *stream) append(p pending, now int64) {
	began := s.log.append(p.chunk, p.entries, p.records, now)
	if began {
		s.forgetWriters()
	}
}
