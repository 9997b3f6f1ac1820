package stream

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/tidemark-go/tidemark/internal/mark"
)

// idleWorkers are workers without goroutines.
func idleWorkers(t *testing.T, r *run) *workers {
	w := newWorkers(t.Context(), r)
	t.Cleanup(func() { w.cancelTaking(nil); w.cancelHandling(nil) })
	return w
}

// TestWaitForRoom: there is room below 100 bytes, a quarter of MaxBuffered, and below
// two messages for each of two workers.
func TestWaitForRoom(t *testing.T) {
	for name, test := range map[string]struct {
		bytes, messages int
		room            bool
	}{
		"nothing in hand":            {1000, 0, true},
		"few messages and bytes":     {99, 3, true},
		"few bytes":                  {99, 10, true},
		"few messages":               {1000, 3, true},
		"as many as may be":          {100, 4, false},
		"as many bytes, one less":    {100, 3, true},
		"as many messages, one less": {99, 4, true},
		"large messages":             {99 + maxOpened, 3, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := idleWorkers(t, aloneRun(t, ConsumerConfig{Workers: 2, MaxBuffered: 398}))
			offsets := make([]uint64, test.messages)
			for i := range offsets {
				offsets[i] = uint64(i)
			}
			jobs := take(w.run.progress, mark.ChunkID{}, test.bytes, offsets...)
			got := make(chan bool, 2)
			go func() { got <- w.waitForRoom() }()
			synctest.Wait()
			if (len(got) == 1) != test.room {
				t.Errorf("%s: there is room: %v", name, len(got) == 1)
			}
			if !test.room { // until the first message is handled
				w.run.progress.markFinished(jobs[0].ticket)
				w.queue.push(job{ticket: 77})
				if j, ok := w.next(&jobs[0]); !ok || j.ticket != 77 {
					t.Errorf("%s: the next message is %d, %v", name, j.ticket, ok)
				}
			}
			if !<-got {
				t.Errorf("%s: the session has to end", name)
			}
			w.stop()
			if w.waitForRoom() {
				t.Errorf("%s: there is room after the end", name)
			}
		})
	}
}

// TestWaitForPlaces: there are places up to MaxAhead, and whoever waits for them
// gets several at a time.
func TestWaitForPlaces(t *testing.T) {
	for _, test := range []struct{ limit, messages, places, finish int }{
		{5000, 0, 256, 0}, {5000, 4744, 256, 0}, {5000, 4745, 256, 1}, {5000, 5000, 256, 256},
		{10, 0, 10, 0}, {10, 8, 2, 0}, {10, 9, 2, 1}, {3, 2, 1, 0}, {3, 3, 1, 1}, {2, 1, 1, 0}, {2, 2, 1, 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := idleWorkers(t, aloneRun(t, ConsumerConfig{Workers: 2, MaxAhead: test.limit}))
			w.run.consumer.cfg.MaxAhead = test.limit
			jobs := take(w.run.progress, mark.ChunkID{}, 1, make([]uint64, test.messages)...)
			got := make(chan int, 1)
			go func() { got <- w.waitForPlaces() }()
			for i := range test.finish {
				if synctest.Wait(); len(got) > 0 {
					t.Fatalf("%+v: got %d places after %d were handled", test, <-got, i)
				}
				w.run.progress.markFinished(jobs[i].ticket)
				w.queue.push(job{}) // something for next to return
				w.next(&jobs[i])
			}
			if places := <-got; places != test.places {
				t.Errorf("%+v: got %d places", test, places)
			}
			w.stop()
			if places := w.waitForPlaces(); places != 0 {
				t.Errorf("%+v: got %d places after the end", test, places)
			}
		})
	}
}

// TestMaxAhead: however many chunks and keys there are, and whatever their size,
// no more messages are in hand.
func TestMaxAhead(t *testing.T) {
	const limit, n = 40, 1000
	b, env, name := inStream(t, n)
	released := make(chan struct{})
	release := sync.OnceFunc(func() { close(released) })
	t.Cleanup(release)
	var done seen
	cfg := ConsumerConfig{Name: "billing", Workers: 4, MaxAhead: limit, KeyOf: func(d *Delivery) string { return fmt.Sprint(d.Offset % 5) }}
	stop, ended := running1(t, env, name, cfg, func(_ context.Context, d *Delivery) error {
		if d.Offset == 10 {
			<-released
		}
		done.add(d.Offset)
		return nil
	})
	most := 10 + limit - limit/5 // those of its key wait behind it
	eventually(t, "the others run ahead", patience, func() bool { return done.len() >= most-limit/8 })
	for range 1000 {
		runtime.Gosched()
	}
	if got := done.len(); got > most {
		t.Errorf("%d messages are handled, want %d at most", got, most)
	}
	release()
	eventually(t, "all are stored", patience, func() bool { got, ok := b.Offset("billing", name); return ok && got == n-1 })
	stop()
	must(t, recv(t, ended, "the end"))
	done.once(t, 0, n)
}

