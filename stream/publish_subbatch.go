package stream

import "github.com/tidemark-go/tidemark/internal/wire"

// subEncoder is to be replaced by the helper's.
type subEncoder struct{ kind Compression }

func (e *subEncoder) append(b, records []byte, n int) []byte {
	return wire.AppendBatch(b, wire.Entry{Records: uint16(n), Compression: 0, Uncompressed: uint32(len(records)), Body: records})
}

type encoders struct{}

func (encoders) of(c Compression) *subEncoder { return &subEncoder{c} }
