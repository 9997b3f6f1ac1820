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
		{ProducerConfig{}, ProducerConfig{"", 10_000, 30 * time.Second}},
		{ProducerConfig{"p", 1, time.Second}, ProducerConfig{"p", 1, time.Second}},
		{ProducerConfig{MaxInFlight: 900_000}, ProducerConfig{"", 900_000, 30 * time.Second}},
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
	return &Producer{
		stream: "s", flight: newInflight(), room: make(chan struct{}, room), wake: make(chan struct{}, 1),
		ended: make(chan struct{}), closed: make(chan struct{}),
	}
}

func TestPublishWaitsForEveryOutcome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := offline(10)
		got := make(chan error, 1)
		go func() { got <- p.Publish(t.Context(), Message{}, Message{}, Message{}) }()
		synctest.Wait()
		p.flight.settle(3, nil)
		p.flight.settle(1, ErrRefused)
		synctest.Wait()
		select {
		case err := <-got:
			t.Fatalf("returned with a message on its way: %v", err)
		default:
		}
		p.flight.settle(2, nil)
		if err := <-got; !errors.Is(err, ErrRefused) {
			t.Errorf("one was refused, and Publish returned %v", err)
		}
		if len(p.room) != 0 {
			t.Errorf("%d slots are not given back", len(p.room))
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
		if n := p.flight.settleAll(nil); n != 2 || len(p.room) != 0 {
			t.Errorf("%d were accepted, %d slots are taken", n, len(p.room))
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
	if p.flight.last() != 0 || len(p.room) != 0 {
		t.Errorf("%d were accepted, %d slots are taken", p.flight.last(), len(p.room))
	}
}

func TestPublishAfterClose(t *testing.T) {
	p := offline(1)
	p.room <- struct{}{} // full
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
