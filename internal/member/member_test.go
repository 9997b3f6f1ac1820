package member

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// answers takes what may leave. A place is "place", no place "none".
func answers(m *Member) (list []string) {
	for {
		begins, ok := m.Answer()
		switch {
		case !ok:
			return list
		case begins:
			list = append(list, "place")
		default:
			list = append(list, "none")
		}
	}
}

func wantAnswers(t *testing.T, m *Member, want ...string) {
	t.Helper()
	if got := answers(m); !slices.Equal(got, want) {
		t.Errorf("answers %q, want %q", got, want)
	}
}

// promoted returns a member that is active.
func promoted(t *testing.T) *Member {
	t.Helper()
	m := &Member{}
	if m.Ordered(true) || !m.Begin() || !m.Activate() {
		t.Fatal("a member that is promoted is not active")
	}
	wantAnswers(t, m, "place")
	return m
}

func TestTerm(t *testing.T) {
	m := promoted(t)
	if !m.Serves() || !m.MayStore() {
		t.Error("it does not serve")
	}
	if !m.Ordered(false) || m.Serves() || !m.MayStore() {
		t.Error("a step-down does not end the taking, or ends the storing")
	}
	wantAnswers(t, m)
	m.Close()
	wantAnswers(t, m, "none")
	if m.MayStore() || !m.Waits() {
		t.Error("a term that is closed stores")
	}
}

// A promotion that a step-down follows before a term has begun begins none.
func TestPromotionIsOvertaken(t *testing.T) {
	var m Member
	m.Ordered(true)
	if m.Ordered(false) || m.Begin() {
		t.Error("a term begins that is over")
	}
	wantAnswers(t, &m, "none", "none")
	m.Ordered(true)
	if !m.Begin() {
		t.Error("the next promotion begins no term")
	}
}

// A step-down while the place is looked up makes the promotion's answer one
// without a place, and neither leaves before the term is closed.
func TestStepDownWhilePreparing(t *testing.T) {
	var m Member
	m.Ordered(true)
	m.Begin()
	if !m.Ordered(false) || m.Activate() {
		t.Error("the term goes on")
	}
	wantAnswers(t, &m)
	m.Close()
	wantAnswers(t, &m, "none", "none")
}

func TestLate(t *testing.T) {
	m := promoted(t)
	m.Ordered(false)
	if !m.Late() || m.MayStore() {
		t.Error("a late step-down is no overlap, or something is stored after it")
	}
	wantAnswers(t, m, "none")
	m.Ordered(true) // the broker chooses it again
	if m.Begin() {
		t.Error("a term begins beside another")
	}
	wantAnswers(t, m)
	m.Close()
	if wantAnswers(t, m); !m.Begin() || !m.MayStore() {
		t.Error("the next term does not begin")
	}
	var waits Member
	waits.Ordered(true)
	if waits.Late() {
		t.Error("a member without a term overlaps")
	}
}

// Only a step-down that waits for its answer can be late, and a term that is over
// is not over once more.
func TestNothingIsLate(t *testing.T) {
	m := promoted(t)
	if m.Late() || !m.MayStore() || !m.Serves() {
		t.Error("a member that is not told to step down is late")
	}
	if !m.Ordered(false) || m.Ordered(false) {
		t.Error("a step-down ends no term, or its repetition ends one more")
	}
	if !m.Late() {
		t.Error("a late step-down is no overlap")
	}
	m.Ordered(false)
	if m.Late() {
		t.Error("a term that is over overlaps once more")
	}
	wantAnswers(t, m, "none", "none", "none")
	m = promoted(t)
	m.Ordered(false)
	m.Lose()
	if m.Late() {
		t.Error("a lost member is late")
	}
}

func TestLose(t *testing.T) {
	m := promoted(t)
	if !m.Lose() || m.MayStore() || m.Serves() {
		t.Error("a lost term goes on")
	}
	if m.Lose() {
		t.Error("it is lost twice")
	}
	m.Ordered(false)
	m.Close()
	wantAnswers(t, m)
	if m.Begin() {
		t.Error("a lost member begins a term")
	}
}

