package stream

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// run is the sender: one link after the other until Close, or until trying
// again is useless.
func (p *Producer) run(l *link) {
	defer p.env.owned.Done()
	defer close(p.ended)
	defer p.stateClosed()
	for attempt := 0; ; {
		err := p.pump(l)
		if l.close(); err == nil {
			return
		}
		if l.confirms.Load() > 0 {
			attempt = 0 // it worked: the next attempt comes at once
			p.idleLeader = ""
		}
		if errors.Is(err, errNoConfirms) {
			p.idleLeader = l.node
		}
		if l = p.reconnect(&attempt, err); l == nil {
			return
		}
		p.flight.resend() // if Close came meanwhile, pump sees it and the link is closed
	}
}

// reconnect makes a new link after err, for as long as it takes. It returns nil
// if the producer has ended.
func (p *Producer) reconnect(attempt *int, err error) *link {
	for ; ; *attempt++ {
		p.state(StateChange{State: StateReconnecting, Err: err, Attempt: *attempt + 1})
		if sleep(p.life, p.env.cfg.Backoff.pause(*attempt, rand.Float64)) != nil {
			return nil
		}
		var l *link
		if l, err = p.connect(p.life); err == nil {
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
}

// state reports a change of the producer's.
func (p *Producer) state(c StateChange) {
	c.Role, c.Stream, c.Name = RoleProducer, p.stream, p.cfg.Name
	p.env.states.change(c)
}

// stateClosed reports the producer's end.
func (p *Producer) stateClosed() {
	err := p.flight.refusal()
	if errors.Is(err, ErrClosed) {
		err = nil
	}
	p.state(StateChange{State: StateClosed, Err: err})
}

// fail ends the producer with an error that trying again cannot mend. Whether
// the messages on their way got into the stream is not known.
func (p *Producer) fail(err error) {
	p.flight.close(err)
	p.flight.settleAll(fmt.Errorf("%w: %w", ErrUnconfirmed, err))
}

// pump feeds a link until it is lost, which is the error, or Close ends the
// producer. It never waits for a link alone: one that is stuck is noticed by
// the confirms that do not come.
func (p *Producer) pump(l *link) error {
	watch := time.NewTicker(max(p.cfg.ConfirmTimeout/4, time.Millisecond))
	defer watch.Stop()
	quiet := newWatchdog(5) // the first look may come right after the batch
	var batch []*slot
	sending := false // with filter values
	for {
		var feed chan<- []*slot
		var before <-chan struct{}
		if len(batch) == 0 {
			batch = p.flight.takeInto(l.room(), max(batchMessages, p.cfg.SubEntries), roomIn(l.frameMax, p.cfg.SubEntries))
			if len(batch) == 0 {
				l.reuse(batch)
			}
		}
		if len(batch) > 0 {
			feed = l.batches
			if filtered := batch[0].filter != ""; filtered != sending {
				// Messages with a filter value go through a producer of their own:
				// for the order, those before them have to be in the stream.
				var ok bool
				if ok, before = p.flight.reached(batch[0].id - 1); ok {
					sending = filtered
				} else {
					feed = nil
				}
			}
		}
		select {
		case feed <- batch:
			batch = nil
		case <-before:
		case <-p.wake:
		case <-l.lost:
			return l.reason()
		case <-watch.C:
			if quiet.bites(p.flight.sent() > 0, l.confirms.Load()) {
				return fmt.Errorf("%w: %s %w for %v", ErrUnreachable, l.address, errNoConfirms, p.cfg.ConfirmTimeout)
			}
		case <-p.life.Done():
			return nil
		}
	}
}

// errNoConfirms ends a link whose leader may be cut off from its cluster.
var errNoConfirms = errors.New("has confirmed nothing")

// watchdog notices that a counter stands still while it should grow. It is
// pure: the caller has the clock.
type watchdog struct {
	patience, quiet int
	seen            uint64
}

func newWatchdog(patience int) *watchdog { return &watchdog{patience: patience} }

// bites reports whether the counter has stood still for as many looks in a row
// as the watchdog has patience.
func (w *watchdog) bites(waiting bool, count uint64) bool {
	if !waiting || count != w.seen {
		w.seen, w.quiet = count, 0
		return false
	}
	w.quiet++
	return w.quiet >= w.patience
}

// connect makes a link for the producer. The stream is looked up on the
// administrative connection first: it tells quickly and exactly what the
// official client would not.
func (p *Producer) connect(ctx context.Context) (*link, error) {
	leader, err := p.env.cluster.ReachLeader(ctx, p.stream, p.idleLeader)
	if err != nil {
		return nil, err
	}
	l, err := dialLink(ctx, p.env.cfg, leader, p.stream, p.cfg, p.flight)
	if err != nil {
		return nil, p.env.explainLink(ctx, leader, err)
	}
	if known := p.flight.last(); p.connected && p.cfg.Name != "" && l.lastID > known {
		l.close()
		return nil, fmt.Errorf("%w: the broker has the publishing id %d under it, and this producer has come to %d", ErrNameInUse, l.lastID, known)
	}
	p.connected = true
	p.flight.raise(l.lastID)
	p.frameMax.Store(int64(l.frameMax))
	return l, nil
}
