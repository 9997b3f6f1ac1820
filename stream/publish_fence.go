package stream

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/tidemark-go/tidemark/internal/broker"
	"github.com/tidemark-go/tidemark/internal/fence"
	"github.com/tidemark-go/tidemark/internal/wire"
)

// naming keeps the name of a producer to itself while it counts its messages' ids:
// package fence tells how. The producer's lock guards it. The goroutine of run
// takes the steps.
type naming struct {
	lease   *fence.Lease  // nil until an id is to be counted
	entries [2]string     // of the lease in the stream's offset tracking
	taken   chan struct{} // closed when the name is the producer's; nil if nobody waits
	kept    []keptOutcome // that do not count yet
	done    chan struct{} // closed when the lease has ended, after Close
}

// keptOutcome is an answer of the broker that came while it was uncertain whose
// the name is.
type keptOutcome struct {
	id   uint64
	code wire.Code
}

// maySend reports whether messages may be sent, and confirms counted, now.
func (n *naming) maySend(now time.Time) bool { return n.lease == nil || n.lease.Sure(now) }

// pending reports whether the name is yet to become the producer's.
func (n *naming) pending() bool { return n.lease != nil && !n.lease.Began() }

// floor is what counted ids have to be above.
func (n *naming) floor() uint64 {
	if n.lease == nil {
		return 0
	}
	return n.lease.Floor()
}

// takeName returns when the producer has its name to itself, which it needs before
// it counts an id. Only a producer with a name calls it. The caller holds the lock,
// which takeName gives up while it waits.
func (p *Producer) takeName(ctx context.Context) error {
	n := &p.naming
	if n.lease == nil {
		n.lease = fence.NewLease(rand.Uint64(), fence.Times)
		n.entries = [2]string{fence.Holder.Name(p.cfg.Name), fence.Newcomer.Name(p.cfg.Name)}
		if p.link != nil {
			n.lease.Link()
		}
	}
	for p.refusal == nil && n.pending() {
		switch {
		case ctx.Err() != nil:
			return broker.ContextError(ctx)
		case p.stalled.on:
			return p.stallError()
		}
		p.awaitName(ctx)
	}
	return p.refusal
}

// nameless reports whether somebody has waited too long for the name. A partition
// that refuses messages for that remains nameless until it has the name, though
// nobody waits any more. The caller holds the lock.
func (p *Producer) nameless() bool {
	waited := p.wanted > 0 && time.Since(p.wantedSince) >= blockedAfter
	return p.naming.pending() && (waited || p.stalled.on)
}

// awaitName waits until the name may be the producer's.
func (p *Producer) awaitName(ctx context.Context) {
	if p.naming.taken == nil {
		p.naming.taken = make(chan struct{})
	}
	taken, stalled := p.naming.taken, p.stalled.begun
	if p.wanted++; p.wanted == 1 {
		p.wantedSince = time.Now()
	}
	defer func() { p.wanted-- }()
	p.unlocked(func() {
		p.wakeRun()
		select {
		case <-taken:
		case <-stalled:
		case <-p.refused:
		case <-ctx.Done():
		}
	})
}

// wakeRun has the goroutine of run look what is to be done.
func (p *Producer) wakeRun() {
	p.mu.Lock()
	l := p.link
	p.mu.Unlock()
	if l != nil {
		l.hear()
	}
}

// nextStep is what the lease wants done next on a link.
func (p *Producer) nextStep(l *link) fence.Step {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.naming.lease == nil {
		return fence.Step{}
	}
	need := p.box.open > 0 || p.wanted > 0 || len(p.naming.kept) > 0 || p.stalled.on
	step := p.naming.lease.Next(time.Now(), need)
	l.resting = step.Do == fence.Rest
	return step
}

// take takes a step of the lease. An error ends the link or, if it is fatal, the
// producer.
func (p *Producer) takeStep(l *link, step fence.Step) error {
	switch step.Do {
	case fence.Ask:
		l.rounds.Go(func() { p.round(l, step) })
	case fence.Redeclare:
		return errStale
	case fence.Lost:
		return fmt.Errorf("%w: another process publishes under it", ErrNameInUse)
	case fence.Gone:
		return fmt.Errorf("%w: what shows that this producer has it was lost while messages were on their way, and another process may have used it since", ErrNameInUse)
	case fence.UsedUp:
		return fmt.Errorf("%w: its publishing ids are used up: use another one", ErrNameInUse)
	case fence.Done:
		p.naming.finish()
	}
	return nil
}

