package stream

import (
	"sync"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/rabbit"
	"go.uber.org/goleak"
)

var cluster = sync.OnceValues(func() (*rabbit.Instance, error) { return settled(up("test-cluster", 3)) })

// runningCluster returns the cluster with all its nodes up.
func runningCluster(t *testing.T) *rabbit.Instance {
	t.Helper()
	needReal(t)
	b, err := cluster()
	must(t, err)
	for _, n := range b.Nodes() {
		must(t, b.Start(t.Context(), n.Name))
	}
	noLeaks(t, goleak.IgnoreAnyFunction("os/exec.(*Cmd).Wait"))
	return b
}

// leaderOf returns the name of the node that leads a stream, once one does and
// both its replicas are there: without them, it cannot be spared.
func leaderOf(t *testing.T, env *Env, b *rabbit.Instance, stream string) (name string) {
	t.Helper()
	eventually(t, "the stream has a leader", time.Minute, func() bool {
		l, err := env.cluster.Find(t.Context(), stream)
		if err == nil && len(l.Replicas) == 2 {
			name = nodeAt(b, l.Leader.Port)
		}
		return name != ""
	})
	return name
}

// leaderNow returns the name of the node that leads a stream, whether its
// replicas are there or not.
func leaderNow(t *testing.T, env *Env, b *rabbit.Instance, stream string) (name string) {
	t.Helper()
	l, err := env.cluster.Find(inTime(t), stream)
	must(t, err)
	return nodeAt(b, l.Leader.Port)
}

// nodeAt returns the name of the node with a stream listener at a port.
func nodeAt(b *rabbit.Instance, port int) string {
	for _, n := range b.Nodes() {
		if n.StreamPort == port {
			return n.Name
		}
	}
	return ""
}

// The leader of a stream with three replicas is killed, again and again.
func TestRealLeaderKilled(t *testing.T) {
	b := runningCluster(t)
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
