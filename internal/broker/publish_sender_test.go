package broker

import (
	"fmt"
	"net"
	"slices"
	"testing"
	"time"
)

// bench is a sender without a connection, and publishers of it.
type senderBench struct {
	*sender
	publishers map[string]*Publisher
	feeds      map[string]*feed
}

func newSenderBench(t *testing.T, streams ...string) *senderBench {
	s := &senderBench{sender: newSender(nil), publishers: map[string]*Publisher{}, feeds: map[string]*feed{}}
	for i, stream := range streams {
		f := &feed{id: uint8(i)}
		p := &Publisher{source: f, turn: &turn{}, sender: s.sender, lease: &Lease{stream: stream, id: uint8(i)}}
		s.enter(p, stream)
		s.publishers[stream], s.feeds[stream] = p, f
	}
	return s
}

// give gives a publisher a frame to send, and says that it is ready.
func (s *senderBench) give(stream string, first, last uint64) {
	s.feeds[stream].give(first, last)
	s.publishers[stream].Ready()
}

// turn returns what a turn has: the frames of each publisher. It ends the turn.
func (s *senderBench) turn() (got []string) {
	t := s.begin()
	if t == nil {
		return nil
	}
	for _, f := range t.frames {
		id, ids, err := published(f[8:])
		if err != nil {
			got = append(got, err.Error())
		}
		got = append(got, fmt.Sprint(id, ids))
	}
	s.end(t)
	return got
}

func (s *senderBench) wantTurn(t *testing.T, want ...string) {
	t.Helper()
	if got := s.turn(); !slices.Equal(got, want) {
		t.Errorf("a turn had %q, want %q", got, want)
	}
}

// woken reports whether the goroutine was woken since the last call.
func (s *sender) woken() bool { return len(s.wake) == 1 && func() bool { <-s.wake; return true }() }

// A turn has what all publishers have, in the order in which they said so.
func TestSenderTurn(t *testing.T) {
	s := newSenderBench(t, "a", "b", "c")
	if s.begin() != nil || s.woken() {
		t.Fatal("there is a turn of nothing")
	}
	s.give("b", 1, 2)
	if !s.woken() {
		t.Error("nobody was woken")
	}
	s.give("a", 1, 1)
	s.give("b", 3, 3)
	s.give("c", 7, 7)
	s.wantTurn(t, "1 [1 2]", "1 [3]", "0 [1]", "2 [7]")
	if s.begin() != nil {
		t.Error("there is another turn")
	}
	if n := s.load.unconfirmed; n != 5 || s.publishers["b"].unconfirmed != 3 {
		t.Errorf("%d are unconfirmed", n)
	}
	for name, f := range s.feeds {
		if f.sent != 1 {
			t.Errorf("%s: Sent came %d times", name, f.sent)
		}
	}
}

// Who becomes ready while somebody writes needs nobody woken: the writer looks
// again.
func TestSenderReadyMeanwhile(t *testing.T) {
	s := newSenderBench(t, "a", "b")
	s.give("a", 1, 1)
	s.woken()
	turn := s.begin()
	s.give("a", 2, 2)
	s.give("b", 1, 1)
	if s.woken() || s.begin() != nil {
		t.Error("two write")
	}
	s.end(turn)
	s.wantTurn(t, "0 [2]", "1 [1]")
	// The same while it is taken from: it is asked once more, or its message would
	// wait for the next Ready.
	f := s.feeds["a"]
	f.during = func() { f.during = nil; f.waiting = nil; s.publishers["a"].Ready() }
	s.give("a", 3, 3)
	f.rooms = nil
	s.turn()
	if len(f.rooms) != 2 || s.publishers["a"].queued {
		t.Errorf("it was asked %d times", len(f.rooms))
	}
}

