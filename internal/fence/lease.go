package fence

import (
	"slices"
	"time"
)

// Timing is how long the waits of a Lease are. Leash has to be well below Wait,
// because the clocks of two machines do not run alike.
type Timing struct {
	Interval time.Duration // between two looks while there is something to send
	Leash    time.Duration // how old the last answered look may be, from when it was sent
	Wait     time.Duration // how long a younger one waits for the older one's leash
}

// Times is the timing of the library.
var Times = Timing{Interval: 300 * time.Millisecond, Leash: time.Second, Wait: 2 * time.Second}

// maxRestarts is how often a producer that others have come before begins anew.
const maxRestarts = 3

// Action is what the owner of a Lease does next.
type Action uint8

// The actions.
const (
	// Rest: nothing, until an answer comes, the need changes, or Close is
	// called.
	Rest Action = iota
	// Wait: nothing before Step.At; then Next again.
	Wait
	// Ask: send a round. A round stores Step.Number under Step.Store, unless
	// that is NoEntry, and then queries the holder, the newcomer, and the
	// sequence, in this order and on the publisher's connection.
	Ask
	// Redeclare: the number has gone, and every message has its outcome. The
	// publisher is to be declared anew, and then Link to be called.
	Redeclare
	// Lost: another process has the name. The producer ends.
	Lost
	// Gone: the number has gone while messages had no outcome, and it is
	// unknown what else was written since. The producer ends; another one may
	// begin.
	Gone
	// UsedUp: no ids are left that could be given out. The producer ends.
	UsedUp
	// Done: the lease has ended, after Close.
	Done
)

// Step is what Next decides.
type Step struct {
	Do     Action
	At     time.Time // of Wait
	Store  Entry     // of Ask
	Number uint64    // of Ask: what to store
}

// Seen is what a round has read.
type Seen struct {
	Holder, Newcomer uint64 // Nobody where nothing is stored
	Sequence         uint64
}

// Given says which ids the producer has given out.
type Given struct {
	Last uint64 // the highest one
	Open bool   // a message with such an id has no outcome
}

type phase uint8

const (
	reading    phase = iota // a look decides what comes next
	announcing              // tell that there is a newcomer
	taking                  // store the number, and read it back
	waiting                 // until the older one's leash has ended
	holding
	returning // give the name back
	stale     // the publisher has to be declared anew
	usedUp
	gone
	lost
	done
)

// Lease decides who publishes under a name. Its owner calls Link, asks Next
// what to do, and reports how that went by Answer, Failed or Unlink. It sends
// messages and counts confirms only while Sure says so.
//
// A Lease is for ids that the producer counts. Who numbers the messages himself
// needs none.
type Lease struct {
	timing  Timing
	process uint32
	attempt uint32

	phase  phase
	linked bool
	asked  bool      // a round has no answer yet
	pause  time.Time // no round before

	number   uint64   // of the present attempt; 0 before the first
	stored   bool     // number may be in the holder's entry
	began    bool     // the attempt has succeeded
	found    uint64   // the holder when the attempt began
	before   []uint64 // numbers of those that this one has followed
	free     bool     // nothing speaks against beginning without a wait
	jumps    bool     // it had to wait
	floor    uint64
	restarts int
	looked   time.Time // when the look in front of the store of the number was sent
	taken    time.Time // when the number was read back
	own      time.Time // when the last look that showed the number was sent

	closing, clean bool
}

// NewLease returns the lease of one producer. random tells it from all others:
// its upper 26 bits count.
func NewLease(random uint64, timing Timing) *Lease {
	return &Lease{timing: timing, process: uint32(random >> 38)}
}

// Link begins with a publisher that was just declared. Call it after each
// DeclarePublisher that was answered: what was seen before tells nothing about
// the leader that this publisher is tied to.
func (l *Lease) Link() {
	l.linked, l.asked, l.own, l.pause = true, false, time.Time{}, time.Time{}
	if l.phase < usedUp {
		l.phase = reading
	}
}

// Unlink ends what Link began: the publisher or its connection is lost.
func (l *Lease) Unlink() { l.linked, l.own = false, time.Time{} }

