package streamtest

import "github.com/tidemark-go/tidemark/internal/wire"

// chunkWriter turns the entries of one Publish frame into chunks. Nothing is visible before store.
type chunkWriter struct {
	publisher *publisher
	size      int // room a chunk may need at most
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

// newChunkWriter takes the length of the frame's fields: what is stored is never longer, since each entry
// loses at least its publishing id, and a frame holds few more chunks than one.
func newChunkWriter(p *publisher, version uint16, frame *wire.Publish, length int) *chunkWriter {
	perEntry := 8
	if version == wire.Version2 {
		perEntry = 10
	}
	w := &chunkWriter{publisher: p, size: length - 5 - perEntry*frame.Count}
	w.highest, w.known = p.stream.sequences[p.reference]
	return w
}

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

// add appends an entry to the current chunk.
func (w *chunkWriter) add(e *wire.PublishEntry) {
	p := &w.current
	if p.entries == maxChunkEntries {
		w.full = append(w.full, *p)
		*p = pending{}
	}
	if p.chunk.bytes == nil {
		p.chunk.bytes = make([]byte, wire.ChunkHeaderLen, wire.ChunkHeaderLen+max(w.size, 0))
	}
	p.chunk.bytes = append(p.chunk.bytes, e.Raw...)
	w.size -= len(e.Raw)
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

// store appends the chunks to the stream and remembers the publishing id.
func (w *chunkWriter) store(now int64) {
	s := w.publisher.stream
	if w.current.entries > 0 {
		w.full = append(w.full, w.current)
	}
	for _, p := range w.full {
		// Duplicates leave room unused, and chunks stay for long.
		if cap(p.chunk.bytes) > 2*len(p.chunk.bytes) {
			p.chunk.bytes = append([]byte(nil), p.chunk.bytes...)
		}
		s.log.append(p.chunk, p.entries, p.records, now)
	}
	if w.publisher.reference != "" && w.known {
		s.sequences[w.publisher.reference] = w.highest
	}
}