// A turn has some 256 KiB, and publishers that have more share the next ones
// evenly.
func TestSenderShares(t *testing.T) {
	s := newSenderBench(t, "a", "b")
	for name, f := range s.feeds {
		f.padding = turnBytes / 4
		for i := range uint64(8) {
			f.give(i, i)
		}
		s.publishers[name].Ready()
	}
	var got []uint8
	for range 4 {
		turn := s.begin()
		id, _, _ := published(turn.frames[0][8:])
		got = append(got, id)
		for _, f := range turn.frames {
			if other, _, _ := published(f[8:]); other != id {
				t.Error("a turn is too large")
			}
		}
		if len(turn.frames) != 4 || turn.bytes < turnBytes {
			t.Errorf("a turn has %d bytes", turn.bytes)
		}
		s.end(turn)
	}
	if got[0] == got[1] || got[0] != got[2] || got[1] != got[3] || s.turn() != nil {
		t.Errorf("the turns were of %v", got)
	}
}

// A turn ends after many frames, however small they are.
func TestSenderFrames(t *testing.T) {
	s := newSenderBench(t, "a", "b")
	for i := range uint64(turnFrames) {
		s.feeds["a"].give(i, i)
	}
	s.publishers["a"].Ready()
	s.give("b", 1, 1)
	if n := len(s.turn()); n != turnFrames {
		t.Errorf("%d frames", n)
	}
	s.wantTurn(t, "1 [1]")
}

// TestSenderParks: a publisher without room waits until there is more, and is not
// asked meanwhile. The others go on.
func TestSenderParks(t *testing.T) {
	s := newSenderBench(t, "a", "b")
	a, b := s.publishers["a"], s.publishers["b"]
	for i := range uint64(4) {
		s.feeds["a"].give(10_000*i, 10_000*i+9_999)
	}
	a.Ready()
	if n, more := len(s.turn()), len(s.turn()); n != 3 || more != 0 || len(s.parked) != 1 || !a.queued {
		t.Fatalf("%d and %d frames, %d parked", n, more, len(s.parked))
	}
	a.Ready()
	if s.begin() != nil {
		t.Error("it is asked though it has no room")
	}
	asked := len(s.feeds["a"].rooms)
	for i := range uint64(3) {
		s.give("b", i, i)
		s.turn()
		s.woken()
		b.Settled(1)
		if s.woken() || len(s.feeds["a"].rooms) != asked {
			t.Error("the outcomes of another stream wake it")
		}
	}
	a.Settled(9_999)
	if !s.woken() || len(s.parked) != 0 {
		t.Error("there is more room, and it is not woken")
	}
	if n := len(s.turn()); n != 0 || len(s.parked) != 1 {
		t.Errorf("%d frames of 10,000 where there is room for 9,999", n)
	}
	s.give("b", 9, 9)
	s.turn()
	if b.Settled(1); len(s.parked) != 1 {
		t.Error("it is woken though it has no more room than before")
	}
	a.Settled(1)
	if n := len(s.turn()); n != 1 || len(s.parked) != 0 || s.load.unconfirmed != 30_000 {
		t.Errorf("%d frames, %d unconfirmed", n, s.load.unconfirmed)
	}
}

// A publisher that has used a part of the room waits for more than the rest of it.
func TestSenderParksWithTheRest(t *testing.T) {
	s := newSenderBench(t, "a")
	s.give("a", 1, 29_000)
	s.turn()
	s.feeds["a"].give(30_001, 30_500)
	s.give("a", 40_001, 40_800)
	if n := len(s.turn()); n != 1 || len(s.parked) != 1 {
		t.Fatalf("%d frames, %d parked", n, len(s.parked))
	}
	s.publishers["a"].Settled(300)
	if n := len(s.turn()); n != 1 || len(s.parked) != 0 {
		t.Errorf("%d frames with room for 800, %d parked", n, len(s.parked))
	}
}

