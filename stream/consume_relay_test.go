package stream

import (
	"context"
	"testing"
	"testing/synctest"
)

// turnScene is a run whose handlers are called by a relay, and a chunk of four
// blocks for it.
type turnScene struct {
	relay   handlerRelay
	handled *[]uint64
	ended   chan error // of the dispatch
}

// playTurns is synctest.Test, in which the run has its chunk and waits for a turn.
func playTurns(t *testing.T, cfg ConsumerConfig, act func(*turnScene)) {
	synctest.Test(t, func(t *testing.T) {
		s, _, handled := serialRun(t, t.Context(), cfg, neverFails)
		p := &turnScene{newHandlerRelay(), handled, make(chan error, 1)}
		s.run.relay = p.relay
		chunk := plainChunk(0, 4*blockSize)
		go func() { p.ended <- giveTo(s, chunk, &s.run.decoder) }()
		synctest.Wait()
		act(p)
		must(t, <-p.ended)
		if n := len(*handled); n != 4*blockSize {
			t.Errorf("%d messages were handled, want %d", n, 4*blockSize)
		}
		wantPlace(t, s.run, 4*blockSize, chunk)
	})
}

// another has another run wait for a turn, and returns the outcome.
func (p *turnScene) another() chan error {
	outcome := make(chan error, 1)
	go func() { outcome <- p.relay.call(context.Background(), func() {}) }()
	synctest.Wait()
	return outcome
}

// turn serves the one whose turn it is, and returns how many messages the run
// has handled since.
func (p *turnScene) turn() int {
	before := len(*p.handled)
	(<-p.relay.calls).serve()
	return len(*p.handled) - before
}

// TestRelayTurnAlone: a run that nobody waits for handles its chunk in one turn.
func TestRelayTurnAlone(t *testing.T) {
	playTurns(t, ConsumerConfig{}, func(p *turnScene) {
		if n := p.turn(); n != 4*blockSize {
			t.Errorf("the first turn had %d messages, want all %d", n, 4*blockSize)
		}
	})
}

// TestRelayTurnAmongOthers: a turn is over with the block in hand when somebody
// else waits. Who has given up does not wait, and neither does who was served.
func TestRelayTurnAmongOthers(t *testing.T) {
	playTurns(t, ConsumerConfig{}, func(p *turnScene) {
		ctx, giveUp := context.WithCancel(context.Background())
		gone := make(chan error)
		go func() { gone <- p.relay.call(ctx, func() {}) }()
		synctest.Wait()
		if n := p.turn(); n != blockSize {
			t.Errorf("a turn for which others waited had %d messages, want a block of %d", n, blockSize)
		}
		giveUp()
		if err := <-gone; err != errStopped {
			t.Errorf("who gave up got %v", err)
		}
		synctest.Wait() // the run waits first
		go p.relay.always(func() {})
		synctest.Wait()
		if n := p.turn(); n != blockSize {
			t.Errorf("a turn for which others waited had %d messages, want a block of %d", n, blockSize)
		}
		if n := p.turn(); n != 0 {
			t.Errorf("the other's turn had %d messages", n)
		}
		if n := p.turn(); n != 2*blockSize {
			t.Errorf("the last turn had %d messages, want the %d that were left", n, 2*blockSize)
		}
	})
}
