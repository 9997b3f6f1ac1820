package streamtest

import (
	"fmt"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// This file handles DeclarePublisher, Publish, DeletePublisher and
// QueryPublisherSequence.
//
// Not implemented: RabbitMQ may put several Publish frames into one chunk. Here
// each frame becomes a chunk of its own, or several if it has more entries than
// chunkWriter allows in one. RabbitMQ forgets all publisher references but the
// latest 255. The broker keeps them all.

// publisher is a publisher that a connection has declared.
type publisher struct {
	id        uint8
	reference string // empty: no deduplication
	stream    *stream
}

const (
	maxReference    = 255
	maxUncompressed = 64 << 20 // bytes of a sub-batch
)

func (c *conn) declarePublisher(req *wire.DeclarePublisher) {
	c.reply(wire.KeyDeclarePublisher, req.Correlation, c.addPublisher(req))
}

func (c *conn) addPublisher(req *wire.DeclarePublisher) wire.Code {
	mayWrite := c.may(write, req.Stream)
	switch {
	case !mayWrite:
		return wire.CodeAccessRefused
	case c.b.full() || len(req.Reference) > maxReference || c.publishers[req.PublisherID] != nil || c.publishes(req):
		return wire.CodePreconditionFailed
	}
	s, code := c.find(req.Stream)
	if code != wire.CodeOK {
		return code
	}
	c.publishers[req.PublisherID] = &publisher{id: req.PublisherID, reference: req.Reference, stream: s}
	c.touched[s] = struct{}{}
	return wire.CodeOK
}

// publishes reports whether the connection already has a publisher with the
// reference and stream of req. Publishers without a reference do not count.
func (c *conn) publishes(req *wire.DeclarePublisher) bool {
	for _, p := range c.publishers {
		if req.Reference != "" && p.reference == req.Reference && p.stream.name == req.Stream {
			return true
		}
	}
	return false
}

func (c *conn) deletePublisher(req *wire.DeletePublisher) {
	p := c.publishers[req.PublisherID]
	if p == nil {
		c.reply(wire.KeyDeletePublisher, req.Correlation, wire.CodePublisherDoesNotExist)
		return
	}
	delete(c.publishers, req.PublisherID)
	c.dropHeld(req.PublisherID)
	c.untouch(p.stream)
	c.reply(wire.KeyDeletePublisher, req.Correlation, wire.CodeOK)
}

func (c *conn) querySequence(req *wire.QueryPublisherSequence) {
	s, code := c.findReadable(req.Stream)
	if code != wire.CodeOK {
		c.fail(wire.KeyQueryPublisherSequence, req.Correlation, code)
		return
	}
	c.send(&wire.QueryPublisherSequenceResponse{
		Correlation: req.Correlation, Code: wire.CodeOK, Sequence: s.sequences[req.Reference],
	})
}

// publish stores the messages of a Publish frame and confirms them. If an entry
// is malformed, publish stores the entries before it and returns an error.
func (c *conn) publish(version uint16, fields []byte) error {
	frame, err := wire.DecodePublish(version, fields)
	if err != nil {
		return err
	}
	c.ids, c.dups = c.ids[:0], c.dups[:0]
	code, forced := c.b.faults.answer(wire.KeyPublish)
	p := c.publishers[frame.PublisherID]
	if p == nil && !forced {
		code, forced = wire.CodePublisherDoesNotExist, true
	}
	if forced {
		return c.refusePublish(&frame, code)
	}
	w := newChunkWriter(p, version, &frame, len(fields))
	for e := (wire.PublishEntry{}); w.refused == nil && frame.Next(&e); {
		if version == wire.Version2 && e.Batch {
			return errCrash
		}
		c.addEntry(w, &e)
	}
	if w.refused != nil {
		return c.refuseRest(w, &frame)
	}
	c.commit(w)
	if frame.Err() != nil {
		return crash(frame.Err())
	}
	return nil
}

// addEntry adds an entry to the chunk, unless the entry is a duplicate or an
// invalid sub-batch.
func (c *conn) addEntry(w *chunkWriter, e *wire.PublishEntry) {
	switch {
	case e.Batch && !validBatch(&e.Entry):
		w.refused = append(w.refused, e.PublishingID)
	case w.duplicate(e.PublishingID):
		c.dups = append(c.dups, e.PublishingID)
	default:
		w.add(e)
		c.ids = append(c.ids, e.PublishingID)
	}
}

// validBatch reports whether a sub-batch passes the checks of RabbitMQ 4.3.5
// and later.
func validBatch(e *wire.Entry) bool {
	return e.Records > 0 && e.Compression <= wire.CompressionZstd && e.Uncompressed <= maxUncompressed &&
		uint64(e.Records)*4 <= uint64(e.Uncompressed) && (len(e.Body) > 0 || e.Compression == wire.CompressionNone)
}

// refuseRest stores the entries before an invalid sub-batch, and refuses that
// sub-batch and all entries after it.
func (c *conn) refuseRest(w *chunkWriter, frame *wire.Publish) error {
	for e := (wire.PublishEntry{}); frame.Next(&e); {
		w.refused = append(w.refused, e.PublishingID)
	}
	c.commit(w)
	if frame.Err() != nil {
		return crash(frame.Err())
	}
	c.push(wire.KeyPublishError, wire.AppendPublishError(c.out, w.publisher.id, wire.CodePreconditionFailed, w.refused))
	return nil
}

// refusePublish answers every message of the frame with code and stores none.
func (c *conn) refusePublish(frame *wire.Publish, code wire.Code) error {
	for e := (wire.PublishEntry{}); frame.Next(&e); {
		c.ids = append(c.ids, e.PublishingID)
	}
	if frame.Err() == nil {
		c.push(wire.KeyPublishError, wire.AppendPublishError(c.out, frame.PublisherID, code, c.ids))
		return nil
	}
	return crash(frame.Err())
}

// crash marks err as one on which RabbitMQ's connection process dies. RabbitMQ
// parses the entries of a frame one by one, so that it notices the error late.
func crash(err error) error { return fmt.Errorf("%w: %w", errCrash, err) }

// commit stores the chunks. It confirms first the messages that it dropped as
// duplicates, then those that it stored.
func (c *conn) commit(w *chunkWriter) {
	s := w.publisher.stream
	c.b.trackSize(s, func() { w.store(c.b.now().UnixMilli()) })
	for _, ids := range [][]uint64{c.dups, c.ids} {
		if len(ids) > 0 {
			c.confirm(w.publisher.id, ids)
		}
	}
	if len(c.ids) > 0 {
		s.wakeReaders()
	}
}
