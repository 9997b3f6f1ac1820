package fence

import (
	"testing"
	"time"
)

// player drives a lease by hand: a clock, and what the broker has.
type player struct {
	*testing.T
	lease *Lease
	now   time.Time
	seen  Seen
	given Given
}

func play1(t *testing.T, random uint64, holder, newcomer uint64) *player {
	p := &player{T: t, lease: NewLease(random, Times), now: time.Unix(1000, 0), seen: Seen{Holder: holder, Newcomer: newcomer}}
	p.lease.Link()
	return p
}

func (p *player) pass(d time.Duration) { p.now = p.now.Add(d) }

// does checks what Next says.
func (p *player) does(want Action) Step {
	p.Helper()
	s := p.lease.Next(p.now, true)
	if s.Do != want {
		p.Fatalf("Next does %d, want %d (phase %d)", s.Do, want, p.lease.phase)
	}
	return s
}

// round plays a round that takes no time, and returns what it stored.
func (p *player) round() Step {
	p.Helper()
	s := p.does(Ask)
	switch s.Store {
	case Holder:
		p.seen.Holder = s.Number
	case Newcomer:
		p.seen.Newcomer = s.Number
	}
	p.lease.Answer(p.now, p.now, p.seen, p.given)
	return s
}

func (p *player) rounds(stores ...Entry) {
	p.Helper()
	for i, want := range stores {
		if s := p.round(); s.Store != want {
			p.Fatalf("round %d stores %d, want %d", i, s.Store, want)
		}
	}
}

func (p *player) sure(want bool) {
	p.Helper()
	if sure := p.lease.Sure(p.now); sure != want {
		p.Fatalf("sure %v, want %v (phase %d)", sure, want, p.lease.phase)
	}
}

// held returns a player that has taken a free name.
func held(t *testing.T) *player {
	p := play1(t, 1<<63, Nobody, Nobody)
	p.rounds(NoEntry, Newcomer, Holder)
	p.sure(true)
	return p
}

// A name that is free is taken without a wait, and the ids go on.
func TestLeaseFree(t *testing.T) {
	p := held(t)
	if p.lease.Floor() != 0 {
		t.Errorf("the floor is %d", p.lease.Floor())
	}
	if p.seen.Holder < 1<<63 || p.seen.Holder != p.seen.Newcomer {
		t.Errorf("stored %x and %x", p.seen.Holder, p.seen.Newcomer)
	}
}

// While messages are sent there is a look each Interval, and otherwise none.
func TestLeaseLooks(t *testing.T) {
	p := held(t)
	if s := p.does(Wait); !s.At.Equal(p.now.Add(Times.Interval)) {
		t.Errorf("waits until %v", s.At)
	}
	p.pass(Times.Interval)
	if s := p.lease.Next(p.now, false); s.Do != Rest {
		t.Errorf("without a need Next does %d", s.Do)
	}
	p.does(Ask)
	p.does(Rest) // one round at a time
	p.pass(Times.Leash - Times.Interval - 1)
	p.sure(true)
	p.pass(1)
	p.sure(false)
	p.pass(time.Minute) // stopped, or its connection is not read
	p.lease.Answer(p.now.Add(-time.Minute), p.now, p.seen, p.given)
	p.sure(false) // a look counts from when it was sent
	p.round()
	p.sure(true)
}

// A machine that was suspended has a monotonic clock that stood still.
func TestLeaseSuspended(t *testing.T) {
	now := time.Now()
	if a := age(now, now.Round(0).Add(-time.Hour)); a < time.Hour {
		t.Errorf("%v", a)
	}
	if a := age(now.Add(time.Second), now); a < time.Second {
		t.Errorf("%v", a)
	}
}

