package broker

import (
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// turnBytes is about how many bytes the sender writes at a time.
	turnBytes = 256 << 10
	// turnFrames is how many frames it writes at a time.
	turnFrames = 512
	// lookPause is how often the sender looks at its load.
	lookPause = time.Second
)

// sender writes what the publishers of a connection have, in turn. Its goroutine
// does so, or that of a publisher's SendNow while nobody else writes. No timer is
// involved: a write takes what has come together during the write before.
//
// The broker's work grows with the frames: it makes a chunk of each, or of few.
// So where much is unconfirmed on the connection, a publisher with few entries of
// its own waits for their confirms with a frame that is not full. One of a hundred
// would else send a frame for every dozen messages, faster than the broker writes
// them.
type sender struct {
	mu      sync.Mutex
	ready   []*Publisher // that have something to send, the next one first
	parked  []*Publisher // that have something, and no room for it
	held    []*Publisher // that have a frame which is not full, and wait for their confirms
	load    *load
	crowded bool  // publishers should leave
	busy    bool  // somebody takes and writes
	left    *turn // what SendNow could not write
	over    bool  // the goroutine has ended

	retire func() // asks the publishers to leave; set before run

	writing atomic.Int64 // when the write in progress began, in Unix nanoseconds; 0: none
	wake    chan struct{}
	next    turn // of the goroutine
}

// turn is what is written at a time.
type turn struct {
	frames [][]byte
	bytes  int
	of     []*Publisher
}

func newSender(retire func()) *sender {
	return &sender{load: newLoad(), retire: retire, wake: make(chan struct{}, 1)}
}

func (s *sender) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// run is the goroutine. It ends with the connection.
func (s *sender) run(c *Conn) {
	look := time.NewTicker(lookPause)
	defer look.Stop()
	defer s.stop()
	always := make(chan struct{})
	close(always)
	for c.Alive() {
		next := s.wake
		if s.step(c) {
			next = always
		}
		select {
		case <-next:
		case <-look.C:
			if s.look() {
				s.retire()
			}
		case <-c.ended:
		}
	}
}

// stop ends what SendNow has left to the goroutine.
func (s *sender) stop() {
	s.mu.Lock()
	s.over = true
	t := s.left
	s.left = nil
	s.mu.Unlock()
	if t != nil {
		s.end(t)
	}
}

// step writes once, and reports whether there was something to write.
func (s *sender) step(c *Conn) bool {
	t := s.begin()
	if t == nil {
		return false
	}
	s.write(c, t)
	return true
}

// begin makes the goroutine the one who writes, and returns what it writes; nil
// for nothing.
func (s *sender) begin() *turn {
	s.mu.Lock()
	if t := s.left; t != nil {
		s.left = nil
		s.mu.Unlock()
		return t
	}
	if s.busy || len(s.ready) == 0 {
		s.mu.Unlock()
		return nil
	}
	s.busy = true
	s.mu.Unlock()
	s.gather(&s.next)
	return &s.next
}

// gather takes from the publishers in turn.
func (s *sender) gather(t *turn) {
	for t.bytes < turnBytes && len(t.frames) < turnFrames {
		s.mu.Lock()
		if len(s.ready) == 0 {
			s.mu.Unlock()
			return
		}
		p := s.ready[0]
		s.ready = slices.Delete(s.ready, 0, 1) // in place: the memory is used again
		p.turns, p.again = p.turns+1, false
		may := s.allowance(p)
		s.mu.Unlock()
		s.take(p, t, may)
	}
}

// allowance is what a publisher may send now. The caller holds the lock.
func (s *sender) allowance(p *Publisher) Allowance {
	return Allowance{Size: turnBytes, Room: s.load.room(p.load), Full: s.holds(p)}
}

// holds reports whether a publisher waits for its confirms with a frame that is
// not full: it is one of many. The caller holds the lock.
func (s *sender) holds(p *Publisher) bool {
	return p.unconfirmed > 0 && p.unconfirmed < fewEntries && s.load.isHigh()
}

// take adds what a publisher has to a turn.
func (s *sender) take(p *Publisher, t *turn, may Allowance) {
	before := len(t.frames)
	frames, entries, rest := p.source.Take(t.frames, may)
	t.frames = frames
	for _, f := range frames[before:] {
		t.bytes += len(f)
	}
	t.of = append(t.of, p)
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.gone {
		s.load.sentForNobody(entries)
		return
	}
	s.load.sent(p.load, entries)
	p.unconfirmed += entries
	switch {
	case rest == TookAll && !p.again:
		p.queued = false
	case rest == NoRoom && s.load.room(p.load) <= may.Room-entries:
		p.lacking = may.Room - entries
		s.parked = append(s.parked, p)
	case rest == NotFull && s.holds(p):
		p.held = true
		s.held = append(s.held, p)
	default:
		s.ready = append(s.ready, p)
	}
}

// write writes a turn and ends it.
func (s *sender) write(c *Conn, t *turn) {
	s.writing.Store(time.Now().UnixNano())
	if err := c.writeAll(net.Buffers(t.frames)); err != nil {
		c.fail(c.lost(err))
	}
	s.writing.Store(0)
	s.end(t)
}

