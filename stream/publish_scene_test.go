package stream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-go/tidemark/streamtest"
)

// The scenes of these files play on the in-process broker, through the public API
// alone. They run in virtual time: broker and library speak over pipes inside a
// bubble of synctest, so an hour passes in no time, and a time that a scene
// measures is exact.

// sceneTime is how much virtual time a scene may take. It only decides how a call
// fails that never returns.
const sceneTime = time.Hour

// scene is an in-process broker, an Env on it, and what the Env reports.
type scene struct {
	*testing.T
	b   *streamtest.Broker
	env *Env
	ctx context.Context // ends with sceneTime

	mu        sync.Mutex
	states    []StateChange // of producers
	times     []time.Time   // of states
	consuming []StateChange // of consumers
	deaf      chan struct{} // closed when the Envs hear again; nil: they always did
}

// play runs a scene in a bubble, on a broker with a stream s.
func play(t *testing.T, cfg Config, act func(*scene), opts ...streamtest.Option) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), sceneTime)
		t.Cleanup(cancel)
		s := &scene{T: t, b: streamtest.NewBroker(t, append(opts, streamtest.InMemory())...), ctx: ctx}
		s.create("s")
		s.env = s.connect(cfg)
		act(s)
	})
}

// connect returns an Env on the broker, as another process would have it.
func (s *scene) connect(cfg Config) *Env {
	s.Helper()
	cfg.URIs, cfg.Dial = []string{s.b.URI()}, s.dial
	cfg.Logger = slog.New(slog.DiscardHandler)
	cfg.OnState = s.note
	env, err := Connect(s.ctx, cfg)
	must(s, err)
	s.Cleanup(func() { _ = env.Close() })
	return env
}

// dial makes a connection that hears nothing while the Envs are deaf.
func (s *scene) dial(ctx context.Context, network, address string) (net.Conn, error) {
	nc, err := s.b.Dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &deafConn{nc, s}, nil
}

// deafen keeps what the broker sends from the Envs until hear is called.
func (s *scene) deafen() (hear func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	deaf := make(chan struct{})
	s.deaf = deaf
	return sync.OnceFunc(func() { close(deaf) })
}

// deafConn is a connection of a scene.
type deafConn struct {
	net.Conn
	s *scene
}

func (c *deafConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.s.mu.Lock()
	deaf := c.s.deaf
	c.s.mu.Unlock()
	if deaf != nil {
		<-deaf
	}
	return n, err
}

// note keeps what the Envs say.
func (s *scene) note(c StateChange) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.Role == RoleProducer {
		s.states, s.times = append(s.states, c), append(s.times, time.Now())
		return
	}
	s.consuming = append(s.consuming, c)
}

// reported returns the changes of producers to a state, so far.
func (s *scene) reported(state State) (changes []StateChange) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.states {
		if c.State == state {
			changes = append(changes, c)
		}
	}
	return changes
}

// since returns how long after begin a state was first reported, or false.
func (s *scene) since(begin time.Time, state State) (time.Duration, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, c := range s.states {
		if c.State == state && !s.times[i].Before(begin) {
			return s.times[i].Sub(begin), true
		}
	}
	return 0, false
}

// until waits, in virtual time, for what must come.
func (s *scene) until(what string, cond func() bool) {
	s.Helper()
	for !cond() {
		select {
		case <-time.After(time.Millisecond):
		case <-s.ctx.Done():
			s.Fatalf("%s: not within %v", what, sceneTime)
		}
	}
}

// create makes streams.
func (s *scene) create(names ...string) {
	s.Helper()
	for _, name := range names {
		must(s, s.b.CreateStream(name))
	}
}

// producer returns a producer that is closed with the scene.
func (s *scene) producer(stream string, cfg ProducerConfig) *Producer {
	s.Helper()
	return s.producerOf(s.env, stream, cfg)
}

func (s *scene) producerOf(env *Env, stream string, cfg ProducerConfig) *Producer {
	s.Helper()
	p, err := env.NewProducer(s.ctx, stream, cfg)
	must(s, err)
	s.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = p.Close(ctx)
	})
	return p
}

