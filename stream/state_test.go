package stream

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-go/tidemark/streamtest"
)

// watched returns an Env whose changes come on the channel.
func watched(t testing.TB, uri string) (*Env, chan StateChange) {
	t.Helper()
	changes := make(chan StateChange, 1000)
	cfg := testConfig()
	cfg.URIs, cfg.OnState = []string{uri}, func(c StateChange) { changes <- c }
	env, err := Connect(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = env.Close() })
	return env, changes
}

// wantState fails the test unless that is the next change, attempts that fail
// aside.
func wantState(t testing.TB, changes chan StateChange, state State, role Role, stream, name string) StateChange {
	t.Helper()
	c := recv(t, changes, state.String())
	for state != StateReconnecting && c.State == StateReconnecting && c.Attempt > 1 {
		c = recv(t, changes, state.String())
	}
	if c.State != state || c.Role != role || c.Stream != stream || c.Name != name {
		t.Fatalf("%v %v %q %q (%v), want %v %v %q %q", c.Role, c.State, c.Stream, c.Name, c.Err, role, state, stream, name)
	}
	return c
}

func TestOnState(t *testing.T) {
	b, plain, name := inStream(t, 10)
	env, changes := watched(t, b.URI())
	p, err := env.NewProducer(inTime(t), name, ProducerConfig{Name: "shop"})
	if err != nil {
		t.Fatal(err)
	}
	wantState(t, changes, StateConnected, RoleProducer, name, "shop")
	if err := p.Close(inTime(t)); err != nil {
		t.Fatal(err)
	}
	if c := wantState(t, changes, StateClosed, RoleProducer, name, "shop"); c.Err != nil {
		t.Errorf("closed in order, with %v", c.Err)
	}
	_, ended := running1(t, env, name, ConsumerConfig{Name: "billing"}, func(_ context.Context, d *Delivery) error {
		if d.Offset == 15 {
			return errTest
		}
		return nil
	})
	wantState(t, changes, StateConnected, RoleConsumer, name, "billing")
	b.DropConnections(streamtest.CutRST)
	c := wantState(t, changes, StateReconnecting, RoleConsumer, name, "billing")
	wantErr(t, c.Err, ErrUnreachable)
	wantState(t, changes, StateConnected, RoleConsumer, name, "billing")
	publish(t, plain, name, 10, 20)
	c = wantState(t, changes, StateClosed, RoleConsumer, name, "billing")
	wantErr(t, c.Err, errTest)
	recv(t, ended, "the end")
}

