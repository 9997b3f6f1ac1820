package broker

import (
	"cmp"
	"context"
	"fmt"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// Source is where the frames of a Publisher come from. Goroutines of the
// connection call its methods, so none of them may block. They may be called
// before Cluster.Publish has returned.
type Source interface {
	// Take appends whole Publish frames, as many as may says. The source leaves the
	// frames as they are until Sent. entries is how many there are in the frames.
	Take(frames [][]byte, may Allowance) (_ [][]byte, entries int, rest Rest)
	// Sent follows Take, once the socket has the frames, or the connection has
	// ended.
	Sent()
	// Outcomes takes the broker's confirms and refusals.
	Outcomes(o wire.Outcomes)
	// Moved takes the name of a stream that was deleted or has moved. It need not
	// be the source's stream.
	Moved(stream string)
	// Retire asks the source to leave the connection, once nothing of its own is
	// unconfirmed. It may come again.
	Retire()
}

// Allowance is what Take may take.
type Allowance struct {
	Size int  // about so many bytes
	Room int  // at most so many entries
	Full bool // only frames that have no place for another message
}

// Rest says why Take took no more.
type Rest uint8

const (
	// TookAll means that there is nothing more, until Publisher.Ready.
	TookAll Rest = iota
	// TookSome means that there is more.
	TookSome
	// NoRoom means that there is more, and that it is more than the room.
	NoRoom
	// NotFull means that there is more, in a frame that is not full.
	NotFull
)

// Publisher is a publisher's place on a connection that others may share:
//
//	Declare, Sequence            begin under a reference
//	Ready, SendNow, Settled      messages
//	Round                        who has the reference?
//	Reason, Ended                did the connection end, and why?
//	Node, Address, FrameMax      which connection it is
//	Release                      the end
type Publisher struct {
	lease  *Lease
	source Source
	sender *sender
	turn   *turn // for SendNow
	// patience bounds the wait for Declare's answer, if others have the connection;
	// else it is nil.
	patience func(context.Context) (context.Context, context.CancelFunc)

	// The sender's lock guards these.
	load        *streamLoad
	unconfirmed int
	queued      bool   // among the sender's, or being taken from
	again       bool   // Ready was called since the sender began to take
	lacking     int    // the room that was not enough, while parked
	held        bool   // among those that wait for their confirms
	turns       int    // how often it is in the turn in progress
	goodbye     func() // for the end of that turn, or nil
	gone        bool
}

// Publish gives a source a place on a connection for publishing, to the node of a
// stream's leader. apart gives it one that nobody else uses. The caller releases
// the publisher.
func (c *Cluster) Publish(ctx context.Context, by Contact, n Node, stream string, source Source, apart bool) (*Publisher, error) {
	from := c.publishers
	if apart {
		from = newPublisherPool(oneConn, nil, c.goodbyes)
	}
	p := &Publisher{source: source, turn: &turn{}, patience: c.patience}
	l := &Lease{node: n, stream: stream, subscriber: publisherSubscriber{source: source}, publisher: p}
	p.lease = l
	err := from.join(ctx, l, func(h hooks) (*Conn, error) {
		p.patience = nil // the connection is new
		return c.dialNode(ctx, by, n, publishLabel, h)
	})
	if err != nil {
		return nil, err
	}
	p.sender = l.conn.sender
	p.sender.enter(p, stream)
	return p, nil
}

// publisherSubscriber is the subscriber of a publisher: no chunk ever comes for
// it.
type publisherSubscriber struct {
	dropChunks
	source Source
}

func (s publisherSubscriber) Moved(stream string) { s.source.Moved(stream) }

// Declare opens the publisher on its stream. With an empty reference the broker
// does not deduplicate.
//
// A broker that takes no messages does not read a connection that has a publisher.
// So Declare waits on a connection of others for as long as a new one could take,
// and then returns ErrSilent: nobody joins that connection any more, and the caller
// releases the publisher and tries again.
func (p *Publisher) Declare(ctx context.Context, reference string) error {
	stream, within := p.lease.stream, ctx
	if p.patience != nil {
		var cancel context.CancelFunc
		within, cancel = p.patience(ctx)
		defer cancel()
	}
	code, err := p.lease.conn.request(within, wire.KeyDeclarePublisher, func(id uint32) wire.Frame {
		return &wire.DeclarePublisher{Correlation: id, PublisherID: p.lease.id, Reference: reference, Stream: stream}
	})
	switch {
	case err != nil && within.Err() != nil && ctx.Err() == nil:
		p.lease.conn.silent.Store(true)
		return err
	case err != nil:
		return err
	case code == wire.CodePreconditionFailed:
		return fmt.Errorf("%w: the broker takes no publisher now, as with a disk alarm", ErrBlocked)
	case code == wire.CodeAccessRefused:
		return fmt.Errorf("%w: user %q lacks the permission to write to %q (rabbitmqctl set_permissions)", ErrAccessRefused, p.lease.conn.endpoint.User, stream)
	}
	return codeError(code, stream, p.lease.conn.endpoint.User)
}

// Sequence returns the highest publishing id that the broker has written under a
// reference, committed or not; 0 for none.
func (p *Publisher) Sequence(ctx context.Context, reference string) (uint64, error) {
	stream, user := p.lease.stream, p.lease.conn.endpoint.User
	var resp wire.QueryPublisherSequenceResponse
	err := p.lease.conn.call(ctx, func(id uint32) wire.Frame {
		return &wire.QueryPublisherSequence{Correlation: id, Reference: reference, Stream: stream}
	}, &resp)
	switch {
	case err != nil:
		return 0, err
	case resp.Code == wire.CodeAccessRefused:
		return 0, fmt.Errorf("%w: user %q lacks the permission to read %q, which a producer with a name needs (rabbitmqctl set_permissions)", ErrAccessRefused, user, stream)
	}
	return resp.Sequence, codeError(resp.Code, stream, user)
}

// Ready says that the source has something to take. It never waits.
func (p *Publisher) Ready() {
	if p.sender.add(p) {
		p.sender.poke()
	}
}

// SendNow is Ready that also writes on the caller's goroutine, if nobody else
// writes, and as far as the socket takes it. It never waits.
func (p *Publisher) SendNow() {
	p.sender.add(p)
	p.sender.now(p.lease.conn.Conn, p)
}

// Settled says how many of the entries that were taken have their outcome.
func (p *Publisher) Settled(n int) { p.sender.settled(p, n) }

// ID returns the publisher's id on its connection, for its frames.
func (p *Publisher) ID() uint8 { return p.lease.id }

// FrameMax returns the size of the largest frame that the broker takes, its size
// prefix included.
func (p *Publisher) FrameMax() int { return p.lease.conn.frameMax }

// Reason returns why the connection ended, and nil while it has not.
func (p *Publisher) Reason() error { return p.lease.Reason() }

// Ended returns a channel that is closed when the connection ends.
func (p *Publisher) Ended() <-chan struct{} { return p.lease.Ended() }

// Node returns the node that the connection leads to.
func (p *Publisher) Node() Node { return p.lease.node }

// Address returns the address that was dialed.
func (p *Publisher) Address() string { return p.lease.Address() }

// Release ends the use of the connection and does not wait for the broker. After
// that the source is asked for nothing more, and is told nothing, but for a call
// that has begun. What was unconfirmed counts on the connection for good, so the
// others leave that. Only the first call counts.
func (p *Publisher) Release() {
	p.sender.leave(p, p.lease.stream)
	p.lease.conn.leavePublisher(p.lease)
}

// Round stores a number under an entry of the stream's offset tracking, unless
// store is empty, and then asks for the numbers under two entries and for the
// sequence of a reference. All of it goes out at once, and the broker handles it
// in this order and behind what was sent before. An entry under which nothing is
// stored is 0.
func (p *Publisher) Round(ctx context.Context, store string, n uint64, entries [2]string, reference string) (numbers [2]uint64, sequence uint64, err error) {
	c, stream := p.lease.conn.Conn, p.lease.stream
	if store != "" {
		if _, err := c.post(ctx, &wire.StoreOffset{Reference: store, Stream: stream, Offset: n}); err != nil {
			return numbers, 0, err
		}
	}
	var asked [3]*exchange
	for i := range entries {
		asked[i] = c.ask(ctx, func(id uint32) wire.Frame {
			return &wire.QueryOffset{Correlation: id, Reference: entries[i], Stream: stream}
		})
	}
	asked[2] = c.ask(ctx, func(id uint32) wire.Frame {
		return &wire.QueryPublisherSequence{Correlation: id, Reference: reference, Stream: stream}
	})
	for i := range entries {
		var resp wire.QueryOffsetResponse
		e := asked[i].await(ctx, &resp)
		if e == nil && resp.Code != wire.CodeNoOffset {
			numbers[i], e = resp.Offset, codeError(resp.Code, stream, c.endpoint.User)
		}
		err = cmp.Or(err, e)
	}
	var resp wire.QueryPublisherSequenceResponse
	e := asked[2].await(ctx, &resp)
	if e == nil {
		e = codeError(resp.Code, stream, c.endpoint.User)
	}
	return numbers, resp.Sequence, cmp.Or(err, e)
}
