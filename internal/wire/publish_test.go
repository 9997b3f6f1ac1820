package wire

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"strings"
	"testing"
)

// TestEntryLengths: an entry is read if the whole of it is there, and reads
// nothing that stands behind it.
func TestEntryLengths(t *testing.T) {
	for dump, want := range map[string]Entry{
		"00000000":                  {Records: 1, Body: []byte{}},
		"00000003 616263":           {Records: 1, Body: []byte("abc")},
		"80 0000 00000000 00000000": {Batch: true, Body: []byte{}},
		"c0 0102 03040506 00000002 6162": {
			Batch: true, Records: 0x0102, Compression: CompressionZstd, Uncompressed: 0x03040506,
			Body: []byte("ab"),
		},
		"f0 ffff ffffffff 00000001 61": {
			Batch: true, Records: math.MaxUint16, Compression: CompressionUser, Uncompressed: math.MaxUint32,
			Body: []byte("a"),
		},
		"8f 0001 00000000 00000000": {Batch: true, Records: 1, Body: []byte{}},
	} {
		raw := unhex(t, dump)
		want.Raw = raw
		for _, behind := range []string{"", "\x00", "0123456789ab"} {
			got := Entry{Records: 9, Batch: !want.Batch, Compression: 1, Uncompressed: 9}
			n, ok := got.parse(append(bytes.Clone(raw), behind...))
			if !ok || n != len(raw) || fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%s: %+v of %d bytes, want %+v, %v", dump, got, n, want, ok)
			}
			if cap(got.Raw) != len(got.Raw) || cap(got.Body) != len(got.Body) {
				t.Errorf("%s: capacities %d and %d", dump, cap(got.Raw), cap(got.Body))
			}
		}
		for n := range raw {
			got, before := Entry{Records: 9}, fmt.Sprint(Entry{Records: 9})
			if length, ok := got.parse(bytes.Clone(raw[:n])); ok || length != 0 || fmt.Sprint(got) != before {
				t.Errorf("%s: %d bytes were read as %+v", dump, n, got)
			}
			if length, ok := entryLen(raw[:n]); ok || length != 0 {
				t.Errorf("%s: %d bytes are an entry of %d", dump, n, length)
			}
		}
		if n, ok := entryLen(append(raw, 0)); !ok || n != len(raw) {
			t.Errorf("%s: length %d, want %d", dump, n, len(raw))
		}
	}
}

