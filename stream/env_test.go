package stream

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-go/tidemark/internal/broker"
)

// unconnected is an Env that has never spoken to a broker.
func unconnected() *Env {
	cfg := testConfig()
	life, end := context.WithCancelCause(context.Background())
	return &Env{
		cfg: cfg, cluster: broker.NewCluster(cfg.brokerOptions(), nil), states: startStates(cfg), memory: newMemory(cfg.MaxBuffered), life: life, end: end,
		closed: make(chan struct{}), producers: map[*Producer]struct{}{}, publishing: envBytes{most: int64(cfg.MaxInFlightBytes)},
	}
}

// TestEnvUnder: what an Env does under a context ends with that context, and
// with the Env.
func TestEnvUnder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := unconnected()
		ctx, cancel := context.WithCancelCause(t.Context())
		withCaller, done := e.under(ctx)
		defer done()
		cancel(errTest)
		synctest.Wait()
		wantErr(t, context.Cause(withCaller), errTest)

		released, done := e.under(t.Context())
		done()
		wantErr(t, context.Cause(released), context.Canceled)

		withEnv, done := e.under(t.Context())
		defer done()
		if withEnv.Err() != nil {
			t.Errorf("it has ended early: %v", context.Cause(withEnv))
		}
		must(t, e.Close())
		synctest.Wait()
		wantErr(t, context.Cause(withEnv), ErrClosed)
		if errors.Is(context.Cause(released), ErrClosed) {
			t.Error("what was released has ended with the Env")
		}
	})
}

// TestEnvCloseWaits: Close and each further call of it wait for what the Env
// owns, and nothing is begun after it.
func TestEnvCloseWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := unconnected()
		must(t, e.own())
		closed := make(chan error, 2)
		for range 2 {
			go func() { closed <- e.Close() }()
		}
		synctest.Wait()
		select {
		case err := <-closed:
			t.Fatalf("Close returned before what it owns has ended: %v", err)
		default:
		}
		if !e.closing || e.life.Err() == nil {
			t.Error("what the Env owns is not told of Close")
		}
		wantErr(t, e.own(), ErrClosed)
		e.owned.Done()
		must(t, errors.Join(<-closed, <-closed, e.Close()))
	})
}

// TestEnvCloseReports: Close names the producer whose messages have no outcome,
// after CloseTimeout and what is left for a producer that is stuck.
func TestEnvCloseReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := unconnected()
		idle, busy := offlineOf(e, ProducerConfig{}), offlineOf(e, ProducerConfig{Name: "busy"})
		must(t, busy.PublishAsync(t.Context(), Message{PublishingID: 1}, nil))
		close(idle.ended)
		begin := time.Now()
		err := e.Close()
		wantErr(t, err, ErrUnconfirmed, context.DeadlineExceeded)
		if err == nil || !strings.Contains(err.Error(), `"busy"`) {
			t.Errorf("%v does not name the producer", err)
		}
		if took := time.Since(begin); took != CloseTimeout+closeGrace {
			t.Errorf("took %v", took)
		}
		if len(e.producers) != 0 {
			t.Errorf("%d producers are left", len(e.producers))
		}
		must(t, e.Close())
	})
}

// TestAdopt: two producers of one Env with the same name on the same stream are
// one too many.
func TestAdopt(t *testing.T) {
	e := unconnected()
	adopt := func(stream, name string) error {
		return e.adopt(&Producer{stream: stream, cfg: ProducerConfig{Name: name}})
	}
	must(t, errors.Join(adopt("a", "n"), adopt("b", "n"), adopt("a", "m"), adopt("a", ""), adopt("a", "")))
	wantErr(t, adopt("a", "n"), ErrNameInUse)
	wantErr(t, adopt("b", "n"), ErrNameInUse)
	if len(e.producers) != 5 {
		t.Errorf("%d producers", len(e.producers))
	}
	for p := range e.producers {
		if p.cfg.Name == "n" && p.stream == "a" {
			e.disown(p)
		}
	}
	must(t, adopt("a", "n"))
	e.closing = true
	wantErr(t, adopt("c", "c"), ErrClosed)
}

// TestProducerRefusedOwnsNothing: a producer that could not be made does not
// hold up Close.
func TestProducerRefusedOwnsNothing(t *testing.T) {
	_, env, _ := inStream(t, 0)
	_, err := env.NewProducer(t.Context(), "nowhere", ProducerConfig{})
	wantErr(t, err, ErrStreamNotFound)
	must(t, env.Close())
	_, err = env.NewProducer(t.Context(), "nowhere", ProducerConfig{})
	wantErr(t, err, ErrClosed)
}
