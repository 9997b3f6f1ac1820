package streamtest

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"io"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// Message is a stored message, or a sub-batch that the broker cannot take
// apart.
type Message struct {
	// Offset is the offset of the message, or of the first one in a
	// sub-batch.
	Offset uint64
	// Timestamp is the time of the chunk in local time, to the millisecond.
	Timestamp time.Time
	// Raw is what the client sent, by convention an AMQP 1.0 message.
	Raw []byte

	// Properties is the properties section of Raw. It is zero if Raw has
	// none, or none that can be decoded.
	Properties Properties
	// ApplicationProperties is the section of that name. Its values are of
	// plain Go types: numbers, bool, string (also for a symbol), []byte,
	// time.Time, [16]byte for a UUID, and nil. It is nil if Raw has none, or
	// none that can be decoded.
	ApplicationProperties map[string]any
	// Err says why one of the two sections cannot be decoded; usually nil.
	Err error

	// Compressed says that Raw is a whole sub-batch instead of one message.
	// The broker takes sub-batches apart that are not compressed, or
	// compressed with gzip, if they contain as many messages as they say.
	Compressed bool
	// Records is the number of messages in Raw: 1 unless Compressed is
	// true.
	Records int
}

// Data returns the payload of the message: the first data section of Raw, or
// all of Raw if it is not an AMQP 1.0 message with a data section. The result
// shares the memory of Raw.
func (m Message) Data() []byte {
	if data, ok := dataSection(m.Raw); ok {
		return data
	}
	return m.Raw
}

// String returns Data as a string.
func (m Message) String() string { return string(m.Data()) }

// Messages returns copies of the messages that a stream retains, the oldest
// first. It returns nil if the stream is empty or does not exist.
func (b *Broker) Messages(streamName string) []Message {
	var chunks []chunk
	b.lookAt(streamName, func(s *stream) { chunks = append(chunks, s.log.chunks...) })
	var list []Message
	for i := range chunks { // chunks never change: no mutex is needed
		list = appendMessages(list, &chunks[i])
	}
	return list
}

// Bodies returns the payload of each message that Messages returns, as a
// string.
func (b *Broker) Bodies(streamName string) []string {
	var list []string
	for _, m := range b.Messages(streamName) {
		list = append(list, m.String())
	}
	return list
}

// appendMessages appends copies of the messages of a chunk.
func appendMessages(list []Message, c *chunk) []Message {
	parsed, err := wire.ParseChunk(c.bytes)
	if err != nil {
		return list // cannot happen: the broker made the chunk
	}
	at := time.UnixMilli(parsed.Timestamp)
	walk, e := parsed.Walk(), wire.Entry{}
	for {
		offset, ok := walk.Next(&e)
		if !ok {
			return list
		}
		for _, m := range entryMessages(&e) {
			m.Timestamp, m.Offset = at, offset
			if !m.Compressed {
				m.decodeProperties()
			}
			offset++
			list = append(list, m)
		}
	}
}

// entryMessages returns the messages of an entry. It returns the entry as one
// Message if it is a sub-batch that cannot be taken apart.
func entryMessages(e *wire.Entry) []Message {
	if !e.Batch {
		return []Message{{Raw: bytes.Clone(e.Body), Records: 1}}
	}
	body := e.Body
	if e.Compression == wire.CompressionGzip {
		body = gunzip(body, int64(e.Uncompressed))
	}
	var list []Message
	if e.Compression == wire.CompressionNone || e.Compression == wire.CompressionGzip {
		for {
			record, rest, ok := wire.NextRecord(body)
			if !ok {
				break
			}
			list, body = append(list, Message{Raw: bytes.Clone(record), Records: 1}), rest
		}
	}
	if len(list) != int(e.Records) {
		return []Message{{Raw: bytes.Clone(e.Body), Compressed: true, Records: int(e.Records)}}
	}
	return list
}

// gunzip decompresses up to limit bytes of b. After an error it returns what
// came before.
func gunzip(b []byte, limit int64) []byte {
	r, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil
	}
	out, _ := io.ReadAll(io.LimitReader(r, limit)) // the caller counts the messages
	return out
}

// dataSection returns the first data section of an AMQP 1.0 message.
func dataSection(b []byte) (data []byte, found bool) {
	sections(b, func(code byte, _, value []byte) bool {
		if code == sectionData {
			data, found = value, true
		}
		return !found
	})
	return data, found
}

// sections calls do with each section of an AMQP 1.0 message until do returns
// false or no section follows: its code, the whole section, and the content of
// its value.
func sections(b []byte, do func(code byte, section, value []byte) bool) {
	for len(b) > 3 && b[0] == 0 && b[1] == 0x53 {
		value, rest, ok := cutAMQP(b[3:])
		if !ok || !do(b[2], b[:len(b)-len(rest)], value) {
			return
		}
		b = rest
	}
}

// cutAMQP splits the first AMQP 1.0 value off b. The high four bits of its
// constructor say how long the value is (AMQP 1.0, part 1, section 1.2).
func cutAMQP(b []byte) (value, rest []byte, ok bool) {
	if len(b) == 0 {
		return nil, nil, false
	}
	constructor, b := b[0], b[1:]
	var n uint64
	switch width := constructor >> 4; width {
	case 4, 5, 6, 7, 8, 9:
		n = [...]uint64{0, 1, 2, 4, 8, 16}[width-4]
	case 0xa, 0xc, 0xe:
		if len(b) < 1 {
			return nil, nil, false
		}
		n, b = uint64(b[0]), b[1:]
	case 0xb, 0xd, 0xf:
		if len(b) < 4 {
			return nil, nil, false
		}
		n, b = uint64(binary.BigEndian.Uint32(b)), b[4:]
	default:
		return nil, nil, false
	}
	if n > uint64(len(b)) {
		return nil, nil, false
	}
	return b[:n], b[n:], true
}
