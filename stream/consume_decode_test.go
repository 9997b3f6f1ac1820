package stream

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// compress is what the other clients do with a sub-batch.
func compress(t testing.TB, c wire.Compression, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	switch c {
	case wire.CompressionNone:
		return data
	case wire.CompressionGzip:
		w = gzip.NewWriter(&b)
	case wire.CompressionSnappy:
		w = snappy.NewBufferedWriter(&b)
	case wire.CompressionLZ4:
		w = lz4.NewWriter(&b)
	case wire.CompressionZstd:
		z, err := zstd.NewWriter(&b, zstd.WithEncoderConcurrency(1))
		if err != nil {
			t.Fatal(err)
		}
		w = z
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// batchOf is a sub-batch of messages.
func batchOf(t testing.TB, c wire.Compression, bodies ...string) wire.Entry {
	t.Helper()
	var records []byte
	for _, body := range bodies {
		records = wire.AppendEntry(records, appendData(nil, []byte(body)))
	}
	return wire.Entry{Batch: true, Compression: c, Records: uint16(len(bodies)), Uncompressed: uint32(len(records)), Body: compress(t, c, records)}
}

func chunkOf(first uint64, entries, records int, data []byte) *wire.Chunk {
	return &wire.Chunk{ChunkHeader: wire.ChunkHeader{
		FirstOffset: first, Entries: uint16(entries), Records: uint32(records), Timestamp: noon.UnixMilli(),
	}, Data: data}
}

// deliveries decodes a chunk in blocks, as dispatch does.
func deliveries(stream string, chunk *wire.Chunk, from uint64) (list []Delivery, err error) {
	d := decode(stream, chunk, from)
	for {
		block := d.block(3)
		if len(block) == 0 {
			return list, d.err
		}
		list = append(list, block...)
	}
}

var compressions = map[string]wire.Compression{
	"none": wire.CompressionNone, "gzip": wire.CompressionGzip, "snappy": wire.CompressionSnappy,
	"lz4": wire.CompressionLZ4, "zstd": wire.CompressionZstd,
}

func TestDeliveries(t *testing.T) {
	for name, c := range compressions {
		t.Run(name, func(t *testing.T) {
			data := wire.AppendEntry(nil, appendData(nil, []byte("m10")))
			data = wire.AppendBatch(data, batchOf(t, c, "m11", "m12", "m13"))
			data = wire.AppendEntry(data, []byte("bare"))
			list, err := deliveries("s", chunkOf(10, 3, 5, data), 12)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, d := range list {
				got = append(got, fmt.Sprintf("%d:%s", d.Offset, d.Body))
				if d.Stream != "s" || !d.Timestamp.Equal(noon) {
					t.Errorf("stream %q, time %v", d.Stream, d.Timestamp)
				}
			}
			if want := "[12:m12 13:m13 14:bare]"; fmt.Sprint(got) != want {
				t.Errorf("%v, want %v", got, want)
			}
		})
	}
}

func TestDeliveriesHostile(t *testing.T) {
	batch := func(change func(*wire.Entry)) []byte {
		e := batchOf(t, wire.CompressionGzip, "a", "b")
		change(&e)
		return wire.AppendBatch(nil, e)
	}
	for _, test := range []struct {
		name             string
		entries, records int
		data             []byte
	}{
		{"more entries than there are", 65535, 65535, wire.AppendEntry(nil, []byte("x"))},
		{"fewer entries than there are", 0, 0, wire.AppendEntry(nil, []byte("x"))},
		{"another number of records", 1, 2, wire.AppendEntry(nil, []byte("x"))},
		{"an entry beyond the chunk", 1, 1, []byte{0x7f, 0xff, 0xff, 0xff, 'x'}},
		{"a batch beyond the chunk", 1, 1, []byte{0x80, 0, 1, 0, 0, 0, 9, 0x7f, 0xff, 0xff, 0xff, 'x'}},
		{"more records than in the batch", 1, 3, batch(func(e *wire.Entry) { e.Records = 3 })},
		{"fewer records than in the batch", 1, 1, batch(func(e *wire.Entry) { e.Records = 1 })},
		{"more bytes than announced", 1, 2, batch(func(e *wire.Entry) { e.Uncompressed-- })},
		{"fewer bytes than announced", 1, 2, batch(func(e *wire.Entry) { e.Uncompressed++ })},
		{"announces 4 GB", 1, 2, batch(func(e *wire.Entry) { e.Uncompressed = 1<<32 - 1 })},
		{"not compressed", 1, 2, batch(func(e *wire.Entry) { e.Body = []byte("not gzip") })},
		{"cut short", 1, 2, batch(func(e *wire.Entry) { e.Body = e.Body[:len(e.Body)-9] })},
		{"compression 5", 1, 2, batch(func(e *wire.Entry) { e.Compression = 5 })},
		{"the user's compression", 1, 2, batch(func(e *wire.Entry) { e.Compression = wire.CompressionUser })},
	} {
		if _, err := deliveries("s", chunkOf(0, test.entries, test.records, test.data), 0); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

// TestDeliveriesAnnounced: a chunk that announces more records than an int
// holds on 32-bit systems is decoded as far as it goes.
func TestDeliveriesAnnounced(t *testing.T) {
	props := "\x00\x53\x73\x45" // an empty list of properties, so that a message has sections
	single := wire.AppendEntry(nil, append([]byte(props), appendData(nil, []byte("x"))...))
	batch := wire.AppendBatch(nil, batchOf(t, wire.CompressionNone, "a", "b"))
	for _, announced := range []uint32{1<<31 - 2, 1<<31 - 1, 1 << 31, 1<<32 - 1} {
		chunk := chunkOf(0, 2, 0, append(bytes.Clone(single), batch...))
		chunk.Records = announced
		d := decode("s", chunk, 0)
		for n := range 3 { // the last one is the rest of the sub-batch
			if !d.unread() {
				t.Fatalf("%d announced: message %d is not there", announced, n)
			}
			if list := d.block(1); len(list) != 1 || list[0].Offset != uint64(n) {
				t.Fatalf("%d announced: message %d is %v", announced, n, list)
			}
		}
		if list := d.block(100_000); len(list) > 0 || cap(list) > maxRoom || !errors.Is(d.err, wire.ErrMalformed) || d.unread() {
			t.Errorf("%d announced: then %d messages, room for %d, %v", announced, len(list), cap(list), d.err)
		}
	}
}

// TestDecompressBomb: a batch that says it is small and is not is given up
// after what it said.
func TestDecompressBomb(t *testing.T) {
	zeros := make([]byte, 32<<20)
	for name, c := range compressions {
		if c == wire.CompressionNone {
			continue
		}
		e := &wire.Entry{Batch: true, Compression: c, Records: 1, Uncompressed: 100, Body: compress(t, c, zeros)}
		if _, err := decompress(e); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzDeliveries: whatever stands in a chunk, it is refused or adds up.
func FuzzDeliveries(f *testing.F) {
	for _, c := range compressions {
		e := batchOf(f, c, "a", "b")
		f.Add(uint16(1), uint32(2), wire.AppendBatch(nil, e))
	}
	f.Add(uint16(1), uint32(1), wire.AppendEntry(nil, []byte("x")))
	f.Fuzz(func(t *testing.T, entries uint16, records uint32, data []byte) {
		before := bytes.Clone(data)
		begin := time.Now()
		list, err := deliveries("s", chunkOf(100, int(entries), int(records), data), 0)
		if took := time.Since(begin); took > 5*time.Second {
			t.Fatalf("took %v", took)
		}
		if err != nil {
			if !errors.Is(err, wire.ErrMalformed) {
				t.Fatal(err)
			}
			return
		}
		if len(list) != int(records) || !bytes.Equal(data, before) {
			t.Fatalf("%d deliveries of %d, or the chunk was changed", len(list), records)
		}
		for i, d := range list {
			if d.Offset != 100+uint64(i) {
				t.Fatalf("message %d has offset %d", i, d.Offset)
			}
		}
	})
}

// decodeAll decodes one chunk that begins at offset 100, from an offset on.
func decodeAll(entries, records int, data []byte, from uint64) (got string, err error) {
	list, err := deliveries("s", chunkOf(100, entries, records, data), from)
	for _, d := range list {
		got += fmt.Sprintf("%d:%s ", d.Offset, d.Body)
	}
	return got, err
}

// TestDeliveriesFrom: what lies below the first offset is left out, to the
// message, and a sub-batch that lies below as a whole is not even opened.
func TestDeliveriesFrom(t *testing.T) {
	data := wire.AppendEntry(nil, []byte("0"))
	data = wire.AppendEntry(data, []byte("1"))
	data = wire.AppendBatch(data, batchOf(t, wire.CompressionGzip, "2", "3"))
	data = wire.AppendEntry(data, []byte("4"))
	all := []string{"100:0 ", "101:1 ", "102:2 ", "103:3 ", "104:4 "}
	for from := uint64(99); from <= 106; from++ {
		want := strings.Join(all[min(max(from, 100)-100, 5):], "")
		if got, err := decodeAll(4, 5, data, from); got != want || err != nil {
			t.Errorf("from %d: %s, %v; want %s", from, got, err, want)
		}
	}
	damaged := batchOf(t, wire.CompressionGzip, "0", "1")
	damaged.Body = []byte("not gzip")
	data = wire.AppendEntry(wire.AppendBatch(nil, damaged), []byte("2"))
	if got, err := decodeAll(2, 3, data, 102); got != "102:2 " || err != nil {
		t.Errorf("behind a damaged sub-batch: %s, %v", got, err)
	}
	if got, err := decodeAll(2, 3, data, 101); got != "" || !errors.Is(err, wire.ErrMalformed) || !strings.Contains(err.Error(), "offset 100") {
		t.Errorf("from within a damaged sub-batch: %s, %v", got, err)
	}
}

// TestDeliveriesOfAnEmptyBatch: a sub-batch without records has no bytes.
func TestDeliveriesOfAnEmptyBatch(t *testing.T) {
	empty := batchOf(t, wire.CompressionGzip)
	data := wire.AppendEntry(wire.AppendBatch(nil, empty), []byte("0"))
	if got, err := decodeAll(2, 1, data, 0); got != "100:0 " || err != nil {
		t.Errorf("%s, %v", got, err)
	}
	full := batchOf(t, wire.CompressionNone, "x")
	full.Records = 0
	data = wire.AppendEntry(wire.AppendBatch(nil, full), []byte("0"))
	if got, err := decodeAll(2, 1, data, 0); got != "" || !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("with bytes: %s, %v", got, err)
	}
}

// TestDecompressBound: a sub-batch may announce maxSubBatch bytes. More is refused
// before anything is decompressed.
func TestDecompressBound(t *testing.T) {
	for announced, refused := range map[uint32]bool{maxSubBatch - 1: false, maxSubBatch: false, maxSubBatch + 1: true, 1<<32 - 1: true} {
		_, err := decompress(&wire.Entry{Batch: true, Compression: wire.CompressionGzip, Records: 1, Uncompressed: announced, Body: []byte("not gzip")})
		if wantErr(t, err, wire.ErrMalformed); err != nil && strings.Contains(err.Error(), "announces") != refused {
			t.Errorf("%d bytes: %v", announced, err)
		}
	}
}

// TestDecompressExactly: what is announced is what is there.
func TestDecompressExactly(t *testing.T) {
	for name, c := range compressions {
		for _, n := range []int{0, 1, 100, 64<<10 - 1, 64 << 10, 64<<10 + 1, 200_000} {
			want := bytes.Repeat([]byte("ab"), n)[:n]
			body := compress(t, c, want)
			got, err := decompress(&wire.Entry{Compression: c, Uncompressed: uint32(n), Body: body})
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: %d bytes came back as %d, %v", name, n, len(got), err)
			}
			if c == wire.CompressionNone {
				continue // its bytes are what they are
			}
			if _, err := decompress(&wire.Entry{Compression: c, Uncompressed: uint32(n) + 1, Body: body}); !errors.Is(err, wire.ErrMalformed) {
				t.Errorf("%s: one byte less than the %d announced: %v", name, n+1, err)
			}
		}
	}
}

// TestLargeSubBatches: a chunk's sub-batches may sum up to any size. A block
// holds maxOpened bytes of them, and what the block before has begun.
func TestLargeSubBatches(t *testing.T) {
	const n, size = 9, 30 << 20
	record := wire.AppendEntry(nil, make([]byte, size))
	body := compress(t, wire.CompressionZstd, record)
	data := wire.AppendEntry(nil, []byte("small"))
	for range n {
		data = wire.AppendBatch(data, wire.Entry{Compression: wire.CompressionZstd, Records: 1, Uncompressed: uint32(len(record)), Body: body})
	}
	data = wire.AppendEntry(data, []byte("small"))
	d := decode("s", chunkOf(10, n+2, n+2, data), 0)
	next, blocks := uint64(10), 0
	for ; ; blocks++ {
		left := d.announced(1000)
		if left != n+2-int(next-10) {
			t.Errorf("%d messages are left before %d", left, next)
		}
		list := d.block(1000)
		if len(list) == 0 {
			break
		}
		held := 0
		for i, m := range list {
			if m.Offset != next+uint64(i) {
				t.Errorf("message %d, want %d", m.Offset, next+uint64(i))
			}
			held += len(m.Raw())
		}
		if next += uint64(len(list)); held > maxOpened || d.opened > maxOpened {
			t.Errorf("a block holds %d bytes, %d of them opened", held, d.opened)
		}
		if d.more() != (next < 10+n+1) || d.unread() != d.more() {
			t.Errorf("at %d there is more: %v, unread %v", next, d.more(), d.unread())
		}
	}
	if must(t, d.err); next != 10+n+2 || blocks != 5 {
		t.Errorf("%d blocks, up to %d", blocks, next)
	}
}

// TestFilteredSubBatches: a filter that drops a part of each sub-batch changes
// nothing of that.
func TestFilteredSubBatches(t *testing.T) {
	const n, size = 9, 30 << 20
	records := wire.AppendEntry(wire.AppendEntry(nil, []byte("small")), make([]byte, size))
	body := compress(t, wire.CompressionZstd, records)
	var data []byte
	for range n {
		data = wire.AppendBatch(data, wire.Entry{Compression: wire.CompressionZstd, Records: 2, Uncompressed: uint32(len(records)), Body: body})
	}
	d := decode("s", chunkOf(10, n, 2*n, data), 0)
	d.match = func(m *Delivery) bool { return len(m.Raw()) >= size }
	next := uint64(11)
	for list := d.block(3); len(list) > 0; list = d.block(3) {
		if held := len(list) * len(records); held > maxOpened || d.opened != held {
			t.Errorf("a block holds %d bytes and says %d", held, d.opened)
		}
		for _, m := range list {
			if m.Offset != next {
				t.Errorf("message %d, want %d", m.Offset, next)
			}
			next += 2
		}
	}
	if must(t, d.err); next != 11+2*n {
		t.Errorf("the messages end at %d", next)
	}
}

// TestUnread: what is left by the word of the chunk.
func TestUnread(t *testing.T) {
	data := wire.AppendEntry(wire.AppendBatch(nil, batchOf(t, wire.CompressionNone, "0", "1")), []byte("2"))
	d := decode("s", chunkOf(100, 2, 3, data), 0)
	for left := 3; left > 0; left-- {
		if !d.unread() || d.announced(10) != left || d.announced(left-1) != left-1 {
			t.Errorf("%d are left: unread %v, announced %d and %d", left, d.unread(), d.announced(10), d.announced(left-1))
		}
		if list := d.block(1); len(list) != 1 || list[0].Offset != uint64(103-left) {
			t.Fatalf("got %+v", list)
		}
	}
	if d.unread() || d.announced(10) != 0 || len(d.block(1)) != 0 {
		t.Error("something is left of it")
	}
	d = decode("s", chunkOf(100, 2, 2, wire.AppendEntry(nil, []byte("0"))), 0)
	if len(d.block(9)) != 1 || d.err == nil || d.unread() {
		t.Errorf("behind what cannot be decoded there is more to read: %v", d.err)
	}
}

// TestFillAppends: fill uses the room that a list has, and makes more.
func TestFillAppends(t *testing.T) {
	var data []byte
	for i := range 5 {
		data = wire.AppendEntry(data, appendData(nil, number(i)))
	}
	for _, room := range []int{0, 1, 3, 5, 9} {
		d := decode("s", chunkOf(100, 5, 5, data), 0)
		list := d.fill(make([]Delivery, 0, room), 2)
		if len(list) != 2 {
			t.Fatalf("%d of 2", len(list))
		}
		list = d.fill(d.fill(list, 2), 9)
		for i, m := range list {
			if m.Offset != 100+uint64(i) || !bytes.Equal(m.Body, number(i)) || m.Stream != "s" || m.sections != nil || !m.Timestamp.Equal(noon) {
				t.Errorf("with room for %d, message %d is %+v", room, i, m)
			}
		}
		if len(list) != 5 || d.err != nil {
			t.Errorf("%d of 5: %v", len(list), d.err)
		}
	}
}

// TestBlockRoom: a block has room for what the chunk announces, within bounds.
func TestBlockRoom(t *testing.T) {
	var data []byte
	for range 5 {
		data = wire.AppendEntry(data, []byte("x")) // which is not AMQP, so that each has sections
	}
	d := decode("s", chunkOf(0, 5, 5, data), 0)
	if list := d.block(3); len(list) != 3 || cap(list) != 3 {
		t.Errorf("a block of 3 has %d, room for %d", len(list), cap(list))
	}
	if len(d.spare) != 2 {
		t.Errorf("there is room for the sections of %d more, want 2", len(d.spare))
	}
	if list := d.block(9); len(list) != 2 || cap(list) != 2 || len(d.spare) != 0 {
		t.Errorf("the rest has %d, room for %d, %d sections to spare", len(list), cap(list), len(d.spare))
	}
	hostile := decode("s", chunkOf(0, 65535, 1<<30, data), 0)
	if list := hostile.block(1 << 30); cap(list) != maxRoom {
		t.Errorf("the room on a chunk's word is %d", cap(list))
	}
}

// smallChunk is a chunk of messages of one byte each, which is their offset. With
// sections they are not AMQP.
func smallChunk(first, n int, sections bool) *wire.Chunk {
	var data []byte
	for i := range n {
		body := []byte{byte(first + i)}
		if !sections {
			body = appendData(nil, body)
		}
		data = wire.AppendEntry(data, body)
	}
	return chunkOf(uint64(first), n, n, data)
}

// TestSmallChunksShareRoom: the messages of small chunks that wait lie in one list,
// and a list that is appended to leaves the others as they are.
func TestSmallChunksShareRoom(t *testing.T) {
	for _, sections := range []bool{false, true} {
		var d decoder
		var lists [][]Delivery
		for i := range 4 {
			d.beginKept("s", smallChunk(2*i, 2, sections), 0, 3-i)
			list := d.block(blockSize)
			if d.finish(); len(list) != 2 || cap(list) != 2 {
				t.Fatalf("chunk %d: %d messages, room for %d", i, len(list), cap(list))
			}
			if len(d.slab) != 6-2*i {
				t.Errorf("chunk %d: room for %d more, want %d", i, len(d.slab), 6-2*i)
			}
			if want := 6 - 2*i; sections && i < 3 && len(d.spare) != want {
				t.Errorf("chunk %d: sections for %d more, want %d", i, len(d.spare), want)
			}
			lists = append(lists, list)
		}
		if d.slab != nil || d.spare != nil || !reflect.ValueOf(d.entries).IsZero() {
			t.Errorf("behind the last chunk something is kept: %+v", d)
		}
		for i, list := range lists {
			_ = append(list, Delivery{Offset: 99})
			for k := range list {
				_ = append(list[k].Body, 99)
				if n := 2*i + k; list[k].Offset != uint64(n) || !bytes.Equal(list[k].Body, []byte{byte(n)}) {
					t.Errorf("message %d is %+v", n, list[k])
				}
			}
		}
	}
}

// TestSharedRoomIsBounded: a message that is kept keeps no more than a block, of
// chunks that are small together.
func TestSharedRoomIsBounded(t *testing.T) {
	var d decoder
	left := func(what string, chunk *wire.Chunk, follow, want int) {
		t.Helper()
		if d.beginKept("s", chunk, 0, follow); len(d.block(blockSize)) == 0 {
			t.Fatalf("%s: no message", what)
		}
		if d.finish(); len(d.slab) != want {
			t.Errorf("%s: room for %d more, want %d", what, len(d.slab), want)
		}
	}
	left("many follow", smallChunk(0, 1, false), 1<<30, blockSize-1)
	d = decoder{}
	left("none follows", smallChunk(0, 1, false), 0, 0)
	left("three follow", smallChunk(0, 2, false), 3, 6)
	left("one with more", smallChunk(0, 7, false), 1, 7)
	d = decoder{spare: make([]sections, 3)}
	if d.room(1); d.spare != nil {
		t.Error("memory for sections outlives the list that it belongs to")
	}
	large := chunkOf(0, 1, 1, wire.AppendEntry(nil, make([]byte, copySize/2-4)))
	d = decoder{}
	left("half of the bytes", large, 9, 9)
	left("all of the bytes", large, 9, 8)
	left("more than these", smallChunk(0, 1, false), 9, 9)
	larger := chunkOf(0, 1, 1, wire.AppendEntry(nil, make([]byte, 2*copySize)))
	left("a chunk that is larger", larger, 5, 5)
	left("the next one", smallChunk(0, 1, false), 4, 4)
	batch := batchOf(t, wire.CompressionGzip, strings.Repeat("x", copySize))
	left("a sub-batch that is large when it is open", chunkOf(0, 1, 1, wire.AppendBatch(nil, batch)), 5, 3)
	left("the one behind it", smallChunk(0, 1, false), 4, 4)
}

// TestBeginForgetsTheLastChunk, whatever was wrong with it or left of it.
func TestBeginForgetsTheLastChunk(t *testing.T) {
	broken := chunkOf(0, 2, 2, wire.AppendEntry(nil, []byte("x")))
	twoBatches := wire.AppendBatch(nil, batchOf(t, wire.CompressionNone, "a", "b"))
	for name, chunk := range map[string]*wire.Chunk{
		"broken": broken, "a batch": chunkOf(0, 1, 2, twoBatches), "messages": smallChunk(0, 9, false),
	} {
		for _, n := range []int{1, 9} {
			d := decode("s", chunk, 0)
			d.block(n)
			d.begin("t", smallChunk(5, 2, false), 6)
			if list := d.block(9); len(list) != 1 || list[0].Offset != 6 || list[0].Stream != "t" || d.err != nil || d.unread() {
				t.Errorf("%s, %d read of it: then %+v, %v", name, n, list, d.err)
			}
		}
	}
	d := decode("s", smallChunk(0, 1, false), 0)
	d.hasClosed, d.closed.Records = true, 7
	if d.begin("t", smallChunk(5, 1, false), 0); d.hasClosed || d.announced(9) != 1 {
		t.Error("a sub-batch of the chunk before is still to be opened")
	}
}

// TestKeptChunkIsNotCopied, and another one is.
func TestKeptChunkIsNotCopied(t *testing.T) {
	for _, kept := range []bool{true, false} {
		chunk := smallChunk(0, 1, false)
		var d decoder
		if d.begin("s", chunk, 0); kept {
			d.beginKept("s", chunk, 0, 0)
		}
		list := d.block(1)
		chunk.Data[len(chunk.Data)-1] = 77
		if (list[0].Body[0] == 77) != kept {
			t.Errorf("kept %v: the body is %v", kept, list[0].Body)
		}
	}
	for size, want := range map[int]bool{0: true, minBuffer - 1: true, minBuffer: false, maxBuffer + 1: false} {
		c := receivedChunk{buffer: make([]byte, 0, size)}
		if c.kept() != want {
			t.Errorf("a buffer of %d bytes is not used again: %v", size, c.kept())
		}
	}
}

// TestBatchRoom: a batch has room for the messages of the chunks that wait, within
// bounds.
func TestBatchRoom(t *testing.T) {
	for _, test := range []struct{ size, follow, want int }{
		{100, 0, 2}, {100, 4, 10}, {7, 4, 7}, {1 << 20, 1 << 30, maxRoom}, {1, 0, 1},
	} {
		var d decoder
		d.beginKept("s", smallChunk(0, 2, false), 0, test.follow)
		if list := d.batch(test.size); len(list) != min(2, test.size) || cap(list) != test.want {
			t.Errorf("a batch of %d, with %d chunks behind this one: %d messages, room for %d, want %d", test.size, test.follow, len(list), cap(list), test.want)
		}
	}
}
