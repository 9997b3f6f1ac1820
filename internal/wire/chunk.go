package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// ErrCRC says that a chunk's data does not match its checksum.
var ErrCRC = errors.New("chunk CRC mismatch")

// ChunkHeaderLen is the length of a chunk's header.
const ChunkHeaderLen = 48

// chunkMagic is the first byte of a chunk: magic number 5 and version 0.
const chunkMagic = 0x50

// The types of chunks. The broker delivers only user chunks to ordinary
// consumers.
const (
	ChunkUser             uint8 = 0
	ChunkTrackingDelta    uint8 = 1
	ChunkTrackingSnapshot uint8 = 2
)

// ChunkHeader is the header of a chunk. TrailerLength and BloomSize count bytes
// that the broker keeps on its disk and never delivers.
type ChunkHeader struct {
	Type          uint8
	Entries       uint16 // number of entries; a sub-batch counts once
	Records       uint32 // number of messages, and so of offsets
	Timestamp     int64  // milliseconds since the Unix epoch, by the broker's clock
	Epoch         uint64 // term of the leader that wrote the chunk
	FirstOffset   uint64 // offset of the first message
	CRC           uint32 // of the data; see Check
	DataLength    uint32
	TrailerLength uint32
	BloomSize     uint8
}

// Put writes the header to the first ChunkHeaderLen bytes of b, and panics if b
// is shorter.
func (h *ChunkHeader) Put(b []byte) {
	b = b[:ChunkHeaderLen]
	b[0], b[1] = chunkMagic, h.Type
	binary.BigEndian.PutUint16(b[2:], h.Entries)
	binary.BigEndian.PutUint32(b[4:], h.Records)
	binary.BigEndian.PutUint64(b[8:], uint64(h.Timestamp))
	binary.BigEndian.PutUint64(b[16:], h.Epoch)
	binary.BigEndian.PutUint64(b[24:], h.FirstOffset)
	binary.BigEndian.PutUint32(b[32:], h.CRC)
	binary.BigEndian.PutUint32(b[36:], h.DataLength)
	binary.BigEndian.PutUint32(b[40:], h.TrailerLength)
	binary.BigEndian.PutUint32(b[44:], uint32(h.BloomSize)<<24)
}

// Chunk is a delivered chunk. Data aliases the bytes it was parsed from.
type Chunk struct {
	ChunkHeader
	Data []byte
}

// ParseChunk reads a chunk as it is delivered: its header, followed by exactly
// the data that the header announces. It verifies neither the checksum (see
// Check) nor the entries (see Walk).
func ParseChunk(b []byte) (Chunk, error) {
	if len(b) < ChunkHeaderLen || b[0] != chunkMagic {
		return Chunk{}, fmt.Errorf("chunk: %w: short or of unknown magic", ErrMalformed)
	}
	c := Chunk{Data: b[ChunkHeaderLen:], ChunkHeader: ChunkHeader{
		Type:          b[1],
		Entries:       binary.BigEndian.Uint16(b[2:]),
		Records:       binary.BigEndian.Uint32(b[4:]),
		Timestamp:     int64(binary.BigEndian.Uint64(b[8:])),
		Epoch:         binary.BigEndian.Uint64(b[16:]),
		FirstOffset:   binary.BigEndian.Uint64(b[24:]),
		CRC:           binary.BigEndian.Uint32(b[32:]),
		DataLength:    binary.BigEndian.Uint32(b[36:]),
		TrailerLength: binary.BigEndian.Uint32(b[40:]),
		BloomSize:     b[44],
	}}
	if uint64(c.DataLength) != uint64(len(c.Data)) {
		return Chunk{}, fmt.Errorf("chunk: %w: %d bytes of data announced, %d there",
			ErrMalformed, c.DataLength, len(c.Data))
	}
	return c, nil
}

// Checksum returns the checksum of a chunk's data.
func Checksum(data []byte) uint32 { return crc32.ChecksumIEEE(data) }

// Check verifies the checksum of the data. The error wraps ErrCRC.
func (c *Chunk) Check() error {
	if sum := Checksum(c.Data); sum != c.CRC {
		return fmt.Errorf("%w: %08x in the header of chunk %d, %08x computed",
			ErrCRC, c.CRC, c.FirstOffset, sum)
	}
	return nil
}

// Walk returns an iterator over the chunk's entries, which alias its data.
func (c *Chunk) Walk() ChunkEntries { return c.WalkCopies(0) }