// Outcomes that come between a publisher's answer that there is no room and its
// being parked are not missed.
func TestSenderParksLate(t *testing.T) {
	s := newSenderBench(t, "a")
	a, f := s.publishers["a"], s.feeds["a"]
	s.give("a", 1, 29_000)
	s.turn()
	f.give(30_001, 30_500)
	f.give(40_001, 40_800)
	f.during = func() {
		f.during = nil
		a.Settled(400)
	}
	a.Ready()
	if n := len(s.turn()); n != 2 || len(s.parked) != 0 {
		t.Errorf("%d frames, %d parked", n, len(s.parked))
	}
}

// newHoldBench is a sender with a load that is high, which is that of stream "busy".
func newHoldBench(t *testing.T) *senderBench {
	s := newSenderBench(t, "busy", "a", "b")
	s.give("busy", 1, highLoad+10)
	s.give("a", 1, 1)
	s.wantFrames(t, 2)
	s.feeds["a"].filling = true
	s.woken()
	return s
}

func (s *senderBench) wantFrames(t *testing.T, n int) {
	t.Helper()
	if got := len(s.turn()); got != n {
		t.Errorf("a turn has %d frames, want %d", got, n)
	}
}

// TestSenderHolds: where much is unconfirmed, one of many publishers waits for its
// own confirms with a frame that is not full, and is not asked meanwhile. The
// others go on.
func TestSenderHolds(t *testing.T) {
	s := newHoldBench(t)
	a := s.publishers["a"]
	s.give("a", 2, 3)
	s.give("b", 1, 1)
	s.wantTurn(t, "2 [1]")
	asked := len(s.feeds["a"].rooms)
	a.Ready()
	s.woken()
	if s.publishers["b"].Settled(1); s.woken() || s.begin() != nil || len(s.feeds["a"].rooms) != asked {
		t.Error("the confirms of another publisher wake it")
	}
	if a.Settled(1); !s.woken() {
		t.Error("its own confirms do not wake it")
	}
	s.wantTurn(t, "1 [2 3]")
	s.give("a", 4, 4)
	s.wantFrames(t, 0)
	s.woken()
	if a.Settled(1); s.woken() || s.begin() != nil {
		t.Error("the first of two confirms wakes it")
	}
	a.Settled(1)
	s.wantTurn(t, "1 [4]")
	if len(s.held) > 0 || a.held {
		t.Error("it waits still")
	}
}

// TestSenderHoldsNoFullFrame: what has no place for more goes out.
func TestSenderHoldsNoFullFrame(t *testing.T) {
	s := newHoldBench(t)
	s.give("a", 2, 2)
	s.give("a", 3, 3)
	s.wantTurn(t, "1 [2]")
	s.publishers["a"].Settled(2)
	s.wantTurn(t, "1 [3]")
}

// TestSenderHoldsFewOnly: who has a frame's worth unconfirmed is no one of many.
func TestSenderHoldsFewOnly(t *testing.T) {
	s := newHoldBench(t)
	s.feeds["a"].filling = false
	s.give("a", 2, fewEntries)
	s.wantFrames(t, 1)
	s.feeds["a"].filling = true
	s.give("a", fewEntries+1, fewEntries+1)
	s.wantFrames(t, 1)
	s.publishers["a"].Settled(2)
	s.give("a", fewEntries+2, fewEntries+2)
	s.wantFrames(t, 0)
}

// TestSenderHoldsUnderLoadOnly: once the load is low all go on, and nobody waits
// from then on.
func TestSenderHoldsUnderLoadOnly(t *testing.T) {
	s := newHoldBench(t)
	s.give("b", 1, 1)
	s.wantFrames(t, 1)
	s.feeds["b"].filling = true
	s.give("b", 2, 2)
	s.give("a", 2, 2)
	s.wantFrames(t, 0)
	s.woken()
	if s.publishers["busy"].Settled(11); s.woken() {
		t.Errorf("somebody is woken with %d unconfirmed", s.load.unconfirmed)
	}
	if s.publishers["busy"].Settled(1); !s.woken() {
		t.Errorf("nobody is woken with %d unconfirmed", s.load.unconfirmed)
	}
	s.wantTurn(t, "2 [2]") // and the load is high again
	s.publishers["busy"].Settled(1)
	s.wantTurn(t, "1 [2]")
	s.publishers["busy"].Settled(1)
	s.give("a", 3, 3)
	s.wantTurn(t, "1 [3]")
	if len(s.held) > 0 || s.publishers["a"].held || s.publishers["b"].held {
		t.Error("somebody waits still")
	}
}

