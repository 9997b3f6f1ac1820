package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"testing"
)

// hostileRecords are announced counts that do not fit an int of 32 bits, or
// would not once a caller has added a little to them.
var hostileRecords = []uint32{
	1<<30 + 1, 1<<31 - 1<<16, 1<<31 - 1, 1 << 31, 1<<31 + 1, 1<<32 - 2, 1<<32 - 1,
}

// TestRecordsLeaveRoom: a caller may add the records of a sub-batch, and one
// more, to Records without an overflow, also where an int has 32 bits.
func TestRecordsLeaveRoom(t *testing.T) {
	for _, records := range hostileRecords {
		for _, first := range []uint64{0, 1, math.MaxUint64 - 1, math.MaxUint64} {
			c := Chunk{ChunkHeader: ChunkHeader{Entries: 1, Records: records, FirstOffset: first}}
			w := c.Walk()
			n := int32(w.Records())
			if int(n) != w.Records() || n <= 0 || n+math.MaxUint16+1 <= 0 {
				t.Errorf("%d records from offset %d: Records is %d", records, first, w.Records())
			}
			if _, ok := w.Next(&Entry{}); ok || !errors.Is(w.Err(), ErrMalformed) {
				t.Errorf("%d records from offset %d: the walk ended with %v", records, first, w.Err())
			}
		}
	}
}

// TestRecordsCounts: within its bound, Records is exact.
func TestRecordsCounts(t *testing.T) {
	for _, records := range []uint32{0, 1, 1<<30 - 1, 1 << 30} {
		c := Chunk{ChunkHeader: ChunkHeader{Records: records, FirstOffset: math.MaxUint64}}
		w := c.Walk()
		if w.Records() != int(records) {
			t.Errorf("Records is %d, want %d", w.Records(), records)
		}
	}
}

// TestGrowthDoesNotOverflow: the sizes to which a FrameReader's memory grows
// stay positive up to the largest int.
func TestGrowthDoesNotOverflow(t *testing.T) {
	const half, quarter = math.MaxInt / 2, math.MaxInt / 4
	for n, want := range map[int]int{
		0: 0, 1: 2, half: math.MaxInt - 1, half + 1: math.MaxInt, math.MaxInt: math.MaxInt,
	} {
		if got := doubled(n); got != want {
			t.Errorf("doubled(%d) is %d, want %d", n, got, want)
		}
	}
	for _, c := range []struct{ n, limit, want int }{
		{1, 3, 3}, {1, 4, 4}, {1, 5, 4}, {1, 8, 4}, {2, 8, 8}, {2, 9, 8}, {3, 8, 8},
		{quarter, math.MaxInt, 4 * quarter}, {quarter + 1, math.MaxInt, math.MaxInt},
		{math.MaxInt, math.MaxInt, math.MaxInt},
	} {
		if got := fourfold(c.n, c.limit); got != c.want {
			t.Errorf("fourfold(%d, %d) is %d, want %d", c.n, c.limit, got, c.want)
		}
	}
}

// TestMakeRoomForMost: a frame of the largest size is moved to the front of the
// buffer like any other that does not fit behind the bytes already used.
func TestMakeRoomForMost(t *testing.T) {
	f := FrameReader{buf: make([]byte, 8), start: 4, end: 6}
	f.buf[4], f.buf[5] = 'a', 'b'
	f.makeRoom(math.MaxInt)
	if f.start != 0 || f.end != 2 || string(f.buf[:2]) != "ab" || len(f.buf) != 8 {
		t.Errorf("bytes %d to %d of %q", f.start, f.end, f.buf)
	}
}

// TestLengthsOutOfRange: a length that does not fit an int of 32 bits, or one
// that does but exceeds what follows, is an error wherever it stands.
func TestLengthsOutOfRange(t *testing.T) {
	decoders := map[string]func(length []byte) error{
		"bytes of SaslAuthenticate": func(length []byte) error {
			return Decode(slices.Concat(make([]byte, 6), length, []byte("data")), &SaslAuthenticate{})
		},
		"count of Metadata": func(length []byte) error {
			return Decode(slices.Concat(make([]byte, 4), length, make([]byte, 40)), &Metadata{})
		},
		"count of Publish": func(length []byte) error {
			_, err := DecodePublish(Version1, slices.Concat([]byte{1}, length, make([]byte, 40)))
			return err
		},
		"count of PublishConfirm": func(length []byte) error {
			_, err := DecodePublishConfirm(slices.Concat([]byte{1}, length, make([]byte, 40)))
			return err
		},
		"count of PublishError": func(length []byte) error {
			_, err := DecodePublishError(slices.Concat([]byte{1}, length, make([]byte, 40)))
			return err
		},
		"data of a chunk": func(length []byte) error {
			b := make([]byte, ChunkHeaderLen+5)
			b[0] = chunkMagic
			copy(b[36:], length)
			_, err := ParseChunk(b)
			return err
		},
		"message of a chunk": func(length []byte) error {
			return walkErr(slices.Concat(length, make([]byte, 40)))
		},
		"sub-batch of a chunk": func(length []byte) error {
			return walkErr(slices.Concat([]byte{0x80, 0, 1, 0, 0, 0, 4}, length, make([]byte, 40)))
		},
		"record of a sub-batch": func(length []byte) error {
			body := slices.Concat(length, make([]byte, 40))
			if record, rest, ok := NextRecord(body); ok || record != nil || len(rest) != len(body) {
				return nil
			}
			return ErrMalformed
		},
	}
	for name, decode := range decoders {
		for _, n := range []uint32{41, 1<<31 - 1 - 11, 1<<31 - 1, 1 << 31, 1<<31 + 1, 1<<32 - 12, 1<<32 - 2} {
			if err := decode(binary.BigEndian.AppendUint32(nil, n)); !errors.Is(err, ErrMalformed) {
				t.Errorf("%s: %d was read, %v", name, n, err)
			}
		}
	}
	for _, n := range []uint32{1 << 31, 1<<32 - 1} {
		f := NewFrameReader(strict(t, bytes.NewReader(binary.BigEndian.AppendUint32(nil, n))), 0)
		if _, err := f.Next(); !errors.Is(err, ErrFrameTooLarge) {
			t.Errorf("a frame of %d bytes: %v", n, err)
		}
	}
}

// walkErr walks a chunk of one entry and returns the error that ends the walk.
// It tries Message before Next, as consumers do.
func walkErr(data []byte) error {
	c := Chunk{ChunkHeader: ChunkHeader{Entries: 1, Records: 1}, Data: data}
	w := c.Walk()
	if _, _, ok := w.Message(); ok {
		return nil
	}
	for ok := true; ok; _, ok = w.Next(&Entry{}) {
	}
	return w.Err()
}
