package fence

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// The model plays one stream, one producer's name, and some processes that
// publish under it, step by step, in an order that a seed decides. It has the
// broker's rules of doc.go, and these faults: processes are stopped and go on,
// are killed, close; connections are not read for seconds, before and after
// their process has died, or are lost; the leader is lost with what it has not
// committed, or lives on, cut off, for those who are still connected to it.

// rules are what a mutation takes away.
type rules struct {
	timing    Timing
	lookFirst bool // send only while sure
	trust     bool // count confirms only while sure
	jump      bool
	epochs    bool // an epoch that the broker has no id of counts
	announce  bool // heed the newcomer's entry
	settled   bool // give the name back only when all is settled
	link      bool // look again after each DeclarePublisher
	sentTime  bool // a look counts from when it was sent
	lateClose bool // who has not begun gives nothing back
	outranked bool // heed an answer above the own ids
	open      bool // the number went while messages had no outcome
	lateStore bool // a store that came late is made again
}

func allRules() rules {
	return rules{Times, true, true, true, true, true, true, true, true, true, true, true, true}
}

type world struct {
	*rand.Rand
	rules
	now      time.Duration
	leader   *leader
	cutOff   []*leader
	conns    []*conn
	procs    []*proc
	uids     int
	stuck    time.Duration // nothing is committed until then
	quiet    bool          // no more faults
	said     map[int]string
	holders  int
	together bool // two sent at once
	crowd    int  // so many times as many faults as in an ordinary world
	hurry    int  // one in so many steps closes with messages on their way
}

func (w *world) chance(oneIn int) bool { return w.IntN(oneIn) == 0 }

func (w *world) ended() (n int) {
	for _, p := range w.procs {
		if p.ended {
			n++
		}
	}
	return n
}

// fault reports whether a fault happens now, which it does once in so many
// steps of an ordinary world.
func (w *world) fault(oneIn int) bool { return !w.quiet && w.chance(oneIn/w.crowd+1) }

func (w *world) at() time.Time { return time.Unix(1_000_000, 0).Add(w.now) }

func (w *world) confirmed(uid, name int) {
	w.said[-uid] = fmt.Sprint(name)
}

// play plays one world, and returns what is wrong in it.
func play(seed uint64, r rules) (complaint string, steps int, w *world) {
	w = &world{Rand: rand.New(rand.NewPCG(seed, 1)), rules: r, leader: &leader{}, said: map[int]string{}}
	count := 2 + w.IntN(3)
	w.hurry = []int{300, 8000, 8000}[w.IntN(3)]
	faulty := 25 * time.Second
	if w.crowd = 1; w.chance(2) { // a short world that is about taking the name
		w.crowd, faulty = 5+w.IntN(20), 9*time.Second
	}
	spread := []int{1, 50, 4000, 8000}[w.IntN(4)]
	for i := range count {
		p := &proc{w: w, name: i + 1, goal: 1 + w.IntN(300/w.crowd+2), lease: NewLease(w.Uint64(), r.timing)}
		p.starts = time.Duration(w.IntN(spread)) * time.Millisecond
		if w.chance(4) {
			p.goal = w.IntN(3)
		}
		w.procs = append(w.procs, p)
	}
	for w.now = 0; w.now < faulty+20*time.Second && w.ended() < count; w.now += time.Duration(1+w.IntN(40)) * time.Millisecond {
		w.quiet = w.now > faulty
		if steps++; w.chance(2) {
			w.broker()
		}
		p := w.procs[w.IntN(count)]
		p.step()
		if c := w.tooLong(p); c != "" {
			return c, steps, w
		}
		if w.together {
			return fmt.Sprintf("two publish at once, one of them process %d", p.name), steps, w
		}
	}
	w.leader.commit(len(w.leader.log))
	for _, p := range w.procs {
		if !p.ended && w.now-p.progress > 15*time.Second {
			return fmt.Sprintf("process %d neither publishes nor ends", p.name), steps, w
		}
	}
	return w.check(), steps, w
}

