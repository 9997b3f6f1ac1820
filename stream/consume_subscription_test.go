package stream

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/broker"
	"github.com/tidemark-go/tidemark/internal/script"
	"github.com/tidemark-go/tidemark/internal/wire"
)

// loneSubscription has no connection. It holds so little that the chunk in hand
// is all there may be.
func loneSubscription() (*subscription, *atomic.Uint64) {
	corrupt := new(atomic.Uint64)
	return newSubscription(testStream, broker.Node{Host: "h", Port: 1}, 1, newMemory(defaultEnvMaxBuffered), corrupt), corrupt
}

// deliverHead is the length of what precedes a chunk in a Deliver frame.
var deliverHead = len(wire.AppendDeliverHead(nil, wire.Version1, script.FirstID, 0, 0))

// arrive delivers a chunk with one message, with a buffer of its own.
func arrive(s *subscription, first uint64, change func(chunk []byte)) error {
	chunk := script.Chunk(first, "x")[deliverHead:]
	if change != nil {
		change(chunk)
	}
	if err := s.Deliver(wire.Deliver{Chunk: chunk}, chunk); err != nil {
		return err
	}
	return s.Flush()
}

// queued returns the first offsets of the chunks that wait.
func queued(s *subscription) (offsets []uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.queue {
		offsets = append(offsets, w.chunk().FirstOffset)
	}
	return offsets
}

func corruptLast(chunk []byte) { chunk[len(chunk)-1] ^= 1 }

func TestDeliver(t *testing.T) {
	s, corrupt := loneSubscription()
	must(t, arrive(s, 5, nil))
	if got := queued(s); !slices.Equal(got, []uint64{5}) || s.flow.granted != 0 || s.flow.held != 1 {
		t.Errorf("queued %v, %+v", got, s.flow)
	}
	wantErr(t, arrive(s, 6, nil), wire.ErrMalformed)
	wantErr(t, s.Deliver(wire.Deliver{Chunk: []byte{1}}, nil), wire.ErrMalformed)
	if len(s.queue) != 1 || corrupt.Load() > 0 || !isOpen(s.ended) {
		t.Error("a chunk without credit was taken")
	}
	s.dropping.Store(true)
	must(t, arrive(s, 7, nil))
	must(t, arrive(s, 7, corruptLast))
	wantErr(t, s.Deliver(wire.Deliver{Chunk: []byte{1}}, nil), wire.ErrMalformed)
	if len(s.queue) != 1 || corrupt.Load() > 0 || !isOpen(s.ended) {
		t.Error("a chunk that is to be dropped was taken")
	}
}

// TestDeliverCorrupt: nothing behind a corrupt chunk is handed out.
func TestDeliverCorrupt(t *testing.T) {
	s, corrupt := loneSubscription()
	s.flow.granted = 5
	must(t, arrive(s, 4, nil))
	must(t, arrive(s, 5, corruptLast))
	must(t, arrive(s, 6, nil))
	must(t, arrive(s, 7, corruptLast))
	if corrupt.Load() != 1 || len(s.queue) != 1 || isOpen(s.ended) || s.alive() {
		t.Errorf("%d corrupt chunks, %d are queued", corrupt.Load(), len(s.queue))
	}
	wantErr(t, s.whyEnded(), ErrProtocol, ErrCorruptChunk)
	if s.streamGone() {
		t.Error("the stream counts as gone")
	}
}

func isOpen(ch chan struct{}) bool {
	select {
	case <-ch:
		return false
	default:
		return true
	}
}

// TestSubscriptionEnds for the first reason.
func TestSubscriptionEnds(t *testing.T) {
	s, _ := loneSubscription()
	if s.Moved("another"); !isOpen(s.ended) || s.streamGone() {
		t.Error("it ended with another stream")
	}
	s.Moved(testStream)
	s.end(errTest)
	if err := s.whyEnded(); err != errMoved || isOpen(s.ended) || !s.streamGone() || s.alive() {
		t.Errorf("it ended with %v", err)
	}
	s, _ = loneSubscription()
	s.end(errTest)
	s.Moved(testStream)
	if err := s.whyEnded(); err != errTest || s.streamGone() {
		t.Errorf("it ended with %v", err)
	}
}

