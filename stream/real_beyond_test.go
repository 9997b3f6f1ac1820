package stream

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/mark"
	"github.com/tidemark-go/tidemark/internal/rabbit"
)

// The tests of this file hold back a replica of a stream on a real cluster. Then
// what a node says of the stream's end is not what was stored there. RabbitMQ
// elects the longest log of a majority, so a stored offset that the cluster gave
// out and a consumer reached never lies beyond the end; only a wrong one does.

// trio is the nodes of a cluster of three by the part they play for a stream.
type trio struct {
	*rabbit.Instance
	t                    *testing.T
	leader, next, behind string // behind is to be held back, so that next is elected
}

// trioOf says who plays which part for a stream. In the end all nodes run again,
// and none holds anything back.
func trioOf(t *testing.T, env *Env, b *rabbit.Instance, stream string) trio {
	t.Helper()
	c := trio{Instance: b, t: t, leader: leaderOf(t, env, b, stream)}
	var others []string
	for _, n := range b.Nodes() {
		if n.Name != c.leader {
			others = append(others, n.Name)
		}
	}
	c.next, c.behind = others[0], others[1]
	t.Cleanup(func() {
		for _, n := range b.Nodes() {
			if err := b.Start(context.Background(), n.Name); err != nil {
				t.Error(err)
			}
			if _, err := b.Ctl(context.Background(), n.Name, "eval", resumeReaders); err != nil {
				t.Error(err)
			}
		}
	})
	return c
}

// eval evaluates Erlang on a node.
func (c trio) eval(node, expression string, args ...any) {
	c.t.Helper()
	_, err := c.Ctl(c.t.Context(), node, "eval", fmt.Sprintf(expression, args...))
	must(c.t, err)
}

const (
	// suspendReaders stops a leader's node from sending to the replicas on a
	// node. The processes read the log for the replicas.
	suspendReaders = `[sys:suspend(P) || {_, P, _, _} <- supervisor:which_children(osiris_replica_reader_sup),
		lists:any(fun(X) -> is_pid(X) andalso node(X) =:= '%s@localhost' end, tuple_to_list(sys:get_state(P)))].`
	// suspendStarts keeps such processes from being started, so that a node that
	// is elected next does not learn what its replicas have.
	suspendStarts = `sys:suspend(osiris_replica_reader_sup).`
	// resumeReaders ends both.
	resumeReaders = `sys:resume(osiris_replica_reader_sup),
		[sys:resume(P) || {_, P, _, _} <- supervisor:which_children(osiris_replica_reader_sup)].`
)

// behindBy publishes n messages that the replica behind does not get. What comes
// before them it has.
func (c trio) behindBy(env *Env, stream string, first, n int) {
	c.t.Helper()
	c.eval(c.leader, suspendReaders, c.behind)
	publish(c.t, env, stream, first, first+n)
}

// wantReader waits until the Env with that ConnectionName is connected to a node.
func (c trio) wantReader(connection, node string) {
	c.t.Helper()
	eventually(c.t, "the consumer is connected to "+node, time.Minute, func() bool {
		all, err := c.Connections(c.t.Context())
		must(c.t, err)
		return slices.ContainsFunc(all, func(o rabbit.Connection) bool {
			return o.Node == node+"@localhost" && strings.HasPrefix(o.ClientName(), connection)
		})
	})
}

// follow runs a consumer and hands out the offsets that it handles.
func follow(t *testing.T, env *Env, stream, name string) (handled chan uint64) {
	t.Helper()
	handled = make(chan uint64, 1000)
	stop, _ := runConsumer(t, env, stream, ConsumerConfig{Name: name, Start: Stored(First())}, func(d *Delivery) { handled <- d.Offset })
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	return handled
}

// wantNone watches for longer than a verdict takes: nothing is handled, and no
// consumer says that its offset lies beyond the end.
func wantNone(t *testing.T, changes chan StateChange, handled ...chan uint64) {
	t.Helper()
	eventually(t, "a verdict would have been given", time.Minute, laterThan(time.Now().Add(mark.BeyondEndTime+3*lookPause)))
	for _, ch := range handled {
		if len(ch) > 0 {
			t.Errorf("offset %d was handled", <-ch)
		}
	}
	if c := beyondOf(changes); c != nil {
		t.Errorf("%s: %v", c.Name, c.Err)
	}
}

// wantAttempts waits until a consumer has tried that often to connect again, in
// vain.
func wantAttempts(t *testing.T, changes chan StateChange, n int) {
	t.Helper()
	for {
		select {
		case c := <-changes:
			switch {
			case c.State == StateOffsetBeyondEnd || c.State == StateConnected:
				t.Fatalf("%v: %v", c.State, c.Err)
			case c.Attempt >= n:
				return
			}
		case <-time.After(time.Minute): // newer ones do not answer without a majority
			t.Fatal("it tries no more")
		}
	}
}

