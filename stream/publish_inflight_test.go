package stream

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"
)

// ledger notes the outcome of each message by its id.
type ledger map[uint64][]error

func (l ledger) add(t *testing.T, f *inflight, id uint64, body string) uint64 {
	t.Helper()
	if id == 0 {
		id = f.last() + 1
	}
	if _, err := f.add(slot{id: id, body: []byte(body), done: func(err error) { l[id] = append(l[id], err) }}); err != nil {
		t.Fatal(err)
	}
	return id
}

// testInflight has room for everything; a slot's done gets its outcome.
func testInflight() *inflight {
	return newInflight(math.MaxInt, math.MaxInt, func(s *slot, err error) { s.done(err) })
}

func ids(slots []*slot) (out []uint64) {
	for _, s := range slots {
		out = append(out, s.id)
	}
	return out
}

func TestInflightIDs(t *testing.T) {
	f, l := testInflight(), ledger{}
	f.raise(10)
	f.raise(5) // never back
	if _, err := f.add(slot{done: func(error) {}}); err != nil || f.last() != 11 {
		t.Errorf("after 10 comes %d: %v", f.last(), err)
	}
	l.add(t, f, 20, "")
	for _, id := range []uint64{20, 19, 1} {
		if _, err := f.add(slot{id: id}); !errors.Is(err, ErrInvalidMessage) {
			t.Errorf("id %d after 20: %v", id, err)
		}
	}
	if _, err := f.add(slot{done: func(error) {}}); err != nil || f.last() != 21 {
		t.Errorf("after 20 comes %d: %v", f.last(), err)
	}
	f.close(ErrClosed)
	f.close(ErrStreamDeleted)
	if _, err := f.add(slot{}); !errors.Is(err, ErrClosed) || !errors.Is(f.refusal(), ErrClosed) {
		t.Errorf("after close: %v, refusal %v", err, f.refusal())
	}
}

func TestInflightTake(t *testing.T) {
	f, l := testInflight(), ledger{}
	for range 5 {
		l.add(t, f, 0, "12345678")
	}
	size := 8 + messageOverhead
	if got := ids(f.takeInto(nil, 2, math.MaxInt)); !slices.Equal(got, []uint64{1, 2}) {
		t.Errorf("two messages are %v", got)
	}
	if got := ids(f.takeInto(nil, 9, 2*size)); !slices.Equal(got, []uint64{3, 4}) {
		t.Errorf("what fits into the size of two is %v", got)
	}
	if got := ids(f.takeInto(nil, 9, size-1)); !slices.Equal(got, []uint64{5}) {
		t.Errorf("a message above the size comes alone, got %v", got)
	}
	if got := f.takeInto(nil, 9, math.MaxInt); got != nil {
		t.Errorf("everything is sent, got %v", ids(got))
	}
	if f.sent() != 5 {
		t.Errorf("%d are sent", f.sent())
	}
	f.settle(nil, 2)
	f.settle(nil, 3)
	f.resend()
	if f.sent() != 0 {
		t.Errorf("%d are sent on the new connection", f.sent())
	}
	if got := ids(f.takeInto(nil, 9, math.MaxInt)); !slices.Equal(got, []uint64{1, 4, 5}) {
		t.Errorf("sent again: %v, want what has no outcome", got)
	}
}

func TestInflightSettleOnce(t *testing.T) {
	f, l := testInflight(), ledger{}
	for range 4 {
		l.add(t, f, 0, "x")
	}
	refused := errors.New("refused")
	for _, s := range []struct {
		id  uint64
		err error
		did bool
	}{{3, nil, true}, {3, refused, false}, {99, nil, false}, {0, nil, false}, {1, refused, true}} {
		if did := f.settle(s.err, s.id) == 1; did != s.did {
			t.Errorf("settling %d: %v, want %v", s.id, did, s.did)
		}
	}
	if n := f.settleAll(ErrUnconfirmed); n != 2 || f.settleAll(ErrUnconfirmed) != 0 {
		t.Errorf("the rest were %d", n)
	}
	want := ledger{1: {refused}, 2: {ErrUnconfirmed}, 3: {nil}, 4: {ErrUnconfirmed}}
	if fmt.Sprint(l) != fmt.Sprint(want) {
		t.Errorf("outcomes %v, want %v", l, want)
	}
}

func TestInflightReached(t *testing.T) {
	f, l := testInflight(), ledger{}
	if ok, _ := f.reached(math.MaxUint64); !ok {
		t.Error("nothing was accepted, and something is waited for")
	}
	for range 3 {
		l.add(t, f, 0, "")
	}
	f.settle(nil, 2)
	ok, moved := f.reached(1)
	if ok {
		t.Error("1 has no outcome")
	}
	f.settle(nil, 1)
	select {
	case <-moved:
	default:
		t.Error("who waited for 1 is not woken")
	}
	for id, want := range map[uint64]bool{0: true, 1: true, 2: true, 3: false, 4: false} {
		if ok, _ := f.reached(id); ok != want {
			t.Errorf("reached(%d) = %v", id, ok)
		}
	}
}

