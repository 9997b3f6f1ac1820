package wire

import (
	"bytes"
	"encoding/hex"
	"errors"
	"testing"
)

func TestChecksum(t *testing.T) {
	if got := Checksum([]byte{0, 0, 0, 2, 'a', 'a'}); got != 0xf4157ee5 {
		t.Errorf("%08x", got)
	}
}

func TestBatchEntry(t *testing.T) {
	raw, _ := hex.DecodeString("8000030000001200000012" + "000000027331" + "000000027332" + "000000027333")
	var e Entry
	if n, ok := e.parse(raw); !ok || n != len(raw) {
		t.Fatalf("parsed %d of %d, %v", n, len(raw), ok)
	}
	if !e.Batch || e.Records != 3 || e.Compression != CompressionNone || e.Uncompressed != 18 {
		t.Errorf("%+v", e)
	}
	if got := AppendBatch(nil, e); !bytes.Equal(got, raw) {
		t.Errorf("encoded %x", got)
	}
	var records []string
	rest := e.Body
	for len(records) <= 3 {
		record, next, ok := NextRecord(rest)
		if !ok {
			break
		}
		records, rest = append(records, string(record)), next
	}
	if len(records) != 3 || records[2] != "s3" || len(rest) != 0 {
		t.Errorf("records %q, rest %x", records, rest)
	}
}

func TestPublishRoundTrip(t *testing.T) {
	for _, version := range []uint16{Version1, Version2} {
		b := BeginPublish(nil, version, 9)
		if version == Version1 {
			b = AppendPublishEntry(b, 5, []byte("one"))
			batch := Entry{Records: 2, Uncompressed: 10, Compression: CompressionGzip, Body: []byte("zip")}
			b = AppendPublishBatch(b, 6, batch)
		} else {
			b = AppendPublishFiltered(b, 5, []byte("red"), []byte("one"))
			b = AppendPublishFiltered(b, 6, nil, []byte("two"))
		}
		b = FinishPublish(b, 0, 2)
		key, v, fields, _ := SplitHead(b[SizeLen:])
		p, err := DecodePublish(v, fields)
		if err != nil || key != KeyPublish || v != version || p.PublisherID != 9 || p.Count != 2 {
			t.Fatalf("version %d: %v %d %+v, %v", version, key, v, p, err)
		}
		checkPublished(t, version, &p)
	}
}

func checkPublished(t *testing.T, version uint16, p *Publish) {
	t.Helper()
	var e PublishEntry
	if !p.Next(&e) || e.PublishingID != 5 || string(e.Body) != "one" || e.Records != 1 {
		t.Fatalf("version %d: first entry %+v, %v", version, e, p.Err())
	}
	if version == Version2 && string(e.Filter) != "red" {
		t.Errorf("filter %q", e.Filter)
	}
	if !p.Next(&e) || e.PublishingID != 6 {
		t.Fatalf("version %d: second entry %+v, %v", version, e, p.Err())
	}
	if version == Version1 && (!e.Batch || e.Records != 2 || string(e.Body) != "zip") ||
		version == Version2 && e.Filter != nil {
		t.Errorf("version %d: second entry %+v", version, e)
	}
	if p.Next(&e) || p.Err() != nil {
		t.Errorf("version %d: entry after the last, or %v", version, p.Err())
	}
}

// TestWalksDoNotAllocate: what happens per message allocates nothing.
func TestWalksDoNotAllocate(t *testing.T) {
	body := make([]byte, 100)
	b := BeginPublish(nil, Version1, 1)
	var data []byte
	for i := range 1000 {
		b = AppendPublishEntry(b, uint64(i), body)
		data = AppendEntry(data, body)
	}
	b = FinishPublish(b, 0, 1000)
	chunk := make([]byte, ChunkHeaderLen, ChunkHeaderLen+len(data))
	h := ChunkHeader{Entries: 1000, Records: 1000, DataLength: uint32(len(data)), CRC: Checksum(data)}
	h.Put(chunk)
	chunk = append(chunk, data...)
	ids := make([]uint64, 1000)
	confirm := AppendPublishConfirm(nil, 1, ids)
	n := testing.AllocsPerRun(10, func() {
		p, _ := DecodePublish(Version1, b[SizeLen+HeadLen:])
		for e := (PublishEntry{}); p.Next(&e); {
		}
		c, _ := ParseChunk(chunk)
		w := c.Walk()
		for e, ok := (Entry{}), true; ok; _, ok = w.Next(&e) {
		}
		confirm = AppendPublishConfirm(confirm[:0], 1, ids)
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestChunkErrors(t *testing.T) {
	h := ChunkHeader{Entries: 1, Records: 1, DataLength: 5, CRC: 1}
	b := make([]byte, ChunkHeaderLen)
	h.Put(b)
	b = append(b, 0, 0, 0, 1, 'x')
	c, err := ParseChunk(b)
	if err != nil || !errors.Is(c.Check(), ErrCRC) {
		t.Errorf("wrong checksum: %v, %v", err, c.Check())
	}
	for name, spoil := range map[string]func(*ChunkHeader, []byte){
		"records":      func(h *ChunkHeader, _ []byte) { h.Records = 2 },
		"more entries": func(h *ChunkHeader, _ []byte) { h.Entries = 2 },
		"no entries":   func(h *ChunkHeader, _ []byte) { h.Entries, h.Records = 0, 0 },
		"entry length": func(_ *ChunkHeader, data []byte) { data[3] = 9 },
	} {
		t.Run(name, func(t *testing.T) {
			spoiled, h := bytes.Clone(b), h
			spoil(&h, spoiled[ChunkHeaderLen:])
			h.Put(spoiled)
			c, err := ParseChunk(spoiled)
			if err != nil {
				t.Fatal(err)
			}
			w, e := c.Walk(), Entry{}
			for ok := true; ok; _, ok = w.Next(&e) {
			}
			if !errors.Is(w.Err(), ErrMalformed) {
				t.Errorf("got %v", w.Err())
			}
		})
	}
}
