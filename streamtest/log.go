package streamtest

import (
	"sort"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// chunk is a stored chunk. It never changes. Its bytes, header and entries, are
// the ones the broker delivers.
type chunk struct {
	bytes      []byte
	first      uint64              // offset of its first record
	timestamp  int64               // Unix time in milliseconds
	filters    map[string]struct{} // filter values of its messages; nil: no values
	unfiltered bool                // a message has no filter value
	trailer    uint32              // see trailerLength
}

// cost returns the approximate number of bytes that the chunk takes in memory.
func (c *chunk) cost() int64 {
	return int64(len(c.bytes)) + chunkCost + filterCost*int64(len(c.filters))
}

// segment is a run of chunks. Retention removes whole segments. Chunk numbers
// count from the first chunk that the stream ever had, so that the number of a
// chunk never changes.
type segment struct {
	first uint64 // number of its first chunk
	bytes int64  // length of its chunks
	last  int64  // timestamp of its last chunk
}

// streamLog holds the chunks of a stream. It is pure bookkeeping, without I/O,
// clock or locks.
type streamLog struct {
	limits   limits
	chunks   []chunk // the retained chunks
	removed  uint64  // chunks removed so far, hence the number of chunks[0]
	segments []segment
	next     uint64 // offset of the next record
	size     int64  // bytes in memory, approximately
}

// end returns the number that the next chunk will have.
func (l *streamLog) end() uint64 { return l.removed + uint64(len(l.chunks)) }

// at returns chunk number n, which must be retained.
func (l *streamLog) at(n uint64) *chunk { return &l.chunks[n-l.removed] }

// lastChunk returns the first offset of the last chunk. ok is false if the log
// is empty.
func (l *streamLog) lastChunk() (first uint64, ok bool) {
	if len(l.chunks) == 0 {
		return 0, false
	}
	return l.chunks[len(l.chunks)-1].first, true
}

// append stores a chunk. If it begins a segment, which append reports, append
// applies retention. The chunk
// holds as many entries and records (messages) as the arguments say. c.bytes
// has room for the header in front. append writes the header and sets c.first
// and c.timestamp.
func (l *streamLog) append(c chunk, entries uint16, records uint32, now int64) (began bool) {
	data := c.bytes[wire.ChunkHeaderLen:]
	c.first, c.timestamp = l.next, now
	h := wire.ChunkHeader{
		Entries: entries, Records: records, Timestamp: now, Epoch: 1, FirstOffset: c.first,
		CRC: wire.Checksum(data), DataLength: uint32(len(data)), TrailerLength: c.trailer,
	}
	h.Put(c.bytes)
	began = l.roll(now)
	l.chunks = append(l.chunks, c)
	l.next += uint64(records)
	s := &l.segments[len(l.segments)-1]
	s.bytes += int64(len(c.bytes))
	l.size += c.cost()
	s.last = now
	return began
}

// maxSegmentChunks is the number of chunks after which a segment is full,
// however small they are. RabbitMQ has the same limit.
const maxSegmentChunks = 256_000

// roll begins a segment if the log has none or the last one is full. Appending
// applies retention only then. roll reports whether it has begun one.
func (l *streamLog) roll(now int64) bool {
	if n := len(l.segments); n > 0 {
		s := l.segments[n-1]
		if s.bytes < l.limits.segmentBytes && l.end()-s.first < maxSegmentChunks {
			return false
		}
	}
	l.segments = append(l.segments, segment{first: l.end()})
	l.retain(now)
	return true
}

// retain removes the oldest segments that exceed the limits. It never removes
// the newest.
func (l *streamLog) retain(now int64) {
	keep := max(l.firstWithinBytes(), l.firstWithinAge(now))
	if keep <= 0 {
		return
	}
	gone := l.segments[keep].first - l.removed
	for i := range l.chunks[:gone] {
		l.size -= l.chunks[i].cost()
	}
	// Reslicing would keep the memory of the removed chunks. Copying frees
	// it.
	l.chunks = append([]chunk(nil), l.chunks[gone:]...)
	l.removed += gone
	l.segments = append([]segment(nil), l.segments[keep:]...)
}

// firstWithinBytes returns the index of the first segment to keep by bytes.
func (l *streamLog) firstWithinBytes() int {
	if l.limits.maxBytes <= 0 {
		return 0
	}
	keep := len(l.segments) - 1
	if keep < 0 {
		return 0
	}
	for total := l.segments[keep].bytes; keep > 0; keep-- {
		if total += l.segments[keep-1].bytes; total > l.limits.maxBytes {
			break
		}
	}
	return keep
}

// firstWithinAge returns the index of the first segment to keep by age.
func (l *streamLog) firstWithinAge(now int64) int {
	keep := 0
	if l.limits.maxAge <= 0 {
		return keep
	}
	oldest := now - l.limits.maxAge.Milliseconds()
	for keep < len(l.segments)-1 && l.segments[keep].last < oldest {
		keep++
	}
	return keep
}

// resolve returns the number of the chunk at which a reader with this spec
// attaches. end() stands for the next chunk, which is not written yet.
func (l *streamLog) resolve(spec wire.OffsetSpec) uint64 {
	n := len(l.chunks)
	if n == 0 {
		return l.end()
	}
	switch spec.Type {
	case wire.OffsetFirst:
		return l.removed
	case wire.OffsetLast:
		return l.end() - 1
	case wire.OffsetAt:
		if spec.Value >= l.next {
			return l.end()
		}
		// The reader attaches to the last chunk that begins at or
		// before the offset, or to the first chunk if all begin after
		// it.
		i := sort.Search(n, func(i int) bool { return l.chunks[i].first > spec.Value })
		return l.removed + uint64(max(i-1, 0))
	case wire.OffsetTimestamp:
		i := sort.Search(n, func(i int) bool { return l.chunks[i].timestamp >= int64(spec.Value) })
		return l.removed + uint64(i)
	}
	return l.end()
}

// offsetOf returns the first offset of chunk number n, which may be end().
func (l *streamLog) offsetOf(n uint64) uint64 {
	if n == l.end() {
		return l.next
	}
	return l.at(n).first
}
