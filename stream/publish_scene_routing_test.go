package stream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-go/tidemark/streamtest"
)

// routed is a super stream o of which two keys lead to partitions a and b, one to
// both, and all others nowhere.
func playRouted(t *testing.T, act func(*scene)) {
	t.Helper()
	play(t, Config{}, func(s *scene) {
		must(s, s.env.DeclareSuperStream(s.ctx, "o", SuperStreamConfig{BindingKeys: []string{"a", "b"}}))
		must(s, s.b.BindPartition("o", "o-a", "both"))
		must(s, s.b.BindPartition("o", "o-b", "both"))
		act(s)
	})
}

// TestSceneRouteByKey: the binding decides, the broker is asked once for each key,
// a key of several partitions makes copies, and one of none is an error for that
// message alone.
func TestSceneRouteByKey(t *testing.T) {
	playRouted(t, func(s *scene) {
		p := s.superProducer(ProducerConfig{Routing: RouteByKey()})
		err := p.Publish(s.ctx, keyed("a", 0), keyed("nowhere", 0), keyed("b", 0), keyed("both", 0), keyed(strings.Repeat("l", 300), 0))
		var several *PublishError
		if !errors.As(err, &several) {
			s.Fatal(err)
		}
		for i, err := range several.Outcomes {
			if want := i == 1 || i == 4; errors.Is(err, ErrNoRoute) != want || !want && err != nil {
				s.Errorf("message %d: %v", i, err)
			}
		}
		wantErr(s, p.Publish(s.ctx, keyed("nowhere", 0)), ErrNoRoute)
		wantErr(s, p.PublishAsync(s.ctx, keyed("nowhere", 0), nil), ErrNoRoute)
		outcomes := 0
		must(s, p.PublishAsync(s.ctx, keyed("both", 1), func(err error) { must(s, err); outcomes++ }))
		must(s, p.Flush(s.ctx))
		for stream, want := range map[string]string{"o-a": "a:0", "o-b": "b:0"} {
			if got := s.bodies(stream); !slices.Equal(got, []string{want, "both:0", "both:1"}) {
				s.Errorf("%s has %v", stream, got)
			}
		}
		if outcomes != 1 {
			s.Errorf("%d outcomes of one message", outcomes)
		}
		asked := s.b.Received(streamtest.Route)
		for i := range 100 {
			must(s, p.Publish(s.ctx, keyed("a", i)))
		}
		if n := s.b.Received(streamtest.Route) - asked; n > 0 {
			s.Errorf("a known key was asked for %d times", n)
		}
		must(s, s.b.CreateStream("o-new"))
		must(s, s.b.BindPartition("o", "o-new", "nowhere")) // and at once
		must(s, p.Publish(s.ctx, keyed("nowhere", 1)))
		if got := s.bodies("o-new"); len(got) != 1 {
			s.Errorf("o-new has %v", got)
		}
		must(s, s.b.BindPartition("o", "o-new", "a")) // known already
		must(s, p.Publish(s.ctx, keyed("a", 100)))
		time.Sleep(refreshEvery + time.Millisecond)
		must(s, p.Publish(s.ctx, keyed("a", 101)))
		if got := s.bodies("o-new"); len(got) != 2 {
			s.Errorf("o-new has %v", got)
		}
	})
}

// TestSceneRouteBy: the user's function decides.
func TestSceneRouteBy(t *testing.T) {
	playRouted(t, func(s *scene) {
		asked := map[string]int{}
		p := s.superProducer(ProducerConfig{Routing: RouteBy(func(m *Message, partitions []string) ([]string, error) {
			asked[m.Key]++
			switch m.Key {
			case "all":
				return append(partitions[:len(partitions):len(partitions)], partitions[0]), nil
			case "none":
				return nil, nil
			case "bad":
				return nil, errTest
			}
			return []string{m.Key}, nil
		})})
		must(s, p.Publish(s.ctx, keyed("all", 0), keyed("o-b", 0)))
		for key, want := range map[string]error{"none": ErrNoRoute, "bad": errTest, "o-x": ErrNoRoute} {
			err := p.Publish(s.ctx, keyed(key, 0))
			wantErr(s, err, want)
			wantErr(s, err, ErrNoRoute)
			if asked[key] != 1 {
				s.Errorf("%q was asked for %d times", key, asked[key])
			}
		}
		if a, b := s.bodies("o-a"), s.bodies("o-b"); len(a) != 1 || len(b) != 2 {
			s.Errorf("%v and %v", a, b)
		}
	})
}