// TestSenderHoldsLate: confirms that come between a publisher's answer and its
// waiting are not missed.
func TestSenderHoldsLate(t *testing.T) {
	s := newHoldBench(t)
	a, f := s.publishers["a"], s.feeds["a"]
	f.during = func() {
		f.during = nil
		a.Settled(1)
	}
	s.give("a", 2, 2)
	s.wantTurn(t, "1 [2]")
}

// TestSenderHoldsNobodyWhoLeft: nothing is taken from who leaves while it waits.
func TestSenderHoldsNobodyWhoLeft(t *testing.T) {
	s := newHoldBench(t)
	s.give("a", 2, 2)
	s.wantFrames(t, 0)
	s.leave(s.publishers["a"], "a")
	s.publishers["busy"].Settled(highLoad)
	s.wantFrames(t, 0)
	if len(s.held) > 0 {
		t.Error("it waits still")
	}
}

// TestSenderLeave: a publisher that leaves gives its stream's room to others of
// it. Nothing is taken from it, and nothing of it counts any more.
func TestSenderLeave(t *testing.T) {
	s := newSenderBench(t, "a", "b")
	b := s.publishers["b"]
	other := &Publisher{source: &feed{id: 9}, turn: &turn{}, sender: s.sender}
	s.enter(other, "b")
	s.give("b", 1, 30_000)
	s.turn()
	other.source.(*feed).give(1, 5)
	other.Ready()
	if s.turn() != nil || len(s.parked) != 1 {
		t.Fatal("there is no room, and it is used")
	}
	s.give("b", 30_001, 30_001)
	s.turn()
	s.woken()
	s.leave(b, "b")
	if !s.woken() || len(s.parked) != 0 || s.load.lost != 30_000 {
		t.Errorf("%d parked, %d lost", len(s.parked), s.load.lost)
	}
	s.wantTurn(t, "9 [1 2 3 4 5]")
	b.Ready()
	b.Settled(7)
	s.leave(b, "b")
	if s.begin() != nil || s.load.lost != 30_000 || s.load.unconfirmed != 30_005 || other.load.unconfirmed != 5 || other.load.publishers != 1 {
		t.Errorf("%+v, the stream %+v", s.load, other.load)
	}
	s.give("a", 1, 1)
	s.leave(s.publishers["a"], "a")
	if s.turn() != nil || s.load.lost != 30_000 {
		t.Error("it is taken from")
	}
	s.leave(other, "b") // which has nothing to send
	other.source.(*feed).give(6, 6)
	if other.Ready(); s.turn() != nil {
		t.Error("it is taken from")
	}
}

