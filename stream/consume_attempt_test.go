package stream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"sync"
	"testing"

	"github.com/tidemark-go/tidemark/streamtest"
)

func TestPermanentIsSeenThrough(t *testing.T) {
	if Permanent(nil) != nil {
		t.Error("Permanent(nil) is an error")
	}
	cause := &OpError{Op: "parse", Err: errTest}
	err := Permanent(cause)
	var op *OpError
	if !errors.Is(err, errTest) || !errors.As(err, &op) || err.Error() != cause.Error() {
		t.Errorf("%v hides its cause", err)
	}
	for _, wrapped := range []error{err, fmt.Errorf("why: %w", err), errors.Join(errTest, err), &HandlerError{Err: err}, Permanent(err)} {
		if !isPermanent(wrapped) {
			t.Errorf("%#v is not permanent", wrapped)
		}
	}
	if isPermanent(cause) || isPermanent(nil) {
		t.Error("an error that nobody marked is permanent")
	}
}

// TestPermanentIsSettled at once, whatever the number of attempts: by what the
// policy says, or by the end of the run.
func TestPermanentIsSettled(t *testing.T) {
	for _, workers := range []int{0, 3} {
		b, env, name := inStream(t, 20)
		letters := newStream(t, env)
		fail := func(_ context.Context, d *Delivery) error {
			if d.Offset == 5 && d.Attempt() == 1 {
				return fmt.Errorf("no order: %w", Permanent(errTest))
			}
			return nil
		}
		runUntil(t, b, env, name, 19, ConsumerConfig{Workers: workers, OnError: ErrorPolicy{Attempts: 9, DeadLetter: letters}}, fail)
		if n := len(b.Messages(letters)); n != 1 {
			t.Errorf("%d dead letters", n)
		}
		_, ended := running1(t, env, name, ConsumerConfig{Workers: workers, OnError: ErrorPolicy{Attempts: RetryForever}}, fail)
		var h *HandlerError
		if err := recv(t, ended, "the end"); !errors.As(err, &h) || h.Attempts != 1 || h.Offset != 5 || !errors.Is(err, errTest) {
			t.Errorf("the run ended with %v", err)
		}
	}
	b, env, name := inStream(t, 20)
	calls := 0
	runUntil(t, b, env, name, 19, ConsumerConfig{OnError: ErrorPolicy{Attempts: RetryForever, Skip: true}}, func(context.Context, *Delivery) error {
		calls++
		return Permanent(errTest)
	})
	if calls != 20 {
		t.Errorf("%d calls for 20 messages that are skipped", calls)
	}
}

// scribble does to a delivery what a handler may do: it writes into everything
// that it gets.
func scribble(d *Delivery) {
	props, _ := d.ApplicationProperties()
	for _, v := range props {
		if b, ok := v.([]byte); ok {
			clear(b)
		}
	}
	clear(props)
	clear(d.Raw())
	clear(d.Body)
	d.Body = append(d.Body[:0], "changed"...)
	d.Stream, d.Offset = "another", 99
}

// view is what a handler can see of a message.
type view struct {
	stream, body, raw string
	offset            uint64
	props             map[string]any
}

func viewOf(d *Delivery) view {
	props, _ := d.ApplicationProperties()
	return view{d.Stream, string(d.Body), string(d.Raw()), d.Offset, props}
}

// threeKinds publishes data alone, a message of sections, and bare bytes.
func threeKinds(t *testing.T, env *Env, name string) {
	t.Helper()
	p, err := env.NewProducer(inTime(t), name, ProducerConfig{})
	must(t, err)
	full := Message{Body: []byte("b"), ApplicationProperties: map[string]any{"bytes": []byte("c"), "decimal": Decimal32{1}}, Footer: map[string]any{"f": "g"}}
	must(t, errors.Join(p.Publish(inTime(t), Message{Body: []byte("a")}, full, messageOver([]byte("bare"))), p.Close(inTime(t))))
}

// attempts keeps what the attempts at each message saw.
type attempts struct {
	mu   sync.Mutex
	seen map[uint64][]view
	bad  []string
}

// fail looks at a message, scribbles over it and fails.
func (a *attempts) fail(d *Delivery) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.seen == nil {
		a.seen = map[uint64][]view{}
	}
	offset := d.Offset
	a.seen[offset] = append(a.seen[offset], viewOf(d))
	if d.Attempt() != len(a.seen[offset]) {
		a.bad = append(a.bad, fmt.Sprintf("attempt %d at %d says %d", len(a.seen[offset]), offset, d.Attempt()))
	}
	scribble(d)
	return errTest
}

