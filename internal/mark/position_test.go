package mark

import (
	"testing"

	"github.com/tidemark-go/tidemark/internal/wire"
)

func TestPositionIgnoresTrackingChunks(t *testing.T) {
	for _, kind := range []uint8{wire.ChunkTrackingDelta, wire.ChunkTrackingSnapshot, 9} {
		if (Position{}).Wants(&wire.Chunk{ChunkHeader: wire.ChunkHeader{Type: kind}}) {
			t.Errorf("a chunk of type %d is wanted", kind)
		}
	}
	if !(0 >= AtOffset(0).From) || (0 >= AtOffset(1).From) {
		t.Error("AtOffset keeps the wrong side")
	}
}

func TestChunkContradicts(t *testing.T) {
	const ms = int64(1_000_000)
	skew := clockSkew.Milliseconds()
	seen := ChunkID{First: 100, timestamp: ms, epoch: 1}
	for name, test := range map[string]struct {
		chunk wire.ChunkHeader
		want  bool
	}{
		"the same":               {wire.ChunkHeader{FirstOffset: 100, Records: 10, Timestamp: ms, Epoch: 1}, false},
		"another time":           {wire.ChunkHeader{FirstOffset: 100, Records: 10, Timestamp: ms + 1, Epoch: 1}, true},
		"another epoch":          {wire.ChunkHeader{FirstOffset: 100, Records: 10, Timestamp: ms, Epoch: 2}, true},
		"around it":              {wire.ChunkHeader{FirstOffset: 95, Records: 10, Timestamp: ms - 1}, true},
		"before it":              {wire.ChunkHeader{FirstOffset: 90, Records: 10, Timestamp: ms - 1}, false},
		"before it, clocks":      {wire.ChunkHeader{FirstOffset: 90, Records: 10, Timestamp: ms + skew}, false},
		"before it, and younger": {wire.ChunkHeader{FirstOffset: 90, Records: 10, Timestamp: ms + skew + 1}, true},
		"behind, by retention":   {wire.ChunkHeader{FirstOffset: 200, Records: 10, Timestamp: ms + 1}, false},
	} {
		if got := seen.Contradicts(&wire.Chunk{ChunkHeader: test.chunk}); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