// TestWaitForRoomOfLargeMessages: few messages may be in hand only as long as
// they are not too large.
func TestWaitForRoomOfLargeMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := idleWorkers(t, aloneRun(t, ConsumerConfig{Workers: 2, MaxBuffered: 398}))
		p := w.run.progress
		jobs := p.takeInHand(mark.ChunkID{}, 90, 10+maxOpened, []Delivery{{Offset: 1}}, nil)
		got := make(chan bool, 1)
		go func() { got <- w.waitForRoom() }()
		if synctest.Wait(); len(got) > 0 {
			t.Error("there is room")
		}
		p.markFinished(jobs[0].ticket)
		w.queue.push(job{})
		w.next(&jobs[0])
		if !<-got {
			t.Error("the session has to end")
		}
	})
}

// TestStopEndsWaits of those that wait for room and for work.
func TestStopEndsWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := idleWorkers(t, aloneRun(t, ConsumerConfig{Workers: 2, MaxBuffered: 1}))
		take(w.run.progress, mark.ChunkID{}, 100, 0, 1, 2, 3)
		got := make(chan bool, 3)
		go func() { got <- w.waitForRoom() }()
		for range 2 {
			go func() { _, ok := w.next(nil); got <- ok }()
		}
		if synctest.Wait(); len(got) > 0 {
			t.Error("a wait has ended")
		}
		w.stop()
		for range 3 {
			if <-got {
				t.Error("there is something to do after the end")
			}
		}
		w.queue.push(job{})
		if _, ok := w.next(nil); ok {
			t.Error("a message is begun after the end")
		}
		wantErr(t, give(w, plainChunk(4, 1)), errStopped)
	})
}

// TestWorkersEnd: a handler's failure counts more than what ended the session, and
// another failure less.
func TestWorkersEnd(t *testing.T) {
	handlerErr, lost := &HandlerError{Err: errTest}, errors.New("lost")
	for _, test := range []struct{ failure, err, want error }{
		{nil, nil, nil}, {nil, errTest, errTest}, {handlerErr, nil, handlerErr}, {handlerErr, errTest, handlerErr},
		{lost, nil, lost}, {lost, errTest, errTest}, {lost, errStopped, lost}, {errStopped, errTest, errTest},
	} {
		w := idleWorkers(t, aloneRun(t, ConsumerConfig{Workers: 2}))
		if test.failure != nil {
			w.fail(test.failure)
		}
		if got := w.end(test.err); got != test.want {
			t.Errorf("%v and %v end it with %v, want %v", test.failure, test.err, got, test.want)
		}
		if w.phase == open || w.taking.Err() == nil || w.handling.Err() == nil {
			t.Error("it has not ended")
		}
	}
}

// TestWorkersFail: the first failure counts, also as the context's cause.
func TestWorkersFail(t *testing.T) {
	w := idleWorkers(t, aloneRun(t, ConsumerConfig{Workers: 2}))
	w.fail(errTest)
	if w.phase != draining || w.handling.Err() != nil {
		t.Error("what is no failure of a handler ends the others")
	}
	w.fail(&HandlerError{Err: ErrClosed})
	if w.failure != errTest || context.Cause(w.context()) != errTest || w.phase != stopped || w.handling.Err() == nil {
		t.Errorf("failed with %v and %v", w.failure, context.Cause(w.context()))
	}
	if w.flushDue() != nil || w.flush() != errStopped {
		t.Error("what is queued was handled")
	}
}

// TestWorkersPush: the messages of a chunk are queued under their keys. If KeyOf
// panics, none of its block is.
func TestWorkersPush(t *testing.T) {
	key := func(d *Delivery) string {
		if d.Offset == 21 {
			panic("no key")
		}
		return fmt.Sprint(d.Offset % 2)
	}
	w := idleWorkers(t, aloneRun(t, ConsumerConfig{Workers: 2, KeyOf: key}))
	must(t, give(w, plainChunk(10, 4)))
	for want := uint64(10); want < 12; want++ {
		if j, ok := w.queue.pop(); !ok || j.d.Offset != want || j.key != fmt.Sprint(want%2) {
			t.Errorf("message %+v of key %q is ready, want %d", j.d, j.key, want)
		}
	}
	if j, ok := w.queue.pop(); ok {
		t.Errorf("a second message of key %q is ready", j.key)
	}
	if messages, bytes := w.run.progress.inHand(); messages != 4 || bytes != len(plainChunk(10, 4).Data) {
		t.Errorf("%d messages in %d bytes are in hand", messages, bytes)
	}
	err := give(w, plainChunk(20, 2))
	var h *HandlerError
	if !errors.As(err, &h) || h.Offset != 21 || h.Attempts != 1 || h.Stream != testStream || !strings.Contains(err.Error(), "KeyOf: panic: no key") {
		t.Errorf("KeyOf's panic is %v", err)
	}
	if n := len(w.queue.behind["0"]); n != 1 {
		t.Errorf("%d messages are queued behind the key 0, want 1", n)
	}
	empty := idleWorkers(t, aloneRun(t, ConsumerConfig{Workers: 2}))
	must(t, empty.push(chunkOf(5, 1, 1, nil), []Delivery{{Offset: 5}}, 0))
	if messages, bytes := empty.run.progress.inHand(); messages != 1 || bytes != 1 {
		t.Errorf("%d messages in %d bytes are in hand, want 1 in 1 at least", messages, bytes)
	}
}

