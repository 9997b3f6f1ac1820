package fence

import (
	"strings"
	"testing"
)

func TestEntryNames(t *testing.T) {
	long := strings.Repeat("n", 255)
	names := map[string]bool{}
	for _, producer := range []string{"a", "b", long, long[1:]} {
		for _, e := range []Entry{Holder, Newcomer} {
			name := e.Name(producer)
			if !strings.HasPrefix(name, Prefix) || len(name) > 255 || names[name] {
				t.Errorf("the name of entry %d of %.10q is %q", e, producer, name)
			}
			names[name] = true
		}
	}
}

func TestNumbers(t *testing.T) {
	n := number(7, 12345, 2)
	for _, c := range []struct {
		what string
		ok   bool
	}{
		{"is above 2^63", n > 1<<63 && givenBack(n) >= 1<<63 && number(0, 0, 0) > 1<<63},
		{"has its epoch", epochOf(n) == 7 && epochOf(givenBack(n)) == 7 && epochOf(number(maxEpoch, 0, 0)) == maxEpoch},
		{"has its process", sameProcess(n, number(9, 12345, 3)) && sameProcess(n, givenBack(n)) && !sameProcess(n, number(7, 12346, 2))},
		{"wraps its attempts alone", sameProcess(number(7, 12345, 33), n) && epochOf(number(7, 12345, 1<<31)) == 7},
		{"has no epoch if it is none of ours", epochOf(Nobody) == 0 && epochOf(1<<63-1) == 0},
	} {
		if !c.ok {
			t.Errorf("not so: a number %s", c.what)
		}
	}
}

func TestIsFree(t *testing.T) {
	n, other := number(1, 1, 1), number(1, 2, 1)
	for _, c := range []struct {
		holder, newcomer uint64
		free             bool
	}{
		{Nobody, Nobody, true},
		{givenBack(n), n, true},
		{n, n, false},
		{Nobody, n, false},            // reset by a person
		{givenBack(n), other, false},  // perhaps written over the other's number
		{givenBack(n), Nobody, false}, // never so
		{1000, 1001, false},           // an offset of whoever
		{1000, 1000, false},           //
		{1<<64 - 1, 1<<64 - 1, false}, // BeforeFirst
		{givenBack(n), givenBack(n), false},
	} {
		if free := isFree(c.holder, c.newcomer); free != c.free {
			t.Errorf("isFree(%x, %x) is %v", c.holder, c.newcomer, free)
		}
	}
}
