package wire

import (
	"bytes"
	"encoding/binary"
	"io"
	"reflect"
	"testing"
)

// blanks returns an empty frame of each type, and of Tune both variants.
func blanks() []Frame {
	return []Frame{
		&PeerProperties{}, &PeerPropertiesResponse{}, &SaslHandshake{}, &SaslHandshakeResponse{},
		&SaslAuthenticate{}, &SaslAuthenticateResponse{}, &Tune{}, &Tune{Response: true},
		&Open{}, &OpenResponse{}, &ExchangeCommandVersions{}, &ExchangeCommandVersionsResponse{},
		&Close{}, &Heartbeat{}, &Response{Key: KeyCreate}, &Create{}, &Delete{},
		&CreateSuperStream{}, &DeleteSuperStream{}, &Metadata{}, &MetadataResponse{},
		&MetadataUpdate{}, &Route{}, &Partitions{}, &StreamsResponse{Key: KeyRoute},
		&StreamStats{}, &StreamStatsResponse{}, &Subscribe{Spec: OffsetSpec{Type: OffsetAt}},
		&Unsubscribe{}, &Credit{}, &CreditResponse{}, &StoreOffset{}, &QueryOffset{},
		&QueryOffsetResponse{}, &ConsumerUpdate{}, &ConsumerUpdateResponse{},
		&ResolveOffsetSpec{Spec: OffsetSpec{Type: OffsetNext}}, &ResolveOffsetSpecResponse{},
		&DeclarePublisher{}, &DeletePublisher{}, &QueryPublisherSequence{},
		&QueryPublisherSequenceResponse{},
	}
}

// FuzzDecode: a frame that was decoded can be encoded, and decoding that gives
// the same frame.
func FuzzDecode(f *testing.F) {
	types := blanks()
	for i, frame := range types {
		b, err := Append(nil, frame)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(i), b[SizeLen+HeadLen:])
	}
	f.Fuzz(func(t *testing.T, kind uint8, fields []byte) {
		like := types[int(kind)%len(types)]
		first, second := blank(like), blank(like)
		if Decode(fields, first) != nil {
			return
		}
		b, err := Append(nil, first)
		if err != nil {
			t.Fatal(err)
		}
		if err := Decode(b[SizeLen+HeadLen:], second); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(first, second) {
			t.Fatalf("%+v became %+v", first, second)
		}
	})
}

// FuzzPublish: the entries of a Publish frame that is not malformed, appended
// one by one, give the same frame.
func FuzzPublish(f *testing.F) {
	b := AppendPublishEntry(BeginPublish(nil, Version1, 1), 5, []byte("hello"))
	b = AppendPublishBatch(b, 6, Entry{Records: 3, Body: []byte("abc")})
	f.Add(false, FinishPublish(b, 0, 2)[SizeLen+HeadLen:])
	b = AppendPublishFiltered(BeginPublish(nil, Version2, 1), 5, []byte("red"), []byte("hello"))
	f.Add(true, FinishPublish(b, 0, 1)[SizeLen+HeadLen:])
	f.Fuzz(func(t *testing.T, two bool, fields []byte) {
		version := Version1
		if two {
			version = Version2
		}
		p, err := DecodePublish(version, fields)
		if err != nil {
			return
		}
		again := BeginPublish(nil, version, p.PublisherID)
		n, total := 0, 0
		for e := (PublishEntry{}); p.Next(&e); n++ {
			again = binary.BigEndian.AppendUint64(again, e.PublishingID)
			if two && e.Filter == nil {
				again = append(again, 0xff, 0xff)
			} else if two {
				again = append(binary.BigEndian.AppendUint16(again, uint16(len(e.Filter))), e.Filter...)
			}
			again = append(again, e.Raw...)
			total += len(e.Body)
		}
		if total > len(fields) {
			t.Fatal("bodies longer than the frame")
		}
		again = FinishPublish(again, 0, n)[SizeLen+HeadLen:]
		if p.Err() == nil && (n != p.Count || !bytes.Equal(again, fields)) {
			t.Fatalf("%d entries of %d, or other bytes", n, p.Count)
		}
	})
}

