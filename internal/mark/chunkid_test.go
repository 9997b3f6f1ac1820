package mark

import (
	"testing"

	"github.com/tidemark-go/tidemark/internal/wire"
)

func TestIDOf(t *testing.T) {
	got := IDOf(&wire.Chunk{ChunkHeader: wire.ChunkHeader{FirstOffset: 1, Timestamp: 2, Epoch: 3, Records: 4}})
	if want := (ChunkID{First: 1, timestamp: 2, epoch: 3}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestChunkContradicts(t *testing.T) {
	const ms = int64(1_000_000)
	const skew = 5000
	seen := ChunkID{First: 100, timestamp: ms, epoch: 1}
	for name, test := range map[string]struct {
		chunk wire.ChunkHeader
		want  bool
	}{
		"the same":               {wire.ChunkHeader{FirstOffset: 100, Records: 10, Timestamp: ms, Epoch: 1}, false},
		"another time":           {wire.ChunkHeader{FirstOffset: 100, Records: 10, Timestamp: ms + 1, Epoch: 1}, true},
		"an earlier time":        {wire.ChunkHeader{FirstOffset: 100, Records: 10, Timestamp: ms - 1, Epoch: 1}, true},
		"another epoch":          {wire.ChunkHeader{FirstOffset: 100, Records: 10, Timestamp: ms, Epoch: 2}, true},
		"around it":              {wire.ChunkHeader{FirstOffset: 95, Records: 10, Timestamp: ms - 1}, true},
		"reaches into it by one": {wire.ChunkHeader{FirstOffset: 90, Records: 11, Timestamp: ms - 1}, true},
		"before it":              {wire.ChunkHeader{FirstOffset: 90, Records: 10, Timestamp: ms - 1}, false},
		"before it, with a gap":  {wire.ChunkHeader{FirstOffset: 90, Records: 9, Timestamp: ms - 1}, false},
		"before it, clocks":      {wire.ChunkHeader{FirstOffset: 90, Records: 10, Timestamp: ms + skew}, false},
		"before it, and younger": {wire.ChunkHeader{FirstOffset: 90, Records: 10, Timestamp: ms + skew + 1}, true},
		"long before it":         {wire.ChunkHeader{FirstOffset: 0, Records: 1, Timestamp: 0}, false},
		"right behind it":        {wire.ChunkHeader{FirstOffset: 101, Records: 10, Timestamp: ms, Epoch: 1}, false},
		"behind, by retention":   {wire.ChunkHeader{FirstOffset: 200, Records: 10, Timestamp: ms + 1}, false},
		"behind, and younger":    {wire.ChunkHeader{FirstOffset: 200, Records: 10, Timestamp: ms + 10*skew, Epoch: 7}, false},
	} {
		if got := seen.Contradicts(&wire.Chunk{ChunkHeader: test.chunk}); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
