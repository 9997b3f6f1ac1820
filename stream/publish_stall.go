package stream

import (
	"fmt"
	"time"
)

// stall is about a partition that has had no leader, or has confirmed nothing, for
// blockedAfter. Its messages wait as long as there is room for them. Who finds no
// room is refused then, and does not wait: he may be the one who publishes to the
// other partitions too. The producer's lock guards it.
type stall struct {
	on    bool
	begun chan struct{} // closed while on; nil for the producer of a stream, which never refuses
}

// begin reports whether that is new.
func (s *stall) begin() bool {
	if s.on || s.begun == nil {
		return false
	}
	s.on = true
	close(s.begun)
	return true
}

func (s *stall) end() {
	if s.on {
		*s = stall{begun: make(chan struct{})}
	}
}

// stallError is for a message that found no room, or that waited for the name.
func (p *Producer) stallError() error {
	if p.naming.pending() {
		return fmt.Errorf("%w: partition %q has had no leader or answered nothing for %v, so that the producer cannot make sure of its name there; publish the message again later", ErrBlocked, p.stream, blockedAfter)
	}
	return fmt.Errorf("%w: partition %q has had no leader or confirmed nothing for %v, and its part of MaxInFlight is used up; publish the message again later", ErrBlocked, p.stream, blockedAfter)
}

// setStalled takes what a look at the link has found.
func (p *Producer) setStalled(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !on {
		p.stalled.end()
	} else if p.stalled.begin() {
		p.wakeCallback()
	}
}

// stallAfter stalls a partition that has no link by then, unless the returned
// function is called before.
func (p *Producer) stallAfter(d time.Duration) (stop func()) {
	if p.part == nil {
		return func() {}
	}
	timer := time.AfterFunc(d, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.link == nil && p.stalled.begin() {
			p.wakeCallback()
		}
	})
	return func() { timer.Stop() }
}
