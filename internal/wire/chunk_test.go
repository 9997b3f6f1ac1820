package wire

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
)

// TestChunkHeader: every field of a header has its place, the same in both
// directions.
func TestChunkHeader(t *testing.T) {
	want := unhex(t, "50 02 0304 05060708 f1f2f3f4f5f6f7f8 1112131415161718 2122232425262728"+
		"31323334 00000003 41424344 51 000000")
	h := ChunkHeader{
		Type: 2, Entries: 0x0304, Records: 0x05060708, Timestamp: -0x0e0d0c0b0a090808,
		Epoch: 0x1112131415161718, FirstOffset: 0x2122232425262728, CRC: 0x31323334,
		DataLength: 3, TrailerLength: 0x41424344, BloomSize: 0x51,
	}
	b := []byte(strings.Repeat("-", ChunkHeaderLen) + "abc")
	h.Put(b)
	if !bytes.Equal(b, append(want, "abc"...)) {
		t.Errorf("written as %x, want %x", b, want)
	}
	if c, err := ParseChunk(b); err != nil || c.ChunkHeader != h || string(c.Data) != "abc" {
		t.Errorf("read as %+v, %v", c, err)
	}
}

// TestChunkHeaderTooShort: Put does not write a part of a header.
func TestChunkHeaderTooShort(t *testing.T) {
	b := make([]byte, ChunkHeaderLen-1)
	defer func() {
		if recover() == nil || !bytes.Equal(b, make([]byte, len(b))) {
			t.Errorf("wrote %x", b)
		}
	}()
	(&ChunkHeader{Entries: 1}).Put(b)
}

// TestParseChunkLengths: a chunk has a whole header, and as much data as that
// says.
func TestParseChunkLengths(t *testing.T) {
	whole := make([]byte, ChunkHeaderLen+3)
	for n := range ChunkHeaderLen {
		whole[0] = chunkMagic
		_, err := ParseChunk(whole[:n:n])
		wantError(t, fmt.Sprintf("%d bytes", n), err, "short or of unknown magic")
	}
	for _, announced := range []uint32{0, 1, 2, 3, 4, 1 << 31, 1<<32 - 1} {
		for there := range 4 {
			(&ChunkHeader{DataLength: announced}).Put(whole)
			c, err := ParseChunk(whole[:ChunkHeaderLen+there])
			if uint32(there) == announced {
				if err != nil || len(c.Data) != there {
					t.Errorf("%d bytes of data: %d, %v", there, len(c.Data), err)
				}
				continue
			}
			wantError(t, "data", err, fmt.Sprintf("%d bytes of data announced, %d there", announced, there))
		}
	}
	for _, magic := range []byte{0, 0x4f, 0x51, 0x60} {
		(&ChunkHeader{DataLength: 3}).Put(whole)
		whole[0] = magic
		_, err := ParseChunk(whole)
		wantError(t, "magic", err, "unknown magic")
	}
}

func TestCheck(t *testing.T) {
	c := Chunk{ChunkHeader: ChunkHeader{FirstOffset: 7}, Data: []byte("some data")}
	c.CRC = Checksum(c.Data)
	if err := c.Check(); err != nil {
		t.Error(err)
	}
	sum := c.CRC
	for _, c.CRC = range []uint32{0, sum - 1, sum + 1} {
		if err := c.Check(); !errors.Is(err, ErrCRC) || !strings.Contains(err.Error(), "chunk 7") {
			t.Errorf("checksum %08x, data's %08x: %v", c.CRC, sum, err)
		}
	}
}

// mixedEntries are messages and sub-batches, long and short, in every order of
// two.
func mixedEntries() []Entry {
	message := func(n int) Entry { return Entry{Records: 1, Body: bytes.Repeat([]byte("m"), n)} }
	batch := func(records uint16, n int) Entry {
		return Entry{
			Batch: true, Records: records, Compression: CompressionZstd, Uncompressed: 99,
			Body: bytes.Repeat([]byte("b"), n),
		}
	}
	return []Entry{
		message(0), message(3), batch(2, 5), batch(0, 0), message(20), batch(300, 40), batch(1, 1),
		message(0), batch(0, 7), message(1), message(0), message(0),
	}
}