// contents returns what a stream has, sub-batches taken apart.
func (s *scene) bodies(stream string) (list []string) {
	s.Helper()
	for _, m := range s.b.Messages(stream) {
		if m.Compressed {
			s.Fatalf("%s has a sub-batch that the broker does not take apart", stream)
		}
		list = append(list, m.String())
	}
	return list
}

// sceneLog keeps what became of the messages of a producer, by body.
type sceneLog struct {
	s *scene
	p *Producer

	mu       sync.Mutex
	accepted []string // in order
	of       map[string]error
	settled  int
}

func (s *scene) logOf(p *Producer) *sceneLog {
	return &sceneLog{s: s, p: p, of: make(map[string]error)}
}

// publish publishes a message for whose outcome nobody waits.
func (o *sceneLog) publish(m Message) {
	o.s.Helper()
	body := string(m.Body)
	if err := o.p.PublishAsync(o.s.ctx, m, func(err error) { o.settle(body, err) }); err != nil {
		o.s.Fatalf("%s was not accepted: %v; the producers were %s", body, err, o.s.story())
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.accepted = append(o.accepted, body)
}

// settle notes the outcome of a message.
func (o *sceneLog) settle(body string, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, twice := o.of[body]; twice {
		o.s.Errorf("%s has two outcomes", body)
	}
	o.of[body] = err
	o.settled++
}

// count returns how many have an outcome.
func (o *sceneLog) count() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.settled
}

// checkConfirmed expects that whatever was confirmed is in the stream: once with
// a name. It returns what has an error.
func (o *sceneLog) checkConfirmed() (failed []string) {
	o.s.Helper()
	o.mu.Lock()
	defer o.mu.Unlock()
	times := make(map[string]int)
	for _, body := range o.s.bodies(o.p.stream) {
		times[body]++
	}
	var gone, repeated []string
	for _, body := range o.accepted {
		err, settled := o.of[body]
		switch n := times[body]; {
		case !settled:
			o.s.Errorf("%s has no outcome", body)
		case err != nil:
			failed = append(failed, body)
		case n == 0:
			gone = append(gone, body)
		case n > 1 && o.p.cfg.Name != "":
			repeated = append(repeated, body)
		}
	}
	if len(gone) > 0 {
		o.s.Errorf("%d messages are confirmed and gone, from %s to %s", len(gone), gone[0], gone[len(gone)-1])
	}
	if len(repeated) > 0 {
		o.s.Errorf("%d messages are there more than once, as %s", len(repeated), repeated[0])
	}
	return failed
}

// checkAll expects that every message was confirmed and is in the stream in the
// order of publishing. Without a name it may be there again, later.
func (o *sceneLog) checkAll() {
	o.s.Helper()
	if failed := o.checkConfirmed(); len(failed) > 0 {
		o.s.Errorf("%d messages failed, as %s: %v", len(failed), failed[0], o.of[failed[0]])
	}
	var got []string
	seen := make(map[string]bool)
	mine := make(map[string]bool)
	for _, body := range o.accepted {
		mine[body] = true
	}
	for _, body := range o.s.bodies(o.p.stream) {
		if mine[body] && !seen[body] {
			got, seen[body] = append(got, body), true
		}
	}
	if !slices.Equal(got, o.accepted) {
		for i := range min(len(got), len(o.accepted)) {
			if got[i] != o.accepted[i] {
				o.s.Fatalf("out of order: message %d is %s, want %s", i, got[i], o.accepted[i])
			}
		}
		o.s.Fatalf("%d of %d messages are in the stream", len(got), len(o.accepted))
	}
}

// text is a Message of a few bytes.
func text(format string, args ...any) Message {
	return Message{Body: fmt.Appendf(nil, format, args...)}
}

// story names the states that the producers went through.
func (s *scene) story() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []string
	for i, c := range s.states {
		list = append(list, fmt.Sprintf("%s %s (%v)", s.times[i].Format("05.000"), c.State, c.Err))
	}
	if n := len(list); n > 20 {
		list = list[n-20:]
	}
	return strings.Join(list, ", ")
}

// ignoreUnconfirmed fails the test for any error but that of a Close that did not
// wait for the outcomes.
func ignoreUnconfirmed(t testing.TB, err error) {
	t.Helper()
	if err != nil && !errors.Is(err, ErrUnconfirmed) {
		t.Error(err)
	}
}