func TestSubscriptionMemory(t *testing.T) {
	m := newMemory(defaultEnvMaxBuffered)
	s := newSubscription(testStream, broker.Node{}, 4*minBuffer, m, new(atomic.Uint64))
	if s.flow.limit != 4*minBuffer || m.shares != 1 {
		t.Errorf("flow %+v, %d shares", s.flow, m.shares)
	}
	if b := s.Buffer(minBuffer - 1); cap(b) != minBuffer-1 {
		t.Errorf("a small chunk has %d bytes", cap(b))
	}
	m.put(s.Buffer(minBuffer))
	if len(m.buffers) != 1 {
		t.Error("a large chunk has no buffer")
	}
	s.flow.granted, s.flow.typical, s.flow.recent = 100, 10, 1
	if s.Tick(); s.share.claim != 10*(minWindow+2) {
		t.Errorf("a claim of %d for credit that is not used", s.share.claim)
	}
}

// TestSubscriptionClaimsWhatComes: a chunk counts for the Env's budget as soon as it
// is there, whatever the consumer does.
func TestSubscriptionClaimsWhatComes(t *testing.T) {
	m := newMemory(defaultEnvMaxBuffered)
	s := newSubscription(testStream, broker.Node{}, defaultEnvMaxBuffered, m, new(atomic.Uint64))
	s.flow.granted = 1
	h := wire.ChunkHeader{Records: 1, DataLength: 1 << 20}
	buffer := m.get(wire.ChunkHeaderLen + int(h.DataLength))
	h.Put(buffer)
	s.came = append(s.came, waitingChunk{buffer, 0})
	must(t, s.Flush())
	if s.share.claim < 1<<20 {
		t.Errorf("a claim of %d for a chunk of 1 MiB", s.share.claim)
	}
}

// TestSubscriptionDropsForOthers: the memory of a chunk that nobody wants any more is
// used again.
func TestSubscriptionDropsForOthers(t *testing.T) {
	m := newMemory(defaultEnvMaxBuffered)
	s := newSubscription(testStream, broker.Node{}, defaultEnvMaxBuffered, m, new(atomic.Uint64))
	s.dropping.Store(true)
	h := wire.ChunkHeader{Records: 1, DataLength: minBuffer}
	buffer := m.get(wire.ChunkHeaderLen + int(h.DataLength))
	h.Put(buffer)
	must(t, s.Deliver(wire.Deliver{Chunk: buffer}, buffer))
	if len(m.buffers) != 1 || len(s.came) != 0 {
		t.Errorf("%d buffers are free, %d chunks came", len(m.buffers), len(s.came))
	}
}

// openOn opens a subscription on a scripted broker.
func openOn(t *testing.T, b *scripted, maxBuffered int) *subscription {
	t.Helper()
	noLeaks(t)
	env := b.env(t)
	location, err := env.cluster.Find(soon(t), testStream)
	must(t, err)
	s, err := env.openSubscription(soon(t), location, location.Leader, testStream, maxBuffered)
	must(t, err)
	t.Cleanup(func() { s.release(true) })
	return s
}

// TestReceive hands out what has arrived, then says why there is no more.
func TestReceive(t *testing.T) {
	ended, stop := context.WithCancelCause(context.Background())
	stop(errTest)
	over := make(chan time.Time, 1)
	over <- time.Time{}
	for name, test := range map[string]struct {
		end   func(*scripted, *subscription)
		ctx   context.Context
		flush chan time.Time
		want  error
	}{
		"ended":   {end: func(_ *scripted, s *subscription) { s.end(errTest) }, want: errTest},
		"lost":    {end: func(b *scripted, s *subscription) { b.drop(); <-s.lease.Ended() }, want: ErrUnreachable},
		"flush":   {flush: over, want: errFlushDue},
		"stopped": {ctx: ended, want: errTest},
	} {
		b := startScripted(t)
		s := openOn(t, b, 1)
		if test.end != nil {
			must(t, arrive(s, 5, nil))
			test.end(b, s)
			got, err := s.receive(soon(t), nil)
			if must(t, err); got.FirstOffset != 5 || len(s.queue) != 0 {
				t.Errorf("%s: received %+v", name, got.ChunkHeader)
			}
		}
		ctx := test.ctx
		if ctx == nil {
			ctx = soon(t)
		}
		_, err := s.receive(ctx, test.flush)
		wantErr(t, err, test.want)
	}
	s, _ := loneSubscription()
	must(t, arrive(s, 5, nil))
	_, err := s.receive(ended, nil)
	wantErr(t, err, errTest)
}

// TestReceiveWithoutCredit: whatever became of the credit, a consumer that waits
// for a chunk with none on its way asks for one.
func TestReceiveWithoutCredit(t *testing.T) {
	s := openOn(t, startScripted(t), 1)
	ended, stop := context.WithCancelCause(context.Background())
	stop(errTest)
	s.flow.granted, s.flow.typical = 0, 100
	_, err := s.receive(ended, nil)
	if wantErr(t, err, errTest); s.flow.granted == 0 {
		t.Error("no chunk is asked for")
	}
}

