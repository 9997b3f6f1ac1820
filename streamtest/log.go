package streamtest

import (
	"sort"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// chunk is a stored chunk. Its bytes are what is delivered: header and entries. It never changes.
type chunk struct {
	bytes      []byte
	first      uint64 // offset of its first record
	timestamp  int64
	filters    map[string]struct{} // values of its messages; nil when none has one
	unfiltered bool                // a message has no filter value
	trailer    uint32              // length of what RabbitMQ keeps on disk behind the entries
}

// cost is what the chunk takes in memory, roughly.
func (c *chunk) cost() int64 {
	return int64(len(c.bytes)) + chunkCost + filterCost*int64(len(c.filters))
}

// segment groups chunks for retention, which removes whole ones. Chunks are counted from the very first
// of the stream, so that the number of one never changes.
type segment struct {
	first uint64 // number of its first chunk
	bytes int64
	last  int64 // timestamp of its last chunk
}

// streamLog is the chunks of a stream: pure bookkeeping, without I/O, clock or locks.
type streamLog struct {
	limits   limits
	chunks   []chunk // retained ones
	removed  uint64  // number of chunks[0]
	segments []segment
	next     uint64 // offset of the next record
	size     int64  // bytes in memory, roughly
}

// end returns the number of the chunk to be written next.
func (l *streamLog) end() uint64 { return l.removed + uint64(len(l.chunks)) }

// at returns chunk number n, which is retained.
func (l *streamLog) at(n uint64) *chunk { return &l.chunks[n-l.removed] }

// lastChunk returns the offset of the last chunk; ok is false on an empty log.
func (l *streamLog) lastChunk() (first uint64, ok bool) {
	if len(l.chunks) == 0 {
		return 0, false
	}
	return l.chunks[len(l.chunks)-1].first, true
}

// append stores a chunk of entries entries and records records. c.bytes has room for its header in
// front; append fills it, c.first and c.timestamp.
func (l *streamLog) append(c chunk, entries uint16, records uint32, now int64) {
	data := c.bytes[wire.ChunkHeaderLen:]
	c.first, c.timestamp = l.next, now
	h := wire.ChunkHeader{
		Entries: entries, Records: records, Timestamp: now, Epoch: 1, FirstOffset: c.first,
		CRC: wire.Checksum(data), DataLength: uint32(len(data)), TrailerLength: c.trailer,
	}
	h.Put(c.bytes)
	l.roll(now)
	l.chunks = append(l.chunks, c)
	l.next += uint64(records)
	s := &l.segments[len(l.segments)-1]
	s.bytes += int64(len(c.bytes))
	l.size += c.cost()
	s.last = now
}

// maxSegmentChunks closes a segment of many small chunks, as RabbitMQ does.
const maxSegmentChunks = 256_000

// roll opens a segment where there is none or the last one is full; only then is retention looked at.
func (l *streamLog) roll(now int64) {
	if n := len(l.segments); n > 0 {
		s := l.segments[n-1]
		if s.bytes < l.limits.segmentBytes && l.end()-s.first < maxSegmentChunks {
			return
		}
	}
	l.segments = append(l.segments, segment{first: l.end()})
	l.retain(now)
}

// retain removes the oldest segments that are over the limits. The newest always stays.
func (l *streamLog) retain(now int64) {
	keep := max(l.firstWithinBytes(), l.firstWithinAge(now))
	if keep <= 0 {
		return
	}
	gone := l.segments[keep].first - l.removed
	for i := range l.chunks[:gone] {
		l.size -= l.chunks[i].cost()
	}
	// Copied, not resliced: the memory of the removed chunks shall be free at once.
	l.chunks = append([]chunk(nil), l.chunks[gone:]...)
	l.removed += gone
	l.segments = append([]segment(nil), l.segments[keep:]...)
}

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

// resolve returns the number of the chunk at which a reader with this spec attaches; end() stands for
// the one to be written next.
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
		// The last chunk that begins at or before the offset; below the first one, the first.
		i := sort.Search(n, func(i int) bool { return l.chunks[i].first > spec.Value })
		return l.removed + uint64(max(i-1, 0))
	case wire.OffsetTimestamp:
		i := sort.Search(n, func(i int) bool { return l.chunks[i].timestamp >= int64(spec.Value) })
		return l.removed + uint64(i)
	}
	return l.end()
}

// offsetOf returns the first offset of chunk number n, or of what will be written at end().
func (l *streamLog) offsetOf(n uint64) uint64 {
	if n == l.end() {
		return l.next
	}
	return l.at(n).first
}