func TestOnStateOfALostProducer(t *testing.T) {
	b, _, name := inStream(t, 1)
	env, changes := watched(t, b.URI())
	p, err := env.NewProducer(inTime(t), name, ProducerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	wantState(t, changes, StateConnected, RoleProducer, name, "")
	b.DropConnections(streamtest.CutRST)
	wantState(t, changes, StateReconnecting, RoleProducer, name, "")
	wantState(t, changes, StateConnected, RoleProducer, name, "")
	must(t, b.DeleteStream(name))
	wantState(t, changes, StateReconnecting, RoleProducer, name, "")
	wantErr(t, wantState(t, changes, StateClosed, RoleProducer, name, "").Err, ErrStreamDeleted)
	_ = p.Close(inTime(t))
}

// TestOnStateNeverBlocks: a callback that does not return holds up nothing but
// the changes behind it.
func TestOnStateNeverBlocks(t *testing.T) {
	b, _, name := inStream(t, 10)
	release := make(chan struct{})
	var changes atomic.Int64
	cfg := testConfig()
	cfg.URIs, cfg.OnState = []string{b.URI()}, func(StateChange) { <-release; changes.Add(1) }
	env, err := Connect(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		readN(t, env, name, ConsumerConfig{}, 10)
	}
	if changes.Load() != 0 {
		t.Error("a callback has returned")
	}
	close(release)
	if err := env.Close(); err != nil {
		t.Error(err)
	}
	if n := changes.Load(); n != 6 {
		t.Errorf("%d changes were told when Close returned, want 6", n)
	}
}

func TestRetentionOvertakes(t *testing.T) { onBrokers(t, testRetentionOvertakes) }

// testRetentionOvertakes has retention remove messages while a consumer is
// disconnected: what it reports as lost is what is missing.
func testRetentionOvertakes(t *testing.T, b testBroker) {
	direct := connect(t, b.StreamURL())
	name := newStreamWith(t, direct, StreamConfig{MaxBytes: 2000, SegmentBytes: 500})
	proxy, uri := throughProxy(t, b)
	env, changes := watched(t, uri)
	publish(t, direct, name, 0, 1)
	handled := make(chan uint64, 10_000)
	release := make(chan struct{})
	stop, ended := running1(t, env, name, ConsumerConfig{}, func(_ context.Context, d *Delivery) error {
		handled <- d.Offset
		<-release
		return nil
	})
	recv(t, handled, "the first message")
	wantState(t, changes, StateConnected, RoleConsumer, name, "")
	proxy.Refuse(true)
	proxy.Drop()
	at := 1
	eventually(t, "retention has removed something", patience, func() bool {
		publish(t, direct, name, at, at+100)
		at += 100
		s, err := direct.Stats(t.Context(), name)
		return err == nil && s.FirstOffset > 300
	})
	close(release)
	wantState(t, changes, StateReconnecting, RoleConsumer, name, "")
	proxy.Refuse(false)
	c := wantState(t, changes, StateMessagesLost, RoleConsumer, name, "")
	last, next := uint64(0), recv(t, handled, "the next message")
	for next == last+1 { // what was buffered
		last, next = next, recv(t, handled, "the message after the buffered ones")
	}
	// A real broker may have removed more since it was asked.
	if gap := next - last - 1; c.Lost == 0 || c.Lost > gap {
		t.Errorf("%d messages are reported as lost, and %d are missing", c.Lost, gap)
	}
	stop()
	must(t, recv(t, ended, "the end"))
}

func newStreamWith(t testing.TB, env *Env, cfg StreamConfig) string {
	t.Helper()
	name := newStream(t, env) + "-retained"
	if err := env.DeclareStream(inTime(t), name, cfg); err != nil {
		t.Fatal(err)
	}
	return name
}

// records is a slog handler that keeps what it gets: one line per record, with
// its level and attributes.
type records struct {
	lines *[]string
	attrs []slog.Attr
}

func (r records) Enabled(context.Context, slog.Level) bool { return true }
func (r records) WithGroup(string) slog.Handler            { return r }
func (r records) WithAttrs(attrs []slog.Attr) slog.Handler {
	return records{r.lines, append(slices.Clip(r.attrs), attrs...)}
}

func (r records) Handle(_ context.Context, rec slog.Record) error {
	line := rec.Level.String() + " " + rec.Message
	add := func(a slog.Attr) bool { line += " " + a.String(); return true }
	for _, a := range r.attrs {
		add(a)
	}
	rec.Attrs(add)
	*r.lines = append(*r.lines, line)
	return nil
}

// TestStateLog: the first connection is no news, one that was won back is, and
// what is lost is logged louder. The end is left to who made the call.
func TestStateLog(t *testing.T) {
	consumer := StateChange{Role: RoleConsumer, Stream: "orders", Name: "billing"}
	producer := StateChange{Role: RoleProducer, Stream: "orders"}
	for _, test := range []struct {
		c      StateChange
		change func(*StateChange)
		want   string
	}{
		{consumer, func(c *StateChange) { c.State = StateConnected }, "DEBUG connected stream=orders consumer=billing"},
		{producer, func(c *StateChange) { c.State = StateConnected }, "DEBUG connected stream=orders producer="},
		{consumer, func(c *StateChange) { c.State, c.reconnected = StateConnected, true }, "INFO connected stream=orders consumer=billing"},
		{consumer, func(c *StateChange) { c.State, c.Err, c.Attempt = StateReconnecting, errTest, 3 },
			"WARN connection lost or not made; connecting again stream=orders consumer=billing error=" + errTest.Error() + " attempt=3"},
		{consumer, func(c *StateChange) { c.State, c.Err = StateStreamRecreated, errTest },
			"WARN the stream was deleted and created again; starting over in the new one stream=orders consumer=billing error=" + errTest.Error()},
		{consumer, func(c *StateChange) { c.State, c.Lost, c.LostFrom, c.LostTo = StateMessagesLost, 7, 5, 11 },
			"ERROR retention has removed messages before they were read; going on at the first that is left stream=orders consumer=billing lost=7 from=5 to=11"},
		{consumer, func(c *StateChange) { c.State, c.Err = StateClosed, errTest }, ""},
	} {
		var lines []string
		s := startStates(Config{Logger: slog.New(records{lines: &lines})}) // without OnState
		test.change(&test.c)
		s.change(test.c)
		if got := strings.Join(lines, "\n"); got != test.want {
			t.Errorf("%v was logged as\n%s\nwant\n%s", test.c.State, got, test.want)
		}
		if err := s.drain(); err != nil {
			t.Errorf("nobody is told, and that is waited for: %v", err)
		}
	}
}

// TestStateIsTold: OnState gets each change as it is, one after the other.
func TestStateIsTold(t *testing.T) {
	var got []StateChange
	var lines []string
	s := startStates(Config{Logger: slog.New(records{lines: &lines}), OnState: func(c StateChange) { got = append(got, c) }})
	want := []StateChange{
		{State: StateConnected, Role: RoleConsumer, Stream: "s", Name: "n", reconnected: true},
		{State: StateMessagesLost, Role: RoleConsumer, Stream: "s", Lost: 9},
		{State: StateClosed, Role: RoleProducer, Stream: "s", Err: errTest},
	}
	for _, c := range want {
		s.change(c)
	}
	must(t, s.drain())
	if !slices.Equal(got, want) {
		t.Errorf("told %+v, want %+v", got, want)
	}
}

// TestStateDrainIsBounded: a callback that never returns holds up the end for
// CloseTimeout.
func TestStateDrainIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		s := startStates(Config{Logger: slog.New(slog.DiscardHandler), OnState: func(StateChange) { <-release }})
		s.change(StateChange{State: StateConnected})
		begin := time.Now()
		wantErr(t, s.drain(), context.DeadlineExceeded)
		if took := time.Since(begin); took != CloseTimeout {
			t.Errorf("waited for %v, want %v", took, CloseTimeout)
		}
		close(release)
		must(t, s.drain())
	})
}