// Sure reports whether messages may be written now, and whether the confirms
// that had been received when now was read may be counted.
//
// Read the clock after the confirm was received, and in front of the write. A
// confirm that does not count yet is kept, and asked about again after the next
// Answer.
func (l *Lease) Sure(now time.Time) bool {
	return l.linked && l.phase == holding && !l.own.IsZero() && age(now, l.own) < l.timing.Leash
}

// Began reports whether the present attempt to take the name has succeeded, so that
// ids may be given out. It stays true while the publisher is declared anew.
func (l *Lease) Began() bool { return l.began }

// Floor returns what ids that are given out must be above, besides those that
// the broker has. It is above all those of the processes before, if one of them
// may have messages on their way. It counts once Sure has been true.
func (l *Lease) Floor() uint64 { return l.floor }

// Next returns what to do now. need says that there are messages to send, or
// without an outcome: without them nobody looks.
func (l *Lease) Next(now time.Time, need bool) Step {
	switch {
	case l.phase == lost:
		return Step{Do: Lost}
	case l.phase == gone:
		return Step{Do: Gone}
	case l.phase == usedUp:
		return Step{Do: UsedUp}
	case l.phase == done, l.closing && !l.returns():
		l.phase = done
		return Step{Do: Done}
	case l.phase == stale:
		return Step{Do: Redeclare}
	case !l.linked || l.asked:
		return Step{Do: Rest}
	case now.Before(l.pause):
		return Step{Do: Wait, At: l.pause}
	}
	return l.round(now, need || l.closing)
}

// returns reports whether a lease that ends gives the name back.
func (l *Lease) returns() bool { return l.clean && l.began }

// round returns the round that is due, if there is one.
func (l *Lease) round(now time.Time, need bool) Step {
	switch l.phase {
	case announcing:
		return l.ask(Newcomer, l.number)
	case taking:
		l.stored = true
		return l.ask(Holder, l.number)
	case waiting:
		if end := l.taken.Add(l.timing.Wait); now.Before(end) {
			return Step{Do: Wait, At: end}
		}
		return l.ask(Newcomer, l.number)
	case holding:
		return l.look(now, need)
	}
	if !need {
		return Step{Do: Rest}
	}
	return l.ask(NoEntry, 0)
}

// look is round for a holder.
func (l *Lease) look(now time.Time, need bool) Step {
	fresh := age(now, l.own) < l.timing.Interval
	switch {
	case !need:
		return Step{Do: Rest}
	case !fresh:
		return l.ask(NoEntry, 0)
	case l.closing:
		l.phase = returning
		return l.ask(Holder, givenBack(l.number))
	}
	return Step{Do: Wait, At: l.own.Add(l.timing.Interval)}
}

func (l *Lease) ask(store Entry, n uint64) Step {
	l.asked = true
	return Step{Do: Ask, Store: store, Number: n}
}

// Failed reports that a round was answered by an error that may pass, on a
// publisher that lives on. What such a round has stored is unknown.
func (l *Lease) Failed(now time.Time) {
	l.asked, l.pause = false, now.Add(l.timing.Interval)
	switch l.phase {
	case taking, waiting:
		l.phase = reading
	case returning:
		l.phase = done
	}
}

// Answer takes what a round has read. sent is when its first byte was about to
// be written.
func (l *Lease) Answer(sent, now time.Time, seen Seen, given Given) {
	l.asked = false
	switch l.phase {
	case reading:
		l.read(sent, now, seen, given)
	case announcing:
		if seen.Holder != l.found { // another one is as new: it gets no number below its own
			l.begin(seen, given)
			l.free = false
		}
		if l.looked = sent; l.phase != usedUp {
			l.phase = taking
		}
	case taking:
		l.readBack(sent, now, seen, given)
	case waiting, holding:
		if l.judge(now, seen.Holder, given) {
			l.hold(sent)
		}
	case returning:
		l.phase = done
	}
}

// read decides on the first look after Link.
func (l *Lease) read(sent, now time.Time, seen Seen, given Given) {
	switch {
	case l.stored && seen.Holder == l.number && l.began:
		l.hold(sent)
	case l.stored && seen.Holder == l.number:
		l.await(now, seen, given)
	case l.stored && !l.older(seen.Holder):
		l.phase = lost
	case l.began && given.Open:
		l.phase = gone
	default:
		l.begin(seen, given)
	}
}

