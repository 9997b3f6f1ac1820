package stream

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
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
