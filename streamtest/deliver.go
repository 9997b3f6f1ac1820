package streamtest

import (
	"bytes"
	"strings"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// filter selects chunks by the filter values of their messages. It is exact.
// RabbitMQ uses a Bloom filter, which lets a few more chunks through, and
// clients must filter the messages in any case.
type filter struct {
	values     []string
	unfiltered bool
}

// newFilter returns the filter that the properties of a Subscribe describe. It
// returns nil, which selects every chunk, if they contain no filter value.
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

// wants reports whether the filter selects a chunk, which needs one matching
// message.
func (f *filter) wants(c *chunk) bool {
	if f == nil || f.unfiltered && c.unfiltered {
		return true
	}
	for _, v := range f.values {
		if _, found := c.filters[v]; found {
			return true
		}
	}
	return false
}

// deliverNext puts the next chunk of the subscription into w, or skips it
// without spending credit if the filter does not want it. It returns false if
// the subscription can send nothing now or the connection has ended.
func (s *subscription) deliverNext(w *batch) bool {
	log := &s.stream.log
	if !s.sending {
		return false
	}
	if s.credit <= 0 || s.position >= log.end() {
		s.sending = false
		return false
	}
	// Retention may have removed the next chunk. Then the subscription goes
	// on at the oldest one.
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

// sendChunk puts a Deliver frame into the batch, with a wrong checksum or
// truncated if a test asked for it. It returns false after truncation, which
// ends the connection.
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

// crcAt is the position of the checksum in the header of a chunk.
const crcAt = 32

// cut removes the last n bytes of the batch. n is less than the length of the
// last chunk.
func (w *batch) cut(n int) {
	if w.from < len(w.flat) { // the chunk was copied
		w.flat = w.flat[:len(w.flat)-n]
		return
	}
	last := len(w.bufs) - 1
	w.bufs[last] = w.bufs[last][:len(w.bufs[last])-n]
}
