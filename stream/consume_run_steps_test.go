package stream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-go/tidemark/internal/broker"
	"github.com/tidemark-go/tidemark/internal/script"
	"github.com/tidemark-go/tidemark/internal/wire"
)

// nodeAway is an address of which nothing answers.
var nodeAway = broker.Endpoint{Host: "127.0.0.1", Port: 1, User: "u", Password: "p", VHost: "/"}

// aloneRun returns a run of a consumer whose broker is away. cfg is taken as it
// is, with the defaults filled in.
func aloneRun(t testing.TB, cfg ConsumerConfig) *run {
	t.Helper()
	cfg, _ = cfg.withDefaults(testStream)
	env := &Env{cfg: testConfig(), memory: newMemory(defaultEnvMaxBuffered)}
	env.states = startStates(env.cfg)
	env.cluster = broker.NewCluster(env.cfg.brokerOptions(), []broker.Endpoint{nodeAway})
	t.Cleanup(env.cluster.Close)
	r := newRun(&Consumer{env: env, stream: testStream, cfg: cfg})
	r.workers = cfg.Workers
	r.dispatcher = newSerial(t.Context(), r)
	return r
}

// watchChanges makes the run's changes come on the channel. The end of the test
// waits for them.
func watchChanges(t testing.TB, r *run) chan StateChange {
	changes := make(chan StateChange, 1000)
	env := r.consumer.env
	env.states = startStates(Config{Logger: env.cfg.Logger, OnState: func(c StateChange) { changes <- c }})
	t.Cleanup(func() { must(t, env.states.drain()) })
	return changes
}

// TestAfterFailure is what follows each kind of failure.
func TestAfterFailure(t *testing.T) {
	handlerErr := &HandlerError{Err: errTest}
	mixed := errors.Join(handlerErr, ErrStreamRecreated)
	for name, test := range map[string]struct {
		err       error
		cancelled bool
		connected bool
		want      nextStep
		wantErr   error
	}{
		"lost":                         {err: ErrUnreachable, want: retry, wantErr: ErrUnreachable},
		"lost, and ended":              {err: ErrUnreachable, cancelled: true, want: finish, wantErr: errStopped},
		"handler":                      {err: handlerErr, want: finish, wantErr: handlerErr},
		"handler, and ended":           {err: handlerErr, cancelled: true, want: finish, wantErr: handlerErr},
		"handler, and recreated":       {err: mixed, want: finish, wantErr: mixed},
		"loop left":                    {err: errLoopLeft, want: finish, wantErr: errLoopLeft},
		"loop left, and ended":         {err: errLoopLeft, cancelled: true, want: finish, wantErr: errLoopLeft},
		"recreated":                    {err: otherStream(3), want: startOver, wantErr: ErrStreamRecreated},
		"recreated, and ended":         {err: otherStream(3), cancelled: true, want: finish, wantErr: errStopped},
		"missing from the first":       {err: ErrStreamNotFound, want: finish, wantErr: ErrStreamNotFound},
		"missing":                      {err: ErrStreamNotFound, connected: true, want: retry, wantErr: ErrStreamNotFound},
		"missing, and ended":           {err: ErrStreamNotFound, connected: true, cancelled: true, want: finish, wantErr: errStopped},
		"refused":                      {err: ErrAccessRefused, want: finish, wantErr: ErrAccessRefused},
		"refused after a connection":   {err: ErrAccessRefused, connected: true, want: finish, wantErr: ErrAccessRefused},
		"unavailable":                  {err: ErrStreamUnavailable, connected: true, want: retry, wantErr: ErrStreamUnavailable},
		"OffsetStore away":             {err: fmt.Errorf("%w: %w", ErrOffsetStore, ErrUnreachable), want: finish, wantErr: ErrOffsetStore},
		"something that nobody thinks": {err: errors.New("x"), want: retry},
	} {
		r := aloneRun(t, ConsumerConfig{})
		r.connected = test.connected
		ctx, cancel := context.WithCancelCause(t.Context())
		if test.cancelled {
			cancel(errTest)
		}
		got, err := r.afterFailure(ctx, test.err)
		cancel(nil)
		if got != test.want || err == nil || test.wantErr != nil && !errors.Is(err, test.wantErr) {
			t.Errorf("%s: %v, %v, want %v, %v", name, got, err, test.want, test.wantErr)
		}
	}
}

