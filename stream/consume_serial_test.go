package stream

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/mark"
	"github.com/tidemark-go/tidemark/internal/wire"
)

// plainChunk returns a chunk with n messages from an offset on.
func plainChunk(first uint64, n int) *wire.Chunk {
	var data []byte
	for i := range n {
		data = wire.AppendEntry(data, appendData(nil, number(int(first)+i)))
	}
	return chunkOf(first, n, n, data)
}

// give dispatches the messages of a chunk.
func give(d dispatcher, chunk *wire.Chunk) error {
	return d.dispatch(chunk, decode(testStream, chunk, chunk.FirstOffset))
}

// giveTo is give with the run's decoder.
func giveTo(d *serial, chunk *wire.Chunk, decoder *decoder) error {
	decoder.begin(testStream, chunk, chunk.FirstOffset)
	return d.dispatch(chunk, decoder)
}

// wantPlace fails the test unless the next session begins at next, in the chunk.
func wantPlace(t *testing.T, r *run, next uint64, chunk *wire.Chunk) {
	t.Helper()
	if got := r.place.Next().From; got != next {
		t.Errorf("the next session begins at %d, want %d", got, next)
	}
	if got, want := r.place.ResumeChunk(), mark.IDOf(chunk); got != want {
		t.Errorf("the next session begins in the chunk %+v, want %+v", got, want)
	}
}

// serialRun returns a run of a consumer whose stores go to the result, and whose
// handler fails as fail says.
func serialRun(t *testing.T, ctx context.Context, cfg ConsumerConfig, fail func(offset uint64) error) (s *serial, to *stores, handled *[]uint64) {
	r, to, handled := aloneRun(t, cfg), &stores{}, new([]uint64)
	r.storer = idleStorer(cfg.Store, to)
	r.storer.progress = r.progress
	r.handler = func(_ context.Context, d *Delivery) error {
		*handled = append(*handled, d.Offset)
		return fail(d.Offset)
	}
	return newSerial(ctx, r), to, handled
}

func neverFails(uint64) error { return nil }

func TestSerialMarks(t *testing.T) {
	for name, test := range map[string]struct {
		cfg    ConsumerConfig
		marked bool
		stored []uint64
	}{
		"no name": {ConsumerConfig{}, false, nil},
		"default": {ConsumerConfig{Name: "n"}, true, nil},
		"manual":  {ConsumerConfig{Name: "n", Store: StorePolicy{Manual: true}}, true, nil},
		"each":    {ConsumerConfig{Name: "n", Store: StorePolicy{Every: 1}}, true, []uint64{10, 11, 12, 13, 14}},
		"counted": {ConsumerConfig{Name: "n", Store: StorePolicy{Every: 2}}, true, []uint64{11, 13}},
	} {
		s, to, handled := serialRun(t, t.Context(), test.cfg, neverFails)
		chunk := plainChunk(10, 5)
		must(t, give(s, chunk))
		if !slices.Equal(*handled, []uint64{10, 11, 12, 13, 14}) || !slices.Equal(to.sent, test.stored) {
			t.Errorf("%s: handled %v, stored %v", name, *handled, to.sent)
		}
		if got, ok := s.run.progress.snapshot(); ok != test.marked || ok && got.Mark != 14 {
			t.Errorf("%s: the mark is at %d, %v", name, got.Mark, ok)
		}
		wantPlace(t, s.run, 15, chunk)
	}
}

// TestSerialTellsWhatFollows: all stores but the last of a chunk are followed by
// another one, also at the end of a block.
func TestSerialTellsWhatFollows(t *testing.T) {
	for _, n := range []int{1, 2, blockSize, blockSize + 1} {
		s, to, _ := serialRun(t, t.Context(), ConsumerConfig{Name: "n", Store: StorePolicy{Every: 1}}, neverFails)
		must(t, give(s, plainChunk(0, n)))
		if len(to.more) != n || slices.Index(to.more, false) != n-1 {
			t.Errorf("%d messages: %d stores, of which number %d is followed by none", n, len(to.more), slices.Index(to.more, false))
		}
	}
}

// TestSerialFails: what comes before a failure is handled, and what comes behind
// it is not begun.
func TestSerialFails(t *testing.T) {
	for name, fail := range map[string]func() error{
		"error": func() error { return errTest },
		"panic": func() error { panic(errTest.Error()) },
	} {
		for _, at := range []uint64{10, 12} {
			s, _, handled := serialRun(t, t.Context(), ConsumerConfig{Name: "n"}, func(offset uint64) error {
				if offset == at {
					return fail()
				}
				return nil
			})
			chunk := plainChunk(10, 5)
			err := give(s, chunk)
			if !endedByHandler(err) || len(*handled) != int(at-9) {
				t.Errorf("%s: %v after %v", name, err, *handled)
			}
			if at > 10 {
				wantPlace(t, s.run, at, chunk)
				wantMark(t, s.run.progress, at-1, 2)
			} else if _, ok := s.run.progress.snapshot(); ok || s.run.place.MustRecognise() {
				t.Errorf("%s: a message is handled", name)
			}
		}
	}
}

