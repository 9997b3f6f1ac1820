package mark

import (
	"slices"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// TestJumps: each step is a chunk of 10 messages and whether it leaves a gap.
func TestJumps(t *testing.T) {
	type step struct {
		first uint64
		gap   bool
	}
	for _, test := range []struct {
		name  string
		jumps Jumps
		age   time.Duration
		steps []step
		gaps  []Gap
	}{
		{"none", Jumps{}, 0, []step{{100, false}, {110, false}, {120, false}}, nil},
		{"expected, none", ExpectJumps(105), 0, []step{{100, false}, {110, false}}, nil},
		{"expected, and removed", ExpectJumps(50), 0, []step{{100, true}}, []Gap{{50, 99}}},
		{"between", Jumps{}, 0, []step{{100, false}, {127, true}, {137, false}}, []Gap{{110, 126}}},
		{"small, at the tail", Jumps{}, tailAge, []step{{100, false}, {126, false}}, nil},
		{"small, behind", Jumps{}, tailAge + 1, []step{{100, false}, {111, true}}, []Gap{{110, 110}}},
		{"small, clocks apart", Jumps{}, -tailAge - 1, []step{{100, false}, {111, true}}, []Gap{{110, 110}}},
		{"several", Jumps{}, time.Hour, []step{{0, false}, {20, true}, {40, true}}, []Gap{{10, 19}, {30, 39}}},
		{"a chunk again", Jumps{}, time.Hour, []step{{100, false}, {110, false}, {100, false}, {110, false}, {121, true}}, []Gap{{120, 120}}},
	} {
		j := test.jumps
		for _, s := range test.steps {
			now := func() time.Time { return noon.Add(test.age) }
			if got := j.Arrive(&wire.ChunkHeader{FirstOffset: s.first, Records: 10, Timestamp: noon.UnixMilli()}, now); got != s.gap {
				t.Errorf("%s: chunk %d leaves a gap: %v", test.name, s.first, got)
			}
		}
		if got := j.Take(); !slices.Equal(got, test.gaps) || len(j.Take()) > 0 {
			t.Errorf("%s: %v, want %v", test.name, got, test.gaps)
		}
	}
	var j Jumps
	for i := range uint64(maxGaps + 10) {
		j.Arrive(&wire.ChunkHeader{FirstOffset: 100 * i, Records: 10}, time.Now)
	}
	if got := j.Take(); len(got) != maxGaps || got[maxGaps-1].To != 100*(maxGaps+9)-1 {
		t.Errorf("%d gaps, the last is %v", len(got), got[len(got)-1])
	}
}

func TestLost(t *testing.T) {
	gaps := []Gap{{10, 19}, {30, 39}}
	for first, want := range map[uint64][]Gap{
		0: nil, 10: nil, 11: {{10, 10}}, 20: {{10, 19}}, 30: {{10, 19}}, 35: {{10, 19}, {30, 34}}, 40: gaps, 1000: gaps,
	} {
		if got := Lost(gaps, first); !slices.Equal(got, want) {
			t.Errorf("a stream that begins with %d has lost %v, want %v", first, got, want)
		}
	}
}

// TestGapsInCommon: what two lists of gaps have in common, both ends included.
func TestGapsInCommon(t *testing.T) {
	for _, test := range []struct{ a, b, want []Gap }{
		{[]Gap{{10, 20}}, nil, nil},
		{[]Gap{{10, 20}}, []Gap{{0, 9}, {21, 30}}, nil},
		{[]Gap{{10, 20}}, []Gap{{0, 10}, {20, 30}}, []Gap{{10, 10}, {20, 20}}},
		{[]Gap{{10, 20}, {30, 40}}, []Gap{{15, 35}}, []Gap{{15, 20}, {30, 35}}},
		{[]Gap{{10, 20}}, []Gap{{0, 30}}, []Gap{{10, 20}}},
	} {
		if got := Common(test.a, test.b); !slices.Equal(got, test.want) || Overlap(test.a, test.b) != (len(test.want) > 0) {
			t.Errorf("%v and %v have %v in common, want %v", test.a, test.b, got, test.want)
		}
	}
}

// TestFreshJumps go on at the same place and have no gap.
func TestFreshJumps(t *testing.T) {
	j := ExpectJumps(10)
	j.Arrive(&wire.ChunkHeader{FirstOffset: 100, Records: 5}, time.Now)
	if !j.Asks([]Gap{{50, 50}}) || j.Asks([]Gap{{100, 200}}) {
		t.Error("it does not know what is to be judged")
	}
	fresh := j.Fresh()
	if fresh.Next() != 105 || fresh.Asks([]Gap{{0, 200}}) {
		t.Errorf("%+v", fresh)
	}
	if !fresh.Arrive(&wire.ChunkHeader{FirstOffset: 200, Records: 1}, time.Now) || !fresh.Asks([]Gap{{105, 105}}) {
		t.Error("it does not expect a certain chunk")
	}
}
