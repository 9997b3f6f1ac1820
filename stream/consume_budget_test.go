package stream

import (
	"testing"
	"time"
)

// TestBudgetShares: members that want all they can get come to the same share,
// and leave one for the next.
func TestBudgetShares(t *testing.T) {
	for _, members := range []int{1, 2, 10, 100} {
		b := budget{total: 1 << 30}
		claims := make([]int64, members)
		for range 50 * members {
			for i := range claims {
				b.change(&claims[i], b.allowance(claims[i]))
			}
		}
		fair := b.total / int64(members+1)
		for i, claim := range claims {
			if claim < fair*99/100 || claim > fair*101/100 {
				t.Errorf("member %d of %d has %d bytes, want about %d", i, members, claim, fair)
			}
		}
		if free := b.total - b.claimed; free < fair*99/100 {
			t.Errorf("%d members leave %d bytes", members, free)
		}
	}
}

// TestBudgetSlowMember: a member that keeps what it has leaves the rest to the
// others.
func TestBudgetSlowMember(t *testing.T) {
	b := budget{total: 900}
	var slow, a, c int64
	b.change(&slow, b.allowance(slow))
	if slow != 450 {
		t.Fatalf("alone it has %d", slow)
	}
	for range 100 {
		b.change(&a, b.allowance(a))
		b.change(&c, b.allowance(c))
	}
	if a < 149 || a > 151 || c < 149 || c > 151 {
		t.Errorf("the others have %d and %d, want 150", a, c)
	}
	if got := b.allowance(slow); got > 301 {
		t.Errorf("the slow one may have %d", got)
	}
}

func TestBudgetOverdrawn(t *testing.T) {
	b := budget{total: 100}
	var a, c int64
	b.change(&a, 500) // a chunk that is larger than all
	if b.allowance(c) != 0 || b.allowance(a) != 50 {
		t.Errorf("allowances of %d and %d", b.allowance(c), b.allowance(a))
	}
	b.change(&a, 0)
	if b.claimed != 0 || b.allowance(c) != 50 {
		t.Errorf("left: %+v", b)
	}
}

// FuzzBudget lets flows share a budget as subscriptions do. No credit takes the
// claims over the budget, but for the one chunk that everyone may have; nobody
// is left without a chunk and without one to come; and in the end all is given
// back. Each step is a member and what it does.
func FuzzBudget(f *testing.F) {
	f.Add(uint16(1000), []byte{0, 1, 2, 3, 64, 65, 66, 128, 129, 200, 0, 1, 2})
	f.Add(uint16(3), []byte{1, 64, 1, 1, 1, 64, 0, 0, 64, 192, 128, 1, 1})
	f.Fuzz(func(t *testing.T, total uint16, steps []byte) {
		const members = 8
		b := budget{total: int64(total)}
		flows, claims, held := [members]flow{}, [members]int64{}, [members][]int64{}
		for i := range flows {
			flows[i] = newFlow(max(int(total)/2, 1))
		}
		now := noon
		grant := func(i int) {
			f := &flows[i]
			before := f.granted
			credit := f.grant(b.allowance(claims[i]), now)
			b.change(&claims[i], f.claim())
			if credit > 0 && b.claimed > b.total && (credit > 1 || before > 0) {
				t.Fatalf("credit for %d chunks beside %d, and %d of %d bytes are claimed", credit, before, b.claimed, b.total)
			}
		}
		for _, step := range steps {
			i := int(step % members)
			f := &flows[i]
			now = now.Add(time.Duration(step) * time.Millisecond / 8)
			switch {
			case step < 128: // a chunk comes
				size := int64(step) * 4
				if f.granted > 0 && f.arrived(size) == arrivalHeld {
					held[i] = append(held[i], size)
					if b.change(&claims[i], f.claim()); len(held[i]) == 1 {
						grant(i)
					}
				}
			case step < 240 && len(held[i]) > 0: // it is handled
				f.returned(1, held[i][0])
				held[i] = held[i][1:]
				grant(i)
			case step >= 240:
				f.tick()
				b.change(&claims[i], f.claim())
			}
			if f.granted == 0 && len(held[i]) == 0 {
				t.Fatalf("member %d has nothing and gets nothing: %+v", i, f)
			}
		}
		for i := range claims {
			b.change(&claims[i], 0)
		}
		if b.claimed != 0 {
			t.Errorf("%d bytes are claimed in the end", b.claimed)
		}
	})
}
