package stream

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// run is one Run of a consumer: a session after the other until it ends. All
// of it happens on the goroutine that called Run, but for the stores and what
// workers handle.
type run struct {
	c       *Consumer
	h       Handler      // of Run
	loop    Handler      // in place of h, of All: its panics are the caller's
	batch   BatchHandler // in place of h; nil from it means that the outcome is settled
	workers int          // that call h; 0 and 1: none but Run's goroutine
	log     func(msg string, args ...any)
	letters *deadLetters

	start    Start // resolved when the run began
	anew     bool  // the stream was created again: what is stored is of the old one
	progress *progress
	requests chan storeRequest
	storer   *storer // of the session, if the consumer has a name
	ended    chan struct{}

	connected bool // at least once
	place
}

// place is how far a run is in its stream.
type place struct {
	// next is where the coming session begins; known once hasNext is set.
	next    position
	hasNext bool
	// again replaces next after a session in which nothing was handled.
	again position
	// id is that of the chunk that the place is in or behind, and oldest that of
	// the first one received: chunks that contradict them are of another stream,
	// as when it was deleted and created again.
	id, oldest       chunkID
	hasID, hasOldest bool
	newest           uint64 // first offset of the newest chunk received
	// resumes is set where next follows a message that was handled, and
	// lostBelow is what retention has been reported to have removed.
	resumes   bool
	lostBelow uint64
}

func newRun(c *Consumer) *run {
	log := c.env.cfg.Logger.With("stream", c.stream, "consumer", c.cfg.Name)
	r := &run{
		c: c, log: log.Warn,
		start:    c.cfg.Start.resolve(time.Now()),
		progress: newProgress(c.cfg.Store),
		requests: make(chan storeRequest),
		ended:    make(chan struct{}),
	}
	r.letters = &deadLetters{r: r}
	return r
}

// supervise keeps a session going until ctx ends or trying again is useless.
func (r *run) supervise(ctx context.Context) error {
	var missing time.Time // since when the stream is
	for attempt := 0; ; attempt++ {
		if err := sleep(ctx, r.c.env.cfg.Backoff.pause(attempt, rand.Float64)); err != nil {
			return r.finish(err)
		}
		s, err := r.c.env.subscribe(ctx, r.c.stream, r.c.cfg.Name, r.c.cfg.MaxBuffered, r.position)
		if err == nil {
			r.state(StateChange{State: StateConnected, again: r.connected})
			r.connected, missing = true, time.Time{}
			begun := time.Now()
			o := r.session(ctx, s)
			if err = o.err; o.inOrder {
				return err
			}
			if o.worked || time.Since(begun) > r.c.env.cfg.Backoff.Max {
				attempt = -1 // the next one comes at once
			}
		}
		switch {
		case r.stopped(err):
			return r.finish(err)
		case ctx.Err() != nil:
			return r.finish(context.Cause(ctx))
		case errors.Is(err, ErrStreamRecreated):
			r.startOver(err)
			continue
		case errors.Is(err, ErrStreamNotFound) && r.connected && (missing.IsZero() || time.Since(missing) < recreationTime):
			if missing.IsZero() {
				missing = time.Now()
			}
		case errors.Is(err, ErrStreamNotFound) && r.connected:
			return fmt.Errorf("%w; its messages and stored offsets are gone: create it again with Env.DeclareStream and start a new run", ErrStreamDeleted)
		case isFatal(err):
			return r.finish(err)
		}
		r.state(StateChange{State: StateReconnecting, Err: err, Attempt: attempt + 2})
	}
}

// recreationTime is how long a stream that was deleted may be missing until it is
// created again.
const recreationTime = time.Second

// startOver forgets the stream that is gone, and its mark with it.
func (r *run) startOver(err error) {
	r.place, r.anew, r.progress = place{}, true, newProgress(r.c.cfg.Store)
	r.state(StateChange{State: StateStreamRecreated, Err: err})
}

// closed reports the end of the run.
func (r *run) closed(err error) {
	if errors.Is(err, errLeft) {
		err = nil
	}
	r.state(StateChange{State: StateClosed, Err: err})
}

// state reports a change of the consumer's.
func (r *run) state(c StateChange) {
	c.Role, c.Stream, c.Name = RoleConsumer, r.c.stream, r.c.cfg.Name
	r.c.env.states.change(c)
}

// stopped reports whether it was the handler, or the loop, that ended a session.
func (r *run) stopped(err error) bool {
	var h *HandlerError
	return errors.As(err, &h) || errors.Is(err, errLeft)
}

// outcome is how a session ended.
type outcome struct {
	err     error
	inOrder bool // by the handler or ctx, with the mark stored as far as possible
	worked  bool // something new was delivered
}

