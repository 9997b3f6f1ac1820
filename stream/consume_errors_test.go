package stream

import (
	"bytes"
	"context"
	"errors"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-go/tidemark/streamtest"
)

// quick is a policy that does not wait long.
func quick(p ErrorPolicy) ErrorPolicy {
	p.Backoff = Backoff{Min: time.Microsecond, Max: time.Millisecond}
	return p
}

// runUntil runs a consumer until the broker has stored an offset for it.
func runUntil(t *testing.T, b *streamtest.Broker, env *Env, name string, offset uint64, cfg ConsumerConfig, h Handler) {
	t.Helper()
	cfg.Name = "billing"
	stop, ended := running1(t, env, name, cfg, h)
	eventually(t, "the offset is stored", patience, func() bool { got, ok := b.Offset("billing", name); return ok && got == offset })
	stop()
	must(t, recv(t, ended, "the end"))
}

func TestRetry(t *testing.T) {
	for _, workers := range []int{0, 3} {
		b, env, name := inStream(t, 20)
		var calls, handled atomic.Int64
		runUntil(t, b, env, name, 19, ConsumerConfig{Workers: workers, OnError: quick(ErrorPolicy{Attempts: 3})}, func(_ context.Context, d *Delivery) error {
			if d.Offset == 5 && calls.Add(1) < 3 {
				return errTest
			}
			handled.Add(1)
			return nil
		})
		if calls.Load() != 3 || handled.Load() != 20 {
			t.Errorf("%d calls for one message, %d handled; want 3 and 20", calls.Load(), handled.Load())
		}
	}
}

func TestRetryThenStop(t *testing.T) {
	b, env, name := inStream(t, 20)
	var calls atomic.Int64
	_, ended := running1(t, env, name, ConsumerConfig{Name: "billing", OnError: quick(ErrorPolicy{Attempts: 4})}, func(_ context.Context, d *Delivery) error {
		if d.Offset == 5 {
			calls.Add(1)
			panic(errTest)
		}
		return nil
	})
	var h *HandlerError
	if err := recv(t, ended, "the end"); !errors.As(err, &h) || h.Offset != 5 || h.Attempts != 4 || calls.Load() != 4 {
		t.Errorf("after %d calls the run ended with %v", calls.Load(), err)
	}
	if got, ok := b.Offset("billing", name); !ok || got != 4 {
		t.Errorf("stored %d, %v; want 4", got, ok)
	}
}

// TestRetryEndsWithTheRun: a wait between two attempts ends with the context,
// and the message is not settled, whatever the policy.
func TestRetryEndsWithTheRun(t *testing.T) {
	b, env, name := inStream(t, 20)
	failed := make(chan struct{}, 1)
	policy := ErrorPolicy{Attempts: RetryForever, Backoff: Backoff{Min: time.Hour}, Skip: true}
	stop, ended := running1(t, env, name, ConsumerConfig{Name: "billing", OnError: policy}, func(_ context.Context, d *Delivery) error {
		if d.Offset == 5 {
			failed <- struct{}{}
			return errTest
		}
		return nil
	})
	recv(t, failed, "the failure")
	stop()
	must(t, recv(t, ended, "the end"))
	if got, ok := b.Offset("billing", name); !ok || got != 4 {
		t.Errorf("stored %d, %v; want 4", got, ok)
	}
}

func TestSkip(t *testing.T) {
	b, env, name := inStream(t, 20)
	runUntil(t, b, env, name, 19, ConsumerConfig{OnError: quick(ErrorPolicy{Attempts: 2, Skip: true})}, func(_ context.Context, d *Delivery) error {
		if d.Offset%2 == 1 {
			return errTest
		}
		return nil
	})
}

