package stream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// batchBench is a dispatcher of batches whose handler notes the offsets.
type batchBench struct {
	*batches
	got   [][]uint64
	fails error
}

func newBatchBench(t *testing.T, ctx context.Context, cfg ConsumerConfig) *batchBench {
	b := &batchBench{}
	r := aloneRun(t, cfg)
	r.batchHandler = func(_ context.Context, batch []Delivery) error {
		var offsets []uint64
		for _, d := range batch {
			offsets = append(offsets, d.Offset)
		}
		b.got = append(b.got, offsets)
		return b.fails
	}
	b.batches = newBatches(ctx, r)
	return b
}

// want fails the test unless these batches were handled.
func (b *batchBench) want(t *testing.T, when string, batches ...[]uint64) {
	t.Helper()
	if !slices.EqualFunc(b.got, batches, slices.Equal) {
		t.Errorf("%s: handled %v, want %v", when, b.got, batches)
	}
}

// TestBatchesFill: a batch goes when it is full, and the rest of a chunk waits for
// the next one.
func TestBatchesFill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBatchBench(t, t.Context(), ConsumerConfig{Name: "n", BatchSize: 3, BatchWait: time.Second})
		must(t, give(b, plainChunk(0, 3)))
		b.want(t, "exactly full", []uint64{0, 1, 2})
		if b.flushDue() != nil || len(b.pending) > 0 {
			t.Errorf("%d messages wait", len(b.pending))
		}
		chunk := plainChunk(3, 7)
		must(t, give(b, chunk))
		b.want(t, "more than two", []uint64{0, 1, 2}, []uint64{3, 4, 5}, []uint64{6, 7, 8})
		if b.flushDue() == nil || len(b.pending) != 1 {
			t.Errorf("%d messages wait, and their time runs: %v", len(b.pending), b.flushDue() != nil)
		}
		wantPlace(t, b.run, 9, chunk)
		wantMark(t, b.run.progress, 8, 9)
		chunk = plainChunk(10, 2)
		must(t, give(b, chunk))
		b.want(t, "filled up", []uint64{0, 1, 2}, []uint64{3, 4, 5}, []uint64{6, 7, 8}, []uint64{9, 10, 11})
		if b.flushDue() != nil {
			t.Error("a time runs, and nothing waits")
		}
		wantPlace(t, b.run, 12, chunk)
		must(t, give(b, plainChunk(20, 0)))
		if must(t, b.flush()); len(b.got) != 4 || b.flushDue() != nil {
			t.Error("an empty batch was handled")
		}
	})
}

// TestBatchesWait: the time runs from the first message of a batch, however many
// chunks follow, and begins anew with the next one.
func TestBatchesWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBatchBench(t, t.Context(), ConsumerConfig{BatchSize: 10, BatchWait: time.Second})
		for i := range uint64(2) {
			begun := time.Now()
			must(t, give(b, plainChunk(10*i, 1)))
			time.Sleep(600 * time.Millisecond)
			must(t, give(b, plainChunk(10*i+1, 1)))
			<-b.flushDue()
			if waited := time.Since(begun); waited != time.Second {
				t.Errorf("waited %v", waited)
			}
			must(t, b.flush())
			if b.flushDue() != nil {
				t.Error("the time still runs")
			}
		}
		b.want(t, "two batches", []uint64{0, 1}, []uint64{10, 11})
		must(t, give(b, plainChunk(20, 1)))
		time.Sleep(time.Second)
		must(t, give(b, plainChunk(21, 1))) // the next chunk comes before anybody looks
		b.want(t, "overdue", []uint64{0, 1}, []uint64{10, 11}, []uint64{20, 21})
		b.fails = errTest
		must(t, give(b, plainChunk(30, 1)))
		time.Sleep(time.Second)
		wantErr(t, give(b, plainChunk(31, 1)), errTest)
	})
}

// TestBatchesFail: nothing of a batch that failed counts, nor is the next begun.
func TestBatchesFail(t *testing.T) {
	b := newBatchBench(t, t.Context(), ConsumerConfig{Name: "n", BatchSize: 3})
	b.fails = errTest
	wantErr(t, give(b, plainChunk(0, 7)), errTest)
	b.want(t, "the first one", []uint64{0, 1, 2})
	if _, ok := b.run.progress.snapshot(); ok || b.run.place.MustRecognise() {
		t.Error("something is handled")
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	b = newBatchBench(t, ctx, ConsumerConfig{BatchSize: 3})
	cancel(ErrClosed)
	wantErr(t, give(b, plainChunk(0, 3)), errStopped)
	if b.want(t, "after the end"); b.context() != ctx {
		t.Error("it has another context")
	}
}

// TestBatchesStore asks for a store as the policy says, and never without a name.
func TestBatchesStore(t *testing.T) {
	for _, test := range []struct {
		every int
		asks  int
	}{{0, 0}, {1, 2}, {3, 2}, {6, 1}, {7, 0}} {
		synctest.Test(t, func(t *testing.T) {
			b := newBatchBench(t, t.Context(), ConsumerConfig{Name: "n", BatchSize: 3, Store: StorePolicy{Every: test.every}})
			asked, ended := 0, make(chan struct{})
			go func() {
				defer close(ended)
				for request := range b.run.requests {
					if asked++; request.kind != storeSent {
						t.Error("the offset is read back")
					}
					request.done <- map[bool]error{true: errTest}[asked == test.asks]
				}
			}()
			err := give(b, plainChunk(0, 6))
			close(b.run.requests)
			if <-ended; asked != test.asks || errors.Is(err, errTest) != (test.asks > 0) {
				t.Errorf("every %d: asked %d times, %v", test.every, asked, err)
			}
		})
	}
}

// TestBatchesEnd: what waits is handled if the connection was lost, and only
// then.
func TestBatchesEnd(t *testing.T) {
	failed := &HandlerError{Err: errTest}
	for name, test := range map[string]struct {
		err       error
		cancelled bool
		fails     error
		handled   bool
		want      error
	}{
		"lost":                    {err: ErrUnreachable, handled: true, want: ErrUnreachable},
		"moved":                   {err: errMoved, handled: true, want: errMoved},
		"lost, and it fails":      {err: ErrUnreachable, fails: failed, handled: true, want: failed},
		"fatal":                   {err: fmt.Errorf("%w: x", ErrMalformed), want: ErrMalformed},
		"recreated":               {err: otherStream(1), want: ErrStreamRecreated},
		"handler":                 {err: failed, want: failed},
		"loop left":               {err: errLoopLeft, want: errLoopLeft},
		"ended":                   {err: errStopped, cancelled: true, want: errStopped},
		"ended, and lost as well": {err: ErrUnreachable, cancelled: true, want: ErrUnreachable},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		b := newBatchBench(t, ctx, ConsumerConfig{BatchSize: 3, BatchWait: time.Hour})
		must(t, give(b, plainChunk(0, 2)))
		if test.cancelled {
			cancel()
		}
		b.fails = test.fails
		if err := b.endSession(test.err); !errors.Is(err, test.want) {
			t.Errorf("%s: %v", name, err)
		}
		cancel()
		if (len(b.got) == 1) != test.handled || b.flushDue() != nil {
			t.Errorf("%s: handled %v, and the time runs: %v", name, b.got, b.flushDue() != nil)
		}
	}
}
