package stream

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang/snappy"
	kgzip "github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// recordsOf lays messages out as a sub-batch has them.
func recordsOf(t testing.TB, bodies ...string) []byte {
	t.Helper()
	var records []byte
	for _, body := range bodies {
		var err error
		records, err = appendRecord(records, &Message{Body: []byte(body)}, time.Time{})
		must(t, err)
	}
	return records
}

// subBatches are bodies of sub-batches, of all kinds.
func subBatches() map[string][]string {
	random := make([]byte, 300_000)
	for i := range random {
		random[i] = byte(rand.Uint32())
	}
	text := make([]string, 1000)
	for i := range text {
		text[i] = fmt.Sprintf(`{"id": %d, "kind": "order", "total": %d}`, i, i*i)
	}
	return map[string][]string{
		"one": {"a"}, "one without a body": {""}, "two": {"a", "b"}, "text": text, "random": {string(random[:1000]), string(random)},
		"65,535 empty ones": make([]string, 65535), "more than a block of lz4": {strings.Repeat("x", 5<<20), string(random)},
		"64 KiB": {strings.Repeat("y", 64<<10-12)}, "a byte more": {strings.Repeat("y", 64<<10-11)},
	}
}

// TestSubBatchRoundTrip: our decoder and the other clients' libraries read what
// the encoders write. The bytes before stay, and the bound holds.
func TestSubBatchRoundTrip(t *testing.T) {
	for what, bodies := range subBatches() {
		records := recordsOf(t, bodies...)
		for name, c := range compressions {
			b, err := appendSubBatch([]byte("before"), Compression(c), len(bodies), records)
			must(t, err)
			if string(b[:6]) != "before" || len(b)-6 > subBatchBound(Compression(c), len(records)) {
				t.Errorf("%s, %s: %d bytes became %d", what, name, len(records), len(b)-6)
			}
			entry := subBatchEntry(t, b[6:])
			if entry.Compression != c || int(entry.Records) != len(bodies) || int(entry.Uncompressed) != len(records) {
				t.Errorf("%s, %s: %+v", what, name, entry)
			}
			got, err := decompress(&entry)
			if must(t, err); !bytes.Equal(got, records) {
				t.Errorf("%s, %s: our decoder reads %d other bytes", what, name, len(got))
			}
			if got := othersRead(t, c, entry.Body); !bytes.Equal(got, records) {
				t.Errorf("%s, %s: the other clients read %d other bytes", what, name, len(got))
			}
		}
	}
}

// subBatchEntry returns the only entry of b.
func subBatchEntry(t testing.TB, b []byte) wire.Entry {
	t.Helper()
	frame := wire.BeginPublish(nil, wire.Version1, 1)
	frame = append(append(frame, 0, 0, 0, 0, 0, 0, 0, 1), b...)
	frame = wire.FinishPublish(frame, 0, 1)
	_, version, fields, _ := wire.SplitHead(frame[wire.SizeLen:])
	p, err := wire.DecodePublish(version, fields)
	must(t, err)
	var e wire.PublishEntry
	if !p.Next(&e) || p.Next(&wire.PublishEntry{}) || p.Err() != nil || !e.Batch {
		t.Fatalf("%+v, %v", e, p.Err())
	}
	return e.Entry
}

// othersRead decompresses as the official client does (aggregation.go).
func othersRead(t testing.TB, c wire.Compression, data []byte) []byte {
	t.Helper()
	in := bufio.NewReader(bytes.NewReader(data))
	var r io.Reader = in
	var err error
	switch c {
	case wire.CompressionGzip:
		r, err = gzip.NewReader(in)
	case wire.CompressionSnappy:
		r = snappy.NewReader(in)
	case wire.CompressionLZ4:
		r = lz4.NewReader(in)
	case wire.CompressionZstd:
		var z *zstd.Decoder
		if z, err = zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true)); err == nil {
			defer z.Close()
		}
		r = z
	}
	must(t, err)
	out, err := io.ReadAll(r)
	must(t, err)
	return out
}

