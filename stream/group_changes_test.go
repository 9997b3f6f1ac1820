package stream

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

const groupName = "group"

// newSuperStream declares a super stream of the test's own.
func newSuperStream(t testing.TB, env *Env, partitions int) string {
	t.Helper()
	name := fmt.Sprintf("%s-%d", strings.ReplaceAll(t.Name(), "/", "-"), rand.Uint64())
	must(t, env.DeclareSuperStream(inTime(t), name, SuperStreamConfig{Partitions: partitions}))
	return name
}

// changingGroup is a healthy group whose members come and go in order. It follows
// the broker's rule of who is active, and counts the terms that there should be.
type changingGroup struct {
	t          *testing.T
	b          testBroker
	env        *Env // publishes
	stream     string
	super      bool
	partitions []string
	members    []*changingMember // in the order in which they joined
	joined     int
	shouldBe   map[string]int // by partition: the id of the active one
	terms      int            // that there should be

	mu       sync.Mutex
	began    int            // terms
	active   map[string]int // by partition: the id of the active one
	twoAtOne int            // how often a term began before the one before it had ended
	handled  map[string]int // by partition and number
}

type changingMember struct {
	id    int
	env   *Env
	stop  context.CancelFunc
	ended chan error
	in    map[string]bool // partitions that it has joined
}

func newChangingGroup(t *testing.T, b testBroker, super bool) *changingGroup {
	g := &changingGroup{
		t: t, b: b, env: connect(t, b.StreamURL()), super: super, shouldBe: map[string]int{}, active: map[string]int{}, handled: map[string]int{},
	}
	if super {
		g.stream = newSuperStream(t, g.env, 3)
		var err error
		g.partitions, err = g.env.Partitions(inTime(t), g.stream)
		must(t, err)
	} else {
		g.stream = newStream(t, g.env)
		g.partitions = []string{g.stream}
	}
	return g
}

// join adds a member and waits until it is in the group of each partition.
func (g *changingGroup) join() {
	g.joined++
	m := &changingMember{id: g.joined, ended: make(chan error, 1), in: map[string]bool{}}
	m.env = connectWith(g.t, g.b.StreamURL(), Config{OnState: func(c StateChange) {
		if c.State == StateWaiting || c.State == StateActive {
			g.mu.Lock()
			m.in[c.Stream] = true
			g.mu.Unlock()
		}
	}})
	c, err := m.env.NewConsumer(g.stream, ConsumerConfig{
		Name: groupName, SingleActive: true, SuperStream: g.super,
		OnActive: func(_ context.Context, stream string, _ uint64) error {
			g.mu.Lock()
			defer g.mu.Unlock()
			if _, other := g.active[stream]; other {
				g.twoAtOne++
			}
			g.active[stream] = m.id
			g.began++
			return nil
		},
		OnInactive: func(_ context.Context, stream string) error {
			g.mu.Lock()
			defer g.mu.Unlock()
			delete(g.active, stream)
			return nil
		},
	})
	must(g.t, err)
	ctx, stop := context.WithCancel(g.t.Context())
	m.stop = stop
	go func() {
		m.ended <- c.Run(ctx, func(_ context.Context, d *Delivery) error {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.handled[d.Stream+" "+string(d.Body)]++
			return nil
		})
	}()
	g.members = append(g.members, m)
	eventually(g.t, fmt.Sprintf("member %d is in the group", m.id), timeLimit(), func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return len(m.in) == len(g.partitions)
	})
}

// leave ends a member in order.
func (g *changingGroup) leave(i int) {
	m := g.members[i]
	g.members = slices.Delete(g.members, i, i+1)
	m.stop()
	must(g.t, recv(g.t, m.ended, "a member ends"))
	must(g.t, m.env.Close())
}

// settle waits until those are active that should be.
func (g *changingGroup) settle() {
	g.t.Helper()
	for k, p := range g.partitions {
		should := g.wanted(k)
		if should != g.shouldBe[p] && should != 0 {
			g.terms++
		}
		g.shouldBe[p] = should
	}
	want := maps.Clone(g.shouldBe)
	maps.DeleteFunc(want, func(_ string, id int) bool { return id == 0 })
	eventually(g.t, "those are active that should be", timeLimit(), func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return maps.Equal(g.active, want) && g.began >= g.terms
	})
}

// wanted returns the id of the member that should be active on partition k: the
// broker's rule.
func (g *changingGroup) wanted(k int) int {
	n := len(g.members)
	switch {
	case n == 0:
		return 0
	case g.super:
		return g.members[k%n].id
	case slices.ContainsFunc(g.members, func(m *changingMember) bool { return m.id == g.shouldBe[g.stream] }):
		return g.shouldBe[g.stream] // whoever is active stays so
	}
	return g.members[0].id
}

// TestGroupChanges: the members of a healthy group come and go 100 times, on
// RabbitMQ TIDEMARK_GROUP_CHANGES=100 times. No term begins but where the broker's
// rule wants it, none beside another, and each message is handled once.
func TestGroupChanges(t *testing.T) {
	beside(t)
	for _, super := range []bool{false, true} {
		t.Run(map[bool]string{false: "stream", true: "super stream"}[super], func(t *testing.T) {
			besideSubtest(t)
			onBrokers(t, func(t *testing.T, b testBroker) { testGroupChanges(t, newChangingGroup(t, b, super)) })
		})
	}
}

func testGroupChanges(t *testing.T, g *changingGroup) {
	changes, each := 100, 5
	if _, inMemory := g.b.(inProcess); !inMemory {
		changes = soakNumber(t, "TIDEMARK_GROUP_CHANGES", 40)
	}
	for i := range changes {
		if n := len(g.members); n == 0 || n < 5 && rand.IntN(2) == 0 {
			g.join()
		} else {
			g.leave(rand.IntN(n))
		}
		g.settle()
		for _, p := range g.partitions {
			publish(t, g.env, p, i*each, (i+1)*each)
		}
	}
	if len(g.members) == 0 {
		g.join()
		g.settle()
	}
	all := changes * each * len(g.partitions)
	eventually(t, "all messages are handled", time.Minute, func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return len(g.handled) == all
	})
	for len(g.members) > 0 {
		g.leave(len(g.members) - 1)
		g.settle()
	}
	if g.began != g.terms || g.twoAtOne > 0 {
		t.Errorf("%d terms began, want %d; %d beside another", g.began, g.terms, g.twoAtOne)
	}
	for _, p := range g.partitions {
		for i := range changes * each {
			if n := g.handled[p+" "+strconv.Itoa(i)]; n != 1 {
				t.Fatalf("message %d of %s was handled %d times", i, p, n)
			}
		}
	}
}
