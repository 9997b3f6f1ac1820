package stream

import (
	"context"
	"time"

	"github.com/tidemark-go/tidemark/internal/mark"
	"github.com/tidemark-go/tidemark/internal/wire"
)

// serial is the dispatcher of Run without workers, and of All. It handles one
// message at a time, on Run's goroutine.
type serial struct {
	lifetime
	run   *run
	kept  *originals // of the message that is being handled
	block block      // that is being handled; here, so that it is not allocated
}

func newSerial(ctx context.Context, r *run) *serial {
	s := &serial{lifetime: lifetime{taking: ctx, handling: r.handling}, run: r}
	if r.handler != nil { // a loop's body is not called again
		s.kept = r.originals()
	}
	return s
}

func (s *serial) flushDue() <-chan time.Time { return nil }
func (s *serial) flush() error               { return nil }
func (s *serial) endSession(err error) error { return err }
func (s *serial) end(err error) error        { return err }
func (s *serial) abandon() error             { return nil }

// dispatch handles the messages of a chunk, a block at a time.
func (s *serial) dispatch(chunk *wire.Chunk, d *decoder) error {
	for {
		list := d.block(blockSize)
		if len(list) == 0 {
			return nil
		}
		s.block = block{list: list, chunk: mark.IDOf(chunk), moreFollow: d.unread(), source: d}
		err := s.handle(&s.block)
		s.block = block{} // no message is held in memory while the stream is quiet
		if err != nil {
			return err
		}
	}
}

// pass moves the mark: everything before it is handled.
func (s *serial) pass(offset uint64, chunk mark.ChunkID, n int) error {
	s.run.place.HandledTo(offset, chunk)
	if s.run.named() && s.run.progress.markNext(offset, n) {
		return s.store(false)
	}
	return nil
}

// block is up to blockSize messages of one chunk, some of which are handled.
type block struct {
	list       []Delivery
	chunk      mark.ChunkID
	source     *decoder // of the chunk's messages
	moreFollow bool     // messages of the chunk follow the block
	handled    int      // how many of list are handled
	last       uint64   // the offset of the last of these
	next       uint64   // the offset of the message that the handler has, or had last
	inHandler  bool     // the handler is at work, so that a panic is the handler's
	mustStore  bool     // the policy wants a store before the next handler runs
}

