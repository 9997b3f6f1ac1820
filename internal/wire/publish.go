package wire

import (
	"encoding/binary"
	"fmt"
)

// DeclarePublisher opens a publisher on a stream; Reference is empty for one without deduplication.
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

// QueryPublisherSequence asks for the highest publishing id stored under a reference.
type QueryPublisherSequence struct {
	Correlation uint32
	Reference   string
	Stream      string
}

// QueryPublisherSequenceResponse answers QueryPublisherSequence; an unknown reference has sequence 0.
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

// Publish is a decoded Publish frame: its entries are walked in place with Next.
type Publish struct {
	PublisherID uint8
	Count       int // entries the frame announces
	version     uint16
	left        int
	rest        []byte
	err         error
}

// PublishEntry is one entry of a Publish frame; its slices alias the frame.
type PublishEntry struct {
	PublishingID uint64
	Filter       []byte // nil: none (version 1, or null)
	Entry
}

// publishMin is the least an entry takes: publishing id and length, in version 2 the filter's length too.
func publishMin(version uint16) int {
	if version == Version2 {
		return 14
	}
	return 12
}

// DecodePublish reads the head of a Publish frame of version 1 or 2.
func DecodePublish(version uint16, fields []byte) (Publish, error) {
	if len(fields) < 5 || version != Version1 && version != Version2 {
		return Publish{}, fmt.Errorf("decode Publish: %w: short or of unknown version", ErrMalformed)
	}
	count := boundedInt(binary.BigEndian.Uint32(fields[1:]))
	rest := fields[5:]
	if count < 0 || count > len(rest)/publishMin(version) {
		return Publish{}, fmt.Errorf("decode Publish: %w: more entries than bytes", ErrMalformed)
	}
	return Publish{PublisherID: fields[0], Count: count, version: version, left: count, rest: rest}, nil
}

// Next reads the next entry into e and reports whether there was one. After the last, see Err.
func (p *Publish) Next(e *PublishEntry) bool {
	if p.left == 0 {
		if len(p.rest) > 0 && p.err == nil {
			p.err = fmt.Errorf("decode Publish: %w: bytes left over", ErrMalformed)
		}
		return false
	}
	p.left--
	if len(p.rest) < 8 {
		return p.short()
	}
	e.PublishingID = binary.BigEndian.Uint64(p.rest)
	b := p.rest[8:]
	if p.version == Version2 {
		var ok bool
		if e.Filter, b, ok = cutFilter(b); !ok {
			return p.short()
		}
	}
	n, ok := e.Entry.parse(b)
	if !ok {
		return p.short()
	}
	p.rest = b[n:]
	return true
}

// Err returns what ended the walk before its time, wrapping ErrMalformed; nil when the frame was whole.
func (p *Publish) Err() error { return p.err }

func (p *Publish) short() bool {
	p.left, p.rest = 0, nil
	p.err = fmt.Errorf("decode Publish: %w: short entry", ErrMalformed)
	return false
}

func cutFilter(b []byte) (filter, rest []byte, ok bool) {
	if len(b) < 2 {
		return nil, nil, false
	}
	n := int(binary.BigEndian.Uint16(b))
	b = b[2:]
	if n == 0xffff {
		return nil, b, true
	}
	if n > maxShort || n > len(b) {
		return nil, nil, false
	}
	return b[:n:n], b[n:], true
}

// BeginPublish appends the head of a Publish frame. Entries follow, then FinishPublish.
func BeginPublish(b []byte, version uint16, publisherID uint8) []byte {
	b = append(appendHead(b, KeyPublish, version), publisherID)
	return append(b, 0, 0, 0, 0)
}

// AppendPublishEntry appends a message to a frame of version 1.
func AppendPublishEntry(b []byte, publishingID uint64, body []byte) []byte {
	return AppendEntry(binary.BigEndian.AppendUint64(b, publishingID), body)
}

// AppendPublishFiltered appends a message to a frame of version 2. A nil filter is written as null; one
// longer than a string may be is cut.
func AppendPublishFiltered(b []byte, publishingID uint64, filter, body []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, publishingID)
	if filter == nil {
		b = append(b, 0xff, 0xff)
	} else {
		filter = filter[:min(len(filter), maxShort)]
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(filter))), filter...)
	}
	return AppendEntry(b, body)
}

// AppendPublishBatch appends a sub-batch to a frame of version 1.
func AppendPublishBatch(b []byte, publishingID uint64, batch Entry) []byte {
	return AppendBatch(binary.BigEndian.AppendUint64(b, publishingID), batch)
}

// FinishPublish writes size and count of the frame that BeginPublish appended at start.
func FinishPublish(b []byte, start, count int) []byte {
	binary.BigEndian.PutUint32(b[start+SizeLen+HeadLen+1:], uint32(count))
	return finishFrame(b, start)
}