// beyondOf returns the next report of an offset beyond the end, if there is one.
func beyondOf(changes chan StateChange) *StateChange {
	for len(changes) > 0 {
		if c := <-changes; c.State == StateOffsetBeyondEnd {
			return &c
		}
	}
	return nil
}

// wantNext wants the next n messages, from an offset on, each of them once.
func wantNext(t *testing.T, handled chan uint64, from, n uint64) {
	t.Helper()
	for range n {
		select {
		case got := <-handled:
			if got < from {
				t.Fatalf("offset %d came again or out of order, want %d or a later one", got, from)
			}
			from = got + 1
		case <-time.After(time.Minute):
			t.Fatalf("no message at %d or later", from)
		}
	}
}

// storedIn returns a stream of 201 messages, of which one replica has the first
// 100, and the offset of "billing", which has handled all but the last one. A
// majority has that offset.
func storedIn(t *testing.T, b *rabbit.Instance) (env *Env, stream string, c trio, stored uint64) {
	t.Helper()
	env = connect(t, b.StreamURL())
	stream = newStream(t, env)
	publish(t, env, stream, 0, 100)
	c = trioOf(t, env, b, stream)
	c.behindBy(env, stream, 100, 100)
	stored = 199
	must(t, env.StoreOffset(inTime(t), "billing", stream, stored))
	publish(t, env, stream, 200, 201) // confirmed, and the stored offset is before it
	return env, stream, c, stored
}

// watchedAs is watched with a name that the broker's management shows.
func watchedAs(t *testing.T, uri, name string) (*Env, chan StateChange) {
	t.Helper()
	changes := make(chan StateChange, 10_000)
	return connectWith(t, uri, Config{ConnectionName: name, Heartbeat: 3 * time.Second, OnState: func(c StateChange) { changes <- c }}), changes
}

// TestRealReplicaHeldBack: one node is down, the replica on another one is behind
// the stored offset, and the leader is killed. The consumer, which has only that
// replica to read from, drops nothing and starts over nowhere: the leader has
// the offset. Without the leader there is no majority, so nobody leads until the
// node that has everything is back.
func TestRealReplicaHeldBack(t *testing.T) {
	b := runningCluster(t)
	env, stream, c, stored := storedIn(t, b)
	must(t, b.Kill(t.Context(), c.next))
	watcher, changes := watchedAs(t, b.StreamURL(), stream)
	handled := follow(t, watcher, stream, "billing")
	c.wantReader(stream, c.behind)
	wantNone(t, changes, handled)
	must(t, b.Kill(t.Context(), c.leader))
	wantAttempts(t, changes, 4)
	must(t, b.Start(t.Context(), c.next))
	wantNext(t, handled, stored+1, 1)
	if got := leaderNow(t, env, b, stream); got != c.next {
		t.Errorf("%s was elected, and %s has the longest log", got, c.next)
	}
	publish(t, env, stream, 201, 251)
	wantNext(t, handled, stored+2, 50)
	if c := beyondOf(changes); c != nil {
		t.Errorf("%s: %v", c.Name, c.Err)
	}
}

// TestRealLeaderInDoubt: the leader is killed, and the new one does not learn
// what its only replica has, so that it knows nothing behind that as committed.
// The looks at its last chunk end in no verdict until it does. Then an offset
// that was reached is found, and one that never was lies beyond the end.
func TestRealLeaderInDoubt(t *testing.T) {
	b := runningCluster(t)
	env, stream, c, stored := storedIn(t, b)
	const wrong = 5000
	must(t, env.StoreOffset(inTime(t), "wrong", stream, wrong))
	publish(t, env, stream, 201, 202)
	c.eval(c.next, suspendStarts)
	must(t, b.Kill(t.Context(), c.leader))
	watcher, changes := watchedAs(t, b.StreamURL(), stream)
	handled, fromEnd := follow(t, watcher, stream, "billing"), follow(t, watcher, stream, "wrong")
	c.wantReader(stream, c.next)
	stats, err := env.Stats(t.Context(), stream)
	if must(t, err); stats.CommittedChunk > stored {
		t.Fatalf("the new leader knows %d as committed: nothing is in doubt", stats.CommittedChunk)
	}
	wantNone(t, changes, handled, fromEnd)
	c.eval(c.next, resumeReaders)
	wantNext(t, handled, stored+1, 2)
	var beyond *StateChange
	eventually(t, "the wrong offset lies beyond the end", time.Minute, func() bool { beyond = beyondOf(changes); return beyond != nil })
	if beyond.Name != "wrong" || !strings.Contains(beyond.Err.Error(), fmt.Sprintf("offset %d ", wrong)) {
		t.Errorf("%s: %v", beyond.Name, beyond.Err)
	}
	publish(t, env, stream, 202, 252)
	wantNext(t, handled, stored+3, 50)
	wantNext(t, fromEnd, stored+3, 50)
	if c := beyondOf(changes); c != nil {
		t.Errorf("%s: %v", c.Name, c.Err)
	}
}