// TestCreditRefused: the run subscribes anew at the first message that is not
// handled. The broker keeps the credit of an inactive consumer.
func TestCreditRefused(t *testing.T) {
	noLeaks(t)
	b := startScripted(t)
	b.committed = 5
	refuse := make(chan wire.Code, 2)
	refuse <- wire.CodePreconditionFailed
	refuse <- wire.CodeSubscriptionIDDoesNotExist
	b.onCommand = func(p *script.Peer, key wire.Key, _ []byte) bool {
		if key == wire.KeyCredit {
			select {
			case code := <-refuse:
				p.Send(&wire.CreditResponse{Code: code, SubscriptionID: script.FirstID})
				if code == wire.CodePreconditionFailed {
					p.Write(script.Chunk(1, "b"))
				}
				return true
			default:
			}
		}
		return false
	}
	asked := make(chan wire.OffsetSpec, 10)
	b.onSubscribe = func(p *script.Peer, nth int, spec wire.OffsetSpec) {
		if asked <- spec; nth == 0 {
			p.Write(script.Chunk(0, "a"))
			return
		}
		b.deliver(p, script.Chunk(1, "b"), script.Chunk(2, "c"))
	}
	r := b.run(t, ConsumerConfig{Name: "billing", MaxBuffered: 1}, nil)
	r.want(t, 0, 1, 2)
	if first, again := recv(t, asked, "a subscription"), recv(t, asked, "another one"); first.Type != wire.OffsetFirst || again != (wire.OffsetSpec{Type: wire.OffsetAt, Value: 1}) {
		t.Errorf("subscribed at %+v, then at %+v", first, again)
	}
	r.stop(errTest)
	must(t, r.end(t))
	s, _ := loneSubscription()
	s.CreditRefused(wire.CodePreconditionFailed)
	if s.reason != nil {
		t.Error("an inactive consumer's subscription has ended")
	}
	if s.CreditRefused(wire.CodeSubscriptionIDDoesNotExist); !s.streamGone() {
		t.Error("the stream may be another one, and a mark is stored in it")
	}
}

// TestReceiveGivesCredit for the chunks that fit beside the one in hand, and for
// the others once that is finished.
func TestReceiveGivesCredit(t *testing.T) {
	b := startScripted(t)
	credit := make(chan int, 10)
	b.onCommand = func(p *script.Peer, key wire.Key, fields []byte) bool {
		if key == wire.KeyCredit {
			var f wire.Credit
			p.Decode(fields, &f)
			credit <- int(f.Credit)
		}
		return false
	}
	size := cap(script.Chunk(0, "x")[deliverHead:]) + chunkOverhead
	s := openOn(t, b, 4*size)
	must(t, arrive(s, 5, nil))
	got, err := s.receive(soon(t), nil)
	must(t, err)
	if n := recv(t, credit, "credit"); n != 3 || s.flow.granted != 3 {
		t.Errorf("credit for %d chunks beside the one in hand, want 3", n)
	}
	if s.giveBack(soon(t), got); s.flow.held != 0 || s.flow.granted != 3 {
		t.Errorf("%d are held once it is finished, credit for %d chunks", s.flow.held, s.flow.granted)
	}
	must(t, arrive(s, 6, nil))
	got, err = s.receive(soon(t), nil)
	must(t, err)
	s.giveBack(soon(t), got)
	if n := recv(t, credit, "credit"); n != 2 || s.flow.granted != 4 {
		t.Errorf("credit for %d chunks once half of them are used up, want 2", n)
	}
	s.giveCredit(soon(t), 0)
	s.giveCredit(soon(t), 7)
	if n := recv(t, credit, "credit"); n != 7 {
		t.Errorf("credit for %d chunks, want 7", n)
	}
}

// TestRelease: what comes afterwards is dropped.
func TestRelease(t *testing.T) {
	b := startScripted(t)
	s := openOn(t, b, 1)
	s.release(true)
	must(t, arrive(s, 5, nil))
	if len(s.queue) > 0 || s.memory.shares != 0 {
		t.Errorf("%d chunks are queued, %d shares", len(s.queue), s.memory.shares)
	}
}

