package stream

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/tidemark-go/tidemark/internal/broker"
	"github.com/tidemark-go/tidemark/internal/fence"
)

const (
	// connectTimeout bounds one attempt to connect a producer, and the first one
	// to all partitions of a super stream together.
	connectTimeout = 10 * time.Second
	// blockedAfter is how long a broker that is alive may confirm nothing before
	// the producer counts as blocked.
	blockedAfter = 5 * time.Second
	// holdLimit is how long a producer that was asked to leave its connection
	// sends nothing, in order to leave it.
	holdLimit = 5 * time.Second
)

// run keeps the producer connected until Close, or until trying again is useless.
// It begins with a link, or with the error because of which there is none.
func (p *Producer) run(l *link, err error) {
	defer p.env.owned.Done()
	defer close(p.ended)
	defer p.stateClosed()
	attempt := 0
	if l == nil {
		if isFatal(err) {
			p.fail(err)
			return
		}
		if l = p.reconnect(&attempt, err); l == nil {
			return
		}
	}
	for {
		err := p.attend(l)
		worked := p.leave(l)
		if err == nil {
			return
		}
		if isFatal(err) {
			p.fail(err)
			return
		}
		if worked {
			attempt = 0 // the next attempt comes at once
			p.idleLeader = ""
		}
		if errors.Is(err, errNoConfirms) {
			p.idleLeader = l.pub.Node().Address()
		}
		if l = p.reconnect(&attempt, err); l == nil {
			return
		}
	}
}

// attend watches a link until it is lost, which is the error, or Close ends the
// producer.
func (p *Producer) attend(l *link) error {
	watch := time.NewTicker(max(min(p.cfg.ConfirmTimeout, blockedAfter)/2, time.Millisecond))
	defer watch.Stop()
	due := time.NewTimer(maxDuration)
	defer due.Stop()
	look := looked{at: time.Now()}
	for {
		step := p.nextStep(l)
		if step.Do == fence.Wait {
			due.Reset(time.Until(step.At))
		} else if err := p.takeStep(l, step); err != nil {
			return err
		}
		select {
		case <-due.C:
		case <-l.lost:
			return l.reason
		case <-l.pub.Ended():
			return l.pub.Reason()
		case <-p.life.Done():
			return nil
		case <-l.heard:
		case <-watch.C:
		}
		if err := p.look(l, &look); err != nil {
			return err
		}
	}
}

// looked is what the last looks at a link have found.
type looked struct {
	at     time.Time // when another leader was last asked for, or the broker last confirmed something
	held   time.Time // since when the link is held; zero: it is not
	unsent time.Time // since when there are messages of which none was sent; zero: there are none
}

// quiet returns for how long the broker has confirmed nothing, though there are
// messages. It takes none from a connection on which others hold it up. The caller
// holds the lock.
func (p *Producer) quiet(l *link, last *looked) time.Duration {
	switch {
	case p.box.waiting > 0:
		last.unsent = time.Time{}
		return time.Since(l.lastTime)
	case p.box.open == 0:
		last.unsent = time.Time{}
		return 0
	case last.unsent.IsZero():
		last.unsent = time.Now()
	}
	return time.Since(last.unsent)
}

// look finds out whether the link still does its work.
func (p *Producer) look(l *link, last *looked) error {
	p.mu.Lock()
	quiet := p.quiet(l, last)
	nameless := p.nameless()
	blocked := nameless || quiet >= min(p.cfg.ConfirmTimeout, blockedAfter)
	changed := blocked != l.blocked
	l.blocked = blocked
	held, free := l.holding, p.box.waiting == 0
	p.mu.Unlock()
	switch {
	case held && free:
		return errRetired
	case held && last.held.IsZero():
		last.held = time.Now()
	case held && time.Since(last.held) >= holdLimit:
		last.held = time.Time{}
		p.release(l)
	}
	if changed {
		p.setStalled(blocked)
	}
	if changed && nameless {
		p.state(StateChange{State: StateBlocked, Err: fmt.Errorf("%w: the producer cannot make sure of its name: the broker at %s does not answer, or loses what is stored for that", ErrBlocked, l.pub.Address())})
	} else if changed && blocked {
		p.state(StateChange{State: StateBlocked, Err: p.blockedError(l, quiet)})
	} else if changed {
		p.state(StateChange{State: StateConnected, reconnected: true})
	}
	if quiet < p.cfg.ConfirmTimeout || time.Since(last.at) < p.cfg.ConfirmTimeout {
		return nil
	}
	last.at = time.Now()
	return p.lookForLeader(l)
}

// release lets a link that could not be left go on.
func (p *Producer) release(l *link) {
	p.mu.Lock()
	l.holding = false
	p.mu.Unlock()
	p.offer(false)
}

// blockedError says what it may mean that the broker confirms nothing.
func (p *Producer) blockedError(l *link, quiet time.Duration) error {
	return fmt.Errorf("%w: %s has confirmed nothing for %v and is alive: it may have a disk alarm, or the stream no quorum, or the broker may not keep up; publishing goes on by itself when that ends", ErrBlocked, l.pub.Address(), quiet.Round(time.Second))
}

// errNoConfirms ends a link whose leader is cut off from its cluster.
var errNoConfirms = errors.New("has confirmed nothing")

