package stream

import (
	"context"
	"sync/atomic"
	"testing"

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
	p, err := env.NewProducer(t.Context(), name, ProducerConfig{Name: "shop"})
	if err != nil {
		t.Fatal(err)
	}
	wantState(t, changes, StateConnected, RoleProducer, name, "shop")
	if err := p.Close(t.Context()); err != nil {
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
	p, err := env.NewProducer(t.Context(), name, ProducerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	wantState(t, changes, StateConnected, RoleProducer, name, "")
	b.DropConnections(streamtest.CutRST)
	wantState(t, changes, StateReconnecting, RoleProducer, name, "")
	wantState(t, changes, StateConnected, RoleProducer, name, "")
	b.DeleteStream(name)
	wantState(t, changes, StateReconnecting, RoleProducer, name, "")
	wantErr(t, wantState(t, changes, StateClosed, RoleProducer, name, "").Err, ErrStreamDeleted)
	_ = p.Close(t.Context())
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
	wantErr(t, recv(t, ended, "the end"), context.Canceled)
}

func newStreamWith(t testing.TB, env *Env, cfg StreamConfig) string {
	t.Helper()
	name := newStream(t, env) + "-retained"
	if err := env.DeclareStream(t.Context(), name, cfg); err != nil {
		t.Fatal(err)
	}
	return name
}
