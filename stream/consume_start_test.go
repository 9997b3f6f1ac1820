package stream

import (
	"errors"
	"math"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/mark"
	"github.com/tidemark-go/tidemark/internal/wire"
)

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
		if got := test.start.usesStored(); got != test.stored {
			t.Errorf("%v: usesStored() = %v, want %v", test.start, got, test.stored)
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
	if got, want := Ago(time.Hour).resolve(noon), Since(noon.Add(-time.Hour)); got.kind != want.kind || !got.time.Equal(want.time) || got.usesStored() {
		t.Errorf("Ago resolved to %v, want %v", got, want)
	}
	if got := Stored(Ago(time.Hour)).resolve(noon); !got.usesStored() {
		t.Error("resolving forgot that the stored offset goes first")
	}
	for _, s := range []Start{{}, First(), Last(), Next(), At(4), Since(noon)} {
		if got := s.resolve(noon.Add(time.Hour)); got != s {
			t.Errorf("%v resolved to %v", s, got)
		}
	}
}

// TestStartInNewStream: what leaves out a part of the old stream begins at the
// new one's start, and the stored offset keeps its place.
func TestStartInNewStream(t *testing.T) {
	for _, test := range []struct{ start, want Start }{
		{Next(), First()}, {Last(), First()}, {First(), First()}, {At(7), At(7)}, {Since(noon), Since(noon)},
		{Stored(Next()), Stored(First())}, {Stored(At(7)), Stored(At(7))},
	} {
		if got := test.start.inNewStream(); got != test.want {
			t.Errorf("%v becomes %v, want %v", test.start, got, test.want)
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
			first, again := test.start.positions(test.now)
			if first.Spec != test.first || again.Spec != test.again {
				t.Errorf("begins with %v and again with %v, want %v and %v", first.Spec, again.Spec, test.first, test.again)
			}
			for _, p := range []mark.Position{first, again} {
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

func delivered(p mark.Position, chunk, offset uint64) bool {
	return p.Wants(&wire.Chunk{ChunkHeader: wire.ChunkHeader{FirstOffset: chunk}}) && (offset >= p.From)
}
