package stream

import (
	"bytes"
	"context"
	"errors"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestProducerConfig(t *testing.T) {
	for _, test := range []struct {
		cfg  ProducerConfig
		want ProducerConfig // zero: refused
	}{
		{ProducerConfig{}, ProducerConfig{MaxInFlight: 10_000, MaxInFlightBytes: 64 << 20, ConfirmTimeout: 30 * time.Second}},
		{ProducerConfig{Name: "p", MaxInFlight: 1, MaxInFlightBytes: 1, ConfirmTimeout: time.Second},
			ProducerConfig{Name: "p", MaxInFlight: 1, MaxInFlightBytes: 1, ConfirmTimeout: time.Second}},
		{ProducerConfig{MaxInFlight: 900_000, SubEntries: 2, Compression: CompressionZstd},
			ProducerConfig{MaxInFlight: 900_000, MaxInFlightBytes: 64 << 20, ConfirmTimeout: 30 * time.Second, SubEntries: 2, Compression: CompressionZstd}},
		{ProducerConfig{MaxInFlightBytes: -1}, ProducerConfig{}},
		{ProducerConfig{SubEntries: -1}, ProducerConfig{}},
		{ProducerConfig{Name: "p", SubEntries: 100}, ProducerConfig{}},
		{ProducerConfig{SubEntries: 10_001}, ProducerConfig{}},
		{ProducerConfig{Compression: CompressionGzip}, ProducerConfig{}},
		{ProducerConfig{SubEntries: 100, Compression: 5}, ProducerConfig{}},
		{ProducerConfig{MaxInFlight: 900_001}, ProducerConfig{}},
		{ProducerConfig{MaxInFlight: -1}, ProducerConfig{}},
		{ProducerConfig{ConfirmTimeout: -1}, ProducerConfig{}},
		{ProducerConfig{Name: strings.Repeat("x", 256)}, ProducerConfig{}},
	} {
		got, err := test.cfg.withDefaults()
		if test.want == (ProducerConfig{}) {
			wantErr(t, err, ErrInvalidConfig)
		} else if err != nil || got != test.want {
			t.Errorf("%+v became %+v, %v", test.cfg, got, err)
		}
	}
}

// offline is a producer without a connection: what it accepts stays with it.
func offline(room int) *Producer {
	p := &Producer{stream: "s", wake: make(chan struct{}, 1), ended: make(chan struct{}), closed: make(chan struct{})}
	p.flight = newInflight(room, 1000, p.outcome)
	return p
}

// offlineOf is a producer of an Env, without a connection: it can be closed, and
// its callbacks run. Its sender has ended when ended is closed.
func offlineOf(e *Env, cfg ProducerConfig) *Producer {
	p := offline(100)
	p.env, p.cfg = e, cfg
	p.calls = startCallbacks()
	p.life, p.cancel = context.WithCancel(context.Background())
	e.producers[p] = struct{}{}
	return p
}

func TestPublishWaitsForEveryOutcome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := offline(10)
		got := make(chan error, 1)
		go func() { got <- p.Publish(t.Context(), Message{}, Message{}, Message{}) }()
		synctest.Wait()
		p.flight.settle(nil, 3)
		p.flight.settle(ErrRefused, 1)
		synctest.Wait()
		select {
		case err := <-got:
			t.Fatalf("returned with a message on its way: %v", err)
		default:
		}
		p.flight.settle(nil, 2)
		if err := <-got; !errors.Is(err, ErrRefused) {
			t.Errorf("one was refused, and Publish returned %v", err)
		}
		if p.flight.open != 0 {
			t.Errorf("%d slots are not given back", p.flight.open)
		}
	})
}