// end tells the publishers that their frames are written, and lets others write.
func (s *sender) end(t *turn) {
	for _, p := range t.of {
		p.source.Sent()
	}
	s.mu.Lock()
	var goodbyes []func()
	for _, p := range t.of {
		if p.turns--; p.turns == 0 && p.goodbye != nil {
			goodbyes = append(goodbyes, p.goodbye)
			p.goodbye = nil
		}
	}
	clear(t.of)
	clear(t.frames)
	t.frames, t.of, t.bytes = t.frames[:0], t.of[:0], 0
	s.busy = false
	s.mu.Unlock()
	for _, say := range goodbyes {
		say()
	}
}

// now writes what a publisher has on the caller's goroutine, as far as the socket
// takes it at once and nobody else writes. The rest is left to the goroutine.
func (s *sender) now(c *Conn, p *Publisher) {
	s.mu.Lock()
	alone := !s.busy && !s.over && len(s.ready) == 1 && s.ready[0] == p
	if !alone {
		s.mu.Unlock()
		s.poke()
		return
	}
	s.busy = true
	s.ready = s.ready[:0]
	p.turns, p.again = p.turns+1, false
	may := s.allowance(p)
	t := p.turn
	s.mu.Unlock()
	s.take(p, t, may)
	taken := takenAll
	if len(t.frames) > 0 {
		taken = takenNone
	}
	if len(t.frames) == 1 {
		taken = c.direct.try(t.frames[0])
	}
	if taken == takenPart {
		clear(t.frames)
		t.frames = t.frames[:0] // writeAll begins with what try has kept
	}
	if taken != takenAll && s.leaveTo(t) {
		return
	}
	s.end(t)
	s.mu.Lock()
	more := len(s.ready) > 0
	s.mu.Unlock()
	if more {
		s.poke()
	}
}

// leaveTo leaves a turn to the goroutine, unless that has ended.
func (s *sender) leaveTo(t *turn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return false
	}
	s.left = t
	s.poke()
	return true
}

// add queues a publisher that has something to send.
func (s *sender) add(p *Publisher) (first bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.queued || p.gone {
		p.again = true
		return false
	}
	p.queued = true
	s.ready = append(s.ready, p)
	return !s.busy
}

// settled counts entries of a publisher that have their outcome, and lets those
// go on that had no room.
func (s *sender) settled(p *Publisher, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.gone {
		return
	}
	n = min(n, p.unconfirmed) // a broker may answer more often than it was asked
	s.load.settled(p.load, n)
	p.unconfirmed -= n
	s.unpark()
	s.unhold(p)
}

// unhold queues a publisher whose confirms have come, or all that wait for theirs
// if the load is low. The caller holds the lock.
func (s *sender) unhold(p *Publisher) {
	before := len(s.ready)
	switch {
	case len(s.held) == 0:
	case !s.load.isHigh():
		for _, p := range s.held {
			p.held = false
		}
		s.ready = append(s.ready, s.held...)
		clear(s.held)
		s.held = s.held[:0]
	case p.held && p.unconfirmed == 0:
		p.held = false
		s.held = without(s.held, p)
		s.ready = append(s.ready, p)
	}
	if len(s.ready) > before {
		s.poke()
	}
}

// unpark queues the publishers that have more room by now. The caller holds the
// lock.
func (s *sender) unpark() {
	kept := s.parked[:0]
	for _, p := range s.parked {
		if s.load.room(p.load) > p.lacking {
			s.ready = append(s.ready, p)
		} else {
			kept = append(kept, p)
		}
	}
	if len(kept) < len(s.parked) {
		clear(s.parked[len(kept):])
		s.parked = kept
		s.poke()
	}
}

// enter gives a publisher its part of the load.
func (s *sender) enter(p *Publisher, stream string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p.load = s.load.join(stream)
}

// leave ends a publisher's part. Nothing is taken from it any more, except by who
// has begun to.
func (s *sender) leave(p *Publisher, stream string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.gone {
		return
	}
	p.gone = true
	s.load.leave(stream, p.unconfirmed)
	s.ready = without(s.ready, p)
	s.parked = without(s.parked, p)
	s.held = without(s.held, p)
	s.unpark()
}

// afterFrames calls goodbye once no frame of a publisher that has left can follow:
// after the turn in progress if the publisher has a part in that. goodbye must not
// block.
func (s *sender) afterFrames(p *Publisher, goodbye func()) {
	s.mu.Lock()
	if p.turns > 0 {
		p.goodbye = goodbye
		s.mu.Unlock()
		return
	}
	s.mu.Unlock()
	goodbye()
}

func without(list []*Publisher, p *Publisher) []*Publisher {
	for i, other := range list {
		if other == p {
			return append(list[:i:i], list[i+1:]...)
		}
	}
	return list
}

// look finds out whether publishers should leave.
func (s *sender) look() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.parked {
		p.load.starved = true
	}
	s.crowded = s.load.look()
	return s.crowded
}

// isStill reports whether a publisher's stream confirms nothing.
func (s *sender) isStill(p *Publisher) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return p.load != nil && p.load.isStill()
}

// slow reports whether nobody should come to the connection: a write has not
// come to its end for a second, credit is lost, or publishers should leave.
func (s *sender) slow(now time.Time) bool {
	if began := s.writing.Load(); began != 0 && now.UnixNano()-began > int64(lookPause) {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.crowded || s.load.lost > 0
}