// chunkOf returns a chunk of these entries, and sets Raw of each of them.
func chunkOf(first uint64, entries []Entry) Chunk {
	c := Chunk{ChunkHeader: ChunkHeader{Entries: uint16(len(entries)), FirstOffset: first}}
	for i := range entries {
		start := len(c.Data)
		if e := &entries[i]; e.Batch {
			c.Data = AppendBatch(c.Data, *e)
		} else {
			c.Data = AppendEntry(c.Data, e.Body)
		}
		c.Records += uint32(entries[i].Records)
		entries[i].Raw = bytes.Clone(c.Data[start:])
	}
	c.DataLength = uint32(len(c.Data))
	return c
}

// walked is what a walk over a chunk returns.
type walked struct {
	offsets []uint64
	entries []Entry
	err     error
}

// walkAll walks a chunk to its end, by Message where that reads something if
// messages is set, and checks what holds at each step.
func walkAll(t *testing.T, w ChunkEntries, messages bool) (all walked) {
	t.Helper()
	for {
		left := w.Records()
		e := Entry{Batch: true, Records: 9, Compression: 7, Uncompressed: 9} // all to be overwritten
		offset, ok := uint64(0), false
		if messages {
			var body []byte
			if offset, body, ok = w.Message(); ok {
				e = Entry{Records: 1, Body: body}
			}
		}
		if !ok {
			if offset, ok = w.Next(&e); ok && cap(e.Raw) != len(e.Raw) {
				t.Errorf("an entry of %d bytes has a capacity of %d", len(e.Raw), cap(e.Raw))
			}
		}
		if !ok {
			break
		}
		if cap(e.Body) != len(e.Body) {
			t.Errorf("a body of %d bytes has a capacity of %d", len(e.Body), cap(e.Body))
		}
		if n := left - int(e.Records); left < maxRecords && w.Records() != n {
			t.Fatalf("%d records left, want %d", w.Records(), n)
		}
		if len(all.entries) > 1000 {
			t.Fatal("the walk does not end")
		}
		all.offsets, all.entries = append(all.offsets, offset), append(all.entries, e)
	}
	all.err = w.Err()
	checkEnded(t, &w)
	return all
}

// checkEnded: behind its end a walk returns nothing, and keeps to its error.
func checkEnded(t *testing.T, w *ChunkEntries) {
	t.Helper()
	err := w.Err()
	for range 2 {
		if offset, body, ok := w.Message(); ok || offset != 0 || body != nil {
			t.Errorf("a message %q at %d behind the end", body, offset)
		}
		if offset, ok := w.Next(&Entry{}); ok || offset != 0 {
			t.Errorf("an entry at %d behind the end", offset)
		}
		if w.Err() != err {
			t.Errorf("error %v became %v", err, w.Err())
		}
	}
}

// walks returns walks of each kind over a chunk.
func walks(c *Chunk) map[string]ChunkEntries {
	all := map[string]ChunkEntries{"in place": c.Walk()}
	for _, size := range []int{1, 2, 4, 5, 7, 11, 12, 24, 25, 51, 52, 100, len(c.Data) + 1, 1 << 20} {
		all[fmt.Sprintf("copies of %d", size)] = c.WalkCopies(size)
	}
	return all
}

// TestWalk: a walk returns each entry with its offset, in place and in copies
// of every size, by Next and by Message.
func TestWalk(t *testing.T) {
	for _, first := range []uint64{0, 7, math.MaxUint64 - 100} {
		entries := mixedEntries()
		c := chunkOf(first, entries)
		for name, w := range walks(&c) {
			for _, messages := range []bool{false, true} {
				got := walkAll(t, w, messages)
				if got.err != nil || len(got.entries) != len(entries) {
					t.Fatalf("%s: %d entries of %d, %v", name, len(got.entries), len(entries), got.err)
				}
				offset := first
				for i, want := range entries {
					e := got.entries[i]
					if messages && !e.Batch {
						e.Raw = want.Raw // Message does not return it
					}
					if got.offsets[i] != offset || fmt.Sprint(e) != fmt.Sprint(want) {
						t.Errorf("%s: entry %d is %+v at %d, want %+v at %d",
							name, i, e, got.offsets[i], want, offset)
					}
					offset += uint64(want.Records)
				}
			}
		}
	}
}

