package stream

import (
	"math/rand/v2"
	"testing"
)

// crowd is a model of an admission with several quotas.
type crowd struct {
	*testing.T
	a     *admission
	of    []*quota
	held  [][]visitor // who has places, by quota
	lines [][]visitor
}

func newCrowd(t *testing.T, most, mostBytes, quotas int) *crowd {
	c := &crowd{T: t, a: &admission{most: amountOf(most, mostBytes), env: &envBytes{most: 1 << 40}}}
	for range quotas {
		c.of = append(c.of, c.a.join(&outbox{}))
	}
	c.held, c.lines = make([][]visitor, quotas), make([][]visitor, quotas)
	return c
}

// enter comes with a message, and waits if there is no room.
func (c *crowd) enter(i, n, bytes int) {
	v := visitor{producer: i, n: n, bytes: bytes}
	if c.of[i].take(n, bytes) {
		c.held[i] = append(c.held[i], v)
		return
	}
	v.t = c.of[i].wait(n, bytes)
	c.lines[i] = append(c.lines[i], v)
}

// free gives back one of a quota's places at random.
func (c *crowd) free(i, k int) {
	v := c.held[i][k]
	c.held[i] = append(c.held[i][:k:k], c.held[i][k+1:]...)
	c.of[i].free(v.n, v.bytes)
}

// settle moves those whose turn has come, and expects that nobody passes another
// one of the line, that nobody waits who has a right to a place, and that the
// bounds hold.
func (c *crowd) settle() {
	c.Helper()
	reserve := c.a.most.n / (2 * len(c.of))
	var total amount
	for i, line := range c.lines {
		for len(line) > 0 && isClosed(line[0].t.granted) {
			if !c.of[i].leave(line[0].t) {
				c.Fatalf("who was granted places has none")
			}
			c.held[i] = append(c.held[i], line[0])
			line = line[1:]
		}
		c.lines[i] = line
		for _, v := range line {
			if isClosed(v.t.granted) {
				c.Fatal("one of the line has passed another one")
			}
		}
		var own amount
		for _, v := range c.held[i] {
			own = own.plus(amountOf(v.n, v.bytes))
		}
		if own != c.of[i].used {
			c.Fatalf("quota %d counts %v, want %v", i, c.of[i].used, own)
		}
		if len(line) > 0 && (own.n == 0 || own.n+line[0].n <= reserve && own.n <= reserve/2) {
			c.Fatalf("quota %d has %d, and one for %d waits", i, own.n, line[0].n)
		}
		total = total.plus(own)
	}
	if total != c.a.used || total.n > c.a.most.n+len(c.of)*2 {
		c.Fatalf("%v are taken, %v are counted", total, c.a.used)
	}
}

// TestQuotas plays coming, giving back, and a quota that never gives back: the
// bounds hold over all of them, each line is served in order, and nobody waits who
// has half of its reserve left.
func TestQuotas(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 8))
	for range 300 {
		c := newCrowd(t, 3+random.IntN(30), 1<<30, 2+random.IntN(4))
		for range 300 {
			i := random.IntN(len(c.of))
			switch k := len(c.held[i]); {
			case i == 0 || random.IntN(2) == 0:
				c.enter(i, 1+random.IntN(2), 0)
			case k > 0:
				c.free(i, random.IntN(k))
			}
			c.settle()
		}
	}
}

// TestQuotasWaitForSeveralPlaces: who waits among several quotas is looked at once a
// quarter of all places is free, or half of the quota's own reserve. A single
// quota's are looked at for each place.
func TestQuotasWaitForSeveralPlaces(t *testing.T) {
	c := newCrowd(t, 64, 1<<30, 2)
	q := c.of[0]
	for q.take(1, 1) {
	}
	for c.of[1].take(1, 1) {
	}
	if c.a.used.n != 64 || q.used.n != 48 {
		t.Fatalf("%d places of %d are taken", q.used.n, c.a.used.n)
	}
	turn := q.wait(1, 1)
	for i := range 16 {
		if isClosed(turn.granted) {
			t.Errorf("%d places are free, and who waits was looked at", i)
		}
		q.free(1, 1)
	}
	if !isClosed(turn.granted) {
		t.Error("a quarter is free, and who waits has no place")
	}
	turn = c.of[1].wait(30, 30)
	c.of[1].free(8, 8) // half of its reserve stays
	if isClosed(turn.granted) {
		t.Error("there is no room")
	}
	alone := newCrowd(t, 64, 1<<30, 1)
	for alone.of[0].take(1, 1) {
	}
	turn = alone.of[0].wait(1, 1)
	if alone.of[0].free(1, 1); !isClosed(turn.granted) {
		t.Error("a single quota has a free place, and who waits has none")
	}
}

