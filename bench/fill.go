package main

import (
	"encoding/binary"
	"fmt"

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
	w := window{frame: batchSize, inFlight: 20 * batchSize}
	switch kind {
	case contentZstd:
		return c.publishCompressed(zstdCodec, n, size, w, func(i int) []byte { return appendMessage(nil, bodyOf(i, size)) })
	case contentSuper: // a producer with many partitions cannot make larger chunks
		w = window{frame: batchSize, inFlight: batchSize}
	case contentChunks1:
		w = window{frame: 1, inFlight: 1} // an idle writer makes a chunk of what comes alone
	case contentChunks15:
		w = window{frame: 15, inFlight: 15}
	}
	return c.publishAll(n, w.fit(size), func(b []byte, i int) []byte {
		return wire.AppendPublishEntry(b, uint64(i), appendMessage(nil, bodyOf(i, size)))
	})
}