// A model of a group: a broker that promotes as RabbitMQ does, members that take
// any time for each step, lose their connections and are late. At no time do two
// members take messages, or store, unless one of them was lost or late; each order
// has one answer, in order; and what is closed is answered.
func TestModel(t *testing.T) {
	for seed := range uint64(2000) {
		play(t, rand.New(rand.NewPCG(seed, 1)), seed)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// modelMember is a member and what the broker thinks of it.
type modelMember struct {
	Member
	owed    []bool // what the broker has said and has no answer to
	placed  int    // answers with a place of the current term
	there   bool   // the broker has its subscription
	exposed bool   // it was lost or late in this term: others may be beside it
	inTerm  bool
}

type modelBroker struct {
	t        *testing.T
	members  []*modelMember
	active   *modelMember
	stepping *modelMember
}

func (b *modelBroker) say(m *modelMember, active bool) {
	m.owed = append(m.owed, active)
	m.Ordered(active)
}

// choose makes a random member the active one, as a change of members does.
func (b *modelBroker) choose(r *rand.Rand) {
	var there []*modelMember
	for _, m := range b.members {
		if m.there {
			there = append(there, m)
		}
	}
	if len(there) == 0 || b.stepping != nil {
		return
	}
	next := there[r.IntN(len(there))]
	switch {
	case next == b.active:
	case b.active != nil:
		b.stepping, b.active = b.active, nil
		b.say(b.stepping, false)
	default:
		b.active = next
		b.say(next, true)
	}
}

// leave removes a member from the broker.
func (b *modelBroker) leave(m *modelMember) {
	m.there, m.owed = false, nil
	if b.active == m {
		b.active = nil
	}
	if b.stepping == m {
		b.stepping = nil
	}
}

func (b *modelBroker) answers(r *rand.Rand, m *modelMember) {
	for {
		begins, ok := m.Answer()
		if !ok {
			return
		}
		if !m.there {
			continue
		}
		if len(m.owed) == 0 {
			b.t.Error("an answer to nothing")
			return
		}
		said := m.owed[0]
		m.owed = m.owed[1:]
		if begins && !m.Serves() {
			b.t.Error("a place in answer to a promotion whose term is over")
		}
		if begins {
			if m.placed++; !said || m.placed > 1 {
				b.t.Errorf("a place in answer to %v, the %d. of its term", said, m.placed)
			}
		}
		if !said && b.stepping == m {
			b.stepping = nil
			b.choose(r)
		}
	}
}

// check looks at all members at once.
func (b *modelBroker) check() {
	takes, stores := 0, 0
	for _, m := range b.members {
		if m.Serves() && !m.exposed {
			takes++
		}
		if m.MayStore() && m.there {
			stores++
		}
		if m.MayStore() && m.exposed {
			b.t.Error("a term that is over stores")
		}
		if m.Serves() && m.there && m != b.active && len(m.owed) == 0 {
			b.t.Error("it serves, and the broker has another one")
		}
	}
	if takes > 1 || stores > 1 {
		b.t.Errorf("%d members take messages, %d store", takes, stores)
	}
}

func play(t *testing.T, r *rand.Rand, seed uint64) {
	b := &modelBroker{t: t}
	for range 3 {
		b.members = append(b.members, &modelMember{there: true})
	}
	for range 200 {
		m := b.members[r.IntN(len(b.members))]
		switch r.IntN(9) {
		case 0, 1:
			b.choose(r)
		case 2, 3:
			if m.Begin() {
				m.inTerm, m.placed, m.exposed = true, 0, false
			}
		case 4:
			m.Activate()
		case 5:
			if m.inTerm && !m.Serves() || r.IntN(3) == 0 && m.inTerm {
				m.End()
				m.Close()
				m.inTerm, m.exposed = false, false
			}
		case 6:
			if r.IntN(4) == 0 && m.there {
				b.leave(m)
				if m.Lose() {
					m.exposed = true
				}
			}
		case 7:
			if r.IntN(4) == 0 && m.Late() {
				m.exposed = true
			}
		case 8:
			if !m.there && !m.inTerm {
				*m = modelMember{there: true}
			}
		}
		b.answers(r, m)
		b.check()
	}
	for _, m := range b.members {
		if m.there && m.inTerm {
			m.End()
			m.Close()
			m.inTerm = false
		}
		b.answers(r, m)
		if m.there && len(m.owed) > 1 {
			t.Errorf("%d answers are owed by a member without a term", len(m.owed))
		}
	}
}

// A vigil looks after a step-down alone, until somebody stores, and waits longer
// each time.
func TestVigil(t *testing.T) {
	var v Vigil
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	look := func(stored uint64, wait bool) bool {
		now = now.Add(LookEvery)
		return v.Look(stored, wait, now, 0)
	}
	for range 100 {
		if look(1, true) {
			t.Fatal("it joins anew without a step-down")
		}
	}
	v.SteppedDown()
	for range 100 {
		if look(1, false) {
			t.Fatal("it joins anew while no message waits")
		}
	}
	var pauses []int
	for range 4 {
		n := 1
		for !look(1, true) {
			n++
		}
		pauses = append(pauses, n)
	}
	// The first look after it has joined anew only takes note of the offset.
	if want := []int{3, 1 + 6, 1 + 12, 1 + 24}; !slices.Equal(pauses, want) {
		t.Errorf("it joined anew after %v looks, want %v", pauses, want)
	}
	look(1, true)
	if look(2, true) || v.Looks() {
		t.Error("it looks on when somebody stores")
	}
	v.SteppedDown()
	if v.Promoted(); v.Looks() {
		t.Error("it looks on when it is promoted")
	}
}

// Members that wait alike do not all join anew at the same look: jitter makes the
// next wait up to half as long again.
func TestVigilJitter(t *testing.T) {
	var v Vigil
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	v.SteppedDown()
	for _, want := range []int{4, 1 + 9} {
		n := 1
		for ; !v.Look(1, true, now, 1); n++ {
			now = now.Add(LookEvery)
		}
		if n != want {
			t.Errorf("it joined anew after %d looks, want %d", n, want)
		}
		now = now.Add(LookEvery)
	}
}

// However often a member has joined anew, and whatever the jitter is, it waits no
// longer than half as long again as the longest pause.
func TestVigilPatienceIsBounded(t *testing.T) {
	var v Vigil
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	v.SteppedDown()
	for round := range 50 {
		since := now
		for !v.Look(1, true, now, 1) {
			now = now.Add(LookEvery)
		}
		if waited := now.Sub(since); waited > maxPatience*3/2+LookEvery {
			t.Fatalf("it waited %v before it joined anew for the %d. time", waited, round+1)
		}
		now = now.Add(LookEvery)
	}
}

// A promotion is doubtful if a repeated step-down may still be on its way to the
// broker, and only then.
func TestDoubtful(t *testing.T) {
	for name, tt := range map[string]struct {
		play func(m *Member)
		want bool
	}{
		"promoted":            {func(m *Member) {}, false},
		"told once":           {func(m *Member) { m.Ordered(false) }, false},
		"told twice":          {func(m *Member) { m.Ordered(false); m.Ordered(false) }, true},
		"told twice, settled": {func(m *Member) { m.Ordered(false); m.Ordered(false); answersOf(m); m.Settle(m.Unsettled()) }, false},
		"told again after it was asked": {func(m *Member) {
			m.Ordered(false)
			m.Ordered(false)
			answersOf(m)
			n := m.Unsettled()
			m.Ordered(false)
			m.Settle(n)
		}, true},
		"settled for an earlier term": {func(m *Member) { m.Settle(5); m.Ordered(false); m.Ordered(false) }, true},
		"told once in each of two":    {func(m *Member) { m.Ordered(false); m.Ordered(true); m.Ordered(false) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			var m Member
			tt.play(&m)
			m.Ordered(true)
			if got := m.Doubtful(); got != tt.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

func answersOf(m *Member) { m.Close(); answers(m) }

// There is nothing to settle before the answers have left, nor a second time.
func TestUnsettled(t *testing.T) {
	m := promoted(t)
	m.Ordered(false)
	m.Ordered(false)
	if n := m.Unsettled(); n != 0 {
		t.Errorf("%d before the answers have left", n)
	}
	m.Close()
	wantAnswers(t, m, "none", "none")
	if n := m.Unsettled(); n != 2 {
		t.Errorf("%d once the answers have left", n)
	}
	m.Settle(2)
	if n := m.Unsettled(); n != 0 {
		t.Errorf("%d once they are settled", n)
	}
}
