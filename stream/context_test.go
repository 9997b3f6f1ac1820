package stream

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/streamtest"
)

// TestContextsEndCalls: whatever call a context ends, before it or in the midst
// of it, the error is both the context's and its cause.
func TestContextsEndCalls(t *testing.T) {
	beside(t)
	b, env, name := inStream(t, 1)
	p, err := env.NewProducer(soon(t), name, ProducerConfig{MaxInFlight: 1})
	must(t, err)
	batches, err := env.NewProducer(soon(t), name, ProducerConfig{SubEntries: 2})
	must(t, err)
	// From here on the broker takes everything and answers nothing.
	b.WithholdConfirms()
	must(t, p.PublishAsync(soon(t), Message{Body: []byte("x")}, nil))
	must(t, b.Await(soon(t), func() bool { return len(b.Messages(name)) == 2 }))
	b.StopAnswering()
	cfg := env.cfg
	for what, call := range map[string]func(context.Context) error{
		"Connect":       func(ctx context.Context) error { _, err := Connect(ctx, cfg); return err },
		"DeclareStream": func(ctx context.Context) error { return env.DeclareStream(ctx, "other", StreamConfig{}) },
		"DeleteStream":  func(ctx context.Context) error { return env.DeleteStream(ctx, "other") },
		"Stats":         func(ctx context.Context) error { _, err := env.Stats(ctx, name); return err },
		"QueryOffset":   func(ctx context.Context) error { _, err := env.QueryOffset(ctx, "me", name); return err },
		"StoreOffset":   func(ctx context.Context) error { return env.StoreOffset(ctx, "me", name, 1) },
		"NewProducer":   func(ctx context.Context) error { _, err := env.NewProducer(ctx, name, ProducerConfig{}); return err },
		"DeclareSuperStream": func(ctx context.Context) error {
			return env.DeclareSuperStream(ctx, "super", SuperStreamConfig{Partitions: 1})
		},
		"DeleteSuperStream": func(ctx context.Context) error { return env.DeleteSuperStream(ctx, "super") },
		"Partitions":        func(ctx context.Context) error { _, err := env.Partitions(ctx, "super"); return err },
		"Route":             func(ctx context.Context) error { _, err := env.Route(ctx, "super", "key"); return err },
		"NewProducer of a super stream": func(ctx context.Context) error {
			_, err := env.NewProducer(ctx, "super", ProducerConfig{SuperStream: true})
			return err
		},
		"PublishBatch": func(ctx context.Context) error { return batches.PublishBatch(ctx, Message{}) },
		"Publish":      func(ctx context.Context) error { return p.Publish(ctx, Message{}) },
		"PublishAsync": func(ctx context.Context) error { return p.PublishAsync(ctx, Message{}, nil) },
		"Flush":        p.Flush,
	} {
		ended, cancel := context.WithCancelCause(t.Context())
		cancel(errTest)
		wantErr(t, call(ended), context.Canceled, errTest)
		wantErr(t, opErr(what, "", "", endsLater(t, context.Canceled, call)), context.Canceled, errTest)
		wantErr(t, opErr(what, "", "", endsLater(t, context.DeadlineExceeded, call)), context.DeadlineExceeded, errTest)
	}
	wantErr(t, endsLater(t, context.DeadlineExceeded, p.Close), context.DeadlineExceeded, errTest, ErrUnconfirmed)
}

// endsLater calls with a context that ends in the midst of it.
func endsLater(t *testing.T, how error, call func(context.Context) error) error {
	const soonEnough = 20 * time.Millisecond
	if how == context.DeadlineExceeded {
		ctx, cancel := context.WithTimeoutCause(t.Context(), soonEnough, errTest)
		defer cancel()
		return call(ctx)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	defer time.AfterFunc(soonEnough, func() { cancel(errTest) }).Stop()
	return call(ctx)
}

// TestCommitContext: a Commit that waits for a store is ended by its own context.
func TestCommitContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errTest)
	wantErr(t, make(storeRequests).ask(ctx, storeRead, nil), context.Canceled, errTest)
}

// TestCloseIsNoCallersContext: what Env.Close ends is closed, and no context of
// the caller's has ended.
func TestCloseIsNoCallersContext(t *testing.T) {
	beside(t)
	b := streamtest.NewBroker(t)
	cfg := testConfig()
	cfg.URIs = []string{b.URI()}
	env, err := Connect(soon(t), cfg)
	must(t, err)
	b.StopAnswering()
	done := make(chan error, 1)
	go func() { _, err := env.Stats(soon(t), "s"); done <- err }()
	must(t, b.Await(soon(t), func() bool { return b.Received(streamtest.StreamStats) > 0 }))
	go env.Close()
	err = recv(t, done, "the call's end")
	wantErr(t, err, ErrClosed)
	if errors.Is(err, context.Canceled) {
		t.Errorf("%v: the caller has cancelled nothing", err)
	}
	b.ResumeAnswering()
	must(t, env.Close())
}