func TestPublishNothing(t *testing.T) {
	if err := offline(1).Publish(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestPublishContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := offline(2)
		ctx, cancel := context.WithCancelCause(t.Context())
		got := make(chan error, 1)
		go func() { got <- p.Publish(ctx, Message{}, Message{}, Message{}) }() // there is room for two
		synctest.Wait()
		cancel(errTest)
		err := <-got
		wantErr(t, err, errTest, ErrUnconfirmed)
		if err := p.Publish(ctx, Message{}); !errors.Is(err, errTest) || errors.Is(err, ErrUnconfirmed) {
			t.Errorf("nothing was accepted, and Publish returned %v", err)
		}
		if n := p.flight.settleAll(nil); n != 2 || p.flight.open != 0 {
			t.Errorf("%d were accepted, %d slots are taken", n, p.flight.open)
		}
	})
}

func TestPublishStopsAtABadMessage(t *testing.T) {
	p := offline(10)
	p.frameMax.Store(100)
	large := Message{Body: make([]byte, 100)}
	for _, test := range []struct {
		m    Message
		want error
	}{
		{large, ErrMessageTooLarge},
		{Message{PublishingID: 1 << 63}, ErrInvalidMessage},
		{Message{Body: []byte("x"), Value: 1}, ErrInvalidMessage},
		{Message{Value: struct{}{}}, ErrInvalidMessage},
	} {
		wantErr(t, p.Publish(t.Context(), test.m, Message{}), test.want)
		called := false
		wantErr(t, p.PublishAsync(t.Context(), test.m, func(error) { called = true }), test.want)
		if called {
			t.Error("done was called and an error returned")
		}
	}
	if p.flight.last() != 0 || p.flight.open != 0 {
		t.Errorf("%d were accepted, %d slots are taken", p.flight.last(), p.flight.open)
	}
}

// TestPublishStopsInTheMiddle: what was accepted before a bad message is waited
// for, and what comes after it is not accepted.
func TestPublishStopsInTheMiddle(t *testing.T) {
	for _, outcome := range []error{nil, ErrRefused} {
		synctest.Test(t, func(t *testing.T) {
			p := offline(10)
			got := make(chan error, 1)
			go func() { got <- p.Publish(t.Context(), Message{}, Message{PublishingID: 1 << 63}, Message{}) }()
			synctest.Wait()
			if len(got) > 0 || p.flight.last() != 1 {
				t.Fatalf("returned with a message on its way, or accepted %d", p.flight.last())
			}
			p.flight.settle(outcome, 1)
			err := <-got
			if wantErr(t, err, ErrInvalidMessage); errors.Is(err, ErrRefused) != (outcome != nil) || errors.Is(err, ErrUnconfirmed) {
				t.Errorf("the first one having the outcome %v, Publish returned %v", outcome, err)
			}
		})
	}
}

func TestPublishAfterClose(t *testing.T) {
	p := offline(1)
	p.flight.close(ErrStreamDeleted)
	close(p.ended)
	wantErr(t, p.Publish(t.Context(), Message{}), ErrStreamDeleted)
}

func TestWatchdog(t *testing.T) {
	for _, test := range []struct {
		name  string
		looks []uint64 // the counter at each look; bites at the last if at all
		idle  int      // the look at which nothing is waited for
		bites bool
	}{
		{"no confirm at all", []uint64{0, 0, 0, 0}, -1, true},
		{"not yet", []uint64{0, 0, 0}, -1, false},
		{"progress", []uint64{0, 0, 0, 1, 1, 1}, -1, false},
		{"stuck after progress", []uint64{0, 3, 3, 3, 3, 3}, -1, true},
		{"idle in between", []uint64{0, 0, 0, 0, 0, 0}, 3, false},
	} {
		w, bites := newWatchdog(4), false
		for i, n := range test.looks {
			bites = w.bites(i != test.idle, n)
		}
		if bites != test.bites {
			t.Errorf("%s: bites %v", test.name, bites)
		}
	}
}