// begin begins an attempt to take the name. Its epoch is above all that could
// be in use: the ids of a holder may have come into the epoch after that of the
// broker's sequence.
func (l *Lease) begin(seen Seen, given Given) {
	epoch := max(epochOf(seen.Holder)+1, epochOf(seen.Newcomer)+1, seen.Sequence>>epochShift+2, given.Last>>epochShift+1)
	if epoch > maxEpoch {
		l.phase = usedUp
		return
	}
	l.attempt++
	l.number = number(epoch, l.process, l.attempt)
	l.stored, l.began, l.taken = false, false, time.Time{}
	l.jumps, l.floor = false, 0 // an earlier attempt's is no matter of this number's epoch
	l.found, l.free = seen.Holder, isFree(seen.Holder, seen.Newcomer)
	l.follow(seen.Holder)
	l.phase = announcing
}

// readBack decides on what is read behind the store of the number.
func (l *Lease) readBack(sent, now time.Time, seen Seen, given Given) {
	switch {
	case !l.judge(now, seen.Holder, given):
	case l.free && seen.Newcomer == l.number:
		l.hold(sent)
	default:
		l.await(now, seen, given)
	}
}

// await lets the older one's leash end. Its last look was handled before the
// number was stored, so before the first time the number was read.
//
// If the store came late, a process may have taken the name since the look in
// front of it, and have waited, and begun, with an epoch that is as high: then
// the attempt is made again. Who began less than Wait ago has not sent
// anything, and will not.
func (l *Lease) await(now time.Time, seen Seen, given Given) {
	if l.taken.IsZero() {
		if age(now, l.looked) > l.timing.Wait*3/4 {
			l.begin(seen, given)
			return
		}
		l.taken = now
	}
	l.phase, l.jumps = waiting, true
	l.floor = epochOf(l.number)<<epochShift - 1
}

func (l *Lease) hold(sent time.Time) {
	l.began, l.own, l.phase, l.restarts = true, sent, holding, 0
}

// judge reports whether the holder's entry has the number. Otherwise another
// process has the name, or the number has gone: a lost leader took the store
// with it, or one of those before has written late.
func (l *Lease) judge(now time.Time, holder uint64, given Given) bool {
	if holder == l.number {
		return true
	}
	if holder != l.found {
		l.restarts++
	}
	switch held := l.phase == holding; {
	case !l.older(holder) || l.restarts > maxRestarts:
		l.phase = lost
	case held && given.Open:
		l.phase = gone
	case held:
		l.phase, l.own = stale, time.Time{}
	default:
		l.phase, l.pause = reading, now.Add(l.timing.Interval)
	}
	return false
}

// older reports whether a number is of this process, of one that it has
// followed, or of nobody. One that has followed this one in turn has a higher
// epoch.
func (l *Lease) older(holder uint64) bool {
	if holder == Nobody || sameProcess(holder, l.number) {
		return true
	}
	return epochOf(holder) < epochOf(l.number) && slices.ContainsFunc(l.before, func(b uint64) bool { return sameProcess(holder, b) })
}

// follow remembers that this attempt comes after a holder.
func (l *Lease) follow(holder uint64) {
	if !l.older(holder) {
		l.before = append(l.before, holder)
	}
}

// Close ends the lease; Next says how. The name is given back, so that the next
// one need not wait, if no message of this producer can still be on its way:
// settled says that every message that was ever sent was confirmed or certainly
// refused, and confirmed that one was confirmed. Without a publisher the lease
// rests; its owner gives up when his time is over, and the next one waits.
func (l *Lease) Close(settled, confirmed bool) {
	l.closing, l.clean = true, settled && (confirmed || !l.jumps)
}

// age returns how long ago a moment was. A machine that was suspended has a
// monotonic clock that stood still, so the wall clock counts if it says more.
func age(now, then time.Time) time.Duration {
	return max(now.Sub(then), now.Round(0).Sub(then.Round(0)))
}