// TestEndingRunSkipsNothing: handlers return an error of whatever kind when their
// context ends, which is no reason to skip their messages, and no failure.
func TestEndingRunSkipsNothing(t *testing.T) {
	for _, end := range []string{"context", "env"} {
		b, env, name := inStream(t, 20)
		entered := make(chan struct{})
		stop, ended := running1(t, env, name, ConsumerConfig{Name: "billing", Drain: -1, OnError: ErrorPolicy{Skip: true}}, func(ctx context.Context, d *Delivery) error {
			if d.Offset == 5 {
				close(entered)
				<-ctx.Done()
				return errTest
			}
			return nil
		})
		recv(t, entered, "the handler")
		if end == "env" {
			if err := env.Close(); err != nil {
				t.Error(err)
			}
		} else {
			stop()
		}
		err := recv(t, ended, "the end")
		if closed := end == "env"; errors.Is(err, ErrClosed) != closed || (err == nil) == closed || errors.Is(err, errTest) {
			t.Errorf("%s: %v", end, err)
		}
		if got, ok := b.Offset("billing", name); !ok || got != 4 {
			t.Errorf("%s: stored %d, %v; want 4", end, got, ok)
		}
	}
}

func TestDeadLetter(t *testing.T) { onBrokers(t, testDeadLetter) }

// testDeadLetter checks what a dead letter holds.
func testDeadLetter(t *testing.T, b testBroker) {
	env := connect(t, b.StreamURL())
	name := newStream(t, env)
	letters := newStream(t, env)
	p, err := env.NewProducer(inTime(t), name, ProducerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	full := Message{
		Body: []byte("second"), Properties: &Properties{MessageID: "id", ContentType: "text/plain"},
		ApplicationProperties: map[string]any{"tenant": "a", DeadLetterStream: "an older one"},
		Annotations:           map[string]any{"x-routing-key": "k"}, Header: &Header{Durable: true, Priority: 7},
	}
	if err := errors.Join(p.Publish(inTime(t), Message{Body: []byte("first")}, full, Message{Raw: []byte("bare")}), p.Close(inTime(t))); err != nil {
		t.Fatal(err)
	}
	origin := make(chan Delivery, 3)
	stop, ended := running1(t, env, name, ConsumerConfig{Name: "billing", OnError: quick(ErrorPolicy{Attempts: 2, DeadLetter: letters})}, func(_ context.Context, d *Delivery) error {
		select {
		case origin <- *d:
		default:
		}
		return errTest
	})
	got := make([]Delivery, 0, 3)
	for d, err := range plainConsumer(t, env, letters).All(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, *d); len(got) == 3 {
			break
		}
	}
	stop()
	must(t, recv(t, ended, "the end"))
	for i, body := range []string{"first", "second", "bare"} {
		props, err := got[i].ApplicationProperties()
		if err != nil || string(got[i].Body) != body {
			t.Fatalf("dead letter %d is %q, %v", i, got[i].Body, err)
		}
		at := props[DeadLetterTimestamp].(time.Time)
		if delete(props, DeadLetterTimestamp); time.Since(at) > time.Minute || at.After(time.Now().Add(time.Minute)) {
			t.Errorf("dead letter %d was first written at %v", i, at)
		}
		want := map[string]any{
			DeadLetterReason: errTest.Error(), DeadLetterAttempts: int64(2), DeadLetterConsumer: "billing",
			DeadLetterStream: name, DeadLetterOffset: int64(i),
		}
		if i == 1 {
			want["tenant"] = "a"
		}
		if !reflect.DeepEqual(props, want) {
			t.Errorf("dead letter %d has %v, want %v", i, props, want)
		}
	}
	props, _ := got[1].Properties()
	header, _ := got[1].Header()
	notes, _ := got[1].Annotations()
	if props == nil || props.MessageID != "id" || header == nil || header.Priority != 7 || notes["x-routing-key"] != "k" {
		t.Errorf("the other sections are %+v, %+v, %v", props, header, notes)
	}
	if !bytes.Equal(withoutProperties(got[1].Raw()), withoutProperties(full.mustEncode())) {
		t.Errorf("the other sections are not what they were:\n%q\n%q", full.mustEncode(), got[1].Raw())
	}
}

