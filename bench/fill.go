package main

import (
	"encoding/binary"
	"fmt"

	"github.com/klauspost/compress/zstd"
	"github.com/tidemark-go/tidemark/internal/wire"
)

const (
	// batchSize is how many messages go out in one frame or call.
	batchSize = 1000
	// batchRecords is how many a compressed sub-batch holds.
	batchRecords = 100
)

// appendMessage appends a message as every AMQP 1.0 client writes it.
func appendMessage(b, body []byte) []byte {
	if len(body) <= 255 {
		b = append(b, 0, 0x53, 0x75, 0xa0, byte(len(body)))
	} else {
		b = binary.BigEndian.AppendUint32(append(b, 0, 0x53, 0x75, 0xb0), uint32(len(body)))
	}
	return append(b, body...)
}

// bodyOf is what message i of a size holds: a line that repeats, with its
// number in it, which compresses as logs and JSON do.
func bodyOf(i, size int) []byte {
	b := make([]byte, 0, size+64)
	for len(b) < size {
		b = fmt.Appendf(b, `{"order":%d,"customer":"c-%d","total":%d.99,"currency":"EUR"}`, i, i%977, i%10_000)
	}
	return b[:size]
}

// dataOf is the body of a message that appendMessage wrote.
func dataOf(message []byte) []byte {
	switch {
	case len(message) >= 5 && message[2] == 0x75 && message[3] == 0xa0:
		return message[5:]
	case len(message) >= 8 && message[2] == 0x75 && message[3] == 0xb0:
		return message[8:]
	}
	return nil
}

// fill publishes n messages to a stream.
func (c *raw) fill(kind content, n, size int) error {
	frame, inFlight := max(1, min(batchSize, 1_000_000/(size+30))), 20
	switch kind {
	case contentZstd:
		return c.fillZstd(n, size, func(i int) []byte { return bodyOf(i, size) })
	case contentChunks1:
		frame, inFlight = 1, 1 // an idle writer makes a chunk of what comes alone
	case contentChunks15:
		frame, inFlight = 15, 1
	}
	return c.publishAll(n, frame, inFlight, size, func(b []byte, i int) []byte {
		return wire.AppendPublishEntry(b, uint64(i), appendMessage(nil, bodyOf(i, size)))
	})
}

// fillZstd publishes n messages in compressed sub-batches.
func (c *raw) fillZstd(n, size int, body func(i int) []byte) error {
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		return err
	}
	records := max(1, min(batchRecords, 1_000_000/(size+30)))
	batches := (n + records - 1) / records
	var plain []byte
	return c.publishAll(batches, max(1, min(10, 1_000_000/(records*(size+30)))), 20, records*size, func(b []byte, i int) []byte {
		plain = plain[:0]
		for k := range records {
			plain = wire.AppendEntry(plain, appendMessage(nil, body(i*records+k)))
		}
		return wire.AppendPublishBatch(b, uint64(i), wire.Entry{
			Records: uint16(records), Compression: wire.CompressionZstd, Uncompressed: uint32(len(plain)), Body: enc.EncodeAll(plain, nil)})
	})
}

// publishAll publishes n entries, so many in a frame, with so many frames in
// flight, and returns when all are confirmed. Frames stay below 1 MiB.
func (c *raw) publishAll(n, perFrame, inFlight, size int, add func(b []byte, i int) []byte) error {
	perFrame = max(1, min(perFrame, 1_000_000/(size+30)))
	var b []byte
	for sent, confirmed := 0, 0; confirmed < n; {
		if sent < n && sent-confirmed < perFrame*inFlight {
			count := min(perFrame, n-sent)
			b = wire.BeginPublish(b[:0], wire.Version1, 1)
			for i := range count {
				b = add(b, sent+i)
			}
			if _, err := c.nc.Write(wire.FinishPublish(b, 0, count)); err != nil {
				return err
			}
			sent += count
			continue
		}
		got, err := c.confirms()
		if err != nil {
			return err
		}
		confirmed += got
	}
	return nil
}

// publishOne publishes an encoded message and does not wait.
func (c *raw) publishOne(id uint64, message []byte) error {
	b := wire.BeginPublish(nil, wire.Version1, 1)
	b = wire.AppendPublishEntry(b, id, message)
	_, err := c.nc.Write(wire.FinishPublish(b, 0, 1))
	return err
}