// TestSerialSkips: a failure that is settled counts as handled, and is stored.
func TestSerialSkips(t *testing.T) {
	for _, at := range []uint64{10, 12, 14} {
		s, to, handled := serialRun(t, t.Context(), ConsumerConfig{Name: "n", Store: StorePolicy{Every: 1}, OnError: ErrorPolicy{Skip: true}}, func(offset uint64) error {
			if offset == at {
				return errTest
			}
			return nil
		})
		chunk := plainChunk(10, 5)
		must(t, give(s, chunk))
		if all := []uint64{10, 11, 12, 13, 14}; !slices.Equal(*handled, all) || !slices.Equal(to.sent, all) {
			t.Errorf("handled %v, stored %v", *handled, to.sent)
		}
		if to.more[at-10] {
			t.Error("the store after a failure waits for the next one")
		}
		wantPlace(t, s.run, 15, chunk)
	}
}

// TestSerialStoreFails: the message before it counts as handled, and no further
// one is begun.
func TestSerialStoreFails(t *testing.T) {
	for _, skip := range []bool{false, true} {
		s, to, handled := serialRun(t, t.Context(), ConsumerConfig{Name: "n", Store: StorePolicy{Every: 1}, OnError: ErrorPolicy{Skip: true}}, func(uint64) error {
			if skip {
				return errTest
			}
			return nil
		})
		to.fails = ErrUnreachable
		chunk := plainChunk(10, 5)
		wantErr(t, give(s, chunk), ErrUnreachable)
		if !slices.Equal(*handled, []uint64{10}) {
			t.Errorf("handled %v", *handled)
		}
		wantPlace(t, s.run, 11, chunk)
	}
}

// TestSerialEnds between two messages when its context does.
func TestSerialEnds(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	s, _, handled := serialRun(t, ctx, ConsumerConfig{}, func(offset uint64) error {
		if offset == 11 {
			cancel(errTest)
		}
		return nil
	})
	chunk := plainChunk(10, 5)
	wantErr(t, give(s, chunk), errStopped)
	if !slices.Equal(*handled, []uint64{10, 11}) || s.context() != ctx {
		t.Errorf("handled %v", *handled)
	}
	wantPlace(t, s.run, 12, chunk)
	if s.flushDue() != nil || s.flush() != nil || s.end(nil) != nil {
		t.Error("there is something to flush")
	}
	wantErr(t, s.end(errTest), errTest)
}

// TestSerialLoopBody: the body's error ends the session as it is, whatever the
// policy, and its panic is the caller's. What it handled counts.
func TestSerialLoopBody(t *testing.T) {
	chunk := plainChunk(10, 5)
	for name, test := range map[string]struct {
		body   func() error
		panics bool
	}{
		"left":  {func() error { return errLoopLeft }, false},
		"panic": {func() error { panic(errTest) }, true},
	} {
		s, _, _ := serialRun(t, t.Context(), ConsumerConfig{Name: "n", OnError: ErrorPolicy{Skip: true}}, neverFails)
		s.run.handler, s.run.loopBody = nil, func(_ context.Context, d *Delivery) error {
			if d.Offset == 12 {
				return test.body()
			}
			return nil
		}
		func() {
			defer func() {
				if v := recover(); (v != nil) != test.panics {
					t.Errorf("%s: the caller sees the panic %v", name, v)
				}
			}()
			if err := give(s, chunk); err != errLoopLeft {
				t.Errorf("%s: %v", name, err)
			}
		}()
		wantPlace(t, s.run, 12, chunk)
		wantMark(t, s.run.progress, 11, 2)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	s, _, _ := serialRun(t, ctx, ConsumerConfig{}, neverFails)
	s.run.handler, s.run.loopBody = nil, func(context.Context, *Delivery) error { cancel(errTest); return nil }
	wantErr(t, give(s, chunk), errStopped)
	wantPlace(t, s.run, 11, chunk)
}

// TestNewDispatcher goes by what the run's caller asked for.
func TestNewDispatcher(t *testing.T) {
	for want, change := range map[string]func(*run){
		"*stream.serial":  func(r *run) { r.workers = 1 },
		"*stream.workers": func(r *run) { r.workers = 2 },
		"*stream.batches": func(r *run) { r.batchHandler = func(context.Context, []Delivery) error { return nil } },
	} {
		r := aloneRun(t, ConsumerConfig{BatchSize: 3, BatchWait: time.Minute})
		change(r)
		d := r.newDispatcher(t.Context())
		if got := fmt.Sprintf("%T", d); got != want {
			t.Errorf("%s, want %s", got, want)
		}
		must(t, d.end(nil))
	}
}

// The goroutine of the relay, on which the caller of Run waits, calls no Match.
func TestRefillCallsNoMatch(t *testing.T) {
	d := decode("s", chunkOf(0, 1, 1, wire.AppendEntry(nil, []byte("m"))), 0)
	d.match = func(*Delivery) bool {
		t.Error("Match is called")
		return true
	}
	s := &serial{run: &run{consumer: &Consumer{}}}
	if s.refill(&block{source: d}) {
		t.Error("a block came")
	}
}