// TestAfterMissing: a stream counts as deleted once it is missing for
// recreationTime, counted anew after a connection.
func TestAfterMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := aloneRun(t, ConsumerConfig{})
		missing := fmt.Errorf("%w: why", ErrStreamNotFound)
		want := func(when string, wanted nextStep, cause error) {
			t.Helper()
			got, err := r.afterMissing(missing)
			if wantErr(t, err, cause); got != wanted {
				t.Errorf("%s: %v, %v", when, got, err)
			}
		}
		time.Sleep(time.Hour)
		want("at first", retry, missing)
		time.Sleep(recreationTime - 1)
		want("a moment before", retry, missing)
		time.Sleep(time.Nanosecond)
		want("then", gone, ErrStreamDeleted)
		want("still", gone, ErrStreamDeleted)
		r.missingSince = time.Time{}
		want("once more", retry, missing)
	})
}

// TestStartOver forgets the old stream and its mark.
func TestStartOver(t *testing.T) {
	r := aloneRun(t, ConsumerConfig{Name: "billing", Store: StorePolicy{Every: 7}})
	changes := watchChanges(t, r)
	r.place.BeginAfterStored(4)
	r.progress.markNext(5, 1)
	r.startOver(errTest)
	if _, handled := r.progress.snapshot(); handled || r.place.Begun() || !r.recreated || r.progress.policy.Every != 7 {
		t.Errorf("it remembers: handled %v, begun %v, recreated %v, %+v", handled, r.place.Begun(), r.recreated, r.progress.policy)
	}
	c := recv(t, changes, "the change")
	if wantErr(t, c.Err, errTest); c.State != StateStreamRecreated || c.Role != RoleConsumer || c.Stream != testStream || c.Name != "billing" {
		t.Errorf("reported %+v", c)
	}
}

func TestReportClosed(t *testing.T) {
	r := aloneRun(t, ConsumerConfig{Name: "billing"})
	changes := watchChanges(t, r)
	for given, want := range map[error]error{errLoopLeft: nil, errTest: errTest} {
		r.reportClosed(given)
		if c := recv(t, changes, "the change"); c.State != StateClosed || c.Err != want || c.Name != "billing" {
			t.Errorf("%v is reported as %+v", given, c)
		}
	}
}

func TestEndedByHandler(t *testing.T) {
	for err, want := range map[error]bool{
		&HandlerError{Err: errTest}: true, fmt.Errorf("x: %w", &HandlerError{Err: errTest}): true, errLoopLeft: true, errTest: false, nil: false,
	} {
		if got := endedByHandler(err); got != want {
			t.Errorf("%v was the handler's: %v", err, got)
		}
	}
}

func TestSleep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slept := func(ctx context.Context, d time.Duration, want error, took time.Duration) {
			t.Helper()
			begun := time.Now()
			if err := sleep(ctx, d); err != want || time.Since(begun) != took {
				t.Errorf("sleep for %v: %v after %v, want %v after %v", d, err, time.Since(begun), want, took)
			}
		}
		slept(t.Context(), time.Hour, nil, time.Hour)
		slept(t.Context(), 1, nil, 1)
		slept(t.Context(), 0, nil, 0)
		slept(t.Context(), -1, nil, 0)
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(errTest) })
		slept(ctx, time.Hour, errTest, time.Second)
		slept(ctx, time.Hour, errTest, 0)
		slept(ctx, 0, errTest, 0)
	})
}

