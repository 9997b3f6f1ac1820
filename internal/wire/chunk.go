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

// chunkMagic is magic 5 and version 0.
const chunkMagic = 0x50

// The types of chunks; only user chunks are delivered to ordinary consumers.
const (
	ChunkUser             uint8 = 0
	ChunkTrackingDelta    uint8 = 1
	ChunkTrackingSnapshot uint8 = 2
)

// ChunkHeader is the header of a chunk. TrailerLength and BloomSize tell of bytes on the broker's disk
// that are never delivered.
type ChunkHeader struct {
	Type          uint8
	Entries       uint16 // a sub-batch counts once
	Records       uint32 // messages, that is offsets
	Timestamp     int64  // milliseconds since the epoch, the broker's clock
	Epoch         uint64
	FirstOffset   uint64
	CRC           uint32
	DataLength    uint32
	TrailerLength uint32
	BloomSize     uint8
}

// Put writes the header to the first ChunkHeaderLen bytes of b.
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

// ParseChunk reads a chunk as it is delivered: header, then exactly the data the header announces.
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
		return Chunk{}, fmt.Errorf("chunk: %w: %d bytes of data announced, %d there", ErrMalformed, c.DataLength, len(c.Data))
	}
	return c, nil
}

// Checksum is the checksum of a chunk's data.
func Checksum(data []byte) uint32 { return crc32.ChecksumIEEE(data) }

// Check compares the checksum; a difference is ErrCRC.
func (c *Chunk) Check() error {
	if sum := Checksum(c.Data); sum != c.CRC {
		return fmt.Errorf("%w: %08x in the header of chunk %d, %08x computed", ErrCRC, c.CRC, c.FirstOffset, sum)
	}
	return nil
}

// Walk returns an iterator over the chunk's entries, which alias its data.
func (c *Chunk) Walk() ChunkEntries { return c.WalkCopies(0) }

// WalkCopies is Walk with entries that alias copies, of about size bytes each, of the chunk's data; an
// entry that has more is a copy of its own.
func (c *Chunk) WalkCopies(size int) ChunkEntries {
	w := ChunkEntries{src: c.Data, copies: size, left: c.Entries, offset: c.FirstOffset, end: c.FirstOffset + uint64(c.Records)}
	if size == 0 {
		w.rest, w.window = c.Data, len(c.Data)
	}
	return w
}

// ChunkEntries walks the entries of a chunk.
type ChunkEntries struct {
	rest        []byte // of the window, which is the chunk's data or a copy of a part of it
	window      int    // length of it
	src         []byte // the chunk's data from the window's beginning on
	copies      int    // how much to copy at a time; 0: none
	left        uint16
	offset, end uint64
	err         error
}

// Next reads the next entry into e and returns the offset of its first record. When there is none, ok is
// false: see Err.
func (w *ChunkEntries) Next(e *Entry) (offset uint64, ok bool) {
	if w.left == 0 {
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
	w.left--
	w.rest = w.rest[n:]
	offset = w.offset
	w.offset += uint64(e.Records)
	return offset, true
}

// Message reads the next entry if it is a plain message, as most are, and is Next for it. Where ok is
// false nothing was read.
func (w *ChunkEntries) Message() (offset uint64, body []byte, ok bool) {
	if w.left == 0 || len(w.rest) < entryHead || w.offset == w.end {
		return 0, nil, false
	}
	size := binary.BigEndian.Uint32(w.rest)
	if size >= 1<<31 || uint64(size) > uint64(len(w.rest)-entryHead) {
		return 0, nil, false
	}
	n := entryHead + int(size)
	offset, body = w.offset, w.rest[entryHead:n:n]
	w.rest = w.rest[n:]
	w.left--
	w.offset++
	return offset, body, true
}

func (w *ChunkEntries) fail(what string) bool {
	w.left, w.rest, w.src, w.window = 0, nil, nil, 0
	w.err = fmt.Errorf("chunk: %w: %s", ErrMalformed, what)
	return false
}

// unread is what is left of the chunk's data.
func (w *ChunkEntries) unread() []byte { return w.src[w.window-len(w.rest):] }

// refill copies more of the chunk, at least an entry as far as there is one. It reports whether there is
// more.
func (w *ChunkEntries) refill() bool {
	if w.src = w.unread(); len(w.src) == len(w.rest) {
		w.window = len(w.rest)
		return false
	}
	n := w.copies
	if size, ok := entrySize(w.src); ok {
		n = max(n, size)
	}
	w.rest = bytes.Clone(w.src[:min(n, len(w.src))])
	w.window = len(w.rest)
	return true
}

// maxRecords bounds what Records returns.
const maxRecords = 1 << 30

// Records returns how many records are left according to the chunk's header,
// which nobody has verified, or 1<<30 if there are more. The bound keeps sums
// of it and of the records of a sub-batch within an int of 32 bits.
func (w *ChunkEntries) Records() int { return int(min(w.end-w.offset, maxRecords)) }

// Err returns what is wrong with the chunk, wrapping ErrMalformed; nil when entries and records add up.
func (w *ChunkEntries) Err() error { return w.err }