// finish closes done once.
func (n *naming) finish() {
	select {
	case <-n.done:
	default:
		close(n.done)
	}
}

// errStale ends a link whose publisher has to be declared anew.
var errStale = fmt.Errorf("%w: what shows whose the name is was lost", ErrUnreachable)

// round asks the broker who has the name.
func (p *Producer) round(l *link, step fence.Step) {
	store := ""
	if step.Store != fence.NoEntry {
		store = step.Store.Name(p.cfg.Name)
	}
	sent := time.Now()
	numbers, sequence, err := l.pub.Round(l.ctx, store, step.Number, p.naming.entries, p.cfg.Name)
	p.mu.Lock()
	defer p.mu.Unlock()
	defer l.hear()
	if !l.current() {
		return
	}
	if err != nil {
		p.naming.lease.Failed(time.Now())
		return
	}
	seen := fence.Seen{Holder: numbers[0], Newcomer: numbers[1], Sequence: sequence}
	p.naming.lease.Answer(sent, time.Now(), seen, fence.Given{Last: p.box.lastID, Open: p.box.open > 0})
	if err := p.heed(l, sequence); err != nil {
		l.lose(err)
	}
}

// heed does what an answer allows or demands. The caller holds the lock.
func (p *Producer) heed(l *link, sequence uint64) error {
	sure := p.naming.maySend(time.Now())
	if !sure || l.heeded {
		if err := p.sequence.Look(sequence); err != nil {
			return sequenceError(err)
		}
	}
	if !sure {
		return nil
	}
	if !l.heeded {
		if err := p.answered(sequence); err != nil {
			return err
		}
		l.heeded = true
	}
	if p.naming.taken != nil {
		close(p.naming.taken)
		p.naming.taken = nil
	}
	kept := p.naming.kept
	p.naming.kept = nil
	for _, k := range kept {
		l.settle(k.id, k.code)
	}
	l.settled()
	if !l.offered && p.box.open > 0 {
		l.offered = true
		l.pub.Ready()
	}
	return nil
}

// answered takes the sequence that was asked for after the publisher's
// declaration. Messages that were refused and that it overtakes have their
// outcome now. The caller holds the lock.
func (p *Producer) answered(sequence uint64) error {
	dead, err := p.sequence.Answer(sequence)
	for _, d := range dead {
		outcome := ErrUnconfirmed
		if d.Absent {
			outcome = ErrRefused
		}
		p.box.drop(d.ID, fmt.Errorf("%w: the broker did not know the producer when the message came, and has taken a higher publishing id since, %d", outcome, sequence), p.tell)
	}
	if len(dead) > 0 {
		p.box.resend(p.box.limit, p.tell) // without them; nothing was sent yet
	}
	p.told()
	return sequenceError(err)
}

// sequenceError makes an error of fence one of ours.
func sequenceError(err error) error {
	if err == nil {
		return nil // before behind, which is on the heap
	}
	var behind *fence.BehindError
	switch {
	case errors.Is(err, fence.ErrOutranked):
		return fmt.Errorf("%w: %w", ErrNameInUse, err)
	case errors.Is(err, fence.ErrIDsUsedUp):
		return fmt.Errorf("%w: %w", ErrInvalidMessage, err)
	case errors.As(err, &behind):
		return fmt.Errorf("%w: %w", ErrSequenceBehind, err)
	}
	return fmt.Errorf("%w: %w", ErrInvalidMessage, err)
}

// giveBackName lets the next producer have the name without a wait, if everything
// is settled and the broker answers in time.
func (p *Producer) giveBackName(ctx context.Context, settled bool) {
	p.mu.Lock()
	lease, linked := p.naming.lease, p.link != nil
	if lease != nil {
		lease.Close(settled, p.sequence.Confirmed())
	}
	p.mu.Unlock()
	if lease == nil || !linked || !settled {
		return
	}
	p.wakeRun()
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	select {
	case <-p.naming.done:
	case <-p.ended:
	case <-ctx.Done():
	}
}