// tooLong says whether two publish for too long: a process that has found a
// younger one is not alone in having time; only time in which it runs, and is
// answered, counts.
func (w *world) tooLong(p *proc) string {
	holder := w.leader.entry(Holder)
	if p.ended || !p.ready || p.conn == nil || p.goal == 0 || p.conn.cached != w.leader || w.now < p.conn.blockedUntil || holder == p.lease.number || p.lease.older(holder) || p.lease.phase == lost {
		p.active = 0
		return ""
	}
	if p.active > 2*time.Second && p.sure(w.at()) { // otherwise its looks fail, and it waits
		return fmt.Sprintf("process %d still publishes after %v", p.name, p.active)
	}
	return ""
}

func (w *world) check() string {
	times := map[int]int{}
	for _, r := range w.leader.log {
		if r.uid != 0 {
			times[r.uid]++
		}
	}
	for uid := 1; uid <= w.uids; uid++ {
		if by := w.said[-uid]; by != "" && times[uid] != 1 || times[uid] > 1 {
			return fmt.Sprintf("message %d (confirmed to %q) is in the stream %d times", uid, by, times[uid])
		}
	}
	return ""
}

// The worlds of many seeds hold what is promised: a message that was confirmed
// to either process is in the stream once, and the older one ends soon.
func TestModel(t *testing.T) {
	var steps, holders, confirmed int
	ends := map[string]int{}
	seeds := 1000
	if testing.Short() {
		seeds = 100
	}
	for seed := range seeds {
		c, n, w := play(uint64(seed), allRules())
		if c != "" {
			t.Fatalf("seed %d: %s", seed, c)
		}
		steps, holders = steps+n, holders+w.holders
		for k, v := range w.said {
			if k > 0 {
				ends[v]++
			} else {
				confirmed++
			}
		}
	}
	t.Logf("%d steps; %d times a process began; %d messages confirmed; %v", steps, holders, confirmed, ends)
	if ends["lost"] < seeds/20 || ends["closed"] < seeds/20 || ends["killed"] < seeds/20 {
		t.Errorf("the worlds are too peaceful: %v", ends)
	}
}

// Each rule is needed: without it, a world breaks the promise. The worlds in
// which that happens are known, as some are one in many thousands.
func TestModelMutations(t *testing.T) {
	for _, m := range []struct {
		name   string
		from   uint64 // a seed at or shortly after which it is noticed
		mutate func(*rules)
	}{
		{"send without a look", 212, func(r *rules) { r.lookFirst = false }},
		{"count confirms without a look", 291, func(r *rules) { r.trust = false }},
		{"the younger one hardly waits", 876, func(r *rules) { r.timing.Wait /= 5 }},
		{"a leash longer than the wait", 216, func(r *rules) { r.timing.Leash = 4 * time.Second }},
		{"ids begin at the next one", 59, func(r *rules) { r.jump = false }},
		{"the epoch is taken from the sequence", 7252, func(r *rules) { r.epochs = false }},
		{"the newcomer's entry is ignored", 2, func(r *rules) { r.announce = false }},
		{"given back by one who has not begun", 114, func(r *rules) { r.lateClose = false }},
		{"no look after DeclarePublisher", 143, func(r *rules) { r.link = false }},
		{"a look counts from its answer", 155, func(r *rules) { r.sentTime = false }},
		{"going on after the number went", 10028, func(r *rules) { r.open = false }},
		{"a store that came late is good", 31469, func(r *rules) { r.lateStore = false }},
	} {
		t.Run(m.name, func(t *testing.T) {
			r := allRules()
			m.mutate(&r)
			for seed := m.from; seed < m.from+2_000; seed++ {
				if c, _, _ := play(seed, r); strings.HasPrefix(c, "message") || strings.HasPrefix(c, "two") {
					t.Logf("seed %d: %s", seed, c)
					return
				}
			}
			t.Error("no world notices")
		})
	}
}