// TestSubBatchRefused: what a sub-batch cannot be is an error, and the buffer has
// its old length.
func TestSubBatchRefused(t *testing.T) {
	for i, test := range []struct {
		c       Compression
		count   int
		records []byte
		want    error
	}{
		{CompressionNone, 0, nil, nil}, {CompressionNone, -1, nil, nil}, {CompressionZstd, 65536, make([]byte, 4*65536), nil}, {CompressionNone, 2, make([]byte, 7), nil},
		{CompressionGzip, 1, make([]byte, maxSubBatch+1), ErrMessageTooLarge}, {5, 1, make([]byte, 4), ErrInvalidConfig}, {255, 1, make([]byte, 4), ErrInvalidConfig},
	} {
		b, err := appendSubBatch([]byte("before"), test.c, test.count, test.records)
		if string(b) != "before" || err == nil {
			t.Errorf("case %d: %q, %v", i, b, err)
		}
		if test.want != nil {
			wantErr(t, err, test.want)
		}
	}
	b, err := appendRecord([]byte("before"), &Message{Value: make(chan int)}, time.Time{})
	if wantErr(t, err, ErrInvalidMessage); string(b) != "before" {
		t.Errorf("%q", b)
	}
}

// TestSubEncodersAllocate: nothing, once they are there and the buffer has room.
func TestSubEncodersAllocate(t *testing.T) {
	for name, list := range subBatches() {
		records := recordsOf(t, list...)
		b := make([]byte, 0, len(records)+subBatchBound(CompressionZstd, len(records)))
		for what, enc := range map[string]subEncoder{"gzip": newGzipEncoder(), "snappy": newSnappyEncoder(), "lz4": newLZ4Encoder(), "zstd": newZstdEncoder()} {
			compress := func() {
				_, err := enc.compress(b, records)
				must(t, err)
			}
			for range 5 { // zstd makes its tables as it goes
				compress()
			}
			n := testing.AllocsPerRun(2, compress)
			if n > 0 {
				t.Errorf("%s, %s: %v allocations", what, name, n)
			}
		}
	}
}

// failingEncoder panics, as a library may.
type failingEncoder struct{}

func (failingEncoder) compress(b, _ []byte) ([]byte, error) {
	_ = append(b, "garbage"...)
	panic("broken")
}

// TestEncoderPool: as many encoders are made as are in use at a time, and no
// more than there are cores. An encoder that panics is an error, and its place is
// free again.
func TestEncoderPool(t *testing.T) {
	var mu sync.Mutex
	made, used, most := 0, 0, 0
	entered, goOn := make(chan struct{}), make(chan struct{})
	p := newEncoderPool(func() subEncoder {
		mu.Lock()
		defer mu.Unlock()
		made++
		return encoderFunc(func() {
			mu.Lock()
			used++
			most = max(most, used)
			mu.Unlock()
			entered <- struct{}{}
			<-goOn
			mu.Lock()
			used--
			mu.Unlock()
		})
	})
	cores := runtime.GOMAXPROCS(0)
	var wg sync.WaitGroup
	for range 10 * cores {
		wg.Go(func() {
			if _, err := p.append(nil, nil); err != nil {
				t.Error(err)
			}
		})
	}
	for range cores {
		recv(t, entered, "an encoder at work")
	}
	for range 9 * cores {
		goOn <- struct{}{}
		recv(t, entered, "the next one")
	}
	close(goOn)
	wg.Wait()
	if most > cores || made > 10*cores {
		t.Errorf("%d at a time, %d made, for %d cores", most, made, cores)
	}
	broken := newEncoderPool(func() subEncoder { return failingEncoder{} })
	for range 2 * cores {
		if b, err := broken.append([]byte("before"), nil); err == nil || b != nil {
			t.Errorf("%q, %v", b, err)
		}
	}
}

type encoderFunc func()

func (f encoderFunc) compress(b, _ []byte) ([]byte, error) {
	f()
	return b, nil
}