func TestFirstOf(t *testing.T) {
	nodes := []broker.Node{{Host: "a", Port: 1}, {Host: "b", Port: 2}, {Host: "c", Port: 3}}
	other := errors.New("other")
	for name, test := range map[string]struct {
		answers   []error
		cancelled bool
		tried     int
		want      []error
	}{
		"the first":         {answers: []error{nil}, tried: 1},
		"the last":          {answers: []error{errTest, other, nil}, tried: 3},
		"none":              {answers: []error{errTest, other, ErrUnreachable}, tried: 3, want: []error{errTest, other, ErrUnreachable}},
		"no other can help": {answers: []error{errTest, ErrAccessRefused}, tried: 2, want: []error{ErrAccessRefused}},
		"ended":             {answers: []error{errTest}, cancelled: true, tried: 1, want: []error{errTest}},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		if test.cancelled {
			cancel()
		}
		var tried []broker.Node
		err := firstOf(ctx, nodes, func(n broker.Node) error {
			tried = append(tried, n)
			return test.answers[len(tried)-1]
		})
		cancel()
		if wantErr(t, err, test.want...); (err == nil) != (test.want == nil) {
			t.Errorf("%s: %v", name, err)
		}
		if !slices.Equal(tried, nodes[:test.tried]) {
			t.Errorf("%s: tried %v", name, tried)
		}
		if isFatal(err) && errors.Is(err, errTest) {
			t.Errorf("%s: %v keeps what another node said", name, err)
		}
	}
	must(t, firstOf(t.Context(), nil, nil))
}

// TestSuperviseCountsAttempts: as long as no connection is made, the attempts
// count up and their pauses grow.
func TestSuperviseCountsAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := aloneRun(t, ConsumerConfig{})
		r.consumer.env.cfg.Backoff = Backoff{Min: time.Second, Max: time.Hour}
		changes := watchChanges(t, r)
		ctx, cancel := context.WithCancelCause(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- r.supervise(ctx) }()
		before := time.Now()
		for failures := 1; failures <= 6; failures++ {
			c := <-changes
			if wantErr(t, c.Err, ErrUnreachable); c.State != StateReconnecting || c.Attempt != failures+1 {
				t.Errorf("%+v, want attempt %d", c, failures+1)
			}
			full := time.Second << failures / 4 // before the attempt that has failed
			if failures == 1 {
				full = 0
			}
			if pause := time.Since(before); pause < full/2 || pause > full {
				t.Errorf("attempt %d came after %v, want %v at most", failures, pause, full)
			}
			before = time.Now()
		}
		cancel(errTest)
		must(t, <-ended)
	})
}

// TestSuperviseCountsUselessSessions: a session that brought something new, or
// lasted longer than Backoff.Max, makes the attempts count anew.
func TestSuperviseCountsUselessSessions(t *testing.T) {
	for name, test := range map[string]struct {
		longest time.Duration
		brings  bool
		want    []int
	}{
		"useless": {time.Minute, false, []int{2, 3, 4}},
		"new":     {time.Minute, true, []int{1, 1, 1}},
		"long":    {1, false, []int{1, 1, 1}},
	} {
		noLeaks(t)
		b := startScripted(t)
		b.committed = 100
		b.onSubscribe = func(p *script.Peer, nth int, _ wire.OffsetSpec) {
			if test.brings {
				p.Write(script.Chunk(uint64(nth), "a"))
			}
			_ = p.Conn.Close()
		}
		env := b.env(t)
		env.cfg.Backoff = Backoff{Min: 1, Max: test.longest}
		must(t, env.states.drain())
		c, err := env.NewConsumer(testStream, ConsumerConfig{})
		must(t, err)
		r := newRun(c)
		r.handler = func(context.Context, *Delivery) error { return nil }
		changes := watchChanges(t, r)
		ctx, cancel := context.WithCancelCause(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- r.supervise(ctx) }()
		var got []int
		for len(got) < len(test.want) {
			if c := recv(t, changes, "a change"); c.State == StateReconnecting {
				got = append(got, c.Attempt)
			}
		}
		cancel(errTest)
		must(t, recv(t, ended, "the end"))
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: attempts %v, want %v", name, got, test.want)
		}
	}
}
