//go:build unix

package stream

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/internal/history"
)

// killedGroup is a group of processes on a stream to which somebody publishes all
// the time, and what they have written down.
type killedGroup struct {
	*testing.T
	uris     []string
	settings memberSettings

	mu      sync.Mutex
	first   map[uint16]time.Time // by member: when it began its first message
	waits   map[uint16]bool
	handled map[uint32]int // by number: how often it was begun
}

func (g *killedGroup) record(r history.Record) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch r.Kind {
	case history.Waits:
		g.waits[r.Member] = true
	case history.Begun:
		g.handled[r.Number]++
		if _, ok := g.first[r.Member]; !ok {
			g.first[r.Member] = time.Unix(0, r.At)
		}
	}
}

// join starts a process and waits until it is in the group.
func (g *killedGroup) join() *memberOutside {
	g.Helper()
	g.settings.ID++
	m := startOutside(g.T, g.settings, g.uris, g.record)
	eventually(g, fmt.Sprintf("member %d is in the group", m.id), patience, func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return g.waits[m.id]
	})
	return m
}

// firstOf waits for the first message of a member, and returns when it began.
func (g *killedGroup) firstOf(m *memberOutside) (at time.Time) {
	g.Helper()
	eventually(g, fmt.Sprintf("member %d handles a message", m.id), patience, func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		at = g.first[m.id]
		return !at.IsZero()
	})
	return at
}

// The next process goes on when the active one is killed by SIGKILL, and nothing is
// left out. How long that takes is printed.
func TestGroupSIGKILLByVersion(t *testing.T) {
	onBrokers(t, func(t *testing.T, b testBroker) {
		env := connect(t, b.StreamURL())
		stream := newStream(t, env)
		g := &killedGroup{
			T: t, uris: []string{b.StreamURL()}, first: map[uint16]time.Time{}, waits: map[uint16]bool{}, handled: map[uint32]int{},
			settings: memberSettings{Stream: stream, Partitions: []string{stream}, Heartbeat: groupHeartbeat},
		}
		p, err := env.NewProducer(inTime(t), stream, ProducerConfig{})
		must(t, err)
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		published, ended := 0, make(chan error, 1)
		go func() {
			var err error
			for ; err == nil && sleep(ctx, time.Millisecond) == nil; published++ {
				err = p.Publish(context.Background(), Message{Body: binary.BigEndian.AppendUint32(nil, uint32(published))})
			}
			ended <- err
		}()
		active := g.join()
		g.firstOf(active)
		var took []time.Duration
		for range soakNumber(t, "TIDEMARK_GROUP_KILLS", 8) {
			next := g.join()
			begun := time.Now()
			active.kill()
			took = append(took, g.firstOf(next).Sub(begun))
			active = next
		}
		stop()
		must(t, recv(t, ended, "the publisher's end"))
		must(t, p.Close(inTime(t)))
		eventually(t, "all are handled", patience, func() bool {
			g.mu.Lock()
			defer g.mu.Unlock()
			return len(g.handled) == published
		})
		active.stop()
		slices.Sort(took)
		t.Logf("RabbitMQ %s: the next process's first message after %v (p50), %v (worst) of %d SIGKILLs", env.cluster.Version(), took[len(took)/2], took[len(took)-1], len(took))
	})
}