// TestPeek returns the first chunk's head, and leaves a subscription that has
// asked for nothing.
func TestPeek(t *testing.T) {
	beside(t)
	spec := wire.OffsetSpec{Type: wire.OffsetAt, Value: 7}
	for name, test := range map[string]struct {
		onSubscribe   func(*scripted, *script.Peer)
		onUnsubscribe func(*script.Peer)
		want          bool
		err           error
	}{
		"comes":   {onSubscribe: func(_ *scripted, p *script.Peer) { p.Write(script.Chunk(7, "a", "b")) }, want: true},
		"nothing": {},
		"late":    {onUnsubscribe: func(p *script.Peer) { p.Write(script.Chunk(7, "a", "b")) }, want: true},
		"moved": {onSubscribe: func(_ *scripted, p *script.Peer) {
			p.Send(&wire.MetadataUpdate{Code: wire.CodeStreamNotAvailable, Stream: testStream})
		}, err: errMoved},
		"lost": {onSubscribe: func(b *scripted, _ *script.Peer) { b.drop() }, err: ErrUnreachable},
	} {
		t.Run(name, func(t *testing.T) {
			besideSubtest(t)
			b := startScripted(t)
			asked, ended := make(chan wire.OffsetSpec, 1), make(chan struct{}, 1)
			b.onSubscribe = func(p *script.Peer, _ int, spec wire.OffsetSpec) {
				asked <- spec
				if test.onSubscribe != nil {
					test.onSubscribe(b, p)
				}
			}
			b.onCommand = func(p *script.Peer, key wire.Key, _ []byte) bool {
				if key == wire.KeyUnsubscribe {
					select {
					case ended <- struct{}{}:
					default: // the end of the test does so again
					}
					if test.onUnsubscribe != nil {
						test.onUnsubscribe(p)
					}
				}
				return false
			}
			s := openOn(t, b, 100)
			chunk, err := s.peek(soon(t), spec)
			if wantErr(t, err, test.err); (chunk != nil) != test.want {
				t.Fatalf("got %v, %v", chunk, err)
			}
			if got := recv(t, asked, "the subscription"); got != spec {
				t.Errorf("asked for %v", got)
			}
			if test.want && (chunk.FirstOffset != 7 || chunk.Records != 2 || chunk.Data != nil) {
				t.Errorf("got %+v", chunk)
			}
			if test.err == nil {
				recv(t, ended, "the end of the subscription")
				if s.flow != newFlow(100) || len(s.queue) > 0 || s.share.claim > 0 {
					t.Errorf("left behind %+v, %d chunks, a claim of %d", s.flow, len(s.queue), s.share.claim)
				}
			}
		})
	}
}

// TestPeekEndsWithItsContext before anything comes.
func TestPeekEndsWithItsContext(t *testing.T) {
	b := startScripted(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	b.onSubscribe = func(*script.Peer, int, wire.OffsetSpec) { cancel(errTest) }
	begun := time.Now()
	_, err := openOn(t, b, 100).peek(ctx, wire.OffsetSpec{Type: wire.OffsetFirst})
	if wantErr(t, err, errTest); time.Since(begun) > patience {
		t.Errorf("it took %v", time.Since(begun))
	}
}

// TestEndSessionIfLost: a failure of the connection ends the session, another one
// does not.
func TestEndSessionIfLost(t *testing.T) {
	for name, test := range map[string]struct {
		err       error
		cancelled bool
		dropped   bool
		want      error // with which the session ends
	}{
		"stored":               {},
		"refused":              {err: ErrAccessRefused},
		"no answer":            {err: ErrUnreachable, want: ErrUnreachable},
		"no answer, and ended": {err: ErrUnreachable, cancelled: true},
		"lost":                 {err: errTest, dropped: true, want: ErrUnreachable},
		"lost after that":      {dropped: true, want: ErrUnreachable},
		"lost, and ended":      {err: context.Canceled, cancelled: true, dropped: true, want: ErrUnreachable},
	} {
		b := startScripted(t)
		s := openOn(t, b, 100)
		offsets, err := (&Env{}).brokerOffsets(t.Context(), s, "c", StorePolicy{})
		must(t, err)
		if test.dropped {
			b.drop()
			<-s.lease.Ended()
		}
		ctx, cancel := context.WithCancel(t.Context())
		if test.cancelled {
			cancel()
		}
		if err := offsets.endSessionIfLost(ctx, test.err); err != test.err {
			t.Errorf("%s: %v became %v", name, test.err, err)
		}
		cancel()
		if wantErr(t, s.reason, test.want); (s.reason != nil) != (test.want != nil) {
			t.Errorf("%s: the session ended with %v", name, s.reason)
		}
	}
}
