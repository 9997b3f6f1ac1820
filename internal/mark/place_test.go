package mark

import (
	"testing"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// beginLast begins with the last chunk, which is 100.
func beginLast(p *Place) { p.Begin(AtLast(), AtOffset(100)) }

func beginAt(position Position) func(*Place) {
	return func(p *Place) { p.Begin(position, position) }
}

func beginAfterStored(offset uint64) func(*Place) {
	return func(p *Place) { p.BeginAfterStored(offset) }
}

// read is what a session does with a chunk.
type read struct {
	chunk   uint64 // first offset of the chunk it receives
	handled uint64 // the last offset that it handles of that chunk; 0: none
}

// A session begins, reads and ends. The next one begins where its place says.
func TestPlaceSessions(t *testing.T) {
	const none = 1 << 62 // no chunk to recognise the stream by
	after := func(asked, after uint64) Position {
		return Position{Spec: askFor(asked), afterChunk: after, hasAfterChunk: true}
	}
	from := func(asked, from uint64) Position { return Position{Spec: askFor(asked), From: from} }
	for _, test := range []struct {
		name   string
		begin  func(*Place)
		reads  []read
		first  Position // where the session begins
		then   Position // where it goes on
		again  Position // where the next one begins
		resume uint64   // the chunk that the stream is recognised by
	}{
		{"last, and nothing came", beginLast, nil, AtLast(), AtLast(), AtOffset(100), none},
		{"last, not handled", beginLast, []read{{100, 0}}, AtLast(), AtLast(), AtOffset(100), none},
		{"last, handled", beginLast, []read{{100, 104}}, AtLast(), from(100, 105), from(100, 105), 100},
		{"first, not handled", beginAt(AtFirst()), []read{{0, 0}, {10, 0}}, AtFirst(), AtFirst(), AtFirst(), none},
		{"first, handled", beginAt(AtFirst()), []read{{0, 9}, {10, 10}, {20, 0}}, AtFirst(), from(10, 11), from(10, 11), 10},

		{"offset, in a chunk", beginAt(AtOffset(105)), []read{{100, 0}, {110, 0}}, AtOffset(105), AtOffset(105), from(100, 105), 100},
		{"offset, a chunk's last", beginAt(AtOffset(109)), []read{{100, 0}}, AtOffset(109), AtOffset(109), from(100, 109), 100},
		{"offset, behind a chunk", beginAt(AtOffset(101)), []read{{100, 0}}, AtOffset(101), AtOffset(101), from(100, 101), 100},
		{"offset, a chunk's first", beginAt(AtOffset(100)), []read{{100, 0}}, AtOffset(100), AtOffset(100), AtOffset(100), none},
		{"offset, removed", beginAt(AtOffset(99)), []read{{100, 0}}, AtOffset(99), AtOffset(99), AtOffset(99), none},
		{"offset, to come", beginAt(AtOffset(300)), []read{{100, 0}, {110, 0}}, AtOffset(300), AtOffset(300), from(100, 300), 100},

		{"next, its chunk", beginAt(AfterChunk(100)), []read{{100, 0}, {110, 0}}, after(100, 100), after(100, 100), after(100, 100), 100},
		{"next, another chunk", beginAt(AfterChunk(100)), []read{{110, 0}}, after(100, 100), after(100, 100), after(110, 100), 110},
		{"next after chunk 0", beginAt(AfterChunk(0)), []read{{0, 0}}, after(0, 0), after(0, 0), after(0, 0), 0},
		{"next, handled", beginAt(AfterChunk(100)), []read{{100, 0}, {110, 113}}, after(100, 100), from(110, 114), from(110, 114), 110},

		{"stored, its chunk", beginAfterStored(104), []read{{100, 0}, {110, 0}}, from(104, 105), from(104, 105), from(100, 105), 100},
		{"stored, a chunk's last", beginAfterStored(109), []read{{100, 0}}, from(109, 110), from(109, 110), from(100, 110), 100},
		{"stored, removed", beginAfterStored(99), []read{{100, 0}}, from(99, 100), from(99, 100), from(99, 100), none},
		{"before the first", beginAfterStored(BeforeFirst), []read{{0, 0}, {10, 0}}, AtOffset(0), AtOffset(0), AtOffset(0), none},
		{"before the first, handled", beginAfterStored(BeforeFirst), []read{{0, 3}}, AtOffset(0), from(0, 4), from(0, 4), 0},
		{"stored, handled", beginAfterStored(104), []read{{100, 109}}, from(104, 105), from(100, 110), from(100, 110), 100},
	} {
		t.Run(test.name, func(t *testing.T) {
			var p Place
			if p.Begun() || p.MustRecognise() {
				t.Fatalf("the zero Place has begun: %+v", p)
			}
			test.begin(&p)
			if !p.Begun() || p.MustRecognise() {
				t.Errorf("begun %v, must recognise %v", p.Begun(), p.MustRecognise())
			}
			if p.Next() != test.first {
				t.Errorf("begins at %+v, want %+v", p.Next(), test.first)
			}
			for _, r := range test.reads {
				if !p.Receive(chunk(r.chunk)) {
					t.Errorf("chunk %d is not of the stream", r.chunk)
				}
				if r.handled > 0 {
					p.HandledTo(r.handled, id(r.chunk))
				}
			}
			if p.Next() != test.then {
				t.Errorf("goes on at %+v, want %+v", p.Next(), test.then)
			}
			for range 2 { // a session that receives nothing changes nothing
				p.Resume()
				if p.Next() != test.again {
					t.Errorf("begins again at %+v, want %+v", p.Next(), test.again)
				}
			}
			if p.MustRecognise() != (test.resume != none) {
				t.Errorf("must recognise: %v", p.MustRecognise())
			}
			if p.MustRecognise() && p.ResumeChunk() != id(test.resume) {
				t.Errorf("recognises the stream by %+v, want chunk %d", p.ResumeChunk(), test.resume)
			}
		})
	}
}

// A second session begins with an earlier chunk than the place. That is not
// where the third begins.
func TestPlaceSecondSessionKeepsThePlace(t *testing.T) {
	var p Place
	p.Begin(AtFirst(), AtFirst())
	p.Receive(chunk(50))
	p.HandledTo(104, id(100))
	p.Resume()
	for _, first := range []uint64{90, 100, 110} {
		if !p.Receive(chunk(first)) {
			t.Errorf("chunk %d is not of the stream", first)
		}
	}
	p.Resume()
	if want := (Position{Spec: askFor(100), From: 105}); p.Next() != want || p.ResumeChunk() != id(100) {
		t.Errorf("begins at %+v behind %+v, want %+v", p.Next(), p.ResumeChunk(), want)
	}
}

// reading is a place that has received the chunks 50 and 200 and has handled
// everything up to offset 104.
func reading(t *testing.T) (p Place) {
	t.Helper()
	p.Begin(AtFirst(), AtFirst())
	for _, first := range []uint64{50, 200} {
		if !p.Receive(chunk(first)) {
			t.Fatalf("chunk %d is not of the stream", first)
		}
	}
	p.HandledTo(104, id(100))
	return p
}

func TestPlaceReceive(t *testing.T) {
	like := func(first, records uint64, of *wire.Chunk) *wire.Chunk {
		c := *of
		c.FirstOffset, c.Records = first, uint32(records)
		return &c
	}
	for _, test := range []struct {
		name  string
		chunk *wire.Chunk
		want  bool
	}{
		{"the oldest one", chunk(50), true},
		{"older than the oldest", chunk(40), true},
		{"between", chunk(70), true},
		{"the one to resume with", chunk(100), true},
		{"the newest", chunk(200), true},
		{"a newer one", chunk(210), true},

		{"foreign, before both", foreign(0), false},
		{"foreign, the oldest", foreign(50), false},
		{"foreign, between", foreign(70), false},
		{"foreign, the one to resume with", foreign(100), false},
		{"foreign, behind both", foreign(110), true}, // which nothing shows
		{"another one at the oldest", like(50, 10, chunk(51)), false},
		{"around the oldest", like(45, 10, chunk(45)), false},
		{"around the one to resume with", like(95, 10, chunk(95)), false},
		{"around the newest", like(195, 10, chunk(195)), true}, // nobody remembers it
		{"inside the oldest", like(51, 1, chunk(200)), false},
		{"behind the oldest", like(60, 1, chunk(60)), true},
		{"inside the one to resume with", like(101, 10, chunk(200)), false},
		{"at its last handled message", like(104, 10, chunk(200)), false},
		{"behind that", like(105, 10, chunk(200)), true}, // it may have ended there
	} {
		p := reading(t)
		if got := p.Receive(test.chunk); got != test.want {
			t.Errorf("%s: %v", test.name, got)
		}
		newest := uint64(200)
		if test.want {
			newest = max(newest, test.chunk.FirstOffset)
		}
		if p.Newest() != newest {
			t.Errorf("%s: the newest chunk is %d, want %d", test.name, p.Newest(), newest)
		}
	}
}

// A chunk that the run has received whole ends where its header says, whatever
// is handled of it.
func TestPlaceKnowsWhereItsChunkEnds(t *testing.T) {
	for name, begin := range map[string]func(*Place){
		"stored": beginAfterStored(104), "an offset": beginAt(AtOffset(105)), "next": beginAt(AfterChunk(100)),
	} {
		var p Place
		begin(&p)
		p.Receive(chunk(100))
		for _, handled := range []bool{false, true} {
			if handled {
				p.HandledTo(105, id(100))
			}
			for first, want := range map[uint64]bool{101: true, 106: true, 109: true, 110: false} {
				if got := p.Contradicts(foreign(first)); got != want {
					t.Errorf("%s, handled %v, a chunk at %d: %v", name, handled, first, got)
				}
			}
		}
	}
	var far Place // the chunk of its place never came
	far.Begin(AtOffset(300), AtOffset(300))
	far.Receive(chunk(100))
	if far.Contradicts(chunk(110)) || far.Contradicts(chunk(290)) {
		t.Error("a chunk before the place contradicts it")
	}
}

// Without a handled message the first chunk is all to know the stream by.
func TestPlaceReceiveBeforeAnythingIsHandled(t *testing.T) {
	var p Place
	p.Begin(AtFirst(), AtFirst())
	if !p.Receive(foreign(50)) {
		t.Error("a stream was recognised before it was read")
	}
	if p.Receive(chunk(50)) {
		t.Error("another chunk at the offset of the first one was taken")
	}
	if p.MustRecognise() || !p.Recognises(chunk(0)) {
		t.Error("nothing was handled, and the stream has to be recognised")
	}
	p.Resume()
	if p.Next() != AtFirst() {
		t.Errorf("begins again at %+v", p.Next())
	}
}

func TestPlaceRecognises(t *testing.T) {
	for _, test := range []struct {
		first uint64
		want  bool
	}{
		{0, false}, {50, false}, {90, false}, {99, false}, {100, true}, {101, true}, {110, true}, {300, true},
	} {
		p := reading(t)
		if got := p.Recognises(chunk(test.first)); got != test.want {
			t.Errorf("chunk %d: %v", test.first, got)
		}
	}
}

func TestPlaceLost(t *testing.T) {
	oldest := func(offset uint64) Extent { return Extent{FirstOffset: offset, CommittedChunk: 1000} }
	type look struct {
		now  Extent
		lost uint64
	}
	for _, test := range []struct {
		name  string
		begin func(*Place)
		looks []look
	}{
		{"nothing removed", beginAfterStored(99), []look{{oldest(0), 0}, {oldest(99), 0}, {oldest(100), 0}}},
		{"one", beginAfterStored(99), []look{{oldest(101), 1}}},
		{"told once", beginAfterStored(99), []look{{oldest(101), 1}, {oldest(101), 0}}},
		{"more later", beginAfterStored(99), []look{{oldest(101), 1}, {oldest(150), 49}, {oldest(150), 0}, {oldest(151), 1}}},
		{"by another node", beginAfterStored(99), []look{{oldest(150), 50}, {oldest(120), 0}, {oldest(150), 0}, {oldest(152), 2}}},
		{"empty", beginAfterStored(99), []look{{Extent{Empty: true, FirstOffset: 150}, 0}, {oldest(150), 50}}},
		{"before the first", beginAfterStored(BeforeFirst), []look{{oldest(0), 0}, {oldest(3), 3}, {oldest(3), 0}}},
		{"nothing to follow", beginAt(AtOffset(100)), []look{{oldest(150), 0}, {oldest(200), 0}}},
		{"from the first", beginAt(AtFirst()), []look{{oldest(150), 0}}},
	} {
		var p Place
		test.begin(&p)
		for i, l := range test.looks {
			if lost := p.Lost(l.now); lost != l.lost {
				t.Errorf("%s: look %d: %d lost, want %d", test.name, i, lost, l.lost)
			}
		}
	}
}

func TestPlaceLostAfterHandled(t *testing.T) {
	var p Place
	p.Begin(AtOffset(100), AtOffset(100))
	for _, test := range []struct {
		handled, oldest, lost uint64
	}{
		{109, 110, 0},
		{109, 120, 10},
		{114, 120, 0}, // which came from a node that still had it
		{114, 125, 5}, // 120 to 124; the others were told
		{139, 135, 0}, // 139 was handled
		{139, 140, 0}, //
		{139, 141, 1}, // which is 140
		{139, 141, 0}, //
		{159, 163, 3}, // 160 to 162
		{159, 1000, 837},
	} {
		p.HandledTo(test.handled, id(test.handled/10*10))
		if lost := p.Lost(Extent{FirstOffset: test.oldest}); lost != test.lost {
			t.Errorf("handled %d, oldest %d: %d lost, want %d", test.handled, test.oldest, lost, test.lost)
		}
	}
}

// The place has read the chunks 50 to 200. A stream that reaches as far is not
// suspect.
func TestPlaceProbe(t *testing.T) {
	first := wire.OffsetSpec{Type: wire.OffsetFirst}
	for _, test := range []struct {
		name    string
		now     Extent
		spec    wire.OffsetSpec
		suspect bool
	}{
		{"empty", Extent{Empty: true}, wire.OffsetSpec{}, false},
		{"longer", Extent{CommittedChunk: 210}, wire.OffsetSpec{}, false},
		{"as long", Extent{CommittedChunk: 200}, wire.OffsetSpec{}, false},
		{"one shorter", Extent{CommittedChunk: 199}, askFor(100), true},
		{"to the one to resume with", Extent{CommittedChunk: 100}, askFor(100), true},
		{"before it", Extent{CommittedChunk: 99}, askFor(50), true},
		{"behind the oldest", Extent{CommittedChunk: 51}, askFor(50), true},
		{"to the oldest", Extent{CommittedChunk: 50}, askFor(50), true},
		{"not to the oldest", Extent{CommittedChunk: 49}, first, true},
		{"one chunk", Extent{CommittedChunk: 0}, first, true},
	} {
		p := reading(t)
		if spec, suspect := p.Probe(test.now); spec != test.spec || suspect != test.suspect {
			t.Errorf("%s: %+v, %v, want %+v, %v", test.name, spec, suspect, test.spec, test.suspect)
		}
	}
	var unread Place
	unread.Begin(AtOffset(300), AtOffset(300))
	if spec, suspect := unread.Probe(Extent{CommittedChunk: 100}); suspect {
		t.Errorf("a stream of which nothing was read is suspect: %+v", spec)
	}
}

// A session that begins again with earlier chunks does not make the stream that
// was read shorter.
func TestPlaceProbeAfterEarlierChunks(t *testing.T) {
	p := reading(t)
	p.Resume()
	for _, first := range []uint64{90, 100} {
		p.Receive(chunk(first))
	}
	if _, suspect := p.Probe(Extent{CommittedChunk: 190}); !suspect || p.Newest() != 200 {
		t.Errorf("suspect %v, the newest chunk is %d", suspect, p.Newest())
	}
}

func TestPlaceContradicts(t *testing.T) {
	for _, test := range []struct {
		name  string
		chunk *wire.Chunk
		want  bool
	}{
		{"the oldest one", chunk(50), false},
		{"before it", chunk(40), false},
		{"behind it, by retention", chunk(60), false},
		{"foreign, at the oldest", foreign(50), true},
		{"foreign, before it", foreign(0), true},
		{"foreign, behind it", foreign(60), true}, // which the one to resume with shows
		{"foreign, behind both", foreign(110), false},
	} {
		p := reading(t)
		if got := p.Contradicts(test.chunk); got != test.want {
			t.Errorf("%s: %v", test.name, got)
		}
	}
}

// TestPlaceJumps: only a run that follows a handled message expects a certain
// chunk, behind what was reported lost already.
func TestPlaceJumps(t *testing.T) {
	var first, stored Place
	first.Begin(AtFirst(), AtFirst())
	if got := first.Jumps(); got.expected {
		t.Errorf("a run from the first message expects %+v", got)
	}
	stored.BeginAfterStored(104)
	if got := stored.Jumps(); got.next != 105 || !got.expected {
		t.Errorf("a run behind offset 104 expects %+v", got)
	}
	stored.Told(120)
	if got := stored.Jumps(); got.next != 120 {
		t.Errorf("behind what was told it expects %+v", got)
	}
}
