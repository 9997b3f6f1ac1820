package stream

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestCommitWaitsForTheRun while it connects, and until it has ended. Another run
// is refused meanwhile, and begins afterwards.
func TestCommitWaitsForTheRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := aloneRun(t, ConsumerConfig{Name: "billing"}).consumer
		c.env.cfg.Backoff = Backoff{Min: time.Hour, Max: time.Hour}
		c.env.life, c.env.end = context.WithCancelCause(t.Context())
		handle := func(context.Context, *Delivery) error { return nil }
		for range 2 {
			wantErr(t, c.Commit(t.Context()), ErrNotRunning)
			ctx, cancel := context.WithCancelCause(t.Context())
			ended, committed := make(chan error, 1), make(chan error, 1)
			go func() { ended <- c.Run(ctx, handle) }()
			eventuallyRuns(c)
			wantErr(t, c.Run(ctx, handle), ErrRunning)
			wantErr(t, c.RunBatch(ctx, func(context.Context, []Delivery) error { return nil }), ErrRunning)
			for _, err := range c.All(ctx) {
				wantErr(t, err, ErrRunning)
			}
			go func() { committed <- c.Commit(t.Context()) }()
			time.Sleep(time.Minute)
			if len(ended)+len(committed) > 0 {
				t.Error("it has ended")
			}
			cancel(errTest)
			must(t, <-ended)
			wantErr(t, <-committed, ErrNotRunning)
		}
		c.cfg.Name = ""
		wantErr(t, c.Commit(t.Context()), ErrNoName)
		c.env.end(ErrClosed)
		wantErr(t, c.Run(t.Context(), handle), ErrClosed)
		c.env.closing = true
		wantErr(t, c.Run(t.Context(), handle), ErrClosed)
		c.env.owned.Wait()
	})
}

// eventuallyRuns waits in virtual time until the consumer runs.
func eventuallyRuns(c *Consumer) {
	for running := false; !running; time.Sleep(time.Millisecond) {
		c.mu.Lock()
		running = c.run != nil
		c.mu.Unlock()
	}
}

func TestCheckOneAtATime(t *testing.T) {
	for workers, ok := range map[int]bool{0: true, 1: true, 2: false} {
		c := aloneRun(t, ConsumerConfig{Workers: workers}).consumer
		err := c.checkOneAtATime("All")
		if (err == nil) != ok || err != nil && !errors.Is(err, ErrInvalidConfig) {
			t.Errorf("%d workers: %v", workers, err)
		}
	}
}

// TestConsumerNameInUse: a second consumer with a name on a stream is refused while the
// first one runs, and only then.
func TestConsumerNameInUse(t *testing.T) {
	_, env, stream := inStream(t, 1)
	other := newStream(t, env)
	handled := make(chan struct{}, 10)
	handle := func(context.Context, *Delivery) error { handled <- struct{}{}; return nil }
	stop, ended := running1(t, env, stream, ConsumerConfig{Name: "billing"}, handle)
	recv(t, handled, "the message")
	for name, test := range map[string]struct {
		stream  string
		cfg     ConsumerConfig
		refused bool
	}{
		"the same":       {stream, ConsumerConfig{Name: "billing"}, true},
		"another name":   {stream, ConsumerConfig{Name: "shipping"}, false},
		"no name":        {stream, ConsumerConfig{}, false},
		"another stream": {other, ConsumerConfig{Name: "billing"}, false},
	} {
		c, err := env.NewConsumer(test.stream, test.cfg)
		must(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := c.Run(ctx, handle); errors.Is(err, ErrNameInUse) != test.refused || (err == nil) == test.refused {
			t.Errorf("%s: %v", name, err)
		}
	}
	stop()
	must(t, recv(t, ended, "the end"))
	stop, ended = running1(t, env, stream, ConsumerConfig{Name: "billing", Start: First()}, handle)
	recv(t, handled, "the message once more")
	stop()
	must(t, recv(t, ended, "the end"))
}
