package streamtest

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"io"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// Message is a message as the broker stores it.
type Message struct {
	Offset    uint64
	Timestamp time.Time // of its chunk
	Raw       []byte    // what the client sent, by convention an AMQP 1.0 message

	// Compressed says that Raw is not one message but a whole sub-batch, compressed with something else
	// than gzip, which the broker cannot read. Records is how many messages it holds.
	Compressed bool
	Records    int
}

// Data returns the payload: the AMQP data section of Raw, or Raw itself where it is no AMQP message.
func (m Message) Data() []byte {
	if data, ok := dataSection(m.Raw); ok {
		return data
	}
	return m.Raw
}

// String returns the payload as text.
func (m Message) String() string { return string(m.Data()) }

// Messages returns copies of the messages of a stream that are retained, oldest first; nil when there is no
// such stream.
func (b *Broker) Messages(streamName string) []Message {
	var chunks []chunk
	b.with(streamName, func(s *stream) { chunks = append(chunks, s.log.chunks...) })
	var list []Message
	for i := range chunks { // chunks never change: no lock is needed
		list = appendMessages(list, &chunks[i])
	}
	return list
}

// Bodies returns the payloads of Messages as text.
func (b *Broker) Bodies(streamName string) []string {
	var list []string
	for _, m := range b.Messages(streamName) {
		list = append(list, m.String())
	}
	return list
}

func appendMessages(list []Message, c *chunk) []Message {
	parsed, err := wire.ParseChunk(c.bytes)
	if err != nil {
		return list // the broker has written it itself
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
			offset++
			list = append(list, m)
		}
	}
}

// entryMessages takes an entry apart as far as possible.
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

// gunzip returns what can be unpacked, up to limit bytes.
func gunzip(b []byte, limit int64) []byte {
	r, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil
	}
	out, _ := io.ReadAll(io.LimitReader(r, limit)) // what is there is counted by the caller
	return out
}

// dataSection finds the data section among the sections of an AMQP 1.0 message.
func dataSection(b []byte) ([]byte, bool) {
	for len(b) > 3 && b[0] == 0 && b[1] == 0x53 {
		section := b[2]
		value, rest, ok := cutAMQP(b[3:])
		if !ok {
			return nil, false
		}
		if section == 0x75 {
			return value, true
		}
		b = rest
	}
	return nil, false
}

// cutAMQP cuts one AMQP 1.0 value off b. The constructor's high digit says how long it is.
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