// TestSceneSuperCopies: the outcome of a message with copies is that of all of them.
func TestSceneSuperCopies(t *testing.T) {
	playRouted(t, func(s *scene) {
		p := s.superProducer(ProducerConfig{Routing: RouteByKey(), MaxInFlight: 1})
		must(s, s.b.SetQuorum("o-b", false))
		results := make(chan error, 2)
		short, cancel := context.WithTimeout(s.ctx, time.Second)
		defer cancel()
		must(s, p.PublishAsync(s.ctx, keyed("both", 0), func(err error) { results <- err }))
		must(s, p.PublishAsync(short, keyed("both", 1), func(err error) { results <- err })) // no place in o-b
		if err := <-results; !errors.Is(err, context.DeadlineExceeded) || SafeToRetry(err) || !strings.Contains(err.Error(), "1 of") {
			s.Errorf("accepted by one: %v", err)
		}
		must(s, s.b.SetQuorum("o-b", true))
		must(s, <-results)
		must(s, p.Publish(s.ctx, keyed("both", 2)))
		if a, b := s.bodies("o-a"), s.bodies("o-b"); len(a) != 3 || len(b) != 2 {
			s.Errorf("%v and %v", a, b)
		}
	})
}

// TestCopiesOutcome: a message of which one copy may be in its stream is not safe to
// publish again, though another copy was refused.
func TestCopiesOutcome(t *testing.T) {
	for _, list := range [][]error{{ErrBlocked, ErrUnconfirmed}, {ErrUnconfirmed, ErrBlocked}} {
		c := newCopies(2)
		if done, _ := c.settle(1, list[0]); done {
			t.Error("one of two copies is all of them")
		}
		done, err := c.settle(1, list[1])
		if wantErr(t, err, ErrUnconfirmed); !done || SafeToRetry(err) {
			t.Errorf("%v, safe to retry: %v", err, SafeToRetry(err))
		}
	}
}

// TestSceneCopyToRemoved: a copy that waits for a place in a partition which is
// removed meanwhile is refused, and not as one of a producer that is closed.
func TestSceneCopyToRemoved(t *testing.T) {
	playRouted(t, func(s *scene) {
		p := s.superProducer(ProducerConfig{Routing: RouteByKey(), MaxInFlight: 1})
		time.Sleep(refreshEvery - 2*time.Second) // the next one is before the partition counts as stalled
		must(s, s.b.SetQuorum("o-b", false))
		results := make(chan error, 2)
		must(s, p.PublishAsync(s.ctx, keyed("b", 0), nil))
		go func() {
			must(s, p.PublishAsync(s.ctx, keyed("both", 0), func(err error) { results <- err }))
		}()
		time.Sleep(time.Second)
		must(s, s.b.UnbindPartition("o", "o-b"))
		err := <-results
		wantErr(s, err, ErrStreamUnavailable)
		if errors.Is(err, ErrClosed) || SafeToRetry(err) {
			s.Errorf("%v, safe to retry: %v", err, SafeToRetry(err))
		}
		must(s, s.b.SetQuorum("o-b", true))
	})
}

// TestSceneCopiesWithinCallback: a callback that publishes copies while the
// producer is closed is refused, and Close waits for it. One that would wait for
// outcomes that come behind itself is told so.
func TestSceneCopiesWithinCallback(t *testing.T) {
	playRouted(t, func(s *scene) {
		p := s.superProducer(ProducerConfig{Routing: RouteByKey()})
		closing, outcomes := make(chan struct{}), make(chan error, 2)
		must(s, p.PublishAsync(s.ctx, keyed("both", 0), func(error) {
			short, cancel := context.WithTimeout(s.ctx, time.Minute)
			defer cancel()
			outcomes <- p.Publish(short, keyed("both", 1))
			<-closing
			outcomes <- p.PublishAsync(s.ctx, keyed("both", 2), nil)
		}))
		wantErr(s, <-outcomes, errWithinCallback)
		closed := make(chan error, 1)
		go func() { closed <- p.Close(s.ctx) }()
		synctest.Wait()
		close(closing)
		wantErr(s, <-outcomes, ErrClosed)
		must(s, <-closed)
	})
}