// TestQuotasServeEachOther: a place that everybody may have goes to one line after
// the other.
func TestQuotasServeEachOther(t *testing.T) {
	c := newCrowd(t, 8, 1<<30, 2)
	for range 8 {
		c.enter(0, 1, 0)
		c.enter(1, 1, 0)
	}
	c.settle()
	begun := [2]int{len(c.lines[0]), len(c.lines[1])}
	for range 4 {
		i := 0
		if len(c.held[1]) > len(c.held[0]) {
			i = 1
		}
		c.free(i, 0)
		c.settle()
	}
	if a, b := begun[0]-len(c.lines[0]), begun[1]-len(c.lines[1]); a == 0 || b == 0 || a+b != 4 {
		t.Errorf("%d and %d of the lines were served", a, b)
	}
}

// TestQuotasComeAndGo: the reserves are for those that there are.
func TestQuotasComeAndGo(t *testing.T) {
	c := newCrowd(t, 12, 1200, 1)
	for range 13 {
		c.enter(0, 1, 1)
	}
	if len(c.lines[0]) != 1 || c.a.reserve != (amount{}) {
		t.Errorf("one alone has %v, and a reserve of %v", c.of[0].used, c.a.reserve)
	}
	second := c.a.join(&outbox{})
	if c.a.reserve != amountOf(3, 300) || c.a.beyond != amountOf(9, 0) {
		t.Errorf("with another one the reserve is %v, and beyond it are %v", c.a.reserve, c.a.beyond)
	}
	for range 3 {
		if !second.take(1, 1) {
			t.Error("no place within the reserve")
		}
	}
	if second.take(1, 1) {
		t.Error("a place that nobody has given back")
	}
	waits := second.wait(1, 1)
	c.of[0].end()
	if !isClosed(waits.granted) || !second.leave(waits) || c.a.used != amountOf(4, 4) || c.a.reserve != (amount{}) {
		t.Errorf("alone again: %v are taken, the reserve is %v", c.a.used, c.a.reserve)
	}
	c.of[0].free(1, 1) // of a callback that returns late
	if !isClosed(c.lines[0][0].t.granted) || c.of[0].leave(c.lines[0][0].t) || c.a.used != amountOf(4, 4) {
		t.Error("one that has ended has places")
	}
	second.end()
	second.end()
	if c.a.used != (amount{}) || c.a.env.used.Load() != 0 || len(c.a.quotas) != 0 {
		t.Errorf("%v are taken by nobody", c.a.used)
	}
}

// TestQuotasByBytes: a partition of large messages leaves the others theirs, and
// has one in any case.
func TestQuotasByBytes(t *testing.T) {
	c := newCrowd(t, 1000, 1200, 3) // 200 each, 600 for all
	for _, bytes := range []int{400, 400, 1} {
		c.enter(0, 1, bytes)
	}
	if c.of[0].used != amountOf(2, 800) || len(c.lines[0]) != 1 {
		t.Errorf("%v", c.of[0].used)
	}
	c.enter(1, 1, 100)
	c.enter(1, 1, 100)
	c.enter(1, 1, 1)
	c.enter(2, 1, 5000)
	if c.of[1].used != amountOf(2, 200) || c.of[2].used != amountOf(1, 5000) {
		t.Errorf("%v, %v", c.of[1].used, c.of[2].used)
	}
}

// TestQuotasAddUp: what the quotas have, and what they have above their reserves, is
// what the admission counts, however quotas come and go.
func TestQuotasAddUp(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		a := &admission{most: amountOf(1+random.IntN(40), random.IntN(400)), env: &envBytes{most: 1000}}
		a.join(&outbox{})
		for range 300 {
			quotaStep(a, random)
			var used, beyond amount
			for _, q := range a.quotas {
				used, beyond = used.plus(q.used), beyond.plus(q.used.above(a.reserve))
			}
			if used != a.used || beyond != a.beyond || used.bytes != a.env.used.Load() {
				t.Fatalf("%d quotas have %v, %v above their reserve; %v, %v are counted", len(a.quotas), used, beyond, a.used, a.beyond)
			}
		}
	}
}

// quotaStep does something at random with one of the quotas. Callers who wait are
// left in line.
func quotaStep(a *admission, random *rand.Rand) {
	q := a.quotas[random.IntN(len(a.quotas))]
	n, bytes := 1+random.IntN(3), random.IntN(70)
	switch step := random.IntN(8); {
	case step == 0 && len(a.quotas) < 5:
		a.join(&outbox{})
	case step == 1 && len(a.quotas) > 1:
		q.end()
	case step == 2:
		q.force(amountOf(n, bytes))
	case step < 6:
		if !q.take(n, bytes) {
			q.wait(n, bytes)
		}
	default:
		q.free(min(n, q.used.n), int(min(int64(bytes), q.used.bytes)))
	}
}
