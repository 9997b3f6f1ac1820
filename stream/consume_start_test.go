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
		{Next(), First()}, {Last(), First()}, {First(), First()}, {At(7), At(7)}, {Since(noon), First()},
		{Stored(Next()), Stored(First())}, {Stored(At(7)), Stored(At(7))},
	} {
		if got := test.start.inNewStream(); got != test.want {
			t.Errorf("%v becomes %v, want %v", test.start, got, test.want)
		}
	}
}

// TestStartBegin is about the place at which a run begins, what is dropped of the
// chunks that come there, and what a consumer stores that goes on there. Chunk 100
// is the last one in the extent, unless it is one of the broker's own entries.
func TestStartBegin(t *testing.T) {
	full := Stats{FirstOffset: 10, CommittedChunk: 100}
	at := func(offset uint64) wire.OffsetSpec { return wire.OffsetSpec{Type: wire.OffsetAt, Value: offset} }
	first, last := wire.OffsetSpec{Type: wire.OffsetFirst}, wire.OffsetSpec{Type: wire.OffsetLast}
	since := wire.OffsetSpec{Type: wire.OffsetTimestamp, Value: uint64(noon.UnixMilli())}
	type chunks = map[wire.OffsetSpec]*wire.Chunk // what a subscription gets
	type seen struct{ chunk, offset uint64 }
	for _, test := range []struct {
		name         string
		start        Start
		now          Stats
		has          chunks
		spec         wire.OffsetSpec
		before       uint64
		drops, keeps []seen
	}{
		{"first", First(), full, nil, first, BeforeFirst, nil, []seen{{10, 10}, {100, 100}}},
		{"zero", Start{}, full, nil, first, BeforeFirst, nil, []seen{{0, 0}}},
		{"first of empty", First(), Stats{Empty: true}, nil, first, BeforeFirst, nil, []seen{{0, 0}}},
		{"at", At(102), full, nil, at(102), 0, []seen{{100, 100}, {100, 101}}, []seen{{100, 102}, {105, 105}}},
		{"at 0", At(0), Stats{Empty: true}, nil, at(0), 0, nil, []seen{{0, 0}}},
		{"at what will come", At(300), full, nil, at(300), 0, []seen{{105, 105}, {299, 299}}, []seen{{299, 300}}},

		{"next", Next(), full, chunks{last: plainChunk(100, 5)}, at(100), 104, []seen{{100, 100}, {100, 104}, {99, 99}}, []seen{{105, 105}}},
		{"next of empty", Next(), Stats{Empty: true}, nil, at(0), BeforeFirst, nil, []seen{{0, 0}}},
		{"next after chunk 0", Next(), Stats{}, chunks{last: plainChunk(0, 1)}, at(0), 0, []seen{{0, 0}}, []seen{{1, 1}}},
		{"next behind an entry", Next(), full, chunks{last: plainChunk(90, 5)}, at(90), 100, []seen{{90, 94}, {100, 100}}, []seen{{101, 101}}},
		{"next behind entries alone", Next(), full, nil, at(100), 100, []seen{{100, 100}}, []seen{{101, 101}}},
		{"next, and one more comes", Next(), full, chunks{last: plainChunk(105, 2), at(100): plainChunk(100, 5)}, at(100), 104, []seen{{100, 104}}, []seen{{105, 105}}},
		{"next behind an entry, and one comes", Next(), full, chunks{last: plainChunk(107, 2), at(100): plainChunk(101, 6)}, at(101), 100, []seen{{100, 100}}, []seen{{101, 101}}},

		{"last", Last(), full, chunks{last: plainChunk(100, 5)}, at(100), 99, []seen{{99, 99}}, []seen{{100, 100}, {105, 105}}},
		{"last of all", Last(), Stats{}, chunks{last: plainChunk(0, 5)}, at(0), BeforeFirst, nil, []seen{{0, 0}}},
		{"last before an entry", Last(), full, chunks{last: plainChunk(90, 5)}, at(90), 89, nil, []seen{{90, 90}, {101, 101}}},
		{"last, by now another", Last(), full, chunks{last: plainChunk(105, 5)}, at(105), 104, []seen{{100, 104}}, []seen{{105, 105}}},
		{"last of empty", Last(), Stats{Empty: true}, nil, at(0), BeforeFirst, nil, []seen{{0, 0}}},
		{"last, and entries alone", Last(), full, nil, at(100), 100, []seen{{100, 100}}, []seen{{101, 101}}},

		{"since", Since(noon), full, chunks{since: plainChunk(50, 10)}, at(50), 49, []seen{{40, 49}}, []seen{{50, 50}}},
		{"since, in the last chunk", Since(noon), full, chunks{since: plainChunk(100, 5)}, at(100), 99, nil, []seen{{100, 100}}},
		{"since what will come", Since(noon), full, chunks{last: plainChunk(100, 5)}, at(100), 104, []seen{{100, 104}}, []seen{{105, 105}}},
		{"since, and it comes", Since(noon), full, chunks{since: plainChunk(107, 2), last: plainChunk(107, 2), at(100): plainChunk(100, 5)}, at(100), 104, []seen{{100, 104}}, []seen{{105, 105}}},
		{"since, of empty", Since(noon), Stats{Empty: true}, nil, at(0), BeforeFirst, nil, []seen{{0, 0}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			b, err := test.start.begin(test.now, func(spec wire.OffsetSpec) (*wire.Chunk, error) { return test.has[spec], nil })
			if must(t, err); test.start.moves() && b.before != test.before {
				t.Errorf("stores %d, want %d", b.before, test.before)
			}
			r := aloneRun(t, ConsumerConfig{})
			r.beginWith(b)
			p := r.place.Next()
			if p.Spec != test.spec {
				t.Errorf("begins with %v, want %v", p.Spec, test.spec)
			}
			if r.place.Resume(); r.place.Next() != p {
				t.Errorf("goes on with %+v, want %+v", r.place.Next(), p)
			}
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
			if test.start.moves() && !test.now.Empty {
				_, err = test.start.begin(test.now, func(wire.OffsetSpec) (*wire.Chunk, error) { return nil, errTest })
				wantErr(t, err, errTest)
			}
		})
	}
}

func delivered(p mark.Position, chunk, offset uint64) bool {
	return p.Wants(&wire.Chunk{ChunkHeader: wire.ChunkHeader{FirstOffset: chunk}}) && (offset >= p.From)
}