// TestWorkersAtWork: all is handled, and the place is behind it. An end while
// messages are in hand waits for them.
func TestWorkersAtWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := aloneRun(t, ConsumerConfig{Name: "n", Workers: 3})
		var handled atomic.Int64
		block := make(chan struct{})
		r.handler = func(_ context.Context, d *Delivery) error {
			if d.Offset == 603 || d.Offset == 605 {
				<-block
			}
			handled.Add(1)
			return nil
		}
		w := startWorkers(t.Context(), r)
		chunk := plainChunk(0, 600)
		must(t, give(w, chunk))
		if synctest.Wait(); handled.Load() != 600 {
			t.Errorf("%d messages are handled, want 600", handled.Load())
		}
		must(t, w.endSession(nil))
		wantPlace(t, r, 600, chunk)
		wantMark(t, r.progress, 599, 600)

		chunk = plainChunk(600, 10)
		must(t, give(w, chunk))
		synctest.Wait()
		ended := make(chan error)
		go func() { ended <- w.end(errTest) }()
		if synctest.Wait(); len(ended) > 0 {
			t.Error("it has ended, and a message is in hand")
		}
		wantMark(t, r.progress, 602, 603)
		close(block)
		wantErr(t, <-ended, errTest)
		wantPlace(t, r, 610, chunk)
		wantMark(t, r.progress, 609, 610)
	})
}

// TestWorkersEndWithTheirContext: they stop, and dispatch says why.
func TestWorkersEndWithTheirContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := aloneRun(t, ConsumerConfig{Workers: 2})
		r.handler = func(context.Context, *Delivery) error { t.Error("a message was handled"); return nil }
		ctx, cancel := context.WithCancelCause(t.Context())
		w := startWorkers(ctx, r)
		cancel(errTest)
		synctest.Wait()
		wantErr(t, give(w, plainChunk(0, 3)), errStopped)
		w.wg.Wait()
		if err := w.end(nil); err != nil || r.place.MustRecognise() {
			t.Errorf("the end of the context is a failure: %v", err)
		}
	})
}

// TestWorkersStore: a worker asks for a store only if the policy makes it wait.
func TestWorkersStore(t *testing.T) {
	for _, every := range []int{0, 1, 3} {
		synctest.Test(t, func(t *testing.T) {
			r := aloneRun(t, ConsumerConfig{Name: "n", Workers: 2, Store: StorePolicy{Every: every}})
			r.handler = func(context.Context, *Delivery) error { return nil }
			w := idleWorkers(t, r)
			ended, asked := make(chan struct{}), 0
			go func() {
				defer close(ended)
				for request := range r.requests {
					asked++
					if request.kind != storeSent {
						t.Error("the offset is read back")
					}
					if asked == 1 {
						request.done <- ErrUnreachable // then the worker asks again
						asked = 0
						request = <-r.requests
						asked++
					}
					request.done <- ErrOffsetStore
				}
			}()
			var failed []int
			for i, j := range take(r.progress, mark.ChunkID{}, 1, 0, 1, 2, 3) {
				if err := w.handle(j, nil); err != nil {
					wantErr(t, err, ErrOffsetStore)
					failed = append(failed, i)
				}
			}
			close(r.requests)
			<-ended
			want := map[int][]int{0: nil, 1: {0, 1, 2, 3}, 3: {2, 3}}[every]
			if !slices.Equal(failed, want) || asked != len(want) {
				t.Errorf("every %d: the messages %v waited, %d asked, want %v", every, failed, asked, want)
			}
		})
	}
}

// TestNextAfterStop: a worker begins nothing once the workers have stopped, not
// even the message that follows the one it has just handled.
func TestNextAfterStop(t *testing.T) {
	w := idleWorkers(t, aloneRun(t, ConsumerConfig{Workers: 2, KeyOf: func(*Delivery) string { return "" }}))
	for ticket := range uint64(3) {
		w.queue.push(job{ticket: ticket, key: "k"})
	}
	first, ok := w.next(nil)
	if !ok {
		t.Fatal("there is nothing to begin with")
	}
	if second, ok := w.next(&first); !ok || second.ticket != 1 {
		t.Fatalf("then %d, %v", second.ticket, ok)
	}
	w.stop()
	if j, ok := w.next(&job{ticket: 1, key: "k"}); ok {
		t.Errorf("message %d is begun after the stop", j.ticket)
	}
	if j, ok := w.next(nil); ok {
		t.Errorf("message %d is begun after the stop", j.ticket)
	}
}
