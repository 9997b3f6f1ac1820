package streamtest

import (
	"strings"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// This file handles StoreOffset and QueryOffset.
//
// Not implemented: RabbitMQ writes a stored offset to the log, where it may
// take an offset of the stream. Here it takes none. A test makes such a gap
// with Broker.SkipOffsets.

func (c *conn) storeOffset(req *wire.StoreOffset) {
	s, code := c.vhost.findLed(req.Stream)
	if code != wire.CodeOK || len(req.Reference) > maxReference || !c.may(read, req.Stream) {
		return // StoreOffset has no answer, not even an error
	}
	c.touched[s] = struct{}{}
	if !strings.HasPrefix(req.Reference, producerEntries) && c.b.faults.loseStore() {
		c.b.cfg.logger.Info("store lost", "stream", s.name, "reference", req.Reference, "offset", req.Offset)
		return
	}
	if _, known := s.offsets[req.Reference]; c.b.reserveReference(s, known, req.Reference) {
		s.offsets[req.Reference] = req.Offset
		if c.slow { // otherwise readers would find nothing new
			s.committed()
		}
	}
}

func (c *conn) queryOffset(req *wire.QueryOffset) {
	s, code := c.findLedReadable(req.Stream)
	if code != wire.CodeOK {
		c.fail(wire.KeyQueryOffset, req.Correlation, code)
		return
	}
	c.touched[s] = struct{}{}
	offset, stored := s.offsets[req.Reference]
	if !stored {
		c.fail(wire.KeyQueryOffset, req.Correlation, wire.CodeNoOffset)
		return
	}
	c.send(&wire.QueryOffsetResponse{Correlation: req.Correlation, Code: wire.CodeOK, Offset: offset})
}

// dropOffsets deletes the stored offsets that lie before the first retained
// chunk.
func (s *stream) dropOffsets() {
	for reference, offset := range s.offsets {
		if offset < s.log.chunks[0].first {
			delete(s.offsets, reference)
		}
	}
}
