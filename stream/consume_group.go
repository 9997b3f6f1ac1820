package stream

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/tidemark-go/tidemark/internal/broker"
	"github.com/tidemark-go/tidemark/internal/mark"
	"github.com/tidemark-go/tidemark/internal/member"
	"github.com/tidemark-go/tidemark/internal/wire"
)

// This file is the run of a consumer with ConsumerConfig.SingleActive: a member of
// a group. Each session is a subscription that waits, and has one term after the
// other. membership has what it says to the broker, and term what it does while it
// is active.

// grouped reports whether the run is that of a member of a group.
func (r *run) grouped() bool { return r.consumer.cfg.SingleActive }

// superviseMember is supervise for a member of a group. What a session has begun
// has ended with it.
func (r *run) superviseMember(ctx context.Context) error {
	for failures := 0; ; {
		if sleep(ctx, r.backoff(failures)) != nil {
			return endedBy(ctx, errStopped)
		}
		useful, next, err := r.attempt(ctx)
		if failures++; useful {
			failures = 0
		}
		switch next {
		case retry, startOver: // a term begins like a new run anyway
			r.report(StateChange{State: StateReconnecting, Err: err, Attempt: failures + 1})
		default:
			return endedBy(ctx, err)
		}
	}
}

// joinGroup makes the subscription a member of the consumer's group. It asks for
// nothing that only the active member needs.
func (r *run) joinGroup(ctx context.Context, s *subscription) error {
	c := r.consumer
	if !r.isPartition() { // a superRun looks itself
		if err := r.letters.check(ctx, s.lease); err != nil {
			return err
		}
	}
	s.aside = func(ctx context.Context) (*subscription, error) { return r.openAside(ctx, s) }
	s.mu.Lock()
	s.member = newMembership(s)
	s.mu.Unlock()
	s.park()
	s.lease.WatchPeer()
	options := r.subscribeOptions()
	options.SingleActive, options.SuperStream = true, c.superStream
	return s.lease.Subscribe(ctx, s.stream, wire.OffsetSpec{Type: wire.OffsetNext}, options)
}

// memberSession is session for a member of a group: it waits, and serves a term
// each time that the broker promotes it. It leaves the group only when the last
// mark is stored.
func (r *run) memberSession(ctx context.Context, s *subscription) (end sessionEnd) {
	defer s.member.close() // once the broker promotes it no more
	defer func() { s.releaseWithin(r.goodbye(ctx), false) }()
	r.report(StateChange{State: StateWaiting})
	for {
		t := r.newTerm(ctx, s)
		if err := r.awaitPromotion(ctx, t); err != nil {
			t.cancel()
			end.err = err
			if s.alive() {
				end.inOrder = err == errStopped
				end.err = endedBy(ctx, err)
				r.leaveGroup(s, end.inOrder)
			}
			return end
		}
		served := t.serve(ctx)
		end.progressed = end.progressed || served.progressed
		if end.err, end.inOrder = served.err, served.inOrder; end.inOrder || end.err != nil {
			if s.alive() {
				r.leaveGroup(s, end.inOrder)
			}
			return end
		}
		s.member.endTerm()
		r.vigil.SteppedDown()
		r.report(StateChange{State: StateWaiting})
	}
}

// leaveGroup ends the subscription, and so makes the broker promote the next
// member. ends says that the run ends too.
func (r *run) leaveGroup(s *subscription, ends bool) {
	ctx := context.Background()
	if ends {
		ctx = r.beginClosing()
	}
	s.leave(ctx)
	s.releaseWithin(ctx, true)
}

// errForgotten ends a session whose member the broker has forgotten; see
// broker.ForgetsMembers.
var errForgotten = errors.New("the group's stored offset stands still while messages wait, and this version of RabbitMQ may have forgotten to tell a member that it is the active one: joining the group anew")

// errDoubtful ends a session whose member the broker has promoted so soon after
// repeated step-downs that chunks may come which are not those of the term.
var errDoubtful = errors.New("the broker has told the member more than once to step down, and has promoted it before it knew all answers: joining the group anew")

// awaitPromotion returns once the broker has promoted the member, with which the
// term has begun.
func (r *run) awaitPromotion(ctx context.Context, t *term) error {
	m, s := t.member, t.s
	look, stop := r.lookAfterBroker(s)
	defer stop()
	for {
		m.answer()
		m.settle(ctx)
		switch {
		case ctx.Err() != nil:
			return errStopped
		case !s.alive():
			return s.whyEnded()
		case m.doubtful():
			return errDoubtful
		case m.beginTerm(t):
			return nil
		}
		select {
		case <-m.wake:
		case <-s.ended:
		case <-s.lease.Ended():
		case <-ctx.Done():
		case <-look:
			if r.forgotten(ctx, s) {
				return errForgotten
			}
		}
	}
}

// lookAfterBroker returns a channel that gets an item when the member has to look
// whether the broker has forgotten it: never for most brokers.
func (r *run) lookAfterBroker(s *subscription) (due <-chan time.Time, stop func()) {
	if !r.vigil.Looks() || !broker.ForgetsMembers(s.lease.Version()) {
		return nil, func() {}
	}
	ticker := time.NewTicker(member.LookEvery)
	return ticker.C, ticker.Stop
}

// forgotten looks whether the broker may have forgotten the member.
func (r *run) forgotten(ctx context.Context, s *subscription) bool {
	stored, err := r.storedOffset(ctx, s)
	if errors.Is(err, ErrNoOffset) {
		stored, err = BeforeFirst, nil
	}
	if err != nil {
		return false
	}
	wait, err := r.messagesBehind(ctx, s, stored)
	return err == nil && r.vigil.Look(stored, wait, time.Now(), rand.Float64())
}

// messagesBehind reports whether the stream has messages behind a stored offset.
// It looks into the last chunk once: an idle group costs one question.
func (r *run) messagesBehind(ctx context.Context, s *subscription, stored uint64) (bool, error) {
	extent, err := s.lease.Stats(ctx, s.stream)
	switch chunk := extent.CommittedChunk; {
	case err != nil || extent.Empty:
		return false, err
	case stored == BeforeFirst || stored < chunk:
		return true, nil
	case r.lastChunk != nil && r.lastChunk.FirstOffset == chunk:
	default:
		if r.lastChunk, err = s.peek(ctx, wire.OffsetSpec{Type: wire.OffsetAt, Value: chunk}); err != nil || r.lastChunk == nil {
			return false, err
		}
	}
	return r.lastChunk.FirstOffset+uint64(r.lastChunk.Records) > stored+1, nil
}

// beginTerm forgets what the run knows of an earlier term: others have been at
// work since.
func (r *run) beginTerm() {
	r.place, r.recreated, r.progress = mark.Place{}, false, r.consumer.newProgress()
	r.firstExtent = nil
	r.toldBelow.Store(0)
}

// commitTerm is Commit for a member of a group.
func (r *run) commitTerm(ctx context.Context) error {
	t := r.term.Load()
	if t == nil {
		return fmt.Errorf("%w: it waits, and has nothing to store", ErrNotActive)
	}
	if !t.stores.Load() { // as in OnActive, and in an OnInactive that follows at once
		return nil
	}
	err := r.requests.ask(ctx, storeRead, t.ended)
	if errors.Is(err, ErrNotRunning) {
		err = fmt.Errorf("%w: its term is over", ErrNotActive)
	}
	return err
}