// TestSceneRouteMoved: a key that has moved to another partition goes there, though
// the broker did not answer when the producer asked for it again.
func TestSceneRouteMoved(t *testing.T) {
	playRouted(t, func(s *scene) {
		p := s.superProducer(ProducerConfig{Routing: RouteByKey()})
		must(s, p.Publish(s.ctx, keyed("a", 0)))
		must(s, p.Publish(s.ctx, keyed("a", 0))) // now the key counts as one in use
		must(s, s.b.UnbindPartition("o", "o-a"))
		must(s, s.b.BindPartition("o", "o-b", "a"))
		s.b.AnswerWith(streamtest.Route, streamtest.InternalError, 1)
		time.Sleep(refreshEvery + recreationTime + time.Millisecond)
		must(s, p.Publish(s.ctx, keyed("a", 1)))
		if got := s.bodies("o-b"); !slices.Equal(got, []string{"a:1"}) {
			s.Errorf("o-b has %v", got)
		}
	})
}

// TestSceneRefreshWaitsForNoKeys: who waits for the partitions does not wait for the
// keys in use.
func TestSceneRefreshWaitsForNoKeys(t *testing.T) {
	playRouted(t, func(s *scene) {
		must(s, s.env.own())
		p := &superProducer{joint: newJoint(s.env, ProducerConfig{}), env: s.env, name: "o", wake: make(chan struct{}, 1), over: make(chan struct{})}
		p.life, p.cancel = context.WithCancel(s.ctx)
		names, err := s.env.Partitions(s.ctx, "o")
		must(s, err)
		p.table.Store(newPartitionTable(names, map[string]*Producer{"o-a": {joint: p.joint}, "o-b": {joint: p.joint}}))
		p.routes.ask = func(ctx context.Context, _ string) ([]string, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		known := &routeOf{partitions: []string{"o-a"}}
		known.used.Store(true)
		p.routes.of = map[string]*routeOf{"a": known}
		go p.run()
		begin := time.Now()
		p.refreshed(s.ctx)
		if took := time.Since(begin); took > 0 {
			s.Errorf("waited for %v", took)
		}
		p.cancel()
		<-p.over
	})
}

// TestRoutesRefresh: the keys in use are asked for some at a time, each once. Without
// an answer nothing more is asked, and what was known stays.
func TestRoutesRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const keys, roundTrip = 1000, 10 * time.Millisecond
		var mu sync.Mutex
		asked := map[string]int{}
		answer, failure := "first", error(nil)
		r := routes{ask: func(_ context.Context, key string) ([]string, error) {
			time.Sleep(roundTrip)
			mu.Lock()
			defer mu.Unlock()
			asked[key]++
			return []string{answer}, failure
		}}
		table := newPartitionTable([]string{"first", "second"}, map[string]*Producer{"first": {}, "second": {}})
		use := func() {
			for i := range keys {
				_, err := r.find(t.Context(), table, fmt.Sprint(i))
				must(t, err)
			}
		}
		use()
		use() // now they are known, and in use
		clear(asked)
		answer = "second"
		begin := time.Now()
		r.refresh(t.Context())
		if took := time.Since(begin); took > (keys/askers+1)*roundTrip {
			t.Errorf("took %v", took)
		}
		for i := range keys {
			key := fmt.Sprint(i)
			if got := r.of[key].partitions[0]; asked[key] != 1 || got != "second" {
				t.Fatalf("key %s was asked for %d times, and leads to %s", key, asked[key], got)
			}
		}
		use()
		clear(asked)
		failure = errTest
		r.refresh(t.Context())
		if n := len(asked); n > askers {
			t.Errorf("%d questions, and the first answer was an error", n)
		}
		if n := len(r.of); n != keys {
			t.Errorf("%d keys are known", n)
		}
		r.refresh(t.Context())
		if n := len(r.of); n != 0 {
			t.Errorf("%d keys are known that nobody has used", n)
		}
	})
}
