package streamtest

import (
	"bytes"
	"strings"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// filter selects chunks by the filter values of their messages. It is exact where RabbitMQ's Bloom filter
// lets some more through; clients filter again anyway.
type filter struct {
	values     []string
	unfiltered bool
}

// newFilter returns nil, which wants everything, when no property is a filter value.
func newFilter(props wire.Properties) *filter {
	f := &filter{}
	for _, p := range props {
		switch {
		case strings.HasPrefix(p.Key, "filter.") && p.Value == "":
			f.values, f.unfiltered = append(f.values, ""), true
		case strings.HasPrefix(p.Key, "filter."):
			f.values = append(f.values, p.Value)
		case p.Key == "match-unfiltered" && p.Value == "true":
			f.unfiltered = true
		}
	}
	if len(f.values) == 0 {
		return nil
	}
	return f
}

// wants reports whether a chunk holds a message the filter asks for.
func (f *filter) wants(c *chunk) bool {
	if f == nil || f.unfiltered && c.unfiltered {
		return true
	}
	for _, v := range f.values {
		if _, there := c.filters[v]; there {
			return true
		}
	}
	return false
}

// deliverNext puts the subscription's next chunk into w and reports whether it got any further: chunks its
// filter does not want are skipped without costing credit.
func (s *subscription) deliverNext(w *batch) bool {
	log := &s.stream.log
	if !s.attached || s.credit <= 0 || s.position >= log.end() {
		return false
	}
	// Retention may have passed the reader: it goes on with what there is.
	s.position = max(s.position, log.removed)
	c := log.at(s.position)
	s.position++
	if !s.filter.wants(c) {
		w.skips++
		return true
	}
	s.credit--
	committed, _ := log.lastChunk()
	return s.conn.sendChunk(w, s, committed, c.bytes)
}

// sendChunk puts a Deliver frame into the batch, spoiled where a test asked for it. It returns false when
// that ends the connection.
func (c *conn) sendChunk(w *batch, s *subscription, committed uint64, chunk []byte) bool {
	faults := &c.b.faults
	if faults.corruptNext(s.stream) {
		chunk = bytes.Clone(chunk)
		chunk[crcAt] ^= 0xff
	}
	w.add(c.deliver, s.id, committed, chunk)
	if !faults.truncateNext(wire.KeyDeliver) {
		return true
	}
	w.cut(len(chunk)/2 + 1)
	c.finish()
	return false
}

// crcAt is where the checksum is in a chunk's header.
const crcAt = 32

// cut removes the last n bytes of the batch, which are part of its last chunk.
func (w *batch) cut(n int) {
	if w.from < len(w.flat) { // the chunk was copied
		w.flat = w.flat[:len(w.flat)-n]
		return
	}
	last := len(w.bufs) - 1
	w.bufs[last] = w.bufs[last][:len(w.bufs[last])-n]
}