// TestSenderLeaveInTurn: a publisher leaves while it is taken from. What it gave
// is lost to the connection and not to its stream, and its goodbye comes after its
// frames: they must not reach the broker after its id is free.
func TestSenderLeaveInTurn(t *testing.T) {
	s := newSenderBench(t, "a")
	a, f := s.publishers["a"], s.feeds["a"]
	other := &Publisher{source: &feed{id: 9}, turn: &turn{}, sender: s.sender}
	s.enter(other, "a")
	said := 0
	f.during = func() {
		s.leave(a, "a")
		s.afterFrames(a, func() { said++ })
	}
	s.give("a", 1, 3)
	turn := s.begin()
	if len(turn.frames) != 1 || said != 0 {
		t.Fatalf("%d frames, the goodbye came %d times", len(turn.frames), said)
	}
	s.end(turn)
	if said != 1 || f.sent != 1 || a.turns != 0 {
		t.Errorf("the goodbye came %d times", said)
	}
	if s.load.lost != 3 || s.load.unconfirmed != 3 || other.load.unconfirmed != 0 {
		t.Errorf("%+v, the stream %+v", s.load, other.load)
	}
	s.afterFrames(a, func() { said++ })
	s.end(&s.next)
	if said != 2 {
		t.Errorf("the goodbye of who has no frames came %d times", said-1)
	}
	// The same for a publisher that was asked twice in a turn.
	f = other.source.(*feed)
	f.give(1, 1)
	f.during = func() { f.during = nil; other.Ready() }
	other.Ready()
	turn = s.begin()
	if other.turns != 2 {
		t.Errorf("it was asked %d times", other.turns)
	}
	s.leave(other, "a")
	s.afterFrames(other, func() { said++ })
	s.end(turn)
	if said != 3 {
		t.Errorf("the goodbye came %d times", said-2)
	}
}

// TestSenderLook: one who waits for room makes the others' stream crowded, and
// nobody comes to a crowded connection, or one whose write takes long.
func TestSenderLook(t *testing.T) {
	now := time.Now()
	s := newSenderBench(t, "a", "b", "c")
	s.give("a", 1, 30_000)
	s.give("b", 1, 10_000)
	s.turn()
	s.give("c", 1, 1)
	s.turn()
	for range stillLooks - 1 {
		if s.look() || s.slow(now) {
			t.Error("it is crowded at once")
		}
	}
	if !s.look() || !s.slow(now) {
		t.Error("two streams hold a third one up, and that is not seen")
	}
	for name, want := range map[string]bool{"a": true, "b": true, "c": false} {
		if got := s.isStill(s.publishers[name]); got != want {
			t.Errorf("%s is still: %v", name, got)
		}
	}
	if s.isStill(&Publisher{}) {
		t.Error("who has not entered yet is still")
	}
	s.publishers["a"].Settled(30_000)
	s.publishers["b"].Settled(10_000)
	if s.look() || s.slow(now) {
		t.Error("it is crowded for good")
	}
	s.writing.Store(now.UnixNano())
	if s.slow(now.Add(lookPause)) || !s.slow(now.Add(lookPause+1)) {
		t.Error("a write that takes long is not seen, or one that does not is")
	}
}

// constant is a source that always has the same frame.
type constant struct {
	Source
	frame []byte
}

func (c *constant) Take(frames [][]byte, _ Allowance) (_ [][]byte, entries int, rest Rest) {
	return append(frames, c.frame), 1, TookAll
}

func (c *constant) Sent() {}

// TestSenderAllocatesNothing: turns, and the writing of several frames, use the memory
// of those before.
func TestSenderAllocatesNothing(t *testing.T) {
	s := newSenderBench(t, "a", "b", "c")
	for _, p := range s.publishers {
		p.source = &constant{frame: make([]byte, 20)}
	}
	c := &Conn{socket: discard{}}
	c.direct.init(c.socket)
	n := testing.AllocsPerRun(100, func() {
		for _, p := range s.publishers {
			s.add(p)
		}
		turn := s.begin()
		if len(turn.frames) != 3 {
			t.Fatalf("%d frames in a turn, want 3", len(turn.frames))
		}
		if err := c.writeAll(turn.frames); err != nil {
			t.Fatal(err)
		}
		s.end(turn)
		for _, p := range s.publishers {
			s.settled(p, 1)
		}
	})
	if n > 0 {
		t.Errorf("%v allocations a turn", n)
	}
}

// discard is a socket that takes everything.
type discard struct{ net.Conn }

func (discard) Write(b []byte) (int, error) { return len(b), nil }
