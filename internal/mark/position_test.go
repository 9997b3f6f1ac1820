package mark

import (
	"testing"

	"github.com/tidemark-go/tidemark/internal/wire"
)

func TestPositions(t *testing.T) {
	for name, test := range map[string]struct {
		position Position
		spec     wire.OffsetSpec
		from     uint64
	}{
		"zero":           {Position{}, wire.OffsetSpec{}, 0},
		"offset":         {AtOffset(105), wire.OffsetSpec{Type: wire.OffsetAt, Value: 105}, 105},
		"offset 0":       {AtOffset(0), wire.OffsetSpec{Type: wire.OffsetAt}, 0},
		"first":          {AtFirst(), wire.OffsetSpec{Type: wire.OffsetFirst}, 0},
		"last":           {AtLast(), wire.OffsetSpec{Type: wire.OffsetLast}, 0},
		"time":           {AtTime(1234), wire.OffsetSpec{Type: wire.OffsetTimestamp, Value: 1234}, 0},
		"before 1970":    {AtTime(-1), wire.OffsetSpec{Type: wire.OffsetTimestamp, Value: 1<<64 - 1}, 0},
		"after a chunk":  {AfterChunk(100), wire.OffsetSpec{Type: wire.OffsetAt, Value: 100}, 0},
		"after stored":   {afterStored(104), wire.OffsetSpec{Type: wire.OffsetAt, Value: 104}, 105},
		"after stored 0": {afterStored(0), wire.OffsetSpec{Type: wire.OffsetAt, Value: 0}, 1},
		"asking for":     {AtOffset(105).askingFor(100), wire.OffsetSpec{Type: wire.OffsetAt, Value: 100}, 105},
	} {
		if p := test.position; p.Spec != test.spec || p.From != test.from {
			t.Errorf("%s: asks for %+v and wants from %d, want %+v and %d", name, p.Spec, p.From, test.spec, test.from)
		}
	}
}

func TestPositionIgnoresTrackingChunks(t *testing.T) {
	for _, kind := range []uint8{wire.ChunkTrackingDelta, wire.ChunkTrackingSnapshot, 9} {
		tracking := &wire.Chunk{ChunkHeader: wire.ChunkHeader{FirstOffset: 200, Type: kind}}
		for _, p := range []Position{{}, AtOffset(200), AfterChunk(100), AfterChunk(200)} {
			if p.Wants(tracking) {
				t.Errorf("%+v wants a chunk of type %d", p, kind)
			}
		}
	}
	if !(0 >= AtOffset(0).From) || (0 >= AtOffset(1).From) {
		t.Error("AtOffset keeps the wrong side")
	}
}

func TestPositionWantsWhatFollowsItsChunk(t *testing.T) {
	for _, test := range []struct {
		name     string
		position Position
		chunk    uint64
		want     bool
	}{
		{"the chunk itself", AfterChunk(100), 100, false},
		{"the one before", AfterChunk(100), 90, false},
		{"the one behind", AfterChunk(100), 110, true},
		{"right behind", AfterChunk(100), 101, true},
		{"chunk 0", AfterChunk(0), 0, false},
		{"behind chunk 0", AfterChunk(0), 1, true},
		{"asking for another", AfterChunk(100).askingFor(110), 100, false},
		{"the first of all", AtFirst(), 0, true},
		{"at an offset", AtOffset(105), 100, true},
		{"at an offset, before", AtOffset(105), 50, true}, // HasNew tells
	} {
		if got := test.position.Wants(chunk(test.chunk)); got != test.want {
			t.Errorf("%s: %v", test.name, got)
		}
	}
}

func TestPositionHasNew(t *testing.T) {
	for _, test := range []struct {
		from uint64
		want bool // of the chunk with the offsets 100 to 109
	}{
		{0, true}, {99, true}, {100, true}, {101, true}, {109, true}, {110, false}, {111, false},
	} {
		if got := AtOffset(test.from).HasNew(chunk(100)); got != test.want {
			t.Errorf("from %d: %v", test.from, got)
		}
	}
	empty := &wire.Chunk{ChunkHeader: wire.ChunkHeader{FirstOffset: 100}}
	if AtOffset(100).HasNew(empty) {
		t.Error("a chunk without messages has something new")
	}
}
