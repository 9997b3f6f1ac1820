package streamtest

import (
	"fmt"
	"slices"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// This file handles DeclarePublisher, Publish, DeletePublisher and
// QueryPublisherSequence.
//
// RabbitMQ puts the entries that wait for a stream into one chunk, whatever
// frames they came in. The broker does so with the frames of one connection
// that have arrived when it comes to handle them, see unwritten. RabbitMQ also
// merges those of several connections, if it is busy enough.

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
	switch {
	case c.b.full() || c.b.faults.alarm: // RabbitMQ looks at nothing else then
		return wire.CodePreconditionFailed
	case !c.may(write, req.Stream):
		return wire.CodeAccessRefused
	case len(req.Reference) > maxReference || c.publishers[req.PublisherID] != nil || c.publishes(req):
		return wire.CodePreconditionFailed
	}
	s, code := c.vhost.findLed(req.Stream)
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
	c.untouch(p.stream)
	c.reply(wire.KeyDeletePublisher, req.Correlation, wire.CodeOK)
}

func (c *conn) querySequence(req *wire.QueryPublisherSequence) {
	s, code := c.findLedReadable(req.Stream)
	if code == wire.CodeStreamNotAvailable {
		c.end(CutFIN) // RabbitMQ has no answer to that: the connection crashes
		return
	}
	if code != wire.CodeOK {
		c.fail(wire.KeyQueryPublisherSequence, req.Correlation, code)
		return
	}
	c.send(&wire.QueryPublisherSequenceResponse{
		Correlation: req.Correlation, Code: wire.CodeOK, Sequence: s.sequences[req.Reference].id,
	})
}

// unwritten is what a connection has published and the broker has not yet
// written: the entries of the frames that have arrived together. The broker
// writes it when no more frame is at hand, before another command that could
// notice, and before the connection waits or ends.
type unwritten struct {
	writers   []*chunkWriter // one for each stream
	frames    []takenFrame
	ids, dups []uint64 // of all frames, one after the other
}

// takenFrame says how many messages of a frame are stored, and how many dropped
// as duplicates.
type takenFrame struct {
	publisher *publisher
	ids, dups int
}

// publish takes the messages of a Publish frame, which writePublished stores and
// confirms. If an entry is malformed, publish takes the entries before it and
// returns an error.
func (c *conn) publish(version uint16, fields []byte) error {
	frame, err := wire.DecodePublish(version, fields)
	if err != nil {
		return err
	}
	code, forced := c.b.faults.answer(wire.KeyPublish)
	p := c.publishers[frame.PublisherID]
	if p == nil && !forced {
		code, forced = wire.CodePublisherDoesNotExist, true
	}
	if forced {
		return c.refuseRest(&frame, code, nil)
	}
	refused, err := c.takeEntries(p, version, &frame, len(fields))
	if err != nil {
		return err
	}
	if refused != nil || c.b.cfg.apart || len(c.unwritten.ids) >= maxChunkEntries {
		c.writePublished()
	}
	if refused != nil {
		return c.refuseRest(&frame, wire.CodePreconditionFailed, refused)
	}
	if frame.Err() != nil {
		return crash(frame.Err())
	}
	return nil
}

// takeEntries adds the entries of a frame, whose fields are length bytes long,
// to what the connection has published. It ends at an invalid sub-batch, which
// it returns as refused.
func (c *conn) takeEntries(p *publisher, version uint16, frame *wire.Publish, length int) (refused []uint64, err error) {
	u := &c.unwritten
	w := c.writerFor(p.stream)
	w.reserve(frame.Count, entriesLength(version, frame, length))
	ids, dups := len(u.ids), len(u.dups)
	defer func() {
		taken := takenFrame{p, len(u.ids) - ids, len(u.dups) - dups}
		u.frames = append(u.frames, taken)
		c.spend(taken.ids + taken.dups)
	}()
	for e := (wire.PublishEntry{}); frame.Next(&e); {
		switch {
		case version == wire.Version2 && e.Batch:
			return nil, errCrash
		case e.Batch && !validBatch(&e.Entry):
			return []uint64{e.PublishingID}, nil
		case w.duplicate(p.reference, e.PublishingID):
			u.dups = append(u.dups, e.PublishingID)
		default:
			w.add(p.reference, &e)
			u.ids = append(u.ids, e.PublishingID)
		}
	}
	return nil, nil
}