// handle handles the messages of a block, one after the other.
func (s *serial) handle(b *block) error {
	// Deferred, because the handler may call Goexit, and a loop's body may
	// panic.
	defer func() {
		if b.handled > 0 {
			s.run.place.HandledTo(b.last, b.chunk)
		}
	}()
	for b.handled < len(b.list) {
		handlerErr, err := s.callInTurn(b)
		switch {
		case handlerErr != nil:
			err = s.settleNext(b, handlerErr)
		case err == nil && b.mustStore:
			b.mustStore = false
			err = s.store(b.moreFollow || b.handled < len(b.list))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// settleNext settles the failure of the block's first message that is not
// handled.
func (s *serial) settleNext(b *block, handlerErr error) error {
	failed := failure{b.next, b.list[b.handled : b.handled+1], s.kept}
	if err := s.run.settleOne(s.lifetime, handlerErr, failed); err != nil {
		return err
	}
	b.handled, b.last = b.handled+1, b.next
	if s.run.named() && s.run.progress.markOne(b.next) {
		return s.store(false)
	}
	return nil
}

// callInTurn is callHandler on the goroutine that calls the handlers.
func (s *serial) callInTurn(b *block) (handlerErr, err error) {
	if s.run.relay.calls == nil {
		return s.callHandler(b)
	}
	return s.callRelayed(b)
}

// callRelayed is callHandler on the goroutine of the relay. It goes on with the
// chunk's next block while nobody waits for a turn, because each turn costs two
// changes of the goroutine. Where others wait, that goroutine has no time to
// decode, and the next block is for the run to decode while others have their
// turns; a block that is lent costs less to decode than such a change. callRelayed
// is a function of its own because its results escape to the heap.
func (s *serial) callRelayed(b *block) (handlerErr, err error) {
	turnErr := s.run.relay.call(s.taking, func() {
		begun := time.Now()
		for {
			handlerErr, err = s.callHandler(b)
			if handlerErr != nil || err != nil || b.mustStore || s.isOver(b, begun) || !s.refill(b) {
				return
			}
		}
	})
	if turnErr != nil {
		return nil, turnErr
	}
	return handlerErr, err
}

// isOver reports whether a turn that has begun at a time ends with a block, even
// though the chunk goes on.
func (s *serial) isOver(b *block, begun time.Time) bool {
	return time.Since(begun) >= turnTime || b.source.loan == nil && s.run.relay.isWanted()
}

// turnTime is how long a turn goes on with further blocks. The goroutine of the
// relay has other things to look at.
const turnTime = time.Millisecond

// refill makes a block, all of which is handled, the chunk's next one. It reports
// whether there is one. The goroutine of the relay calls it while the run's waits.
// Filter.Match is not called there, so that it cannot end that goroutine.
func (s *serial) refill(b *block) bool {
	if b.source.match != nil || !b.source.unread() {
		return false
	}
	list := b.source.block(blockSize)
	if len(list) == 0 {
		return false
	}
	s.run.place.HandledTo(b.last, b.chunk)
	b.list, b.handled, b.moreFollow = list, 0, b.source.unread()
	return true
}

// callHandler calls the handler for the block's messages that are not handled,
// until all are, the mark has to be stored, the handler fails, or the session has
// to end. handlerErr is the handler's failure, which the caller settles; err ends
// the session. One recover serves the whole block: one for each message would cost
// as much as decoding.
func (s *serial) callHandler(b *block) (handlerErr, err error) {
	handler := s.run.handler
	if handler == nil {
		return nil, s.callLoopBody(b)
	}
	defer func() {
		if !b.inHandler {
			return // the handler did not panic
		}
		if v := recover(); v != nil {
			b.inHandler, handlerErr = false, panicError(v)
		}
	}()
	return s.callEach(b, handler)
}

// callLoopBody calls the body of a loop over All. It does not recover the
// body's panics. The body's error ends the session.
func (s *serial) callLoopBody(b *block) error {
	bodyErr, err := s.callEach(b, s.run.loopBody)
	if bodyErr != nil {
		return bodyErr
	}
	return err
}

// callEach calls a handler for the block's messages that are not handled, and
// marks each of them, until the mark has to be stored. Its results are those of
// callHandler.
func (s *serial) callEach(b *block, handler Handler) (handlerErr, err error) {
	named, counted := s.run.named(), s.run.consumer.cfg.Store.Every > 0
	for i := b.handled; i < len(b.list); i++ {
		if s.taking.Err() != nil {
			return nil, errStopped
		}
		b.next = b.list[i].Offset // the handler may change the list
		s.kept.keepOne(&b.list[i])
		b.inHandler = true
		err := handler(s.handling, &b.list[i])
		if b.inHandler = false; err != nil {
			return err, nil
		}
		b.handled, b.last = i+1, b.next
		switch {
		case !named:
		case !counted:
			s.run.progress.markFast(b.next + 1)
		case s.run.progress.markOne(b.next):
			b.mustStore = true
			return nil, nil
		}
	}
	return nil, nil
}

// store stores the mark between two handlers.
func (s *serial) store(moreFollow bool) error {
	return unlessStopped(s.taking, s.run.storer.storeNow(s.taking, moreFollow))
}

// unlessStopped returns the error of a store between two handlers, and
// errStopped if taking, the dispatcher's context, has cut the store short: the
// run stores its mark when it ends.
func unlessStopped(taking context.Context, err error) error {
	if err != nil && taking.Err() != nil {
		return errStopped
	}
	return err
}