// TestWalkEmpty: a chunk may be without entries, if it is without data.
func TestWalkEmpty(t *testing.T) {
	c := Chunk{}
	for name, w := range walks(&c) {
		if got := walkAll(t, w, true); got.entries != nil || got.err != nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// TestWalkTruncated: wherever the data ends early, the walk returns the entries
// before and then fails.
func TestWalkTruncated(t *testing.T) {
	entries := mixedEntries()
	whole := chunkOf(7, entries)
	for n := range whole.Data {
		c := whole
		c.Data = bytes.Clone(whole.Data[:n])
		fit, length := 0, 0
		for length+len(entries[fit].Raw) <= n {
			length += len(entries[fit].Raw)
			fit++
		}
		for name, w := range walks(&c) {
			for _, messages := range []bool{false, true} {
				got := walkAll(t, w, messages)
				wantError(t, name, got.err, "short entry")
				if len(got.entries) != fit {
					t.Errorf("%s: %d entries in %d bytes, want %d", name, len(got.entries), n, fit)
				}
			}
		}
	}
}

// TestWalkMiscounts: a chunk has as many entries and records as its header
// says, and nothing behind them.
func TestWalkMiscounts(t *testing.T) {
	whole := chunkOf(7, mixedEntries())
	n := len(mixedEntries())
	for _, c := range []struct {
		name    string
		spoil   func(*Chunk)
		entries int
		err     string
	}{
		{"an entry more", func(c *Chunk) { c.Entries++ }, n, "short entry"},
		{"all entries", func(c *Chunk) { c.Entries = math.MaxUint16 }, n, "short entry"},
		{"an entry less", func(c *Chunk) { c.Entries-- }, n - 1, "entries do not fill it"},
		{"an entry and record less", func(c *Chunk) { c.Entries--; c.Records-- }, n - 1, "entries do not fill it"},
		{"no entry", func(c *Chunk) { c.Entries = 0 }, 0, "entries do not fill it"},
		{"a record more", func(c *Chunk) { c.Records++ }, n, "entries do not fill it"},
		{"all records", func(c *Chunk) { c.Records = math.MaxUint32 }, n, "entries do not fill it"},
		{"a record less", func(c *Chunk) { c.Records-- }, n - 1, "more records than announced"},
		{"no record", func(c *Chunk) { c.Records = 0 }, 0, "more records than announced"},
		{"a part of a batch", func(c *Chunk) { c.Records = 3 }, 2, "more records than announced"},
		{"a byte more", func(c *Chunk) { c.Data = append(bytes.Clone(c.Data), 0) }, n, "entries do not fill it"},
	} {
		spoiled := whole
		c.spoil(&spoiled)
		for name, w := range walks(&spoiled) {
			for _, messages := range []bool{false, true} {
				got := walkAll(t, w, messages)
				wantError(t, c.name+", "+name, got.err, c.err)
				if len(got.entries) != c.entries {
					t.Errorf("%s, %s: %d entries, want %d", c.name, name, len(got.entries), c.entries)
				}
			}
		}
	}
}

// TestMessageReadsMessages: Message reads every message that lies within the
// window, up to the end of the chunk, without the help of Next.
func TestMessageReadsMessages(t *testing.T) {
	for _, lengths := range [][]int{{0}, {1}, {0, 0}, {3, 0}, {0, 5, 2}} {
		var entries []Entry
		for _, n := range lengths {
			entries = append(entries, Entry{Records: 1, Body: bytes.Repeat([]byte("m"), n)})
		}
		c := chunkOf(7, entries)
		w := c.Walk()
		for i, n := range lengths {
			if offset, body, ok := w.Message(); !ok || offset != 7+uint64(i) || len(body) != n {
				t.Errorf("messages of %v bytes: %d at %d, %v", lengths, len(body), offset, ok)
			}
		}
		checkEnded(t, &w)
		if w.Err() != nil {
			t.Errorf("messages of %v bytes: %v", lengths, w.Err())
		}
	}
}

// TestMessageReadsNothing: Message changes nothing if the next entry is not a
// whole message.
func TestMessageReadsNothing(t *testing.T) {
	batch := chunkOf(7, []Entry{{Batch: true, Records: 1, Body: []byte("b")}})
	for name, c := range map[string]Chunk{
		"sub-batch": batch,
		"end":       {},
		"short":     {ChunkHeader: ChunkHeader{Entries: 1, Records: 1}, Data: []byte{0, 0, 0, 2, 'x'}},
		"no length": {ChunkHeader: ChunkHeader{Entries: 1, Records: 1}, Data: []byte{0, 0, 0}},
	} {
		w := c.Walk()
		before := fmt.Sprint(w)
		if _, _, ok := w.Message(); ok || fmt.Sprint(w) != before {
			t.Errorf("%s: %v became %+v", name, before, w)
		}
	}
}

// TestWalkCopiesAliasNothing: what a copying walk returns survives a change of
// the chunk, and what the other walk returns follows it.
func TestWalkCopiesAliasNothing(t *testing.T) {
	for name, copied := range map[string]bool{
		"in place": false, "copies of 5": true, "copies of 1048576": true,
	} {
		for _, messages := range []bool{false, true} {
			c := chunkOf(0, []Entry{{Records: 1, Body: []byte("one")}, {Records: 1, Body: []byte("two")}})
			got := walkAll(t, walks(&c)[name], messages).entries
			for i := range c.Data {
				c.Data[i] = '!'
			}
			if bodies := string(got[0].Body) + string(got[1].Body); (bodies == "onetwo") != copied {
				t.Errorf("%s: the bodies are %s", name, bodies)
			}
		}
	}
}

// TestWalkCopiesSizes: a copy has the size that was asked for, or that of an
// entry which needs more, or what is left; and there are no more copies than
// that takes.
func TestWalkCopiesSizes(t *testing.T) {
	const messages, length = 100, 20
	entries := slices.Repeat([]Entry{{Records: 1, Body: make([]byte, length-messageHeadLen)}}, messages)
	c := chunkOf(0, entries)
	for size, want := range map[int]int{
		1: messages, length - 1: messages, length: messages, 2*length - 1: messages, 2 * length: messages / 2,
		messages*length - 1: 2, messages * length: 1, 10 * messages * length: 1,
	} {
		copies, largest := 0, 0
		w := c.WalkCopies(size)
		for e := (Entry{}); ; {
			unread, whole := len(w.unread()), len(w.rest) >= length
			if _, ok := w.Next(&e); !ok {
				break
			}
			if n := len(w.unread()); n != unread-length {
				t.Fatalf("size %d: %d bytes unread, then %d", size, unread, n)
			}
			if !whole {
				copies, largest = copies+1, max(largest, w.windowLen)
			}
		}
		if limit := min(max(size, length), messages*length); copies != want || largest != limit || w.Err() != nil {
			t.Errorf("size %d: %d copies of up to %d bytes, want %d of %d, %v",
				size, copies, largest, want, limit, w.Err())
		}
		allocations := testing.AllocsPerRun(1, func() {
			w := c.WalkCopies(size)
			for e, ok := (Entry{}), true; ok; _, ok = w.Next(&e) {
			}
		})
		if allocations != float64(want) {
			t.Errorf("size %d: %v allocations, want %d", size, allocations, want)
		}
	}
}

// TestRefillAtEnd: where nothing is behind the window, refill leaves it alone.
func TestRefillAtEnd(t *testing.T) {
	c := chunkOf(0, []Entry{{Records: 1, Body: []byte("abc")}})
	w := c.Walk()
	before := fmt.Sprint(w)
	if w.refill() || fmt.Sprint(w) != before {
		t.Errorf("%s became %+v", before, w)
	}
}