// session handles what one subscription delivers.
func (r *run) session(ctx context.Context, s *subscription) (o outcome) {
	defer s.abort() // a handler's panic or Goexit included
	named := r.c.cfg.Name != ""
	if named {
		to, done, err := r.storeFor(ctx, s)
		if err != nil {
			o.err = err
			return o
		}
		defer func() { done(o.inOrder) }()
		if r.hasID {
			r.progress.hold() // until the stream is recognised
		}
		r.storer = startStorer(to, r.progress, r.requests, r.log)
		defer r.storer.close()
	}
	o.err = r.deliver(ctx, s, &o.worked)
	if errors.Is(o.err, ErrStreamRecreated) || !s.alive() || r.progress.held() {
		return o
	}
	if named && !r.c.cfg.Store.Manual {
		err := r.storeLast()
		if err != nil && !s.alive() {
			return o // finish stores on another connection
		}
		o.err = errors.Join(o.err, err)
	}
	s.close()
	o.inOrder = true
	return o
}

// deliver handles messages until the connection, the handler or ctx ends. No
// handler is at work any more when it returns.
func (r *run) deliver(ctx context.Context, s *subscription, worked *bool) error {
	d := r.dispatch(ctx)
	return d.end(r.feed(d, s, worked))
}

// feed gives what the subscription delivers to the dispatcher.
func (r *run) feed(d dispatcher, s *subscription, worked *bool) error {
	for {
		received, err := s.receive(d.context(), d.due())
		if err == errDue {
			if err := d.flush(); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		chunk := received.Chunk
		if err := r.recognise(&chunk); err != nil {
			return err
		}
		if r.knows(&chunk) {
			r.progress.release()
		}
		if r.next.wants(&chunk) {
			*worked = *worked || chunk.FirstOffset+uint64(chunk.Records) > r.next.from
			if err := r.take(d, s, &chunk); err != nil {
				return err
			}
		}
		s.done(d.context(), received)
	}
}

// take gives a chunk's messages to the dispatcher, which does not keep the chunk.
func (r *run) take(d dispatcher, s *subscription, chunk *wire.Chunk) error {
	messages := decode(r.c.stream, chunk, r.next.from)
	if err := d.take(chunk, messages); err != nil {
		return err
	}
	if messages.err != nil {
		return r.undecodable(s, chunk, messages.err)
	}
	return nil
}

// undecodable ends the run: the chunk's checksum was right, so that it is as
// bad on the broker, and would be so on every attempt.
func (r *run) undecodable(s *subscription, chunk *wire.Chunk, err error) error {
	last := chunk.FirstOffset + uint64(chunk.Records) - 1
	return fmt.Errorf("%w: the chunk with the offsets %d to %d, from %s, cannot be decoded (%v): to go on behind it, store offset %d with Env.StoreOffset", ErrMalformed, chunk.FirstOffset, last, s.conn.endpoint.address(), err, last)
}

// recognise returns an error for a chunk of another stream than the one that the
// run has read.
func (p *place) recognise(chunk *wire.Chunk) error {
	if p.hasID && p.id.contradicts(chunk) || p.hasOldest && p.oldest.contradicts(chunk) {
		return fmt.Errorf("%w: the messages at offset %d are not those that were read", ErrStreamRecreated, chunk.FirstOffset)
	}
	p.newest = max(p.newest, chunk.FirstOffset)
	if p.hasOldest {
		return nil
	}
	p.oldest, p.hasOldest = idOf(chunk), true
	if chunk.FirstOffset < p.next.from || p.next.hasAfterChunk {
		p.id, p.hasID = p.oldest, true
		p.again = p.next.within(chunk.FirstOffset)
	}
	return nil
}

// knows reports whether a chunk that was recognised shows that the stream is the
// one that the run has read. An earlier one does not: it may as well be of a new
// stream that is not as long yet.
func (p *place) knows(chunk *wire.Chunk) bool { return !p.hasID || chunk.FirstOffset >= p.id.first }

// reached makes the next session begin after a handled message, which came in
// the chunk id.
func (r *run) reached(offset uint64, id chunkID) {
	r.next = fromOffset(offset + 1).within(id.first)
	r.again = r.next
	r.id, r.hasID = id, true
	r.resumes = true
}

// checkRetention reports what retention has removed before it was read. Nodes
// clean up on their own: what one has removed, the next may still have.
func (r *run) checkRetention(now Stats) {
	if r.resumes && !now.Empty && now.FirstOffset > max(r.next.from, r.lostBelow) {
		r.state(StateChange{State: StateMessagesLost, Lost: now.FirstOffset - max(r.next.from, r.lostBelow)})
		r.lostBelow = now.FirstOffset
	}
}

// position says where the coming session begins, asking the broker if need be.
func (r *run) position(ctx context.Context, s *subscription) (position, error) {
	c := s.conn.conn
	if !r.hasNext && !r.anew {
		if err := r.letters.check(ctx, c); err != nil {
			return position{}, err
		}
	}
	now, err := c.stats(ctx, r.c.stream)
	switch {
	case err != nil:
	case r.hasNext:
		r.next = r.again
		err = r.checkRecreated(ctx, s, now)
	default:
		if r.next, r.again, err = r.firstPosition(ctx, c, now); err == nil {
			r.hasNext = true
		}
	}
	if err == nil {
		r.checkRetention(now)
	}
	return r.next, err
}

func (r *run) firstPosition(ctx context.Context, c *conn, now Stats) (first, again position, err error) {
	if r.c.cfg.Name != "" && r.start.useStored() && !r.anew {
		stored, err := r.loadOffset(ctx, c)
		switch {
		case err == nil && stored+1 == 0:
			return first, again, fmt.Errorf("%w: the offset stored for %q is the largest number there is; store a real one with Env.StoreOffset", ErrInvalidConfig, r.c.cfg.Name)
		case err == nil:
			r.resumes = true
			next := fromOffset(stored + 1).within(stored)
			return next, next, nil
		case !errors.Is(err, ErrNoOffset):
			return first, again, err
		}
	}
	start := r.start
	if r.anew {
		start = start.inNewStream()
	}
	first, again = start.begin(now)
	return first, again, nil
}

// checkRecreated looks whether a stream that ends before what was read of it is
// another one. A node that is behind ends there too, so it goes by the chunks that
// it has.
func (r *run) checkRecreated(ctx context.Context, s *subscription, now Stats) error {
	if !r.hasOldest || now.Empty || now.CommittedChunk >= r.newest {
		return nil // or the first chunk that comes will tell
	}
	spec := wire.OffsetSpec{Type: wire.OffsetFirst}
	if r.oldest.first <= now.CommittedChunk {
		spec = wire.OffsetSpec{Type: wire.OffsetAt, Value: r.oldest.first}
	}
	chunk, ok, err := s.peek(ctx, spec)
	if err == nil && ok && r.oldest.contradicts(&chunk) {
		err = fmt.Errorf("%w: it ends before offset %d, which was read from it, and its messages at offset %d are others", ErrStreamRecreated, r.newest, chunk.FirstOffset)
	}
	return err
}

// storeLast stores the mark at the end of a session and reads it back. The
// run's context has usually ended, so that it has a time of its own.
func (r *run) storeLast() error {
	ctx, cancel := context.WithTimeout(context.Background(), CloseTimeout)
	defer cancel()
	err := request(ctx, r.requests, true, nil)
	if err != nil {
		snap, _ := r.progress.take()
		err = fmt.Errorf("%w: the messages up to offset %d were handled, but: %w", ErrNotStored, snap.mark, err)
	}
	return err
}

// finish ends a run that has no session. Where the mark may not be stored, other
// connections are tried for it, under CloseTimeout.
func (r *run) finish(cause error) error {
	snap, handled := r.progress.take()
	if !handled || r.c.cfg.Name == "" || r.c.cfg.Store.Manual {
		return cause
	}
	ctx, cancel := context.WithTimeout(context.Background(), CloseTimeout)
	defer cancel()
	if err := r.storeAtLast(ctx, snap.mark); err != nil {
		cause = errors.Join(cause, fmt.Errorf("%w: the messages up to offset %d were handled, but: %w", ErrNotStored, snap.mark, err))
	}
	return cause
}

// storeAtLast stores the mark until it is stored, trying again cannot help, or
// ctx ends, and then returns what stood in the way.
func (r *run) storeAtLast(ctx context.Context, mark uint64) error {
	var before error
	for attempt := 1; ; attempt++ {
		err := r.storeApart(ctx, mark)
		if err == nil || isFatal(err) || errors.Is(err, ErrNotStored) {
			return err
		}
		// A deadline may end a dial a moment before it ends ctx.
		if before == nil || ctx.Err() == nil && !errors.Is(err, context.DeadlineExceeded) {
			before = err
		}
		if sleep(ctx, r.c.env.cfg.Backoff.pause(attempt, rand.Float64)) != nil {
			return before
		}
	}
}

// storeApart stores the mark without a session.
func (r *run) storeApart(ctx context.Context, mark uint64) error {
	if r.c.cfg.OffsetStore != nil { // it does not need the broker
		return (&savingStore{r: r}).store(ctx, mark, false)
	}
	where, err := r.c.env.find(ctx, r.c.stream)
	if err != nil {
		return err
	}
	s, err := r.c.env.open(ctx, where, where.leader, r.c.stream, r.c.cfg.MaxBuffered)
	if err != nil {
		return err
	}
	defer s.close()
	// In a new stream of the same name the mark would skip messages.
	chunk, ok, err := s.peek(ctx, wire.OffsetSpec{Type: wire.OffsetAt, Value: r.id.first})
	switch {
	case err != nil:
		return err
	case !ok || chunk.FirstOffset < r.id.first && !r.id.contradicts(&chunk):
		return fmt.Errorf("%w: its leader does not have the messages that were read", ErrStreamUnavailable)
	case r.id.contradicts(&chunk):
		return fmt.Errorf("%w: the messages at offset %d are not those that were read", ErrStreamRecreated, chunk.FirstOffset)
	}
	if err := s.conn.storeOffset(ctx, r.c.cfg.Name, r.c.stream, mark); err != nil {
		return err
	}
	return s.conn.verifyOffset(ctx, r.c.cfg.Name, r.c.stream, mark)
}

// sleep waits for d, or less if ctx ends.
func sleep(ctx context.Context, d time.Duration) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