// WalkCopies returns an iterator like Walk, but its entries alias copies of the
// chunk's data. Each copy has size bytes, or as many as one entry needs, or as
// many as are left.
func (c *Chunk) WalkCopies(size int) ChunkEntries {
	w := ChunkEntries{
		source: c.Data, copySize: size, entriesLeft: c.Entries,
		offset: c.FirstOffset, end: c.FirstOffset + uint64(c.Records),
	}
	if size == 0 {
		w.rest, w.windowLen = c.Data, len(c.Data)
	}
	return w
}

// ChunkEntries iterates over the entries of a chunk; see Chunk.Walk. It reads
// from a window, which is the chunk's data or a copy of a part of it.
type ChunkEntries struct {
	rest        []byte // the bytes of the window that were not read yet
	windowLen   int    // length of the whole window
	source      []byte // the chunk's data from where the window begins
	copySize    int    // length of a copied window; 0: nothing is copied
	entriesLeft uint16
	offset, end uint64 // offset of the next record, and the one behind the last
	err         error
}

// Next reads the next entry into e and returns the offset of its first record.
// It reports false if there are no more entries, or if the rest of the chunk is
// malformed; Err tells which.
func (w *ChunkEntries) Next(e *Entry) (offset uint64, ok bool) {
	if w.entriesLeft == 0 {
		if w.err == nil && (len(w.unread()) > 0 || w.offset != w.end) {
			return 0, w.fail("entries do not fill it")
		}
		return 0, false
	}
	n, ok := e.parse(w.rest)
	if !ok && w.refill() {
		n, ok = e.parse(w.rest)
	}
	if !ok {
		return 0, w.fail("short entry")
	}
	if uint64(e.Records) > w.end-w.offset {
		return 0, w.fail("more records than announced")
	}
	w.entriesLeft--
	w.rest = w.rest[n:]
	offset = w.offset
	w.offset += uint64(e.Records)
	return offset, true
}

// Message reads the next entry if that is a message, as most are, and lies
// within the window. It does for such an entry what Next does, and is faster.
// If it reports false it has read nothing, and the caller continues with Next.
func (w *ChunkEntries) Message() (offset uint64, body []byte, ok bool) {
	if w.entriesLeft == 0 || len(w.rest) < messageHeadLen || w.offset == w.end {
		return 0, nil, false
	}
	size := binary.BigEndian.Uint32(w.rest)
	if size >= 1<<31 || uint64(size) > uint64(len(w.rest)-messageHeadLen) {
		return 0, nil, false
	}
	n := messageHeadLen + int(size)
	offset, body = w.offset, w.rest[messageHeadLen:n:n]
	w.rest = w.rest[n:]
	w.entriesLeft--
	w.offset++
	return offset, body, true
}

// fail ends the walk with an error. It returns false, for Next to return.
func (w *ChunkEntries) fail(what string) bool {
	w.entriesLeft, w.rest, w.source, w.windowLen = 0, nil, nil, 0
	w.err = fmt.Errorf("chunk: %w: %s", ErrMalformed, what)
	return false
}

// unread returns the part of the chunk's data that was not read yet.
func (w *ChunkEntries) unread() []byte { return w.source[w.windowLen-len(w.rest):] }

// refill moves the window on to what was not read yet: to a copy that holds the
// next entry, if the data has the whole of it. It reports false, and changes
// nothing, if the window reaches to the end of the data already.
func (w *ChunkEntries) refill() bool {
	unread := w.unread()
	if len(unread) == len(w.rest) {
		return false
	}
	n := w.copySize
	if length, ok := entryLen(unread); ok {
		n = max(n, length)
	}
	w.source = unread
	w.rest = bytes.Clone(unread[:min(n, len(unread))])
	w.windowLen = len(w.rest)
	return true
}

// maxRecords is the most that Records returns.
const maxRecords = 1 << 30

// Records returns how many records are left according to the chunk's header,
// which may lie, or 1<<30 if there are more. Thanks to that bound, a caller can
// add the 65,535 records of a sub-batch without overflowing an int of 32 bits.
func (w *ChunkEntries) Records() int { return int(min(w.end-w.offset, maxRecords)) }

// Offset returns the offset of the next record that the walk comes to. Where the
// walk has failed, it cannot read that record.
func (w *ChunkEntries) Offset() uint64 { return w.offset }

// Err returns the error that ended the walk. It wraps ErrMalformed. It is nil
// as long as Next has found nothing wrong.
func (w *ChunkEntries) Err() error { return w.err }
