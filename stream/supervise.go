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
// of it happens on the goroutine that called Run, but for the stores.
type run struct {
	c      *Consumer
	handle Handler
	log    func(msg string, args ...any)

	start    Start // resolved when the run began
	progress *progress
	requests chan storeRequest
	storer   *storer // of the session, if the consumer has a name
	ended    chan struct{}

	// next is where the coming session begins; known once hasNext is set.
	next    position
	hasNext bool
	// again replaces next after a session in which nothing was handled.
	again position
	// seenChunk is the first offset of the newest chunk seen, for noticing
	// that the stream was deleted and created again.
	seenChunk    uint64
	hasSeenChunk bool
	// id is that of the newest chunk with handled messages, for the same.
	id        chunkID
	hasID     bool
	connected bool // at least once
}

func newRun(c *Consumer, handle Handler) *run {
	log := c.env.cfg.Logger.With("stream", c.stream, "consumer", c.cfg.Name)
	return &run{
		c: c, handle: handle, log: log.Warn,
		start:    c.cfg.Start.resolve(time.Now()),
		progress: newProgress(c.cfg.Store),
		requests: make(chan storeRequest),
		ended:    make(chan struct{}),
	}
}

// supervise keeps a session going until ctx ends or trying again is useless.
func (r *run) supervise(ctx context.Context) error {
	for attempt := 0; ; attempt++ {
		if err := sleep(ctx, r.c.env.cfg.Backoff.pause(attempt, rand.Float64)); err != nil {
			return r.finish(err)
		}
		s, err := r.c.env.subscribe(ctx, r.c.stream, r.c.cfg.Name, r.position)
		if err == nil {
			r.connected = true
			o := r.session(ctx, s)
			if err = o.err; o.inOrder {
				return err
			}
			if o.worked {
				attempt = -1 // the next one comes at once
			}
		}
		switch {
		case r.stopped(err):
			return r.finish(err)
		case ctx.Err() != nil:
			return r.finish(context.Cause(ctx))
		case errors.Is(err, ErrStreamNotFound) && r.connected:
			return fmt.Errorf("%w; its messages and stored offsets are gone: create it again with Env.DeclareStream and start a new run", ErrStreamDeleted)
		case isFatal(err):
			return err
		}
		r.log("connection lost or not made; connecting again", "error", err, "attempt", attempt+1)
	}
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
	worked  bool // something was delivered
}

