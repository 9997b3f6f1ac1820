package stream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tidemark-go/tidemark/internal/broker"
	"github.com/tidemark-go/tidemark/internal/wire"
)

// link is a producer's place on one connection, from its publisher's declaration
// to the end of that. It is what the connection takes frames from.
type link struct {
	p   *Producer
	pub *broker.Publisher

	// The producer's lock guards these.
	holding  bool      // nothing is taken: the link is about to be left
	outcomes uint64    // how many entries the broker has confirmed or refused
	lastTime time.Time // when it last did, or had nothing to
	blocked  bool      // StateBlocked was reported
	over     bool      // nothing is taken: the broker has dropped the publisher
	offered  bool      // the connection knows that there is something to take
	resting  bool      // the lease has nothing to do, until there are messages
	heeded   bool      // the sequence was heeded that was asked for on this link
	nSettled int       // entries that settle has settled, until settled
	// nReturned counts entries that were answered with 18: they have no outcome, and
	// the broker charges no credit for them.
	nReturned int

	ctx    context.Context // ends with the link
	cancel context.CancelFunc
	rounds sync.WaitGroup // of questions whose the name is

	heard chan struct{} // wakes the producer's goroutine

	once   sync.Once
	lost   chan struct{}
	reason error // once lost is closed
}

func newLink(p *Producer) *link {
	l := &link{p: p, lost: make(chan struct{}), heard: make(chan struct{}, 1)}
	l.ctx, l.cancel = context.WithCancel(p.life)
	return l
}

// errRetired ends a link whose connection the producer was asked to leave.
var errRetired = errors.New("another stream holds up the connection")

// lose ends the link. Only the first reason counts.
func (l *link) lose(reason error) {
	l.once.Do(func() {
		l.reason = reason
		close(l.lost)
	})
}

func (l *link) hear() {
	select {
	case l.heard <- struct{}{}:
	default:
	}
}

// current reports whether the link is the producer's. The caller holds the lock.
func (l *link) current() bool { return l.p.link == l }

// Take is for the connection; see broker.Source.
func (l *link) Take(frames [][]byte, may broker.Allowance) (_ [][]byte, entries int, rest broker.Rest) {
	p := l.p
	p.mu.Lock()
	defer p.mu.Unlock()
	for may.Size > 0 {
		if !l.current() || l.over || l.holding || !p.naming.maySend(time.Now()) {
			l.offered = false
			l.hear()
			return frames, entries, broker.TookAll
		}
		b, rest := p.box.next(may)
		if b == nil {
			l.offered = rest != broker.TookAll
			return frames, entries, rest
		}
		if b.preparing || len(frames) > 0 && p.compressBeside(b) {
			l.offered = false // who compresses it tells the connection
			return frames, entries, broker.TookAll
		}
		if len(b.records) > 0 {
			p.compressNext()
			continue // it may have failed, or the link is another one's
		}
		if p.box.waiting == 0 {
			l.lastTime = time.Now()
		}
		if l.resting {
			l.hear() // there is something to look for again
		}
		frame := p.box.hand(b, l.pub.ID())
		frames = append(frames, frame)
		may.Size -= len(frame)
		may.Room -= b.entries()
		entries += b.entries()
	}
	return frames, entries, broker.TookSome
}

// Sent is for the connection; see broker.Source.
func (l *link) Sent() {
	l.p.mu.Lock()
	defer l.p.mu.Unlock()
	if l.current() {
		l.p.box.sent()
	}
}

// Outcomes is for the connection; see broker.Source.
func (l *link) Outcomes(o wire.Outcomes) {
	p := l.p
	p.mu.Lock()
	defer p.mu.Unlock()
	if !l.current() {
		return
	}
	l.lastTime = time.Now()
	if !p.naming.maySend(l.lastTime) {
		for i := range o.Len() {
			id, code := o.At(i)
			p.naming.kept = append(p.naming.kept, keptOutcome{id, code})
		}
		l.hear()
		return
	}
	for i := 0; i < o.Len(); {
		n := p.box.confirmed(&o, i, p.tell)
		if i += n; n > 0 {
			l.nSettled += n
			p.sequence.Confirm()
			continue
		}
		l.settle(o.At(i))
		i++
	}
	l.settled()
	if l.blocked || l.holding && p.box.waiting == 0 {
		l.hear()
	}
}

// settle takes the broker's answer to an entry. The caller holds the lock, and
// calls settled at last.
func (l *link) settle(id uint64, code wire.Code) {
	p := l.p
	if code != wire.CodePublisherDoesNotExist {
		n := p.box.settle(id, outcomeError(code), p.tell)
		if l.nSettled += n; n > 0 && code == wire.CodeOK {
			p.sequence.Confirm()
		}
		return
	}
	if sent, once := p.box.sentOnce(id); sent {
		l.nReturned++
		if p.cfg.Name != "" {
			p.sequence.Refuse(id, once)
		}
	}
	l.over = true
	l.lose(fmt.Errorf("%w: %s does not know the producer any more", ErrUnreachable, l.pub.Address()))
}

// settled passes on what settle has settled.
func (l *link) settled() {
	l.p.told()
	l.p.box.advance()
	l.outcomes += uint64(l.nSettled)
	if n := l.nSettled + l.nReturned; n > 0 {
		l.pub.Settled(n)
	}
	l.nSettled, l.nReturned = 0, 0
}

// outcomeError is the outcome of a message that the broker has answered with a
// code.
func outcomeError(code wire.Code) error {
	switch code {
	case wire.CodeOK:
		return nil
	case wire.CodeFrameTooLarge:
		return fmt.Errorf("%w: the broker says so (%v)", ErrMessageTooLarge, code)
	}
	return fmt.Errorf("%w: code %d (%v)", ErrRefused, uint16(code), code)
}

// Moved is for the connection; see broker.Source.
func (l *link) Moved(stream string) {
	if stream == l.p.stream {
		l.p.mu.Lock()
		l.over = true
		l.p.mu.Unlock()
		l.lose(fmt.Errorf("%w: the stream has moved to another leader, or was deleted", ErrStreamUnavailable))
	}
}

// Retire is for the connection; see broker.Source. The producer sends nothing more
// until all that it has sent has its outcome, and moves then.
func (l *link) Retire() {
	l.p.mu.Lock()
	if l.current() {
		l.holding = true
	}
	l.p.mu.Unlock()
	l.hear()
}
