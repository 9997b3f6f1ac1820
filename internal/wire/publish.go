package wire

import (
	"encoding/binary"
	"fmt"
)

// DeclarePublisher opens a publisher on a stream. With an empty Reference the
// broker does not deduplicate what it publishes.
type DeclarePublisher struct {
	Correlation uint32
	PublisherID uint8
	Reference   string
	Stream      string
}

// DeletePublisher closes a publisher.
type DeletePublisher struct {
	Correlation uint32
	PublisherID uint8
}

// QueryPublisherSequence asks for the highest publishing id that the broker has
// stored under a reference.
type QueryPublisherSequence struct {
	Correlation uint32
	Reference   string
	Stream      string
}

// QueryPublisherSequenceResponse answers QueryPublisherSequence. An unknown
// reference has sequence 0.
type QueryPublisherSequenceResponse struct {
	Correlation uint32
	Code        Code
	Sequence    uint64
}

func (*DeclarePublisher) Head() (Key, uint16) { return KeyDeclarePublisher, 1 }
func (f *DeclarePublisher) fields(c *codec) {
	c.u32(&f.Correlation)
	c.u8(&f.PublisherID)
	c.str(&f.Reference)
	c.str(&f.Stream)
}

func (*DeletePublisher) Head() (Key, uint16) { return KeyDeletePublisher, 1 }
func (f *DeletePublisher) fields(c *codec) {
	c.u32(&f.Correlation)
	c.u8(&f.PublisherID)
}

func (*QueryPublisherSequence) Head() (Key, uint16) { return KeyQueryPublisherSequence, 1 }
func (f *QueryPublisherSequence) fields(c *codec) {
	c.u32(&f.Correlation)
	c.str(&f.Reference)
	c.str(&f.Stream)
}

func (*QueryPublisherSequenceResponse) Head() (Key, uint16) {
	return KeyQueryPublisherSequence.Response(), 1
}

func (f *QueryPublisherSequenceResponse) fields(c *codec) {
	c.u32(&f.Correlation)
	c.code(&f.Code)
	c.u64(&f.Sequence)
}

// Publish is a decoded Publish frame. Next iterates over its entries.
type Publish struct {
	PublisherID uint8
	Count       int // number of entries that the frame announces
	version     uint16
	entriesLeft int
	rest        []byte // the entries that were not read yet
	err         error
}

// PublishEntry is one entry of a Publish frame. Its slices alias the frame.
type PublishEntry struct {
	PublishingID uint64
	Filter       []byte // nil if null; Next does not set it in version 1
	Entry
}

// minPublishEntry returns the least length of an entry: that of the publishing
// id and an empty message, in version 2 also that of a null filter.
func minPublishEntry(version uint16) int {
	if version == Version2 {
		return 14
	}
	return 12
}

// DecodePublish reads the start of the fields of a Publish frame of version 1
// or 2, up to the first entry. It fails if the announced entries cannot fit.
func DecodePublish(version uint16, fields []byte) (Publish, error) {
	if len(fields) < 5 || version != Version1 && version != Version2 {
		return Publish{}, fmt.Errorf("decode Publish: %w: short or of unknown version", ErrMalformed)
	}
	count := boundedInt(binary.BigEndian.Uint32(fields[1:]))
	rest := fields[5:]
	if count < 0 || count > len(rest)/minPublishEntry(version) {
		return Publish{}, fmt.Errorf("decode Publish: %w: more entries than bytes", ErrMalformed)
	}
	return Publish{
		PublisherID: fields[0], Count: count, version: version, entriesLeft: count, rest: rest,
	}, nil
}

// Next reads the next entry into e. It reports false if there are no more
// entries, or if the rest of the frame is malformed; Err tells which.
func (p *Publish) Next(e *PublishEntry) bool {
	if p.entriesLeft == 0 {
		if len(p.rest) > 0 && p.err == nil {
			p.err = fmt.Errorf("decode Publish: %w: bytes left over", ErrMalformed)
		}
		return false
	}
	p.entriesLeft--
	if len(p.rest) < 8 {
		return p.failShort()
	}
	e.PublishingID = binary.BigEndian.Uint64(p.rest)
	b := p.rest[8:]
	if p.version == Version2 {
		var ok bool
		if e.Filter, b, ok = cutFilter(b); !ok {
			return p.failShort()
		}
	}
	n, ok := e.Entry.parse(b)
	if !ok {
		return p.failShort()
	}
	p.rest = b[n:]
	return true
}

// Err returns the error that ended the iteration. It wraps ErrMalformed. It is
// nil as long as Next has found nothing wrong.
func (p *Publish) Err() error { return p.err }

// failShort ends the iteration with an error. It returns false, for Next to
// return.
func (p *Publish) failShort() bool {
	p.entriesLeft, p.rest = 0, nil
	p.err = fmt.Errorf("decode Publish: %w: short entry", ErrMalformed)
	return false
}

// cutFilter cuts the filter off the front of b. A null filter is nil, an empty
// one is not. cutFilter reports false if b does not hold a whole filter.
func cutFilter(b []byte) (filter, rest []byte, ok bool) {
	if len(b) < 2 {
		return nil, nil, false
	}
	n := int(binary.BigEndian.Uint16(b))
	b = b[2:]
	if n == nullString {
		return nil, b, true
	}
	if n > maxString || n > len(b) {
		return nil, nil, false
	}
	return b[:n:n], b[n:], true
}

// BeginPublish appends the start of a Publish frame. The caller appends the
// entries and then calls FinishPublish.
func BeginPublish(b []byte, version uint16, publisherID uint8) []byte {
	b = append(appendHead(b, KeyPublish, version), publisherID)
	return append(b, 0, 0, 0, 0)
}

// AppendPublishEntry appends a message to a frame of version 1.
func AppendPublishEntry(b []byte, publishingID uint64, body []byte) []byte {
	return AppendEntry(binary.BigEndian.AppendUint64(b, publishingID), body)
}

// AppendPublishFiltered appends a message to a frame of version 2. It writes a
// nil filter as null, and cuts a filter to the length that a string may have.
func AppendPublishFiltered(b []byte, publishingID uint64, filter, body []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, publishingID)
	if filter == nil {
		b = append(b, 0xff, 0xff)
	} else {
		filter = filter[:min(len(filter), maxString)]
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(filter))), filter...)
	}
	return AppendEntry(b, body)
}

// AppendPublishBatch appends a sub-batch to a frame of version 1.
func AppendPublishBatch(b []byte, publishingID uint64, batch Entry) []byte {
	return AppendBatch(binary.BigEndian.AppendUint64(b, publishingID), batch)
}

// FinishPublish writes the size and the count of entries of the frame that
// BeginPublish appended at start.
func FinishPublish(b []byte, start, count int) []byte {
	binary.BigEndian.PutUint32(b[start+SizeLen+HeadLen+1:], uint32(count))
	return finishFrame(b, start)
}