// TestInflightOutcomeBeforeReached: who is told that everything has its
// outcome must not be able to end what the outcome is given to.
func TestInflightOutcomeBeforeReached(t *testing.T) {
	f := testInflight()
	_, _ = f.reached(1)
	told := false
	asking := make(chan (<-chan struct{}), 1)
	if _, err := f.add(slot{done: func(error) {
		select {
		case <-<-asking:
			t.Error("Flush was let go before the message had its outcome")
		default:
		}
		told = true
	}}); err != nil {
		t.Fatal(err)
	}
	_, moved := f.reached(1)
	asking <- moved
	f.settle(nil, 1)
	if !told {
		t.Error("no outcome")
	}
}

func TestInflightBounds(t *testing.T) {
	f := newInflight(3, 100, func(*slot, error) {})
	add := func(n int) <-chan struct{} {
		t.Helper()
		wait, err := f.add(slot{body: make([]byte, n)})
		if err != nil {
			t.Fatal(err)
		}
		return wait
	}
	if add(1000) != nil {
		t.Error("a message larger than the bound does not go alone")
	}
	wait := add(0)
	if wait == nil {
		t.Fatal("another one went with it")
	}
	f.settle(nil, 1)
	select {
	case <-wait:
	default:
		t.Error("who waits for room is not told of it")
	}
	if add(60) != nil || add(40) != nil || add(1) == nil {
		t.Error("100 bytes do not fit, or 101 do")
	}
	f.settle(nil, 2)
	for range 2 {
		if add(0) != nil {
			t.Error("three messages do not fit")
		}
	}
	wait = add(0)
	f.close(ErrClosed)
	<-wait
	if _, err := f.add(slot{}); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

// TestInflightFilters: messages with and without a filter value never go
// together.
func TestInflightFilters(t *testing.T) {
	f := testInflight()
	for _, filter := range []string{"", "", "a", "b", "", "c"} {
		if _, err := f.add(slot{filter: filter, done: func(error) {}}); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range [][]uint64{{1, 2}, {3, 4}, {5}, {6}, nil} {
		if got := ids(f.takeInto(nil, 9, math.MaxInt)); !slices.Equal(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
	}
}

// TestInflightSettleUnknown: an id that was not given out has no outcome,
// wherever it lies, and the others keep theirs.
func TestInflightSettleUnknown(t *testing.T) {
	f, l := testInflight(), ledger{}
	for _, id := range []uint64{5, 6, 7, 20, 22, 23} {
		l.add(t, f, id, "x")
	}
	for _, id := range []uint64{0, 1, 4, 8, 10, 11, 12, 19, 21, 24, 25, 26, 1000, math.MaxInt64, math.MaxUint64} {
		if f.settle(nil, id) != 0 || len(l) != 0 {
			t.Fatalf("settling the unknown id %d: outcomes %v", id, l)
		}
	}
	for i, id := range []uint64{23, 20, 6, 22, 7, 5} {
		if f.settle(nil, id) != 1 || len(l[id]) != 1 || len(l) != i+1 {
			t.Fatalf("settling %d: outcomes %v", id, l)
		}
	}
	if f.open != 0 || f.bytes != 0 || len(f.slots) != 0 {
		t.Errorf("left: %d messages, %d bytes, %d slots", f.open, f.bytes, len(f.slots))
	}
}

// TestInflightSettleBehindTheLast: one above the last is unknown where all ids
// follow each other, too.
func TestInflightSettleBehindTheLast(t *testing.T) {
	f, l := testInflight(), ledger{}
	for range 3 {
		l.add(t, f, 0, "")
	}
	if f.settle(nil, 4) != 0 || f.settle(nil, 3, 4, 1, 0) != 2 || len(l) != 2 {
		t.Errorf("outcomes %v, want those of 1 and 3", l)
	}
}

// TestInflightLetsGo: what has its outcome is not kept in memory, and what is
// sent stays sent.
func TestInflightLetsGo(t *testing.T) {
	f, l := testInflight(), ledger{}
	for range 4 {
		l.add(t, f, 0, "x")
	}
	f.takeInto(nil, 3, math.MaxInt)
	all := f.slots
	f.settle(nil, 1, 2)
	if all[0] != nil || all[1] != nil || len(f.slots) != 2 || f.sent() != 1 {
		t.Errorf("slots %v, %d sent; want the first two gone and one sent", all, f.sent())
	}
	if got := ids(f.takeInto(nil, 9, math.MaxInt)); !slices.Equal(got, []uint64{4}) {
		t.Errorf("sent next: %v, want 4 alone", got)
	}
	f.resend()
	f.settle(nil, 3)
	if got := ids(f.takeInto(nil, 9, math.MaxInt)); !slices.Equal(got, []uint64{4}) {
		t.Errorf("sent again: %v, want 4 alone", got)
	}
}

// TestInflightGoesOnTaking: takeInto appends, and what is in out counts.
func TestInflightGoesOnTaking(t *testing.T) {
	f, l := testInflight(), ledger{}
	for range 3 {
		l.add(t, f, 0, "x")
	}
	out := f.takeInto(nil, 1, math.MaxInt)
	if out = f.takeInto(out, 1, math.MaxInt); len(out) != 1 {
		t.Errorf("%d messages, want one", len(out))
	}
	if out = f.takeInto(out, 3, 0); len(out) != 1 {
		t.Errorf("%d messages, though there is no room behind the first", len(out))
	}
	if out = f.takeInto(out, 3, math.MaxInt); !slices.Equal(ids(out), []uint64{1, 2, 3}) {
		t.Errorf("took %v", ids(out))
	}
}

func TestSlotSize(t *testing.T) {
	for _, test := range []struct {
		s    slot
		want int
	}{
		{slot{}, messageOverhead},
		{slot{body: make([]byte, 5)}, messageOverhead + 5},
		{slot{body: make([]byte, 5), filter: "abc"}, messageOverhead + 5 + 2 + 3},
	} {
		if got := test.s.size(); got != test.want {
			t.Errorf("%d bytes with the filter value %q add %d to a frame, want %d", len(test.s.body), test.s.filter, got, test.want)
		}
	}
}

// TestInflightMemory: small messages share memory, and no large one keeps it.
func TestInflightMemory(t *testing.T) {
	f, l := testInflight(), ledger{}
	l.add(t, f, 0, string(make([]byte, slabBody+1)))
	if f.slab != nil {
		t.Error("a large message has its slot among others")
	}
	for i := range slabSlots + 1 {
		l.add(t, f, 0, string(make([]byte, slabBody)))
		if want := (2*slabSlots - 1 - i) % slabSlots; len(f.slab) != want {
			t.Fatalf("%d slots are left after %d, want %d", len(f.slab), i+1, want)
		}
	}
	if b := f.encodePlain(make([]byte, slabBody-8+1)); len(b) != slabBody+1 || f.arena != nil {
		t.Errorf("a large message of %d bytes shares its memory", len(b))
	}
	const n = arenaBytes / slabBody
	for i := range n {
		if b := f.encodePlain(make([]byte, slabBody-8)); len(b) != slabBody || cap(b) != slabBody || len(f.arena) != (i+1)*slabBody {
			t.Fatalf("message %d: %d bytes, room for %d, %d taken", i, len(b), cap(b), len(f.arena))
		}
	}
	if f.encodePlain([]byte("x")); len(f.arena) != 6 || cap(f.arena) != arenaBytes {
		t.Errorf("the next block has %d of %d bytes", len(f.arena), cap(f.arena))
	}
}

// FuzzInflight plays accepting, sending, confirming, losing the connection and
// failing against a list of what is open.
func FuzzInflight(f *testing.F) {
	f.Add([]byte{0, 0, 0, 1, 2, 3, 2, 1, 4, 1, 0, 1, 2, 2, 5})
	f.Add([]byte{0, 1, 4, 1, 2, 5, 5, 0, 1})
	f.Fuzz(func(t *testing.T, steps []byte) {
		fl, l := testInflight(), ledger{}
		var open []uint64 // in the order of ids
		sent := map[uint64]bool{}
		for i, step := range steps {
			arg := int(step) / 6
			switch step % 6 {
			case 0:
				id := uint64(0)
				if arg%3 == 2 {
					id = fl.last() + uint64(arg)
				}
				open = append(open, l.add(t, fl, id, "body"))
			case 1:
				for _, s := range fl.takeInto(nil, arg%4, 40) {
					if sent[s.id] || !slices.Contains(open, s.id) {
						t.Fatalf("step %d: %d was sent twice, or settled", i, s.id)
					}
					sent[s.id] = true
				}
			case 2:
				if len(open) > 0 {
					id := open[arg%len(open)]
					if fl.settle(nil, id) != 1 || fl.settle(nil, id) != 0 {
						t.Fatalf("step %d: %d was not settled once", i, id)
					}
					open = slices.DeleteFunc(open, func(o uint64) bool { return o == id })
				}
			case 3:
				fl.settle(nil, uint64(arg)+1000)
			case 4:
				fl.resend()
				sent = map[uint64]bool{}
			case 5:
				if n := fl.settleAll(ErrUnconfirmed); n != len(open) {
					t.Fatalf("step %d: %d were open, want %d", i, n, len(open))
				}
				open = nil
			}
			checkInflight(t, fl, open, sent)
		}
		fl.settleAll(ErrUnconfirmed)
		for id := range l {
			if len(l[id]) != 1 {
				t.Fatalf("message %d has the outcomes %v", id, l[id])
			}
		}
	})
}

func checkInflight(t *testing.T, f *inflight, open []uint64, sent map[uint64]bool) {
	t.Helper()
	n := 0
	for _, id := range open {
		if sent[id] {
			n++
		}
	}
	if f.sent() != n {
		t.Fatalf("sent() = %d, want %d", f.sent(), n)
	}
	if ok, _ := f.reached(math.MaxUint64); ok != (len(open) == 0) {
		t.Fatalf("reached the end: %v with %v open", ok, open)
	}
	if len(open) > 0 {
		before, _ := f.reached(open[0] - 1)
		if at, _ := f.reached(open[0]); !before || at {
			t.Fatalf("the first open one is %d: reached before it %v, reached it %v", open[0], before, at)
		}
	}
}