// TestEntryAppended: what is appended is read back.
func TestEntryAppended(t *testing.T) {
	for compression := range Compression(8) {
		want := Entry{
			Batch: true, Records: 0x1234, Compression: compression, Uncompressed: 0x56789abc,
			Body: []byte("body"),
		}
		b := AppendBatch([]byte("before"), want)
		dump := fmt.Sprintf("%02x 1234 56789abc 00000004 626f6479", 0x80|byte(compression)<<4)
		if string(b) != "before"+string(unhex(t, dump)) {
			t.Errorf("%x, want %s", b, dump)
		}
		want.Raw = b[len("before"):]
		var got Entry
		if n, ok := got.parse(want.Raw); !ok || n != len(want.Raw) || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
	if b := AppendEntry([]byte("before"), []byte("body")); string(b) != "before\x00\x00\x00\x04body" {
		t.Errorf("%q", b)
	}
	if b := AppendBatch(nil, Entry{Compression: 8 + CompressionGzip}); b[0] != 0x90 {
		t.Errorf("flags %x", b[0])
	}
}

// TestNextRecord: the records of a body are read one by one, empty ones as
// well, and what is not a whole record stays.
func TestNextRecord(t *testing.T) {
	body := unhex(t, "00000000 00000002 6162 00000001 63")
	for n := range len(body) + 1 {
		var records []string
		rest := bytes.Clone(body[:n])
		for len(records) <= 3 {
			record, next, ok := NextRecord(rest)
			if !ok {
				if record != nil || !bytes.Equal(next, rest) {
					t.Errorf("%d bytes: %q, %x became %x", n, record, rest, next)
				}
				break
			}
			if cap(record) != len(record) {
				t.Errorf("a record of %d bytes has a capacity of %d", len(record), cap(record))
			}
			records, rest = append(records, string(record)), next
		}
		whole, used := 0, 0
		for _, end := range []int{4, 10, 15} {
			if n >= end {
				whole, used = whole+1, end
			}
		}
		if want := []string{"", "ab", "c"}[:whole]; fmt.Sprint(records) != fmt.Sprint(want) || len(rest) != n-used {
			t.Errorf("%d bytes: records %q, want %q, rest %x", n, records, want, rest)
		}
	}
}

func publishedEntries(version uint16) []PublishEntry {
	message := func(id uint64, filter []byte, body string) PublishEntry {
		return PublishEntry{PublishingID: id, Filter: filter, Entry: Entry{Records: 1, Body: []byte(body)}}
	}
	if version == Version2 {
		return []PublishEntry{message(5, []byte("red"), "hi"), message(6, nil, ""), message(7, []byte{}, "x")}
	}
	return []PublishEntry{message(5, nil, "hello"), {PublishingID: 6, Entry: Entry{
		Batch: true, Records: 2, Compression: CompressionGzip, Uncompressed: 10,
		Body: []byte("\x00\x00\x00\x01a\x00\x00\x00\x00"),
	}}}
}

// TestGoldenPublish: a Publish frame of each version has the bytes of the
// specification, and is read back.
func TestGoldenPublish(t *testing.T) {
	frames := golden(t)
	for version, name := range map[uint16]string{Version1: "PublishV1", Version2: "PublishV2"} {
		b := BeginPublish(nil, version, 9)
		entries := publishedEntries(version)
		for _, e := range entries {
			switch {
			case version == Version2:
				b = AppendPublishFiltered(b, e.PublishingID, e.Filter, e.Body)
			case e.Batch:
				b = AppendPublishBatch(b, e.PublishingID, e.Entry)
			default:
				b = AppendPublishEntry(b, e.PublishingID, e.Body)
			}
		}
		if b = FinishPublish(b, 0, len(entries)); !bytes.Equal(b, frames[name]) {
			t.Errorf("%s: encoded %x, want %x", name, b, frames[name])
		}
		got, err := published(t, version, frames[name][SizeLen+HeadLen:])
		if err != nil || len(got) != len(entries) {
			t.Fatalf("%s: %d entries, %v", name, len(got), err)
		}
		for i, want := range entries {
			want.Raw = got[i].Raw
			if fmt.Sprintf("%#v", got[i]) != fmt.Sprintf("%#v", want) {
				t.Errorf("%s: entry %d is %#v, want %#v", name, i, got[i], want)
			}
		}
	}
}

// published decodes the fields of a Publish frame to their end.
func published(t *testing.T, version uint16, fields []byte) (entries []PublishEntry, err error) {
	t.Helper()
	p, err := DecodePublish(version, fields)
	if err != nil {
		if p.Count != 0 || p.Next(&PublishEntry{}) {
			t.Errorf("a frame with an error has entries: %+v", p)
		}
		return nil, err
	}
	if count := binary.BigEndian.Uint32(fields[1:]); p.PublisherID != fields[0] || p.Count != int(count) {
		t.Errorf("publisher %d, count %d, of %x", p.PublisherID, p.Count, fields)
	}
	for e := (PublishEntry{Filter: []byte("before")}); p.Next(&e); {
		if version == Version1 {
			e.Filter = nil
		}
		entries = append(entries, e)
	}
	err = p.Err()
	for range 2 {
		if p.Next(&PublishEntry{}) || p.Err() != err {
			t.Errorf("behind the end: an entry, or %v became %v", err, p.Err())
		}
	}
	return entries, err
}

// TestPublishTruncated: wherever a Publish frame ends early, it is malformed.
func TestPublishTruncated(t *testing.T) {
	frames := golden(t)
	for version, name := range map[uint16]string{Version1: "PublishV1", Version2: "PublishV2"} {
		fields := frames[name][SizeLen+HeadLen:]
		whole, err := published(t, version, fields)
		if err != nil {
			t.Fatal(err)
		}
		entries := fields[5:]
		for n := range fields {
			cut := bytes.Clone(fields[:n])
			got, err := published(t, version, cut)
			switch {
			case n < 5:
				wantError(t, name, err, "short or of unknown version")
			case (n-5)/minPublishEntry(version) < len(whole):
				wantError(t, name, err, "more entries than bytes")
			default:
				wantError(t, name, err, "short entry")
				fit := 0
				for end := 0; fit < len(whole); fit++ {
					if end += publishedLen(version, whole[fit]); end > n-5 {
						break
					}
				}
				if len(got) != fit {
					t.Errorf("%s: %d entries in %d of %d bytes, want %d", name, len(got), n-5, len(entries), fit)
				}
			}
		}
		_, err = published(t, version, append(bytes.Clone(fields), 0))
		wantError(t, name, err, "bytes left over")
	}
}

func publishedLen(version uint16, e PublishEntry) int {
	if version == Version2 {
		return 8 + 2 + len(e.Filter) + len(e.Raw)
	}
	return 8 + len(e.Raw)
}

// TestPublishEndsAtError: an entry that is malformed ends the iteration, though
// there are bytes and entries behind it.
func TestPublishEndsAtError(t *testing.T) {
	const malformedLength, malformedFilter = "00000099", "8000 00000000"
	for name, c := range map[string]struct {
		version                uint16
		good, malformed, after string
	}{
		"message":    {Version1, "00000000", malformedLength, "00000000"},
		"sub-batch":  {Version1, "00000000", "80 0001 00000000" + malformedLength, "00000000"},
		"filtered":   {Version2, "ffff 00000000", "ffff" + malformedLength, "ffff 00000000"},
		"the filter": {Version2, "ffff 00000000", malformedFilter, "ffff 00000000"},
	} {
		const id = "0000000000000001"
		for good := range 3 {
			entries := strings.Repeat(id+c.good, good) + id + c.malformed + strings.Repeat(id+c.after, 4)
			fields := unhex(t, fmt.Sprintf("09 %08x", good+5)+entries)
			got, err := published(t, c.version, fields)
			if wantError(t, name, err, "short entry"); len(got) != good {
				t.Errorf("%s: %d entries, want %d", name, len(got), good)
			}
		}
	}
}

// TestPublishCounts: a frame has as many entries as it announces, and announces
// no more than can be there.
func TestPublishCounts(t *testing.T) {
	for _, version := range []uint16{Version1, Version2} {
		for n := range 20 {
			b := BeginPublish(nil, version, 1)
			for range n {
				if version == Version1 {
					b = AppendPublishEntry(b, 1, nil)
				} else {
					b = AppendPublishFiltered(b, 1, nil, nil)
				}
			}
			for count := range n + 3 {
				got, err := published(t, version, FinishPublish(b, 0, count)[SizeLen+HeadLen:])
				switch {
				case count > n:
					if wantError(t, "more", err, "more entries than bytes"); got != nil {
						t.Errorf("%d entries", len(got))
					}
				case count < n:
					wantError(t, "less", err, "bytes left over")
				case err != nil:
					t.Errorf("version %d: %d entries: %v", version, n, err)
				}
				if count <= n && len(got) != count {
					t.Errorf("version %d: %d entries of %d", version, len(got), count)
				}
			}
		}
	}
}

func TestUnknownVersions(t *testing.T) {
	b := make([]byte, 50)
	for _, version := range []uint16{0, 3, math.MaxUint16} {
		_, err := DecodePublish(version, b)
		wantError(t, "Publish", err, "unknown version")
		d, err := DecodeDeliver(version, b)
		if wantError(t, "Deliver", err, "unknown version"); d.Chunk != nil {
			t.Errorf("a chunk of version %d", version)
		}
	}
}

// TestPublishFilters: a filter has the lengths that a string can have. A null
// one is nil, and a longer one is cut.
func TestPublishFilters(t *testing.T) {
	long := bytes.Repeat([]byte("f"), math.MaxUint16)
	for _, n := range []int{0, 1, maxString - 1, maxString, maxString + 1, math.MaxUint16} {
		b := AppendPublishFiltered(BeginPublish(nil, Version2, 1), 5, long[:n], []byte("body"))
		got, err := published(t, Version2, FinishPublish(b, 0, 1)[SizeLen+HeadLen:])
		if err != nil || len(got) != 1 {
			t.Fatalf("a filter of %d bytes: %d entries, %v", n, len(got), err)
		}
		filter, want := got[0].Filter, min(n, maxString)
		if filter == nil || len(filter) != want || cap(filter) != want || string(got[0].Body) != "body" {
			t.Errorf("a filter of %d bytes: %d, capacity %d, body %q", n, len(filter), cap(filter), got[0].Body)
		}
	}
	behind := append(long, make([]byte, 100)...)
	for _, n := range []uint16{maxString + 1, math.MaxUint16 - 1} {
		filter, rest, ok := cutFilter(append(binary.BigEndian.AppendUint16(nil, n), behind...))
		if ok || filter != nil || rest != nil {
			t.Errorf("a filter with the negative length %d: %d bytes", n, len(filter))
		}
	}
	for dump, want := range map[string]string{
		"": "", "00": "", "0001": "", "0002 61": "",
		"ffff": "null, rest", "ffff 62": "null, rest b", "0000": "empty, rest", "0000 62": "empty, rest b",
		"0001 61": "a, rest", "0001 61 62": "a, rest b",
	} {
		filter, rest, ok := cutFilter(unhex(t, dump))
		got := string(filter)
		if filter == nil {
			got = "null"
		} else if got == "" {
			got = "empty"
		}
		if got = strings.TrimSpace(got + ", rest " + string(rest)); ok != (want != "") || ok && got != want {
			t.Errorf("%s: %s, %v, want %s", dump, got, ok, want)
		}
	}
}

// TestOutcomes: ids and codes are read in place, and their count fits the
// frame exactly.
func TestOutcomes(t *testing.T) {
	ids := []uint64{math.MaxUint64, 0, 5, 6}
	for name, c := range map[string]struct {
		decode func([]byte) (Outcomes, error)
		encode func(ids []uint64) []byte
		code   Code
		length int
	}{
		"PublishConfirm": {DecodePublishConfirm, func(ids []uint64) []byte {
			return AppendPublishConfirm(nil, 0x58, ids)
		}, CodeOK, 8},
		"PublishError": {DecodePublishError, func(ids []uint64) []byte {
			return AppendPublishError(nil, 0x58, 0x1213, ids)
		}, 0x1213, 10},
	} {
		for n := range len(ids) + 1 {
			fields := c.encode(ids[:n])[SizeLen+HeadLen:]
			o, err := c.decode(fields)
			if err != nil || o.PublisherID != 0x58 || o.Len() != n {
				t.Fatalf("%s: %d ids of %d, publisher %d, %v", name, o.Len(), n, o.PublisherID, err)
			}
			for i, want := range ids[:n] {
				if id, code := o.At(i); id != want || code != c.code {
					t.Errorf("%s: outcome %d is %d, %v", name, i, id, code)
				}
			}
			for length := range fields {
				o, err := c.decode(bytes.Clone(fields[:length]))
				text := "count and length differ"
				if length < 5 {
					text = "short frame"
				}
				wantError(t, name, err, "decode "+name)
				if wantError(t, name, err, text); o.Len() != 0 {
					t.Errorf("%s: %d ids in %d of %d bytes", name, o.Len(), length, len(fields))
				}
			}
			for more := 1; more <= c.length; more++ {
				_, err := c.decode(append(bytes.Clone(fields), make([]byte, more)...))
				wantError(t, name, err, "differ")
			}
			// Counts whose product with an item's length overflows 32 bits.
			for _, count := range []uint32{1 << 29, 1<<29 + uint32(n), 1 << 31, 1<<31 + uint32(n), 1<<32 - 1} {
				spoiled := bytes.Clone(fields)
				binary.BigEndian.PutUint32(spoiled[1:], count)
				_, err := c.decode(spoiled)
				wantError(t, name, err, "differ")
			}
		}
	}
	if n := new(Outcomes).Len(); n != 0 {
		t.Errorf("no outcomes are %d", n)
	}
}

// TestDeliverLengths: a Deliver frame is read if its head is whole; the rest is
// the chunk.
func TestDeliverLengths(t *testing.T) {
	fields := unhex(t, "07 1112131415161718 6162")
	for version, head := range map[uint16]int{Version1: 1, Version2: 9} {
		for n := range len(fields) + 1 {
			d, err := DecodeDeliver(version, fields[:n])
			if n < head {
				wantError(t, "Deliver", err, "short")
				continue
			}
			committed := uint64(0)
			if version == Version2 {
				committed = 0x1112131415161718
			}
			want := Deliver{SubscriptionID: 7, CommittedChunk: committed, Chunk: fields[head:n]}
			if err != nil || fmt.Sprint(d) != fmt.Sprint(want) {
				t.Errorf("version %d, %d bytes: %+v, want %+v, %v", version, n, d, want, err)
			}
		}
		got := AppendDeliverHead(nil, version, 7, 0x1112131415161718, 2)
		size := int(binary.BigEndian.Uint32(got))
		if size != HeadLen+head+2 || !bytes.Equal(got[SizeLen+HeadLen:], fields[:head]) {
			t.Errorf("version %d: %x", version, got)
		}
	}
}
