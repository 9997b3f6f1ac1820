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

const (
	entryHead = 4  // length of a simple entry
	batchHead = 11 // flags, record count, uncompressed length, length
)

// Entry is what a chunk consists of and a Publish frame carries: one message, or a sub-batch of several.
// Its slices alias the bytes it was read from.
type Entry struct {
	Raw  []byte // the entry as it stands on the wire, head included; not used when encoding
	Body []byte // a message, or the possibly compressed records of a sub-batch

	Records      uint16 // 1 for a message
	Batch        bool
	Compression  Compression // of a sub-batch
	Uncompressed uint32      // length of a sub-batch's records before compression
}

// parse reads the entry at the front of b and returns its length.
func (e *Entry) parse(b []byte) (int, bool) {
	if len(b) < entryHead {
		return 0, false
	}
	if b[0]&0x80 != 0 {
		return e.parseBatch(b)
	}
	n := int(binary.BigEndian.Uint32(b))
	if n > len(b)-entryHead {
		return 0, false
	}
	n += entryHead
	e.Raw, e.Body = b[:n:n], b[entryHead:n:n]
	e.Records, e.Batch, e.Compression, e.Uncompressed = 1, false, CompressionNone, 0
	return n, true
}

// entrySize returns the length of the entry at the front of b, of which ok is that it is whole.
func entrySize(b []byte) (n int, ok bool) {
	var e Entry
	return e.parse(b)
}

func (e *Entry) parseBatch(b []byte) (int, bool) {
	if len(b) < batchHead {
		return 0, false
	}
	n := boundedInt(binary.BigEndian.Uint32(b[7:]))
	if n < 0 || n > len(b)-batchHead {
		return 0, false
	}
	n += batchHead
	e.Raw, e.Body = b[:n:n], b[batchHead:n:n]
	e.Batch, e.Compression = true, Compression(b[0]>>4&7)
	e.Records = binary.BigEndian.Uint16(b[1:])
	e.Uncompressed = binary.BigEndian.Uint32(b[3:])
	return n, true
}

// AppendEntry appends a message as a simple entry.
func AppendEntry(b, body []byte) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(body))), body...)
}

// AppendBatch appends a sub-batch; its Raw is ignored.
func AppendBatch(b []byte, e Entry) []byte {
	b = append(b, 0x80|byte(e.Compression&7)<<4)
	b = binary.BigEndian.AppendUint16(b, e.Records)
	b = binary.BigEndian.AppendUint32(b, e.Uncompressed)
	return AppendEntry(b, e.Body)
}

// NextRecord cuts the first record off the uncompressed body of a sub-batch. At the end, and where the
// bytes are not a record, ok is false; rest is empty at a clean end.
func NextRecord(body []byte) (record, rest []byte, ok bool) {
	if len(body) < entryHead {
		return nil, body, false
	}
	n := boundedInt(binary.BigEndian.Uint32(body))
	if n < 0 || n > len(body)-entryHead {
		return nil, body, false
	}
	n += entryHead
	return body[entryHead:n:n], body[n:], true
}
