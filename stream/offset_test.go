package stream

import (
	"errors"
	"math"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

var noon = time.Date(2024, 5, 6, 12, 0, 0, 0, time.UTC)

func TestStartZeroValue(t *testing.T) {
	if (Start{}) != Stored(First()) {
		t.Error("the zero Start is not Stored(First())")
	}
	if (Start{}) == First() {
		t.Error("the zero Start ignores what is stored")
	}
}

func TestStartString(t *testing.T) {
	for _, test := range []struct {
		start  Start
		want   string
		stored bool
	}{
		{Start{}, "stored, else first", true},
		{First(), "first", false},
		{Last(), "last", false},
		{Next(), "next", false},
		{At(0), "offset 0", false},
		{At(7), "offset 7", false},
		{Since(noon), "since 2024-05-06T12:00:00Z", false},
		{Ago(time.Hour), "1h0m0s ago", false},
		{Stored(Next()), "stored, else next", true},
		{Stored(Stored(At(3))), "stored, else offset 3", true},
		{Stored(Ago(time.Minute)), "stored, else 1m0s ago", true},
	} {
		if got := test.start.String(); got != test.want {
			t.Errorf("String() = %q, want %q", got, test.want)
		}
		if got := test.start.useStored(); got != test.stored {
			t.Errorf("%v: useStored() = %v, want %v", test.start, got, test.stored)
		}
	}
}

func TestStartValidate(t *testing.T) {
	for _, test := range []struct {
		start Start
		ok    bool
	}{
		{Start{}, true},
		{First(), true},
		{Last(), true},
		{Next(), true},
		{At(0), true},
		{At(math.MaxInt64), true},
		{At(math.MaxInt64 + 1), false},
		{Stored(At(math.MaxUint64)), false},
		{Ago(0), true},
		{Ago(-time.Nanosecond), false},
		{Since(noon), true},
		{Since(time.Unix(-1, 0)), true},
		{Since(time.Time{}), false},
	} {
		err := test.start.validate()
		if (err == nil) != test.ok || err != nil && !errors.Is(err, ErrInvalidConfig) {
			t.Errorf("%v: validate() = %v, want ok %v", test.start, err, test.ok)
		}
	}
}

func TestStartResolve(t *testing.T) {
	if got, want := Ago(time.Hour).resolve(noon), Since(noon.Add(-time.Hour)); got.kind != want.kind || !got.time.Equal(want.time) || got.useStored() {
		t.Errorf("Ago resolved to %v, want %v", got, want)
	}
	if got := Stored(Ago(time.Hour)).resolve(noon); !got.useStored() {
		t.Error("resolving forgot that the stored offset goes first")
	}
	for _, s := range []Start{{}, First(), Last(), Next(), At(4), Since(noon)} {
		if got := s.resolve(noon.Add(time.Hour)); got != s {
			t.Errorf("%v resolved to %v", s, got)
		}
	}
}

// TestStartBegin is about where reading begins, what is dropped of the first
// chunks, and what an attempt after a drop before the first message begins
// with. Chunk 100 is the last one, with the offsets 100 to 104.
func TestStartBegin(t *testing.T) {
	full := Stats{FirstOffset: 10, CommittedChunk: 100}
	at := func(offset uint64) wire.OffsetSpec { return wire.OffsetSpec{Type: wire.OffsetAt, Value: offset} }
	first, last := wire.OffsetSpec{Type: wire.OffsetFirst}, wire.OffsetSpec{Type: wire.OffsetLast}
	since := wire.OffsetSpec{Type: wire.OffsetTimestamp, Value: uint64(noon.UnixMilli())}
	type seen struct{ chunk, offset uint64 }
	for _, test := range []struct {
		name         string
		start        Start
		now          Stats
		first, again wire.OffsetSpec
		drops, keeps []seen
	}{
		{"first", First(), full, first, first, nil, []seen{{10, 10}, {100, 100}}},
		{"zero", Start{}, full, first, first, nil, []seen{{0, 0}}},
		{"first of empty", First(), Stats{Empty: true}, first, first, nil, []seen{{0, 0}}},
		{"at", At(102), full, at(102), at(102), []seen{{100, 100}, {100, 101}}, []seen{{100, 102}, {105, 105}}},
		{"at 0", At(0), Stats{Empty: true}, at(0), at(0), nil, []seen{{0, 0}}},
		{"at what will come", At(300), full, at(300), at(300), []seen{{105, 105}, {299, 299}}, []seen{{299, 300}}},
		{"since", Since(noon), full, since, since, nil, []seen{{0, 0}}},
		{"next", Next(), full, at(100), at(100), []seen{{100, 100}, {100, 104}, {99, 99}}, []seen{{105, 105}}},
		{"next of empty", Next(), Stats{Empty: true}, at(0), at(0), nil, []seen{{0, 0}}},
		{"next after chunk 0", Next(), Stats{CommittedChunk: 0}, at(0), at(0), []seen{{0, 0}}, []seen{{1, 1}}},
		{"last", Last(), full, last, at(100), nil, []seen{{100, 100}, {105, 105}}},
		{"last of empty", Last(), Stats{Empty: true}, at(0), at(0), nil, []seen{{0, 0}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			first, again := test.start.begin(test.now)
			if first.spec != test.first || again.spec != test.again {
				t.Errorf("begins with %v and again with %v, want %v and %v", first.spec, again.spec, test.first, test.again)
			}
			for _, p := range []position{first, again} {
				for _, s := range test.drops {
					if delivered(p, s.chunk, s.offset) {
						t.Errorf("%+v delivers offset %d of chunk %d", p, s.offset, s.chunk)
					}
				}
				for _, s := range test.keeps {
					if !delivered(p, s.chunk, s.offset) {
						t.Errorf("%+v drops offset %d of chunk %d", p, s.offset, s.chunk)
					}
				}
			}
		})
	}
}

func delivered(p position, chunk, offset uint64) bool {
	return p.wants(&wire.Chunk{ChunkHeader: wire.ChunkHeader{FirstOffset: chunk}}) && (offset >= p.from)
}

func TestPositionIgnoresTrackingChunks(t *testing.T) {
	for _, kind := range []uint8{wire.ChunkTrackingDelta, wire.ChunkTrackingSnapshot, 9} {
		if (position{}).wants(&wire.Chunk{ChunkHeader: wire.ChunkHeader{Type: kind}}) {
			t.Errorf("a chunk of type %d is wanted", kind)
		}
	}
	if !(0 >= fromOffset(0).from) || (0 >= fromOffset(1).from) {
		t.Error("fromOffset keeps the wrong side")
	}
}

func TestChunkContradicts(t *testing.T) {
	const ms = int64(1_000_000)
	skew := clockSkew.Milliseconds()
	seen := chunkID{first: 100, timestamp: ms, epoch: 1}
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
		if got := seen.contradicts(&wire.Chunk{ChunkHeader: test.chunk}); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