// TestRoomInAFrame: a frame has room for its messages and its own fields. What
// compression does not make smaller becomes a little larger.
func TestRoomInAFrame(t *testing.T) {
	const frame, own = 1 << 20, 4 + 2 + 2 + 1 + 4
	for subEntries, want := range map[int]int{
		0: frame - own, 1: frame - own, 2: frame - own - frame/64 - 1024, 100: frame - own - frame/64 - 1024,
	} {
		if got := roomIn(frame, subEntries); got != want {
			t.Errorf("with %d messages in a sub-batch there is room for %d bytes, want %d", subEntries, got, want)
		}
	}
}

// TestGrace: the last steps of a Close have closeGrace left when its context has
// ended, and end with the context's cause.
func TestGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		later, done := withGrace(ctx)
		defer done()
		cancel(errTest)
		time.Sleep(closeGrace - 1)
		synctest.Wait()
		if later.Err() != nil {
			t.Fatalf("it has ended early: %v", context.Cause(later))
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		wantErr(t, context.Cause(later), errTest)

		never, done := withGrace(t.Context())
		time.Sleep(time.Hour)
		if never.Err() != nil {
			t.Error("it has ended without a reason")
		}
		done()
		wantErr(t, never.Err(), context.Canceled)
	})
}

// TestProducerConfigBounds: the bounds themselves are accepted and kept.
func TestProducerConfigBounds(t *testing.T) {
	for _, cfg := range []ProducerConfig{
		{MaxInFlight: 1}, {MaxInFlight: 899_999}, {MaxInFlight: 900_000}, {MaxInFlightBytes: 1}, {SubEntries: 1}, {SubEntries: 1, Name: "p"},
		{SubEntries: 2}, {SubEntries: 10_000}, {SubEntries: 2, Compression: CompressionGzip}, {Name: strings.Repeat("n", 255)}, {ConfirmTimeout: 1},
	} {
		want := cfg
		if want.MaxInFlight == 0 {
			want.MaxInFlight = 10_000
		}
		if want.MaxInFlightBytes == 0 {
			want.MaxInFlightBytes = 64 << 20
		}
		if want.ConfirmTimeout == 0 {
			want.ConfirmTimeout = 30 * time.Second
		}
		if got, err := cfg.withDefaults(); err != nil || got != want {
			t.Errorf("%+v became %+v, %v", cfg, got, err)
		}
	}
	for setting, cfg := range map[string]ProducerConfig{
		"MaxInFlight is":         {MaxInFlight: 900_001},
		"MaxInFlightBytes is":    {MaxInFlightBytes: -1},
		"SubEntries is":          {SubEntries: 10_001},
		"SubEntries and Name":    {SubEntries: 2, Name: "p"},
		"Compression 5":          {SubEntries: 2, Compression: CompressionZstd + 1},
		"Compression is for sub": {SubEntries: 1, Compression: CompressionGzip},
		"ConfirmTimeout is -1ns": {ConfirmTimeout: -1},
		"producer's name":        {Name: strings.Repeat("n", 256)},
	} {
		_, err := cfg.withDefaults()
		if wantErr(t, err, ErrInvalidConfig); err != nil && !strings.Contains(err.Error(), setting) {
			t.Errorf("%v does not name %q", err, setting)
		}
	}
}