func TestStateNames(t *testing.T) {
	for want, got := range map[string]string{
		"connected": StateConnected.String(), "reconnecting": StateReconnecting.String(), "closed": StateClosed.String(), "blocked": StateBlocked.String(),
		"messages lost": StateMessagesLost.String(), "offset beyond end": StateOffsetBeyondEnd.String(), "stream recreated": StateStreamRecreated.String(),
		"active": StateActive.String(), "waiting": StateWaiting.String(), "overlap": StateOverlap.String(), "unknown": State(0).String(),
		"consumer": RoleConsumer.String(), "producer": RoleProducer.String(),
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if State(11).String() != "unknown" || Role(0).String() != "unknown" || Role(3).String() != "unknown" {
		t.Error("what there is not has a name")
	}
}

// TestAttemptsCountSinceUse: a producer counts its attempts on over connections
// that confirmed nothing, and begins anew after one that was of use.
func TestAttemptsCountSinceUse(t *testing.T) {
	beside(t)
	b, _, name := inStream(t, 1)
	env, changes := watched(t, b.URI())
	p, err := env.NewProducer(inTime(t), name, ProducerConfig{})
	must(t, err)
	lost := 0
	lose := func() int {
		t.Helper()
		if c := wantState(t, changes, StateConnected, RoleProducer, name, ""); c.reconnected != (lost > 0) {
			t.Errorf("after %d losses the connection counts as won back: %v", lost, c.reconnected)
		}
		lost++
		b.DropConnections(streamtest.CutRST)
		return wantState(t, changes, StateReconnecting, RoleProducer, name, "").Attempt
	}
	if first, second := lose(), lose(); first != 1 || second < 2 {
		t.Errorf("attempt %d after the first loss, %d after one of no use", first, second)
	}
	must(t, p.Publish(inTime(t), Message{}))
	if third := lose(); third != 1 {
		t.Errorf("attempt %d after a connection that was of use, want 1", third)
	}
	must(t, p.Close(inTime(t)))
}
