package stream

import (
	"context"
	"errors"
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
		time.Sleep(1)
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