// TestAcceptBounds: the largest publishing id, the longest filter value and the
// largest message that fits into a frame are accepted, and one more is not.
func TestAcceptBounds(t *testing.T) {
	const frame = 1000
	room := frame - frameOverhead - messageOverhead
	filter := strings.Repeat("f", 255)
	for _, test := range []struct {
		name       string
		subEntries int
		frame      int
		m          Message
		want       error
	}{
		{"the largest id", 0, 0, Message{PublishingID: math.MaxInt64}, nil},
		{"one above it", 0, 0, Message{PublishingID: math.MaxInt64 + 1}, ErrInvalidMessage},
		{"the longest filter value", 0, 0, Message{FilterValue: filter}, nil},
		{"one byte more", 0, 0, Message{FilterValue: filter + "f"}, ErrInvalidMessage},
		{"a filter value with sub-batches of one", 1, 0, Message{FilterValue: "f"}, nil},
		{"a filter value with sub-batches", 2, 0, Message{FilterValue: "f"}, ErrInvalidMessage},
		{"no filter value with sub-batches", 2, 0, Message{}, nil},
		{"the largest message", 0, frame, Message{Raw: make([]byte, room)}, nil},
		{"one byte more than the frame", 0, frame, Message{Raw: make([]byte, room+1)}, ErrMessageTooLarge},
		{"the largest with a filter value", 0, frame, Message{Raw: make([]byte, room-2-255), FilterValue: filter}, nil},
		{"one byte more with a filter value", 0, frame, Message{Raw: make([]byte, room-2-255+1), FilterValue: filter}, ErrMessageTooLarge},
		{"the largest in sub-batches", 2, 10_000, Message{Raw: make([]byte, 10_000-frameOverhead-10_000/64-1024-messageOverhead)}, nil},
		{"one byte more in sub-batches", 2, 10_000, Message{Raw: make([]byte, 10_000-frameOverhead-10_000/64-1024-messageOverhead+1)}, ErrMessageTooLarge},
		{"any size before there is a connection", 0, 0, Message{Body: make([]byte, 2<<20)}, nil},
	} {
		p := offline(10)
		p.cfg.SubEntries = test.subEntries
		p.frameMax.Store(int64(test.frame))
		err := p.PublishAsync(t.Context(), test.m, nil)
		accepted := 1
		if test.want != nil {
			accepted = 0
		}
		if !errors.Is(err, test.want) || p.flight.open != accepted {
			t.Errorf("%s: %v, %d accepted", test.name, err, p.flight.open)
		}
	}
}

// TestTooLargeNamesTheLimit: the error has the encoded size and the largest one
// that fits beside the message's filter value.
func TestTooLargeNamesTheLimit(t *testing.T) {
	p := offline(1)
	p.frameMax.Store(1000)
	err := p.PublishAsync(t.Context(), Message{Raw: make([]byte, 975), FilterValue: "abc"}, nil)
	if err == nil || !strings.Contains(err.Error(), "975 bytes encoded; at most 970 fit") {
		t.Errorf("%v", err)
	}
}

// TestAcceptWakesTheSender: and does not wait for it.
func TestAcceptWakesTheSender(t *testing.T) {
	p := offline(10)
	for range 3 {
		must(t, p.PublishAsync(t.Context(), Message{Body: []byte("x"), FilterValue: "f"}, nil))
	}
	if len(p.wake) != 1 {
		t.Error("the sender is not woken")
	}
	s := p.flight.takeInto(nil, 1, 1000)[0]
	if s.filter != "f" || !bytes.Equal(s.body, appendData(nil, []byte("x"))) || s.id != 1 {
		t.Errorf("accepted %+v", s)
	}
}

// TestPublishAsyncWaitsForRoom: under its context, and goes on when there is some.
func TestPublishAsyncWaitsForRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := offline(1)
		must(t, p.PublishAsync(t.Context(), Message{}, nil))
		ctx, cancel := context.WithCancelCause(t.Context())
		left, stays := make(chan error, 1), make(chan error, 1)
		go func() { left <- p.PublishAsync(ctx, Message{}, nil) }()
		go func() { stays <- p.PublishAsync(t.Context(), Message{}, nil) }()
		synctest.Wait()
		if len(left)+len(stays) > 0 || p.flight.last() != 1 {
			t.Fatalf("accepted %d messages, there is room for one", p.flight.last())
		}
		cancel(errTest)
		wantErr(t, <-left, errTest)
		p.flight.settle(nil, 1)
		must(t, <-stays)
		if p.flight.last() != 2 || p.flight.open != 1 {
			t.Errorf("accepted up to %d, %d open", p.flight.last(), p.flight.open)
		}
	})
}