// The younger one waits, and begins above all ids that the older one may have.
func TestLeaseTakesOver(t *testing.T) {
	older := number(6, 99, 1)
	p := play1(t, 1<<63, older, older)
	p.seen.Sequence = 600
	p.rounds(NoEntry, Newcomer, Holder)
	s := p.does(Wait)
	if !s.At.Equal(p.now.Add(Times.Wait)) {
		t.Errorf("waits until %v", s.At)
	}
	p.sure(false)
	p.pass(Times.Wait)
	p.rounds(Newcomer)
	p.sure(true)
	if floor := p.lease.Floor(); floor != 7<<32-1 {
		t.Errorf("the floor is %x", floor)
	}
	p.seen.Sequence, p.given = 8<<32, Given{Last: 9 << 32}
	p.lease.begin(p.seen, p.given)
	if e := epochOf(p.lease.number); e != 10 {
		t.Errorf("the next epoch is %d", e)
	}
}

// The older one ends with its next look.
func TestLeaseLost(t *testing.T) {
	p := held(t)
	p.seen.Holder = number(6, 99, 1)
	p.pass(Times.Interval)
	p.round()
	p.sure(false)
	p.does(Lost)
	p.lease.Link()
	p.does(Lost)
	p.lease.Close(true, true)
	p.does(Lost) // and leaves the other's number alone
}

// Of two that take a free name together one begins at once at most.
func TestLeaseTogether(t *testing.T) {
	other := number(2, 99, 1)
	for name, meanwhile := range map[string]func(p *player){
		"announced in front":    func(p *player) { p.rounds(NoEntry); p.seen.Newcomer = other; p.rounds(Newcomer, Holder) },
		"announced behind":      func(p *player) { p.rounds(NoEntry, Newcomer); p.seen.Newcomer = other; p.rounds(Holder) },
		"taken behind the look": func(p *player) { p.rounds(NoEntry); p.seen.Holder = other; p.rounds(Newcomer, Holder) },
	} {
		p := play1(t, 1<<63, Nobody, Nobody)
		meanwhile(p)
		if began := p.lease.Sure(p.now); began != (name == "announced in front") {
			t.Errorf("%s: began at once: %v", name, began)
		}
	}
}

// After a new DeclarePublisher nothing goes before a look, which suffices.
func TestLeaseLinksAgain(t *testing.T) {
	p := held(t)
	p.lease.Unlink()
	p.sure(false)
	p.does(Rest)
	p.lease.Link()
	p.sure(false)
	p.rounds(NoEntry)
	p.sure(true)
}

// A connection that is lost during the wait does not prolong it.
func TestLeaseLinksAgainInTheWait(t *testing.T) {
	older := number(6, 99, 1)
	p := play1(t, 1<<63, older, older)
	p.rounds(NoEntry, Newcomer, Holder)
	until := p.does(Wait).At
	p.pass(Times.Wait / 2)
	p.lease.Unlink()
	p.lease.Link()
	p.rounds(NoEntry)
	if s := p.does(Wait); !s.At.Equal(until) {
		t.Errorf("waits until %v, want %v", s.At, until)
	}
}

// The number goes where a leader is lost that had not committed it.
func TestLeaseNumberGoes(t *testing.T) {
	older := number(6, 99, 1)
	begun := func() *player {
		p := play1(t, 1<<63, older, older)
		p.rounds(NoEntry, Newcomer, Holder)
		p.pass(Times.Wait)
		p.rounds(Newcomer)
		p.sure(true)
		p.seen.Holder, p.seen.Newcomer = older, older
		p.lease.Unlink()
		p.lease.Link()
		return p
	}
	p := begun()
	p.rounds(NoEntry, Newcomer, Holder) // again from the beginning
	p.does(Wait)
	p = begun()
	p.given.Open = true
	p.rounds(NoEntry)
	p.does(Gone)
	p = begun()
	p.seen.Holder = number(8, 98, 1) // another is faster
	p.rounds(NoEntry)
	p.does(Lost)
}

// An attempt that waited leaves no floor to one that need not wait: its ids would
// be above the epoch of its number.
func TestLeaseForgetsFloor(t *testing.T) {
	older := number(6, 99, 1)
	p := play1(t, 1<<63, older, older)
	p.rounds(NoEntry, Newcomer, Holder)
	p.does(Wait)
	p.seen.Holder, p.seen.Newcomer = Nobody, Nobody // a leader was lost with all of it
	p.lease.Unlink()
	p.lease.Link()
	p.rounds(NoEntry, Newcomer, Holder)
	p.sure(true)
	if p.lease.Floor() != 0 {
		t.Errorf("the floor is %x", p.lease.Floor())
	}
}