func plainConsumer(t testing.TB, env *Env, name string) *Consumer {
	t.Helper()
	c, err := env.NewConsumer(name, ConsumerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestDeadLetterIsConfirmedFirst: the offset does not move before.
func TestDeadLetterIsConfirmedFirst(t *testing.T) {
	b, env, name := inStream(t, 1)
	letters := newStream(t, env)
	b.WithholdConfirms()
	stop, ended := running1(t, env, name, ConsumerConfig{Name: "billing", Store: StorePolicy{Every: 1}, OnError: ErrorPolicy{DeadLetter: letters}}, func(context.Context, *Delivery) error { return errTest })
	eventually(t, "it is published", patience, func() bool { return len(b.Messages(letters)) == 1 })
	if _, ok := b.Offset("billing", name); ok {
		t.Error("the offset was stored before the dead letter was confirmed")
	}
	b.ReleaseConfirms()
	eventually(t, "the offset is stored", patience, func() bool { _, ok := b.Offset("billing", name); return ok })
	stop()
	must(t, recv(t, ended, "the end"))
}

// TestDeadLetterUnsettled: what cannot be published is not settled.
func TestDeadLetterUnsettled(t *testing.T) {
	b, env, name := inStream(t, 10)
	letters := newStream(t, env)
	_, ended := running1(t, env, name, ConsumerConfig{Name: "billing", OnError: ErrorPolicy{DeadLetter: letters}}, func(_ context.Context, d *Delivery) error {
		if d.Offset < 5 {
			return nil
		}
		b.DeleteStream(letters)
		return errTest
	})
	wantErr(t, recv(t, ended, "the end"), errTest, ErrStreamNotFound)
	if got, ok := b.Offset("billing", name); !ok || got != 4 {
		t.Errorf("stored %d, %v; want 4", got, ok)
	}
}

func TestDeadLetterStreamMissing(t *testing.T) {
	_, env, name := inStream(t, 1)
	_, ended := running1(t, env, name, ConsumerConfig{OnError: ErrorPolicy{DeadLetter: "nowhere"}}, func(context.Context, *Delivery) error {
		t.Error("a message was handled")
		return nil
	})
	err := recv(t, ended, "the end")
	if wantErr(t, err, ErrStreamNotFound); !strings.Contains(err.Error(), "nowhere") {
		t.Errorf("%v does not name the stream", err)
	}
}

// TestDeadLettersOfWorkersAndBatches: the producer is shared, batches go as
// one.
func TestDeadLettersOfWorkersAndBatches(t *testing.T) {
	beside(t)
	b, env, name := inStream(t, 100)
	letters := newStream(t, env)
	onError := ErrorPolicy{DeadLetter: letters}
	runUntil(t, b, env, name, 99, ConsumerConfig{Workers: 8, OnError: onError}, func(context.Context, *Delivery) error { return errTest })
	if n := len(b.Messages(letters)); n != 100 {
		t.Errorf("%d dead letters of workers, want 100", n)
	}
	stop, ended := start(t, env, name, ConsumerConfig{Name: "batches", BatchSize: 30, OnError: onError}, func(ctx context.Context, c *Consumer) error {
		return c.RunBatch(ctx, func(context.Context, []Delivery) error { return errTest })
	})
	eventually(t, "the offset is stored", patience, func() bool { got, ok := b.Offset("batches", name); return ok && got == 99 })
	stop()
	must(t, recv(t, ended, "the end"))
	if n := len(b.Messages(letters)); n != 200 {
		t.Errorf("%d dead letters in all, want 200", n)
	}
}

func TestErrorPolicyConfig(t *testing.T) {
	_, env, name := inStream(t, 1)
	for _, p := range []ErrorPolicy{
		{Attempts: -2}, {Skip: true, DeadLetter: "letters"}, {DeadLetter: name},
		{Backoff: Backoff{Min: -1}}, {Backoff: Backoff{Min: 2, Max: 1}},
	} {
		_, err := env.NewConsumer(name, ConsumerConfig{OnError: p})
		wantErr(t, err, ErrInvalidConfig)
	}
}

// TestSettle: how often the handler is called again, what the outcome is, and what
// the log says of it.
func TestSettle(t *testing.T) {
	for name, test := range map[string]struct {
		policy    ErrorPolicy
		failures  int  // of the further calls
		stopped   bool // nothing more is taken, and the handler's context lives
		cancelled bool
		last      bool // a last attempt at once
		calls     int
		logs      int
		settled   bool
		again     bool // the message comes again
	}{
		"stop":                 {policy: ErrorPolicy{}, failures: 9},
		"skip":                 {policy: ErrorPolicy{Skip: true}, failures: 9, logs: 1, settled: true},
		"skip, ended":          {policy: ErrorPolicy{Skip: true}, failures: 9, cancelled: true, logs: 1, again: true},
		"skip, draining":       {policy: ErrorPolicy{Skip: true}, failures: 9, stopped: true, logs: 1, settled: true},
		"stop, draining":       {policy: ErrorPolicy{}, failures: 9, stopped: true},
		"second call":          {policy: ErrorPolicy{Attempts: 3}, calls: 1, logs: 1, settled: true},
		"third call":           {policy: ErrorPolicy{Attempts: 3}, failures: 1, calls: 2, logs: 2, settled: true},
		"no fourth call":       {policy: ErrorPolicy{Attempts: 3}, failures: 2, calls: 2, logs: 2},
		"no fourth call, skip": {policy: ErrorPolicy{Attempts: 3, Skip: true}, failures: 2, calls: 2, logs: 3, settled: true},
		"for ever":             {policy: ErrorPolicy{Attempts: RetryForever}, failures: 8, calls: 9, logs: 9, settled: true},
		"for ever, ended":      {policy: ErrorPolicy{Attempts: RetryForever}, cancelled: true, logs: 1, again: true},
		"draining":             {policy: ErrorPolicy{Attempts: RetryForever}, stopped: true, logs: 1, again: true},
		"last works":           {policy: ErrorPolicy{Attempts: RetryForever}, stopped: true, last: true, calls: 1, logs: 1, settled: true},
		"last fails":           {policy: ErrorPolicy{Attempts: 3}, failures: 9, stopped: true, last: true, calls: 1, logs: 2, again: true},
		"last of two fails":    {policy: ErrorPolicy{Attempts: 2}, failures: 9, stopped: true, last: true, calls: 1, logs: 1},
		"last, skip":           {policy: ErrorPolicy{Attempts: 2, Skip: true}, failures: 9, stopped: true, last: true, calls: 1, logs: 2, settled: true},
		"last, ended":          {policy: ErrorPolicy{Attempts: 2, Skip: true}, failures: 9, cancelled: true, last: true, logs: 1, again: true},
	} {
		synctest.Test(t, func(t *testing.T) {
			test.policy.Backoff = Backoff{Min: time.Hour, Max: time.Hour}
			r := aloneRun(t, ConsumerConfig{OnError: test.policy})
			calls, logs := 0, 0
			r.log = func(string, ...any) { logs++ }
			taking, stop := context.WithCancel(t.Context())
			handling, cancel := context.WithCancel(t.Context())
			if test.stopped || test.cancelled {
				stop()
			}
			if test.cancelled {
				cancel()
			}
			begun := time.Now()
			err := r.settle(lifetime{taking, handling, test.last}, errTest, failure{offset: 7, given: make([]Delivery, 2)}, func([]Delivery) error {
				if calls++; calls <= test.failures {
					return errTest
				}
				return nil
			})
			took := time.Since(begun)
			stop()
			cancel()
			if calls != test.calls || logs != test.logs || (err == nil) != test.settled {
				t.Errorf("%s: %d calls, %d lines in the log, %v", name, calls, logs, err)
			}
			pauses := calls
			if test.last {
				pauses = 0
			}
			if most := time.Duration(pauses) * time.Hour; took < most/2 || took > most {
				t.Errorf("%s: took %v", name, took)
			}
			if (err == errStopped) != test.again {
				t.Errorf("%s: %v", name, err)
			}
			var h *HandlerError
			if err != nil && err != errStopped && (!errors.As(err, &h) || h.Attempts != 1+calls || h.Offset != 7 || h.Stream != testStream || !errors.Is(err, errTest)) {
				t.Errorf("%s: %+v", name, err)
			}
		})
	}
}

// TestDeadLetterIsLogged, for a batch once.
func TestDeadLetterIsLogged(t *testing.T) {
	b, env, name := inStream(t, 0)
	letters := newStream(t, env)
	c, err := env.NewConsumer(name, ConsumerConfig{OnError: ErrorPolicy{DeadLetter: letters}})
	must(t, err)
	r := newRun(c)
	defer r.finishClosing()
	logs := 0
	r.log = func(string, ...any) { logs++ }
	d := Delivery{Stream: name, sections: &sections{raw: []byte("raw")}}
	must(t, r.settle(lifetime{taking: soon(t), handling: soon(t)}, errTest, failure{given: []Delivery{d, d}}, nil))
	if n := len(b.Messages(letters)); n != 2 || logs != 1 {
		t.Errorf("%d dead letters, %d lines in the log", n, logs)
	}
}

func TestErrorPolicyDefaults(t *testing.T) {
	const hour = time.Hour
	for _, test := range []struct{ given, want ErrorPolicy }{
		{ErrorPolicy{}, ErrorPolicy{Attempts: 1, Backoff: Backoff{100 * time.Millisecond, 30 * time.Second}}},
		{ErrorPolicy{Attempts: 2}, ErrorPolicy{Attempts: 2, Backoff: Backoff{100 * time.Millisecond, 30 * time.Second}}},
		{ErrorPolicy{Attempts: RetryForever, Backoff: Backoff{Min: hour}}, ErrorPolicy{Attempts: RetryForever, Backoff: Backoff{hour, hour}}},
		{ErrorPolicy{Backoff: Backoff{Max: hour}}, ErrorPolicy{Attempts: 1, Backoff: Backoff{100 * time.Millisecond, hour}}},
		{ErrorPolicy{Backoff: Backoff{Min: 2, Max: 2}}, ErrorPolicy{Attempts: 1, Backoff: Backoff{2, 2}}},
	} {
		if got, err := test.given.withDefaults("s"); err != nil || got != test.want {
			t.Errorf("%+v became %+v, %v, want %+v", test.given, got, err, test.want)
		}
	}
	for _, bad := range []ErrorPolicy{
		{Attempts: RetryForever - 1}, {Backoff: Backoff{Min: -1}}, {Backoff: Backoff{Max: -1}}, {Backoff: Backoff{Min: 3, Max: 2}},
		{Skip: true, DeadLetter: "letters"}, {DeadLetter: "s"}, {DeadLetter: strings.Repeat("s", 1<<15)},
	} {
		_, err := bad.withDefaults("s")
		if wantErr(t, err, ErrInvalidConfig); err == nil {
			t.Errorf("%+v is allowed", bad)
		}
	}
	for _, good := range []ErrorPolicy{{Skip: true}, {DeadLetter: "letters"}} {
		_, err := good.withDefaults("s")
		must(t, err)
	}
}

func TestErrorPolicyAllows(t *testing.T) {
	for _, test := range []struct {
		policy, attempts int
		want             bool
	}{
		{1, 1, false}, {2, 1, true}, {2, 2, false}, {2, 3, false}, {3, 2, true}, {RetryForever, 1, true}, {RetryForever, 1 << 30, true},
	} {
		if got := (ErrorPolicy{Attempts: test.policy}).allows(test.attempts); got != test.want {
			t.Errorf("after %d of %d attempts another one is allowed: %v", test.attempts, test.policy, got)
		}
	}
}

// FuzzLetter: whatever the bytes are, a dead letter is an AMQP message with the
// same body.
func FuzzLetter(f *testing.F) {
	f.Add([]byte("bare"))
	f.Add(appendData(nil, []byte("body")))
	f.Add((&Message{ApplicationProperties: map[string]any{"a": int32(-5)}, Body: []byte("b"), Footer: map[string]any{"c": "d"}}).mustEncode())
	f.Fuzz(func(t *testing.T, raw []byte) {
		body, _ := bodyOf(raw)
		d := &Delivery{Stream: "s", Offset: 7, Timestamp: noon, Body: body, sections: &sections{raw: raw}}
		h := &HandlerError{Attempts: 1, Err: errors.New(string(raw))}
		out, err := letter(d, h, "billing", 0)
		if err != nil {
			t.Fatal(err)
		}
		body, ok := bodyOf(out)
		again := &Delivery{sections: &sections{raw: out}}
		props, err := again.ApplicationProperties()
		if !ok || err != nil || props[DeadLetterOffset] != int64(7) {
			t.Fatalf("%q became %q: %v, %v", raw, out, props, err)
		}
		if !bytes.Equal(body, d.Body) && !bytes.Equal(body, raw) {
			t.Fatalf("the body %q became %q", d.Body, body)
		}
	})
}

func (m *Message) mustEncode() []byte {
	b, err := m.encode()
	if err != nil {
		panic(err)
	}
	return b
}