// check fails unless each message was seen n times, always the same.
func (a *attempts) check(t *testing.T, n int) {
	t.Helper()
	for offset, list := range a.seen {
		if len(list) != n || list[0].offset != offset {
			t.Errorf("%d attempts at %d: %+v", len(list), offset, list)
		}
		for _, v := range list {
			if !reflect.DeepEqual(v, list[0]) {
				t.Errorf("an attempt at %d saw %+v, and the first one %+v", offset, v, list[0])
			}
		}
	}
	if len(a.seen) != 3 || len(a.bad) > 0 {
		t.Errorf("%d messages, %q", len(a.seen), a.bad)
	}
}

// checkLetters fails unless the dead letters are the messages as they came.
func checkLetters(t *testing.T, b *streamtest.Broker, letters string) {
	t.Helper()
	var got []string
	for _, m := range b.Messages(letters) {
		d := deliveryOf(m.Raw)
		props, err := d.ApplicationProperties()
		must(t, err)
		got = append(got, fmt.Sprintf("%s %s %v %v %v", d.Body, props["bytes"], props["decimal"], props[DeadLetterOffset], props[DeadLetterAttempts]))
	}
	slices.Sort(got)
	if want := []string{"a %!s(<nil>) <nil> 0 3", "b c [1 0 0 0] 1 3", "bare %!s(<nil>) <nil> 2 3"}; !slices.Equal(got, want) {
		t.Errorf("dead letters %q, want %q", got, want)
	}
}

// TestAttemptsGetTheMessageAsItCame: each attempt and the dead letter, whatever
// the handler wrote into the one before.
func TestAttemptsGetTheMessageAsItCame(t *testing.T) {
	for _, cfg := range []ConsumerConfig{{}, {Workers: 3}, {ReuseDelivery: true}} {
		b, env, name := inStream(t, 0)
		letters := newStream(t, env)
		threeKinds(t, env, name)
		var a attempts
		cfg.OnError = quick(ErrorPolicy{Attempts: 3, DeadLetter: letters})
		runUntil(t, b, env, name, 2, cfg, func(_ context.Context, d *Delivery) error { return a.fail(d) })
		a.check(t, 3)
		checkLetters(t, b, letters)
	}
}

// TestBatchesComeAsTheyCame: in their order too, which a handler may change, and
// which the mark does not depend on.
func TestBatchesComeAsTheyCame(t *testing.T) {
	b, env, name := inStream(t, 0)
	letters := newStream(t, env)
	threeKinds(t, env, name)
	var a attempts
	cfg := ConsumerConfig{Name: "billing", BatchSize: 3, OnError: quick(ErrorPolicy{Attempts: 3, DeadLetter: letters})}
	stop, ended := start(t, env, name, cfg, func(ctx context.Context, c *Consumer) error {
		return c.RunBatch(ctx, func(_ context.Context, batch []Delivery) error {
			for i := range batch {
				if batch[i].Offset != uint64(i) {
					t.Errorf("message %d of the batch has offset %d", i, batch[i].Offset)
				}
				_ = a.fail(&batch[i])
			}
			slices.Reverse(batch)
			return errTest
		})
	})
	eventually(t, "the offset is stored", patience, func() bool { got, ok := b.Offset("billing", name); return ok && got == 2 })
	stop()
	recv(t, ended, "the end")
	a.check(t, 3)
	checkLetters(t, b, letters)
}

// TestHandlerMayChangeWhatItGets: the mark and the error name the message that
// was read.
func TestHandlerMayChangeWhatItGets(t *testing.T) {
	b, env, name := inStream(t, 20)
	for _, reuse := range []bool{false, true} {
		runUntil(t, b, env, name, 19, ConsumerConfig{ReuseDelivery: reuse}, func(_ context.Context, d *Delivery) error {
			if string(d.Body) != strconv.Itoa(int(d.Offset)) {
				t.Errorf("message %d is %q", d.Offset, d.Body)
			}
			scribble(d)
			return nil
		})
	}
	stop, ended := start(t, env, name, ConsumerConfig{Name: "batches", BatchSize: 20}, func(ctx context.Context, c *Consumer) error {
		return c.RunBatch(ctx, func(_ context.Context, batch []Delivery) error { slices.Reverse(batch); return nil })
	})
	eventually(t, "the offset is stored", patience, func() bool { got, ok := b.Offset("batches", name); return ok && got == 19 })
	stop()
	recv(t, ended, "the end")
	_, ended = running1(t, env, name, ConsumerConfig{}, func(_ context.Context, d *Delivery) error {
		if d.Offset < 5 {
			return nil
		}
		scribble(d)
		return errTest
	})
	var h *HandlerError
	if err := recv(t, ended, "the end"); !errors.As(err, &h) || h.Offset != 5 || h.Stream != name {
		t.Errorf("%+v", err)
	}
}

