package wire

import "encoding/binary"

// Compression says how the records of a sub-batch are compressed.
type Compression uint8

// The compressions of a sub-batch.
const (
	CompressionNone   Compression = 0
	CompressionGzip   Compression = 1
	CompressionSnappy Compression = 2
	CompressionLZ4    Compression = 3
	CompressionZstd   Compression = 4
	CompressionUser   Compression = 7
)

// An entry starts with a head and continues with its body.
const (
	// messageHeadLen is the length of the head of a message: the length of its
	// body, whose top bit is 0. A record of a sub-batch has the same head.
	messageHeadLen = 4
	// batchHeadLen is the length of the head of a sub-batch: flags (1 byte),
	// number of records (2), length of the records before compression (4) and
	// length of the body (4). The top bit of the flags is 1; the next three
	// are the compression.
	batchHeadLen = 11
	// BatchHeadLen is batchHeadLen, for those who count bytes.
	BatchHeadLen = batchHeadLen
	// batchBit is set in the first byte of a sub-batch.
	batchBit = 0x80
)

// Entry is what a chunk and a Publish frame consist of: one message, or a
// sub-batch of several. A decoded entry aliases the bytes that it was read
// from.
type Entry struct {
	Raw  []byte // the whole entry as on the wire, head included; encoding ignores it
	Body []byte // the message, or the records of the sub-batch, compressed or not

	Records      uint16 // number of records; 1 for a message
	Batch        bool   // whether the entry is a sub-batch
	Compression  Compression
	Uncompressed uint32 // length of the records before compression; 0 for a message
}

// parse reads the entry at the front of b into e and returns its length. It
// reports false, and leaves e as it is, if b does not hold a whole entry.
func (e *Entry) parse(b []byte) (length int, ok bool) {
	if len(b) < messageHeadLen {
		return 0, false
	}
	if b[0]&batchBit != 0 {
		return e.parseBatch(b)
	}
	bodyLen := int(binary.BigEndian.Uint32(b)) // below 2^31: batchBit is not set
	if bodyLen > len(b)-messageHeadLen {
		return 0, false
	}
	length = messageHeadLen + bodyLen
	e.Raw, e.Body = b[:length:length], b[messageHeadLen:length:length]
	e.Records, e.Batch, e.Compression, e.Uncompressed = 1, false, CompressionNone, 0
	return length, true
}

// parseBatch is parse for a sub-batch.
func (e *Entry) parseBatch(b []byte) (length int, ok bool) {
	if len(b) < batchHeadLen {
		return 0, false
	}
	bodyLen := boundedInt(binary.BigEndian.Uint32(b[7:]))
	if bodyLen < 0 || bodyLen > len(b)-batchHeadLen {
		return 0, false
	}
	length = batchHeadLen + bodyLen
	e.Raw, e.Body = b[:length:length], b[batchHeadLen:length:length]
	e.Batch, e.Compression = true, Compression(b[0]>>4&7)
	e.Records = binary.BigEndian.Uint16(b[1:])
	e.Uncompressed = binary.BigEndian.Uint32(b[3:])
	return length, true
}

// entryLen returns the length of the entry at the front of b, and whether b
// holds the whole of it.
func entryLen(b []byte) (length int, ok bool) {
	var e Entry
	return e.parse(b)
}

// AppendEntry appends a message, or a record of a sub-batch: they look alike.
func AppendEntry(b, body []byte) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(body))), body...)
}

// AppendBatch appends a sub-batch. It ignores Raw and Batch.
func AppendBatch(b []byte, e Entry) []byte {
	start := len(b)
	return FinishBatch(append(BeginBatch(b, e), e.Body...), start)
}

// BeginBatch appends the head of a sub-batch. The caller appends the body, and
// then calls FinishBatch. BeginBatch ignores Raw, Batch and Body.
func BeginBatch(b []byte, e Entry) []byte {
	b = append(b, batchBit|byte(e.Compression&7)<<4)
	b = binary.BigEndian.AppendUint16(b, e.Records)
	b = binary.BigEndian.AppendUint32(b, e.Uncompressed)
	return append(b, 0, 0, 0, 0)
}

// FinishBatch writes the length of the body of the sub-batch that BeginBatch
// appended at start.
func FinishBatch(b []byte, start int) []byte {
	binary.BigEndian.PutUint32(b[start+batchHeadLen-4:], uint32(len(b)-start-batchHeadLen))
	return b
}

// NextRecord cuts the first record off the uncompressed body of a sub-batch. If
// the body is empty, or does not begin with a whole record, NextRecord reports
// false and returns the body as rest.
func NextRecord(body []byte) (record, rest []byte, ok bool) {
	if len(body) < messageHeadLen {
		return nil, body, false
	}
	recordLen := boundedInt(binary.BigEndian.Uint32(body))
	if recordLen < 0 || recordLen > len(body)-messageHeadLen {
		return nil, body, false
	}
	end := messageHeadLen + recordLen
	return body[messageHeadLen:end:end], body[end:], true
}
