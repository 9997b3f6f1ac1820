package stream

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// visitor is somebody who waits in a model of the line.
type visitor struct {
	producer, n, bytes int
	t                  *ticket
}

// hall is a model of two producers' admissions that share an Env's bytes.
type hall struct {
	*testing.T
	env  envBytes
	of   [2]*quota
	held [2][]visitor // who has places
	line [2][]visitor
}

func newHall(t *testing.T, most, mostBytes, envBytes int) *hall {
	h := &hall{T: t}
	h.env.most = int64(envBytes)
	for i := range h.of {
		a := &admission{most: amountOf(most, mostBytes), env: &h.env}
		h.of[i] = a.join(&outbox{})
	}
	return h
}

func (h *hall) used(i int) (n, bytes int) {
	for _, q := range h.held[i] {
		n, bytes = n+q.n, bytes+q.bytes
	}
	return n, bytes
}

// fits is the rule: the bounds, and one message for who has none.
func (h *hall) fits(q visitor) bool {
	n, bytes := h.used(q.producer)
	_, b0 := h.used(0)
	_, b1 := h.used(1)
	most := h.of[q.producer].of.most
	return n == 0 || n+q.n <= most.n && int64(bytes+q.bytes) <= most.bytes && int64(b0+b1+q.bytes) <= h.env.most
}

func (h *hall) enter(q visitor) {
	h.Helper()
	took, want := h.of[q.producer].take(q.n, q.bytes), len(h.line[q.producer]) == 0 && h.fits(q)
	if took != want {
		h.Fatalf("%+v took places: %v, want %v", q, took, want)
	}
	if took {
		h.held[q.producer] = append(h.held[q.producer], q)
		return
	}
	q.t = h.of[q.producer].wait(q.n, q.bytes)
	h.line[q.producer] = append(h.line[q.producer], q)
}

// advance moves those from the line whose turn it is, in the model.
func (h *hall) advance(i int) {
	h.Helper()
	for len(h.line[i]) > 0 && h.fits(h.line[i][0]) {
		h.held[i] = append(h.held[i], h.line[i][0])
		h.line[i] = h.line[i][1:]
	}
	for _, q := range h.line[i] {
		if isClosed(q.t.granted) {
			h.Fatalf("%+v got places in front of its turn, or without room", q)
		}
	}
	for _, q := range h.held[i] {
		if q.t != nil && !isClosed(q.t.granted) {
			h.Fatalf("%+v waits though it is its turn", q)
		}
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func (h *hall) verify() {
	h.Helper()
	total := 0
	for i, a := range h.of {
		n, bytes := h.used(i)
		total += bytes
		if a.used != amountOf(n, bytes) || a.of.used != a.used || len(a.line) != len(h.line[i]) {
			h.Fatalf("producer %d: %d messages, %d bytes, %d wait; want %d, %d, %d", i, a.used.n, a.used.bytes, len(a.line), n, bytes, len(h.line[i]))
		}
	}
	if h.env.used.Load() != int64(total) {
		h.Fatalf("the Env counts %d bytes, want %d", h.env.used.Load(), total)
	}
}

// TestAdmission plays coming, waiting, leaving and giving back at random: no place
// is lost or given twice, and nobody passes another one in the line.
func TestAdmission(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	for range 300 {
		h := newHall(t, 5, 100, 150)
		for range 200 {
			i := random.IntN(2)
			switch random.IntN(5) {
			case 0, 1:
				h.enter(visitor{producer: i, n: 1 + random.IntN(3), bytes: random.IntN(70)})
			case 2: // one of the line leaves; its turn may have come
				if k := len(h.line[i]); k > 0 {
					k = random.IntN(k)
					if h.of[i].leave(h.line[i][k].t) {
						t.Fatal("who leaves had its turn already")
					}
					h.line[i] = slices.Delete(h.line[i], k, k+1)
					h.advance(i)
				}
			case 3, 4:
				if k := len(h.held[i]); k > 0 {
					k = random.IntN(k)
					q := h.held[i][k]
					h.held[i] = slices.Delete(h.held[i], k, k+1)
					if q.t != nil && !h.of[i].leave(q.t) {
						t.Fatal("who has places never had its turn")
					}
					h.of[i].free(q.n, q.bytes)
					h.advance(i)
				}
			}
			h.verify()
		}
		for i, a := range h.of {
			a.end()
			for _, q := range h.line[i] {
				if !isClosed(q.t.granted) || a.leave(q.t) {
					t.Fatal("who waited at the end waits on, or got places")
				}
			}
			for _, q := range h.held[i] {
				a.free(q.n, q.bytes) // as callbacks that return after Close do
			}
			h.held[i], h.line[i] = nil, nil
			h.verify()
		}
	}
}

// TestAdmissionAlone: what is larger than all the room goes alone, and a producer
// without messages never waits for those of another one.
func TestAdmissionAlone(t *testing.T) {
	h := newHall(t, 3, 100, 150)
	h.enter(visitor{producer: 0, n: 1, bytes: 1000})
	h.enter(visitor{producer: 0, n: 1, bytes: 0})
	h.enter(visitor{producer: 1, n: 1, bytes: 1000})
	h.enter(visitor{producer: 1, n: 1, bytes: 1})
	h.verify()
	if len(h.line[0]) != 1 || len(h.line[1]) != 1 {
		t.Errorf("%d and %d wait, want one each", len(h.line[0]), len(h.line[1]))
	}
}

// TestAdmissionRipe: where several quotas share the places, who waits gets one once a
// quarter of all is free, or all but half of the reserve of its own quota.
func TestAdmissionRipe(t *testing.T) {
	full := func() (a *admission, mine, other *quota, wait *ticket) {
		a = &admission{most: amountOf(400, 1<<20), env: &envBytes{most: 1 << 20}}
		mine, other = a.join(&outbox{}), a.join(&outbox{})
		for _, q := range []*quota{mine, other} {
			if !q.takeTogether(200, 200) {
				t.Fatal("there is no room")
			}
		}
		return a, mine, other, mine.wait(1, 1)
	}
	_, _, other, wait := full()
	if other.free(99, 99); isClosed(wait.granted) {
		t.Error("99 of 400 places are free, and one is given away")
	}
	if other.free(1, 1); !isClosed(wait.granted) {
		t.Error("a quarter of the places is free, and none is given away")
	}
	a, mine, other, wait := full()
	other.force(amountOf(200, 200)) // a partition may be above its bounds, as with large messages
	if mine.free(149, 149); isClosed(wait.granted) || a.reserve.n != 100 {
		t.Errorf("51 messages are in hand, which is more than half of the reserve of %d", a.reserve.n)
	}
	if mine.free(1, 1); !isClosed(wait.granted) {
		t.Error("half of the quota's own reserve is free, and nothing is given away")
	}
}