// session handles what one subscription delivers.
func (r *run) session(ctx context.Context, s *subscription) (o outcome) {
	defer s.abort() // a handler's panic or Goexit included
	named := r.c.cfg.Name != ""
	if named {
		link, err := r.c.env.storeLinkFor(ctx, s, r.c.cfg.Name, r.c.cfg.Store)
		if err != nil {
			o.err = err
			return o
		}
		defer link.close()
		r.storer = startStorer(link, r.c.cfg.Name, r.c.stream, r.progress, r.requests)
		defer r.storer.close()
	}
	o.err = r.deliver(ctx, s, &o.worked)
	if errors.Is(o.err, ErrStreamRecreated) {
		return o
	}
	if !s.alive() || s.gone() {
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

// deliver handles messages until the connection, the handler or ctx ends.
func (r *run) deliver(ctx context.Context, s *subscription, worked *bool) error {
	for {
		chunk, err := s.receive(ctx)
		if err != nil {
			return err
		}
		if r.hasID && r.id.contradicts(&chunk, s.leads) {
			return fmt.Errorf("%w: the messages at offset %d are not those that were read; a new run begins as Start says", ErrStreamRecreated, chunk.FirstOffset)
		}
		r.seenChunk, r.hasSeenChunk = max(r.seenChunk, chunk.FirstOffset), true
		if !r.next.wants(&chunk) {
			continue
		}
		list, err := deliveries(r.c.stream, &chunk, r.next.keeps)
		if err != nil {
			return r.undecodable(s, &chunk, err)
		}
		*worked = true // not before: a chunk that is bad is so on every attempt
		if err := r.all(ctx, &chunk, list); err != nil {
			return err
		}
	}
}

// undecodable ends the run: the chunk's checksum was right, so that it is as
// bad on the broker, and would be so on every attempt.
func (r *run) undecodable(s *subscription, chunk *wire.Chunk, err error) error {
	last := chunk.FirstOffset + uint64(chunk.Records) - 1
	return fmt.Errorf("%w: the chunk with the offsets %d to %d, from %s, cannot be decoded (%v): to go on behind it, store offset %d with Env.StoreOffset", ErrMalformed, chunk.FirstOffset, last, s.endpoint.address(), err, last)
}

// all handles the messages of one chunk.
func (r *run) all(ctx context.Context, chunk *wire.Chunk, list []Delivery) error {
	for i := range list {
		if err := r.one(ctx, idOf(chunk), &list[i]); err != nil {
			return err
		}
	}
	return nil
}

// one handles one message and moves the mark.
func (r *run) one(ctx context.Context, id chunkID, d *Delivery) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := r.handle(ctx, d); err != nil {
		return err
	}
	r.next = fromOffset(d.Offset + 1).within(id.first)
	r.again = r.next
	r.id, r.hasID = id, true
	if r.c.cfg.Name != "" && r.progress.handle(d.Offset) {
		return r.storer.storeNow(ctx)
	}
	return nil
}

// position says where the coming session begins, asking the broker if need be.
func (r *run) position(ctx context.Context, c *conn) (position, error) {
	if r.hasNext {
		r.next = r.again
		return r.next, r.checkRecreated(ctx, c)
	}
	now, err := c.stats(ctx, r.c.stream)
	if err != nil {
		return position{}, err
	}
	p, again, err := r.firstPosition(ctx, c, now)
	if err != nil {
		return p, err
	}
	r.next, r.again, r.hasNext = p, again, true
	// What the stream has below the position stands for having read it.
	if below := max(again.from, again.afterChunk); below > 0 && !now.Empty {
		r.seenChunk, r.hasSeenChunk = min(below, now.CommittedChunk), true
	}
	return p, nil
}

func (r *run) firstPosition(ctx context.Context, c *conn, now Stats) (first, again position, err error) {
	if r.c.cfg.Name != "" && r.start.useStored() {
		stored, err := c.queryOffset(ctx, r.c.cfg.Name, r.c.stream)
		switch {
		case err == nil && stored+1 == 0:
			return first, again, fmt.Errorf("%w: the offset stored for %q is the largest number there is; store a real one with Env.StoreOffset", ErrInvalidConfig, r.c.cfg.Name)
		case err == nil:
			return fromOffset(stored + 1), fromOffset(stored + 1), nil
		case !errors.Is(err, ErrNoOffset):
			return first, again, err
		}
	}
	first, again = r.start.begin(now)
	return first, again, nil
}

// recreatedTries is how often a leader is asked whether the stream really ends
// before what was read of it, and recreatedWait how long that takes in all.
const (
	recreatedTries = 10
	recreatedWait  = 2 * time.Second
)

// checkRecreated compares the stream's extent with what was seen of it. Only
// the leader knows it, and one that has just started may not know it yet, so it
// is asked for a while before the stream counts as another one.
func (r *run) checkRecreated(ctx context.Context, c *conn) error {
	if !r.hasSeenChunk || !c.leads {
		return nil
	}
	for range recreatedTries {
		now, err := c.stats(ctx, r.c.stream)
		if err != nil {
			return err
		}
		if !now.Empty && now.CommittedChunk >= r.seenChunk {
			return nil
		}
		if err := sleep(ctx, r.c.env.recreatedWait/recreatedTries); err != nil {
			return err
		}
	}
	return fmt.Errorf("%w: it ends before offset %d, which was read from it; a new run begins as Start says", ErrStreamRecreated, r.seenChunk)
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

// finish ends a run that has no session. Where the mark may not be stored, one
// more connection is tried for it, under CloseTimeout.
func (r *run) finish(cause error) error {
	snap, handled := r.progress.take()
	if !handled || r.c.cfg.Name == "" || r.c.cfg.Store.Manual {
		return cause
	}
	ctx, cancel := context.WithTimeout(context.Background(), CloseTimeout)
	defer cancel()
	c, err := r.c.env.dialFor(ctx, r.c.stream, "tidemark-consumer-"+r.c.cfg.Name, hooks{}, location.forStoring)
	if err == nil {
		// In a new stream of the same name the mark would skip messages.
		if err = r.checkRecreated(ctx, c); err == nil {
			err = c.storeOffset(ctx, r.c.cfg.Name, r.c.stream, snap.mark)
		}
		if err == nil {
			err = c.verifyOffset(ctx, r.c.cfg.Name, r.c.stream, snap.mark)
		}
		c.close()
	}
	if err != nil {
		cause = errors.Join(cause, fmt.Errorf("%w: the messages up to offset %d were handled, but: %w", ErrNotStored, snap.mark, err))
	}
	return cause
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