// TestOriginals: what is kept is given back, as often as it is asked for.
func TestOriginals(t *testing.T) {
	o := &originals{}
	batch := []Delivery{{Stream: "s", Offset: 1, Timestamp: noon, Body: []byte("a")}, *deliveryOf([]byte("bare")), {}, *deliveryOf((&Message{Value: "v"}).mustEncode())}
	o.keep(batch)
	var want []view
	for i := range batch {
		want = append(want, viewOf(&batch[i]))
	}
	for attempt := 2; attempt < 4; attempt++ {
		got := o.deliveries(attempt)
		for i := range got {
			if v := viewOf(&got[i]); !reflect.DeepEqual(v, want[i]) || got[i].Attempt() != attempt || !got[i].Timestamp.Equal(batch[i].Timestamp) {
				t.Errorf("message %d is %+v, want %+v", i, v, want[i])
			}
			scribble(&got[i])
		}
	}
	o.keepOne(&batch[0])
	if got := o.deliveries(2); len(got) != 1 || string(got[0].Body) != "a" {
		t.Errorf("%+v", got)
	}
	o.keepOne(&Delivery{Body: make([]byte, 2*maxIdle)})
	if o.keepOne(&batch[0]); cap(o.bytes) > maxIdle {
		t.Errorf("%d bytes stay", cap(o.bytes))
	}
	o = nil
	o.keepOne(&batch[0])
	o.keep(batch)
}

// TestOriginalsOnlyWhereNeeded: a policy that calls once and publishes nothing
// costs nothing.
func TestOriginalsOnlyWhereNeeded(t *testing.T) {
	for _, test := range []struct {
		policy ErrorPolicy
		needed bool
	}{
		{ErrorPolicy{}, false}, {ErrorPolicy{Skip: true}, false}, {ErrorPolicy{Attempts: 2}, true}, {ErrorPolicy{Attempts: RetryForever}, true}, {ErrorPolicy{DeadLetter: "d"}, true},
	} {
		r := aloneRun(t, ConsumerConfig{OnError: test.policy})
		if o := r.originals(); (o != nil) != test.needed {
			t.Errorf("%+v: %v", test.policy, o)
		}
	}
}

// TestNoAllocationsPerMessage: a message that does not fail costs none, whatever
// the policy.
func TestNoAllocationsPerMessage(t *testing.T) {
	list := make([]Delivery, 100)
	for i := range list {
		list[i] = Delivery{Stream: testStream, Offset: uint64(i), Body: bytes.Repeat([]byte("b"), 100)}
		if i%2 == 1 {
			list[i] = *deliveryOf((&Message{Properties: &Properties{To: "x"}, Body: []byte("b")}).mustEncode())
		}
	}
	handler := func(context.Context, *Delivery) error { return nil }
	for _, policy := range []ErrorPolicy{{}, {Attempts: 2}, {DeadLetter: "d"}} {
		r := aloneRun(t, ConsumerConfig{OnError: policy})
		r.handler = handler
		r.batchHandler = func(context.Context, []Delivery) error { return nil }
		s, kept := newSerial(t.Context(), r), r.originals()
		for name, handle := range map[string]func(){
			"one at a time": func() { must(t, s.handle(&block{list: list})) },
			"batches":       func() { must(t, r.handleBatch(s.lifetime, list, kept)) },
			"workers": func() {
				for i := range list {
					must(t, r.handleOne(s.lifetime, &list[i], kept))
				}
			},
		} {
			handle()
			if n := testing.AllocsPerRun(100, handle); n > 2 { // the test's own: t.Context, block
				t.Errorf("%+v, %s: %v allocations for 100 messages", policy, name, n)
			}
		}
	}
}
