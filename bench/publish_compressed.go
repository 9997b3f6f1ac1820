package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"

	"github.com/golang/snappy"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4"
	official "github.com/rabbitmq/rabbitmq-stream-go-client/pkg/stream"
	"github.com/tidemark-go/tidemark/internal/wire"
	"github.com/tidemark-go/tidemark/stream"
)

// codec is a compression: what each implementation calls it, and its bare
// encoder. The encoders are of the libraries that package stream uses, at their
// default level, and are used again for each sub-batch.
type codec struct {
	tidemark stream.Compression
	official official.Compression
	socket   wire.Compression
	encoder  func() (encode, error)
}

// encode compresses plain into the room of b, and returns the result.
type encode func(b, plain []byte) ([]byte, error)

var (
	gzipCodec   = codec{stream.CompressionGzip, official.Compression{}.Gzip(), wire.CompressionGzip, gzipEncoder}
	snappyCodec = codec{stream.CompressionSnappy, official.Compression{}.Snappy(), wire.CompressionSnappy, snappyEncoder}
	lz4Codec    = codec{stream.CompressionLZ4, official.Compression{}.Lz4(), wire.CompressionLZ4, lz4Encoder}
	zstdCodec   = codec{stream.CompressionZstd, official.Compression{}.Zstd(), wire.CompressionZstd, zstdEncoder}
)

// resetWriter is a compressor that can be used again.
type resetWriter interface {
	io.WriteCloser
	Reset(io.Writer)
}

// encodeWith encodes with one compressor for all sub-batches.
func encodeWith(w resetWriter) encode {
	return func(b, plain []byte) ([]byte, error) {
		to := bytes.NewBuffer(b[:0])
		w.Reset(to)
		if _, err := w.Write(plain); err != nil {
			return nil, err
		}
		err := w.Close()
		return to.Bytes(), err
	}
}

func gzipEncoder() (encode, error)   { return encodeWith(gzip.NewWriter(nil)), nil }
func snappyEncoder() (encode, error) { return encodeWith(snappy.NewBufferedWriter(nil)), nil }

// lz4Encoder uses blocks of 64 KiB: the library's default, of 4 MiB, costs 30
// times as much with each sub-batch.
func lz4Encoder() (encode, error) {
	w := lz4.NewWriter(nil)
	return encodeWith(lz4Blocks{w}), nil
}

// lz4Blocks is a writer that keeps its size of blocks.
type lz4Blocks struct{ *lz4.Writer }

func (w lz4Blocks) Reset(to io.Writer) {
	w.Writer.Reset(to)
	w.Header = lz4.Header{BlockMaxSize: 64 << 10}
}

func zstdEncoder() (encode, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	return func(b, plain []byte) ([]byte, error) { return enc.EncodeAll(plain, b[:0]), nil }, err
}

// recordsOf is how many messages of a size go into a sub-batch: before it is
// compressed, it fits into a frame.
func recordsOf(size int) int { return max(1, min(batchRecords, maxFrameBytes/(size+30))) }

// publishCompressed publishes n encoded messages in compressed sub-batches. The
// window counts messages. The id of a sub-batch is that of its last message.
func (c *raw) publishCompressed(how codec, n, size int, w window, message func(i int) []byte) error {
	encode, err := how.encoder()
	if err != nil {
		return err
	}
	records := recordsOf(size)
	var plain, compressed []byte
	var failed error
	add := func(b []byte, i int) []byte {
		first, end := i*records, min((i+1)*records, n)
		plain = plain[:0]
		for k := first; k < end; k++ {
			plain = wire.AppendEntry(plain, message(k))
		}
		var err error
		if compressed, err = encode(compressed, plain); err != nil {
			failed = err
		}
		return wire.AppendPublishBatch(b, uint64(end-1), wire.Entry{
			Records: uint16(end - first), Compression: how.socket, Uncompressed: uint32(len(plain)), Body: compressed})
	}
	w.frame, w.inFlight = max(1, w.frame/records), max(1, w.inFlight/records)
	if err := c.publishAll((n+records-1)/records, w.fit(records*size), add); err != nil {
		return err
	}
	return failed
}

// compressedRunners publish in sub-batches, with a name or without one.
func compressedRunners(how codec) map[string]runner {
	return map[string]runner{
		implTidemark: publishCompressedTidemark(how),
		implOfficial: publishCompressedOfficial(how),
		implSocket:   publishCompressedSocket(how),
	}
}

func publishCompressedTidemark(how codec) runner {
	return func(ctx context.Context, j job, m *meter) error {
		cfg := stream.ProducerConfig{
			Name: j.Producer, SubEntries: batchRecords, Compression: how.tidemark,
			MaxInFlight: subBatches[0].inFlight, // the socket's
		}
		return producerTidemark(ctx, j, cfg, func(p *stream.Producer) error {
			return publishAsync(ctx, j, m, p)
		})
	}
}

func publishCompressedOfficial(how codec) runner {
	return func(_ context.Context, j job, m *meter) error {
		o := official.NewProducerOptions().SetSubEntrySize(batchRecords).SetCompression(how.official)
		if j.Producer != "" {
			o.SetProducerName(j.Producer)
		}
		return producerOfficial(j, o, func(p *official.Producer, confirms official.ChannelPublishConfirm) error {
			return batchSend(j, m, p, confirms)
		})
	}
}

// publishCompressedSocket encodes and writes on one goroutine.
func publishCompressedSocket(how codec) runner {
	return func(_ context.Context, j job, m *meter) error {
		w, err := parseWindow(j.Window)
		if err != nil {
			return err
		}
		list := encodedMessages(j.Size)
		return publisherSocket(j, func(c *raw) error {
			m.begin()
			err := c.publishCompressed(how, j.N, j.Size, w, func(i int) []byte { return list[i%len(list)] })
			m.end(j.N)
			return err
		})
	}
}