// FuzzSubBatch: whatever the records are, they come back.
func FuzzSubBatch(f *testing.F) {
	f.Add(uint8(4), 2, []byte("\x00\x00\x00\x01a\x00\x00\x00\x01b"))
	f.Add(uint8(3), 1, []byte(strings.Repeat("abcd", 500)))
	f.Add(uint8(1), 3, []byte(strings.Repeat("\x00", 12)))
	f.Fuzz(func(t *testing.T, c uint8, count int, records []byte) {
		b, err := appendSubBatch(nil, Compression(c), count, records)
		if err != nil {
			if c <= uint8(CompressionZstd) && checkSubBatch(count, len(records)) == nil || len(b) > 0 {
				t.Fatalf("%d records in %d bytes: %v", count, len(records), err)
			}
			return
		}
		entry := subBatchEntry(t, b)
		got, err := decompress(&entry)
		if must(t, err); !bytes.Equal(got, records) || !bytes.Equal(othersRead(t, entry.Compression, entry.Body), records) {
			t.Fatalf("compression %d: %d bytes came back as %d", c, len(records), len(got))
		}
		if len(b) > subBatchBound(Compression(c), len(records)) {
			t.Fatalf("compression %d: %d bytes became %d", c, len(records), len(b))
		}
	})
}

// BenchmarkSubBatch compares our encoders with the bare libraries, on 100
// messages of 100 bytes and on 1000 of 1 KiB.
func BenchmarkSubBatch(b *testing.B) {
	for _, shape := range []struct{ messages, size int }{{100, 100}, {1000, 1024}} {
		bodies := make([]string, shape.messages)
		for i := range bodies {
			bodies[i] = benchBody(i, shape.size)
		}
		records := recordsOf(b, bodies...)
		room := make([]byte, 0, subBatchBound(CompressionZstd, len(records)))
		for _, c := range []Compression{CompressionNone, CompressionGzip, CompressionSnappy, CompressionLZ4, CompressionZstd} {
			name := fmt.Sprintf("%dx%d/%s", shape.messages, shape.size, []string{"none", "gzip", "snappy", "lz4", "zstd"}[c])
			var ours, theirs int
			b.Run(name+"/ours", func(b *testing.B) {
				b.SetBytes(int64(len(records)))
				b.ReportAllocs()
				for b.Loop() {
					out, err := appendSubBatch(room, c, shape.messages, records)
					if err != nil {
						b.Fatal(err)
					}
					ours = len(out)
				}
				b.ReportMetric(float64(len(records))/float64(ours), "ratio")
			})
			if c == CompressionNone {
				continue
			}
			b.Run(name+"/library", func(b *testing.B) {
				bare := bareLibrary(b, c)
				b.SetBytes(int64(len(records)))
				b.ReportAllocs()
				for b.Loop() {
					theirs = bare(records)
				}
				b.ReportMetric(float64(len(records))/float64(theirs), "ratio")
			})
		}
	}
}

// benchBody is a body that compresses as JSON does.
func benchBody(i, size int) string {
	rng := rand.New(rand.NewPCG(uint64(i), 1))
	var b strings.Builder
	for b.Len() < size {
		fmt.Fprintf(&b, `{"id":%d,"price":%d,"name":"item %d"},`, i, rng.Uint32(), rng.Uint32N(1000))
	}
	return b.String()[:size]
}

// bareLibrary returns a function that compresses with a writer of the library,
// used again and again, and returns the size.
func bareLibrary(b *testing.B, c Compression) func([]byte) int {
	var out bytes.Buffer
	var w resetWriter
	switch c {
	case CompressionGzip:
		w = kgzip.NewWriter(&out)
	case CompressionSnappy:
		w = snappy.NewBufferedWriter(&out)
	case CompressionLZ4:
		w = lz4.NewWriter(&out)
	case CompressionZstd:
		z, err := zstd.NewWriter(&out, zstd.WithEncoderConcurrency(1))
		must(b, err)
		w = z
	}
	return func(data []byte) int {
		out.Reset()
		w.Reset(&out)
		_, err := w.Write(data)
		must(b, err)
		must(b, w.Close())
		return out.Len()
	}
}
