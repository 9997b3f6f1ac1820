package stream

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"

	"github.com/tidemark-go/tidemark/streamtest"
)

// group is the members of a group on one stream, in a scene, and what they have
// done. Each member has an Env of its own, as processes have.
type group struct {
	*scene
	stream, super string

	mu      sync.Mutex
	handled []string // "member body", in the order in which handlers began
	wait    map[string]chan struct{}
}

// groupOn returns a group on the plain stream s.
func groupOn(s *scene) *group { return &group{scene: s, stream: "s", wait: map[string]chan struct{}{}} }

// groupOnPartition returns a group on the partition of a super stream whose active
// member is the second of two.
func groupOnPartition(s *scene) *group {
	s.Helper()
	must(s, s.env.DeclareSuperStream(s.ctx, "sup", SuperStreamConfig{Partitions: 3}))
	g := groupOn(s)
	g.stream, g.super = "sup-1", "sup"
	return g
}

// groupMember is one member.
type groupMember struct {
	g    *group
	name string
	env  *Env
	c    *Consumer
	stop context.CancelFunc
	done chan struct{}
	err  error // once done is closed

	mu     sync.Mutex
	states []StateChange
}

// join makes a member whose Run is run, and nil for one that notes what it
// handles.
func (g *group) join(name string, cfg ConsumerConfig, run func(context.Context, *groupMember) error) *groupMember {
	g.Helper()
	m := &groupMember{g: g, name: name, done: make(chan struct{})}
	env, err := Connect(g.ctx, Config{
		URIs: []string{g.b.URI()}, Dial: g.b.Dial, Logger: slog.New(slog.DiscardHandler),
		ConnectionName: name, OnState: m.note, Backoff: Backoff{Min: 10 * time.Millisecond, Max: 50 * time.Millisecond},
	})
	must(g, err)
	m.env = env
	g.Cleanup(func() { _ = env.Close() })
	cfg.Name, cfg.SingleActive = "g", true
	m.c, err = env.NewConsumer(g.stream, cfg)
	must(g, err)
	m.c.superStream = g.super
	if run == nil {
		run = func(ctx context.Context, m *groupMember) error { return m.c.Run(ctx, m.handle) }
	}
	ctx, stop := context.WithCancel(g.ctx)
	m.stop = stop
	go func() {
		defer close(m.done)
		m.err = run(ctx, m)
	}()
	g.until(name+" is in the group", func() bool { return m.count(StateWaiting)+m.count(StateClosed) > 0 })
	return m
}

// until is scene.until that gives up after minutes.
func (g *group) until(what string, cond func() bool) {
	g.Helper()
	for begun := time.Now(); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Since(begun) > 10*time.Minute {
			g.Fatalf("%s: not within 10 minutes; handled %q", what, g.list())
		}
	}
}

// wantNothingClaimed fails the test if the member claims memory for chunks.
func (m *groupMember) wantNothingClaimed() {
	m.g.Helper()
	if claimed := m.env.memory.claimed(); claimed != 0 {
		m.g.Errorf("%s claims %d bytes when it waits", m.name, claimed)
	}
}

// running returns the consumer's run, or nil.
func (c *Consumer) running() *run {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.run
}

func (m *groupMember) note(c StateChange) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c.Role == RoleConsumer {
		m.states = append(m.states, c)
	}
}

// count returns how often a state was reported.
func (m *groupMember) count(s State) int { return len(m.reported(s)) }

func (m *groupMember) reported(s State) (list []StateChange) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range m.states {
		if c.State == s {
			list = append(list, c)
		}
	}
	return list
}

// handle notes a message, and waits if the test holds it.
func (m *groupMember) handle(ctx context.Context, d *Delivery) error {
	body := string(d.Body)
	if held := m.begin(body); held != nil {
		select {
		case <-held:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// begin notes that a handler begins.
func (m *groupMember) begin(body string) (held chan struct{}) {
	m.g.mu.Lock()
	defer m.g.mu.Unlock()
	m.g.handled = append(m.g.handled, m.name+" "+body)
	return m.g.wait[m.name+" "+body]
}

// end stops the member and returns Run's error.
func (m *groupMember) end() error {
	m.g.Helper()
	m.stop()
	recv(m.g, m.done, m.name+"'s end")
	return m.err
}

// hold keeps the handler of a member in a message until release is called.
func (g *group) hold(what string) (release func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	held := make(chan struct{})
	g.wait[what] = held
	return sync.OnceFunc(func() { close(held) })
}

func (g *group) list() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.handled)
}

// began waits until a handler was called with something.
func (g *group) began(what string) {
	g.Helper()
	g.until(what, func() bool { return slices.Contains(g.list(), what) })
}

// want waits until as many messages were handled, and compares what.
func (g *group) want(what ...string) {
	g.Helper()
	g.until(fmt.Sprint(what), func() bool { return len(g.list()) >= len(what) })
	if got := g.list(); !slices.Equal(got, what) {
		g.Errorf("handled\n\t%q, want\n\t%q", got, what)
	}
}

// active waits until a member has become active so many times.
func (m *groupMember) active(times int) {
	m.g.Helper()
	m.g.until(fmt.Sprintf("%s is active for the %d. time", m.name, times), func() bool { return m.count(StateActive) >= times })
}

// stored returns the group's stored offset, or -1.
func (g *group) stored() int64 {
	if offset, ok := g.b.Offset("g", g.stream); ok {
		return int64(offset)
	}
	return -1
}

func (g *group) wantStored(offset int64) {
	g.Helper()
	if got := g.stored(); got != offset {
		g.Errorf("stored %d, want %d", got, offset)
	}
}

func (g *group) publish(bodies ...string) {
	g.Helper()
	must(g, g.b.Publish(g.stream, bodies...))
}

// connectionsOf returns the names of a member's connections.
func (g *group) connectionsOf(m *groupMember) (names []string) {
	for _, c := range g.b.Connections() {
		own := strings.FieldsFunc(c.ClientName, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) })
		if len(own) > 0 && slices.Contains(own, m.name) {
			names = append(names, c.Name)
		}
	}
	return names
}

// cut ends a member's connections.
func (g *group) cut(m *groupMember, how streamtest.Cut) {
	g.Helper()
	names := g.connectionsOf(m)
	if len(names) == 0 {
		g.Fatalf("%s has no connection", m.name)
	}
	for _, name := range names {
		g.b.DropConnection(name, how)
	}
}

// commandsOf returns what a member's connections have sent, but for what keeps
// them alive.
func (g *group) commandsOf(m *groupMember, of ...streamtest.Command) (list []streamtest.Command) {
	names := g.connectionsOf(m)
	for _, r := range g.b.Commands() {
		if slices.Contains(names, r.Connection) && slices.Contains(of, r.Command) {
			list = append(list, r.Command)
		}
	}
	return list
}

// playGroup plays a scene with a group on the plain stream s.
func playGroup(t *testing.T, act func(*group), opts ...streamtest.Option) {
	t.Helper()
	play(t, Config{}, func(s *scene) { act(groupOn(s)) }, opts...)
}

// playPartition plays a scene with a group on a partition.
func playPartition(t *testing.T, act func(*group), opts ...streamtest.Option) {
	t.Helper()
	play(t, Config{}, func(s *scene) { act(groupOnPartition(s)) }, opts...)
}