// TestPublishAsyncOutcome: done gets nil, or the error with the operation.
func TestPublishAsyncOutcome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := offlineOf(unconnected(), ProducerConfig{Name: "p"})
		var got []error
		for range 2 {
			must(t, p.PublishAsync(t.Context(), Message{}, func(err error) { got = append(got, err) }))
		}
		must(t, p.PublishAsync(t.Context(), Message{}, nil))
		p.flight.settle(nil, 1, 3)
		p.flight.settle(ErrRefused, 2)
		must(t, p.calls.drain(t.Context()))
		var op *OpError
		if len(got) != 2 || got[0] != nil || !errors.As(got[1], &op) || *op != (OpError{"publish to stream", "s", "p", ErrRefused}) {
			t.Errorf("outcomes %v", got)
		}
	})
}

// TestCreationTime: a message without a creation time gets that of the call, and
// everything else stays as it is.
func TestCreationTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := offline(10)
		encoded := func(m Message) (*Properties, string) {
			t.Helper()
			raw, err := p.encode(&m)
			must(t, err)
			d := deliveryOf(raw)
			props, _ := d.Properties()
			return props, string(d.Body)
		}
		if props, body := encoded(Message{Body: []byte("b")}); props != nil || body != "b" {
			t.Errorf("without the option there are %+v, %q", props, body)
		}
		p.cfg.CreationTime = true
		now := time.Now()
		own := &Properties{Subject: "s"}
		for _, test := range []struct {
			props *Properties
			want  Properties
		}{
			{nil, Properties{CreationTime: now}},
			{own, Properties{Subject: "s", CreationTime: now}},
			{&Properties{CreationTime: noon}, Properties{CreationTime: noon}},
		} {
			props, body := encoded(Message{Body: []byte("b"), Properties: test.props})
			if props == nil || props.Subject != test.want.Subject || !props.CreationTime.Equal(test.want.CreationTime) || body != "b" {
				t.Errorf("%+v became %+v, %q", test.props, props, body)
			}
		}
		if !own.CreationTime.IsZero() {
			t.Error("the caller's properties were changed")
		}
		if raw, err := p.encode(&Message{Raw: []byte("as it is")}); string(raw) != "as it is" || err != nil {
			t.Errorf("a message that is encoded already became %q, %v", raw, err)
		}
	})
}

func TestFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := offline(10)
		must(t, p.Flush(t.Context()))
		for range 2 {
			must(t, p.PublishAsync(t.Context(), Message{}, nil))
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		left, stays := make(chan error, 1), make(chan error, 1)
		go func() { left <- p.Flush(ctx) }()
		go func() { stays <- p.Flush(t.Context()) }()
		synctest.Wait()
		must(t, p.PublishAsync(t.Context(), Message{}, nil)) // later than both
		p.flight.settle(nil, 2)
		synctest.Wait()
		if len(left)+len(stays) > 0 {
			t.Fatal("Flush returned with a message on its way")
		}
		cancel(errTest)
		err := <-left
		var op *OpError
		if wantErr(t, err, errTest); !errors.As(err, &op) || op.Op != "flush to stream" || op.Stream != "s" {
			t.Errorf("%v", err)
		}
		p.flight.settle(ErrRefused, 1)
		must(t, <-stays)
		if p.LastPublishingID() != 3 {
			t.Errorf("the last id is %d", p.LastPublishingID())
		}
	})
}

func TestWaiter(t *testing.T) {
	w := &waiter{left: 4, done: make(chan struct{})}
	ended, cancel := context.WithCancelCause(t.Context())
	cancel(errTest)
	w.settle(nil)
	w.settle(ErrRefused)
	err := w.wait(ended)
	if wantErr(t, err, ErrUnconfirmed, errTest); !strings.Contains(err.Error(), "2 messages") || errors.Is(err, ErrRefused) {
		t.Errorf("two of four have no outcome: %v", err)
	}
	w.settle(ErrMessageTooLarge)
	w.settle(nil)
	for range 20 {
		if err := w.wait(ended); err != ErrRefused {
			t.Fatalf("all have their outcome, the first error being %v: %v", ErrRefused, err)
		}
	}
}