// FuzzPublishConfirm: a PublishConfirm that was decoded is encoded to the same
// bytes.
func FuzzPublishConfirm(f *testing.F) {
	f.Add(AppendPublishConfirm(nil, 1, []uint64{5, 6})[SizeLen+HeadLen:])
	f.Fuzz(func(t *testing.T, fields []byte) {
		o, err := DecodePublishConfirm(fields)
		if err != nil {
			return
		}
		ids := make([]uint64, o.Len())
		for i := range ids {
			ids[i], _ = o.At(i)
		}
		if !bytes.Equal(AppendPublishConfirm(nil, o.PublisherID, ids)[SizeLen+HeadLen:], fields) {
			t.Fatal("other bytes")
		}
	})
}

// FuzzPublishError: the ids of a PublishError that was decoded fill it.
func FuzzPublishError(f *testing.F) {
	f.Add(AppendPublishError(nil, 1, CodePublisherDoesNotExist, []uint64{5, 6})[SizeLen+HeadLen:])
	f.Fuzz(func(t *testing.T, fields []byte) {
		o, err := DecodePublishError(fields)
		if err == nil && 5+o.Len()*10 != len(fields) {
			t.Fatal("ids do not fill the frame")
		}
		for i := range o.Len() {
			o.At(i)
		}
	})
}

// FuzzDeliver: a Deliver that was decoded is encoded to the same bytes.
func FuzzDeliver(f *testing.F) {
	f.Add(uint16(1), append(AppendDeliverHead(nil, 1, 1, 7, 1), 'x')[SizeLen+HeadLen:])
	f.Add(uint16(2), append(AppendDeliverHead(nil, 2, 1, 7, 1), 'x')[SizeLen+HeadLen:])
	f.Fuzz(func(t *testing.T, version uint16, fields []byte) {
		d, err := DecodeDeliver(version, fields)
		if err != nil {
			return
		}
		b := AppendDeliverHead(nil, version, d.SubscriptionID, d.CommittedChunk, len(d.Chunk))
		if !bytes.Equal(append(b, d.Chunk...)[SizeLen+HeadLen:], fields) {
			t.Fatal("other bytes")
		}
	})
}

// FuzzChunk: the entries of a chunk that is not malformed add up to its
// header's counts and to its data.
func FuzzChunk(f *testing.F) {
	batch := Entry{Records: 2, Body: []byte("\x00\x00\x00\x01x\x00\x00\x00\x00")}
	data := AppendBatch(AppendEntry(nil, []byte("hello")), batch)
	h := ChunkHeader{Entries: 2, Records: 3, DataLength: uint32(len(data)), CRC: Checksum(data)}
	b := make([]byte, ChunkHeaderLen)
	h.Put(b)
	f.Add(append(b, data...))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseChunk(b)
		if err != nil {
			return
		}
		_ = c.Check()
		w, records, raw := c.Walk(), uint64(0), 0
		for e := (Entry{}); ; {
			offset, ok := w.Next(&e)
			if !ok {
				break
			}
			if offset != c.FirstOffset+records {
				t.Fatalf("offset %d", offset)
			}
			records, raw = records+uint64(e.Records), raw+len(e.Raw)
			for rest, ok := e.Body, e.Batch; ok; _, rest, ok = NextRecord(rest) {
			}
		}
		if w.Err() == nil && (records != uint64(c.Records) || raw != len(c.Data)) {
			t.Fatal("a chunk whose entries do not add up")
		}
	})
}

// FuzzFrameReader: the frames are those of the stream, and the buffer is no
// larger than they need.
func FuzzFrameReader(f *testing.F) {
	f.Add([]byte{0, 0, 0, 1, 'x', 0, 0, 0, 0}, uint32(0))
	f.Fuzz(func(t *testing.T, stream []byte, limit uint32) {
		r := NewFrameReader(strict(t, bytes.NewReader(stream)), limit)
		consumed := 0
		for {
			frame, err := r.Next()
			if err == io.EOF && consumed != len(stream) {
				t.Fatal("clean end inside the stream")
			}
			if err != nil {
				break
			}
			if consumed += SizeLen; !bytes.Equal(frame, stream[consumed:consumed+len(frame)]) {
				t.Fatal("other bytes")
			}
			consumed += len(frame)
		}
		if len(r.buf) > 4*max(len(stream), initialBuffer) {
			t.Fatalf("buffer of %d bytes for %d", len(r.buf), len(stream))
		}
	})
}