// lookForLeader returns an error if the other nodes name another leader than the
// link's. The messages stay where they are otherwise: they are in the leader's
// log, and commit when its quorum is back.
func (p *Producer) lookForLeader(l *link) error {
	ctx, cancel := context.WithTimeout(p.life, connectTimeout)
	defer cancel()
	at, err := p.env.cluster.FindLeader(ctx, p.stream, l.pub.Node().Address())
	if err != nil || at.Leader == l.pub.Node() {
		return nil
	}
	return fmt.Errorf("%w: %s %w for %v, and %s leads the stream", ErrUnreachable, l.pub.Address(), errNoConfirms, p.cfg.ConfirmTimeout, at.Leader.Address())
}

// reconnect makes a new link after err, for as long as it takes. It returns nil
// if the producer has ended.
func (p *Producer) reconnect(attempt *int, err error) *link {
	defer p.stallAfter(blockedAfter)()
	for blocked := false; p.life.Err() == nil; *attempt++ { // else err is that of the end
		was := blocked
		blocked = errors.Is(err, ErrBlocked)
		switch {
		case !blocked:
			p.state(StateChange{State: StateReconnecting, Err: err, Attempt: *attempt + 1})
		case !was: // once, not with each attempt
			p.state(StateChange{State: StateBlocked, Err: err})
		}
		if sleep(p.life, p.env.cfg.Backoff.pause(*attempt, rand.Float64)) != nil {
			return nil
		}
		var l *link
		if l, err = p.connectClaimed(); err == nil {
			*attempt++
			p.state(StateChange{State: StateConnected, reconnected: true})
			return l
		}
		if errors.Is(err, ErrStreamNotFound) {
			err = fmt.Errorf("%w: create it again with Env.DeclareStream and make a new producer", ErrStreamDeleted)
		}
		if isFatal(err) {
			p.fail(err)
			return nil
		}
	}
	return nil
}

// state reports a change of the producer's.
func (p *Producer) state(c StateChange) {
	c.Role, c.Stream, c.Name = RoleProducer, p.stream, p.cfg.Name
	p.env.states.change(c)
}

// stateClosed reports the producer's end.
func (p *Producer) stateClosed() {
	p.env.disown(p) // first: who hears of the end may use the name
	p.mu.Lock()
	err := p.refusal
	p.mu.Unlock()
	if errors.Is(err, ErrClosed) {
		err = nil
	}
	p.state(StateChange{State: StateClosed, Err: err})
}

// fail ends the producer with an error that trying again cannot mend, and frees
// its name. Whether the messages on their way got into the stream is not known.
func (p *Producer) fail(err error) {
	p.env.disown(p) // first: who hears of the end may use the name
	p.refuse(err)
	p.abandon(err)
	if p.part != nil {
		p.part.ended(p, err)
	} else {
		p.calls.end()
	}
}

// connect makes a link to the stream's leader, and makes it the producer's.
func (p *Producer) connect(ctx context.Context) (*link, error) {
	ctx, cancel := withinConnectTimeout(ctx)
	defer cancel()
	at, err := p.env.cluster.FindLeader(ctx, p.stream, p.idleLeader)
	if err != nil {
		return nil, err
	}
	for {
		l, err := p.connectTo(ctx, at)
		if !errors.Is(err, broker.ErrSilent) {
			return l, err
		} // else nobody joins that connection any more: another one may say why
	}
}

// withinConnectTimeout bounds an attempt to connect.
func withinConnectTimeout(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, connectTimeout, broker.OwnReason(fmt.Errorf("%w: no producer within %v", ErrUnreachable, connectTimeout)))
}

// connectTo makes a link to a leader, and makes it the producer's.
func (p *Producer) connectTo(ctx context.Context, at broker.Location) (_ *link, err error) {
	l := newLink(p)
	if l.pub, err = p.env.cluster.Publish(ctx, at.Contact, at.Leader, p.stream, l, p.cfg.OwnConnection); err != nil {
		l.cancel()
		return nil, err
	}
	if err := p.declare(ctx, l); err != nil {
		l.cancel()
		l.pub.Release()
		return nil, err
	}
	return l, nil
}

// declare opens the publisher on the link's connection, and lets it send.
func (p *Producer) declare(ctx context.Context, l *link) error {
	if err := l.pub.Declare(ctx, p.cfg.Name); err != nil {
		return err
	}
	var sequence uint64
	if p.cfg.Name != "" {
		var err error
		if sequence, err = l.pub.Sequence(ctx, p.cfg.Name); err != nil {
			return err
		}
	}
	offered, err := l.pub.Filters(ctx)
	if err != nil {
		return err
	}
	p.noFilters.Store(!offered)
	return p.attach(l, sequence)
}

// attach makes a link the producer's. sequence is what the broker has under its
// name.
func (p *Producer) attach(l *link, sequence uint64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.room.Store(int64(roomIn(l.pub.FrameMax(), p.cfg.SubEntries > 1)))
	p.link, l.lastTime = l, time.Now()
	p.stalled.end()
	if p.naming.lease != nil {
		p.naming.lease.Link() // what the broker has is asked for once it is sure whose the name is
	} else if err := p.answered(sequence); err != nil {
		p.link = nil
		return err
	}
	p.box.noFilters = p.noFilters.Load()
	p.box.resend(l.pub.FrameMax(), p.tell)
	p.told()
	l.offered = true
	l.pub.Ready()
	return nil
}

// leave ends a link and reports whether the broker has confirmed anything on it.
func (p *Producer) leave(l *link) (worked bool) {
	p.mu.Lock()
	p.link = nil
	p.naming.kept = nil
	if p.naming.lease != nil {
		p.naming.lease.Unlink()
	}
	worked = l.outcomes > 0
	p.mu.Unlock()
	l.cancel()
	l.rounds.Wait()
	l.pub.Release()
	return worked
}
