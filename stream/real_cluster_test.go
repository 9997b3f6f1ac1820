package stream

import (
	"sync"
	"testing"

	"github.com/tidemark-go/tidemark/internal/rabbit"
	"go.uber.org/goleak"
)

var cluster = sync.OnceValues(func() (*rabbit.Instance, error) { return settled(up("test-cluster", 3)) })

// leaderOf returns the name of the node that leads a stream.
func leaderOf(t *testing.T, env *Env, b *rabbit.Instance, stream string) string {
	t.Helper()
	c, err := env.adminConn(t.Context())
	must(t, err)
	l, err := c.locate(t.Context(), stream)
	must(t, err)
	for _, n := range b.Nodes() {
		if n.StreamPort == l.leader.port {
			return n.Name
		}
	}
	t.Fatalf("no node has port %d", l.leader.port)
	return ""
}

// The leader of a stream with three replicas is killed, again and again.
func TestRealLeaderKilled(t *testing.T) {
	needReal(t)
	b, err := cluster()
	must(t, err)
	for _, n := range b.Nodes() {
		must(t, b.Start(t.Context(), n.Name))
	}
	noLeaks(t, goleak.IgnoreAnyFunction("os/exec.(*Cmd).Wait"))
	env := connect(t, b.StreamURL())
	const total, kills = 100_000, 3
	j := startJourney(t, env, "numbers", total)
	for i := range kills {
		j.reach((i + 1) * total / (kills + 1))
		leader := leaderOf(t, env, b, j.stream)
		must(t, b.Kill(t.Context(), leader))
		j.reach(min(total, int(j.handled.Load())+window/2)) // with the two nodes that are left
		must(t, b.Start(t.Context(), leader))
	}
	j.finish(env, true)
}
