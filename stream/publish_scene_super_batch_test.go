package stream

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

// outcomesOf returns the outcome of each message of a PublishBatch that has failed.
func outcomesOf(t testing.TB, err error) []error {
	t.Helper()
	var several *PublishError
	if !errors.As(err, &several) {
		t.Fatalf("%v, want a PublishError", err)
	}
	return several.Outcomes
}

// TestSceneSuperBatchOutcomes: each message has the outcome of its partition,
// whatever the others' is.
func TestSceneSuperBatchOutcomes(t *testing.T) {
	playSuper(t, 3, func(s *scene) {
		p := s.superProducer(ProducerConfig{SubEntries: 100})
		var batch []Message
		for i := range 9 {
			batch = append(batch, keyed(keyFor("b", i%3, 3), i))
		}
		check := func(err error, failed int, want error) {
			s.Helper()
			for i, outcome := range outcomesOf(s, err) {
				if i%3 != failed {
					must(s, outcome)
				} else {
					wantErr(s, outcome, want)
				}
			}
		}
		must(s, s.b.SetQuorum("o-1", false))
		short, cancel := context.WithTimeout(s.ctx, time.Second)
		defer cancel()
		check(p.PublishBatch(short, batch...), 1, ErrUnconfirmed)
		must(s, s.b.SetQuorum("o-1", true))
		batch[2].FilterValue = "f"
		check(p.PublishBatch(s.ctx, batch...), 2, ErrInvalidMessage)
		batch[2].FilterValue = ""
		must(s, p.PublishBatch(s.ctx, batch...))
		must(s, p.Close(s.ctx))
		wantErr(s, p.PublishBatch(s.ctx, batch...), ErrClosed)
	})
}

// TestSceneSuperBatchRoutes: a PublishBatch finds a partition that was added since
// the last refresh. A message without a route, or with several, fails alone.
func TestSceneSuperBatchRoutes(t *testing.T) {
	playSuper(t, 2, func(s *scene) {
		choose := func(m *Message, partitions []string) ([]string, error) {
			if m.Key == "all" {
				return partitions, nil
			}
			return []string{m.Key}, nil
		}
		p := s.superProducer(ProducerConfig{SubEntries: 100, Routing: RouteBy(choose)})
		s.create("o-new")
		must(s, s.b.BindPartition("o", "o-new", "new"))
		soon, cancel := context.WithTimeout(s.ctx, refreshEvery/2) // it asks at once
		defer cancel()
		err := p.PublishBatch(soon, keyed("o-0", 0), keyed("o-new", 0), keyed("o-x", 0), keyed("all", 0))
		for i, want := range []error{nil, nil, ErrNoRoute, ErrInvalidMessage} {
			if outcome := outcomesOf(s, err)[i]; !errors.Is(outcome, want) {
				s.Errorf("message %d: %v, want %v", i, outcome, want)
			}
		}
		if text := err.Error(); !strings.Contains(text, "this one is for 3") {
			s.Error(text)
		}
		if a, b := s.bodies("o-0"), s.bodies("o-new"); len(a) != 1 || len(b) != 1 {
			s.Errorf("%v and %v", a, b)
		}
		must(s, p.Close(s.ctx))
		wantErr(s, p.PublishBatch(s.ctx, keyed("o-x", 1)), ErrClosed) // as Publish says
	})
}

// TestSceneSuperBatchRemoved: a sub-batch that waits for places in a partition is
// not published when that is removed: its caller routes its messages again.
func TestSceneSuperBatchRemoved(t *testing.T) {
	playSuper(t, 3, func(s *scene) {
		p := s.superProducer(ProducerConfig{MaxInFlight: 2, SubEntries: 2})
		time.Sleep(refreshEvery - 2*time.Second) // the next one is before the partition counts as stalled
		must(s, s.b.SetQuorum("o-2", false))
		key := keyFor("k", 2, 3)
		sent := make(chan error, 1)
		must(s, p.PublishAsync(s.ctx, keyed(key, 0), func(err error) { sent <- err }))
		batch := []Message{keyed(key, 1), keyed(key, 2)}
		waited := make(chan error, 1)
		go func() { waited <- p.PublishBatch(s.ctx, batch...) }()
		time.Sleep(time.Second)
		must(s, s.b.UnbindPartition("o", "o-2"))
		for _, err := range outcomesOf(s, <-waited) {
			wantErr(s, err, ErrStreamUnavailable)
			if !SafeToRetry(err) || errors.Is(err, ErrClosed) {
				s.Errorf("%v", err)
			}
		}
		must(s, p.PublishBatch(s.ctx, batch...))
		if n := len(s.bodies("o-0")) + len(s.bodies("o-1")); n != 2 {
			s.Errorf("%d messages went elsewhere", n)
		}
		must(s, s.b.SetQuorum("o-2", true))
		must(s, <-sent)
		must(s, p.Close(s.ctx))
	})
}