// entriesLength returns how long the entries of a frame are at most in chunks:
// an entry there lacks at least its publishing id. The result is negative for a
// frame that is malformed.
func entriesLength(version uint16, frame *wire.Publish, length int) int {
	perEntry := 8
	if version == wire.Version2 {
		perEntry = 10
	}
	return length - 5 - perEntry*frame.Count
}

// writerFor returns the writer of what the connection has published to a stream.
func (c *conn) writerFor(s *stream) *chunkWriter {
	for _, w := range c.unwritten.writers {
		if w.stream == s {
			return w
		}
	}
	w := newChunkWriter(s)
	c.unwritten.writers = append(c.unwritten.writers, w)
	return w
}

// dropUnwritten discards what the connection has published to a stream that was
// deleted. It is neither stored nor confirmed.
func (c *conn) dropUnwritten(s *stream) {
	u := &c.unwritten
	u.writers = slices.DeleteFunc(u.writers, func(w *chunkWriter) bool { return w.stream == s })
	for i, f := range u.frames {
		if f.publisher.stream == s {
			u.frames[i].publisher = nil
		}
	}
}

// writePublished stores what the connection has published and confirms it. Of
// each frame it confirms first the messages that it dropped as duplicates, then
// those that it stored.
func (c *conn) writePublished() {
	u := c.unwritten
	if len(u.frames) == 0 {
		return
	}
	c.unwritten = unwritten{}
	for _, w := range u.writers {
		stored := false
		c.b.trackSize(w.stream, func() { stored = w.store(c.b.now().UnixMilli()) })
		if stored {
			w.stream.wakeReaders()
		}
	}
	ids, dups := u.ids, u.dups
	for _, f := range u.frames {
		if f.publisher != nil { // its stream is there
			c.confirmWhenWritten(f.publisher, dups[:f.dups], true)
			c.confirmWhenWritten(f.publisher, ids[:f.ids], false)
		}
		ids, dups = ids[f.ids:], dups[f.dups:]
	}
	clear(u.writers)
	clear(u.frames)
	c.unwritten = unwritten{u.writers[:0], u.frames[:0], u.ids[:0], u.dups[:0]}
	c.b.changed()
}

// validBatch reports whether a sub-batch passes the checks of RabbitMQ 4.3.5
// and later.
func validBatch(e *wire.Entry) bool {
	return e.Records > 0 && e.Compression <= wire.CompressionZstd && e.Uncompressed <= maxUncompressed &&
		uint64(e.Records)*4 <= uint64(e.Uncompressed) && (len(e.Body) > 0 || e.Compression == wire.CompressionNone)
}

// refuseRest answers the entries that are left in the frame with code, and the
// refused ones before them. None of them is stored.
func (c *conn) refuseRest(frame *wire.Publish, code wire.Code, refused []uint64) error {
	for e := (wire.PublishEntry{}); frame.Next(&e); {
		refused = append(refused, e.PublishingID)
	}
	if frame.Err() != nil {
		return crash(frame.Err())
	}
	c.push(wire.KeyPublishError, wire.AppendPublishError(c.out, frame.PublisherID, code, refused))
	return nil
}

// crash marks err as one on which RabbitMQ's connection process dies. RabbitMQ
// parses the entries of a frame one by one, so that it notices the error late.
func crash(err error) error { return fmt.Errorf("%w: %w", errCrash, err) }