// The holder gives the name back over the number of one who waits: that one
// begins anew, and does not take the name for free.
func TestLeaseGivenBackLate(t *testing.T) {
	older := number(6, 99, 1)
	p := play1(t, 1<<63, older, older)
	p.rounds(NoEntry, Newcomer, Holder)
	p.seen.Holder = givenBack(older)
	p.pass(Times.Wait)
	p.rounds(Newcomer)
	p.sure(false)
	p.pass(Times.Interval)
	p.rounds(NoEntry, Newcomer, Holder)
	p.does(Wait)
}

// A store that a leader in transition drops is made again.
func TestLeaseStoreDropped(t *testing.T) {
	older := number(6, 99, 1)
	p := play1(t, 1<<63, older, older)
	p.rounds(NoEntry, Newcomer)
	for range 10 {
		p.does(Ask)
		p.lease.Answer(p.now, p.now, p.seen, p.given)
		p.does(Wait)
		p.pass(Times.Interval)
		p.rounds(NoEntry, Newcomer)
	}
	p.rounds(Holder)
	p.does(Wait)
}

// A store that was on its way for long proves nothing of what was looked at in
// front of it.
func TestLeaseStoreLate(t *testing.T) {
	older := number(6, 99, 1)
	p := play1(t, 1<<63, older, older)
	p.rounds(NoEntry, Newcomer)
	p.pass(Times.Wait)
	p.rounds(Holder, Newcomer, Holder)
	p.does(Wait)
}

func TestLeaseFailedRound(t *testing.T) {
	p := held(t)
	p.pass(Times.Interval)
	p.does(Ask)
	p.lease.Failed(p.now)
	if s := p.does(Wait); !s.At.Equal(p.now.Add(Times.Interval)) {
		t.Errorf("waits until %v", s.At)
	}
	p.pass(Times.Leash)
	p.sure(false)
	p.round()
	p.sure(true)
}

func TestLeaseClose(t *testing.T) {
	older := number(6, 99, 1)
	p := held(t)
	p.lease.Close(true, false)
	n := p.seen.Holder
	if s := p.round(); s.Store != Holder || s.Number != givenBack(n) {
		t.Errorf("Close stores %d: %x", s.Store, s.Number)
	}
	p.does(Done)
	if next := play1(t, 1<<62, p.seen.Holder, p.seen.Newcomer); true {
		next.rounds(NoEntry, Newcomer, Holder)
		next.sure(true) // at once
	}

	p = held(t)
	p.pass(time.Minute) // idle
	p.lease.Close(true, false)
	p.rounds(NoEntry, Holder) // looks first
	p.does(Done)

	p = held(t)
	p.lease.Close(false, true) // messages may be on their way
	p.does(Done)

	p = play1(t, 1<<63, older, older)
	p.rounds(NoEntry, Newcomer, Holder)
	p.lease.Close(true, false) // has not begun
	p.does(Done)

	p = play1(t, 1<<63, older, older)
	p.rounds(NoEntry, Newcomer, Holder)
	p.pass(Times.Wait)
	p.rounds(Newcomer)
	p.lease.Close(true, false) // the broker has no id of it: the older one's bytes may still come
	p.does(Done)

	p = play1(t, 1<<63, Nobody, Nobody)
	p.lease.Close(true, false) // was never needed
	p.does(Done)
}

func TestLeaseUsedUp(t *testing.T) {
	p := play1(t, 1<<63, Nobody, Nobody)
	p.seen.Sequence = MaxID
	p.rounds(NoEntry)
	p.does(UsedUp)
	p = play1(t, 1<<63, number(maxEpoch, 1, 1), Nobody)
	p.rounds(NoEntry)
	p.does(UsedUp)
	p.lease.Link() // a new publisher does not change that
	p.does(UsedUp)
	p = play1(t, 1<<63, number(maxEpoch-1, 1, 1), Nobody)
	p.rounds(NoEntry, Newcomer) // the last epoch is one
}
