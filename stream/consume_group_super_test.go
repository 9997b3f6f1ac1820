package stream

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// The partitions of a super stream spread over the members of a group, and move
// when members come and go. Nothing is handled twice or left out, and each
// partition's messages come in order.
func TestGroupOnSuperStream(t *testing.T) {
	for _, d := range dispatches() {
		t.Run(d.name, func(t *testing.T) {
			playPartition(t, func(g *group) {
				g.stream, g.super = "sup", ""
				cfg := d.cfg
				cfg.SuperStream = true
				n := 0
				publish := func() {
					for i := range 3 {
						must(t, g.b.Publish(fmt.Sprint("sup-", i), fmt.Sprintf("%d.%03d", i, n)))
					}
					n++
				}
				handled := func() bool { return len(g.list()) >= 3*n }
				a := g.join("a", cfg, d.run)
				a.active(3)
				publish()
				g.until("one has all", handled)
				b := g.join("b", cfg, d.run)
				b.active(1)
				for range 10 {
					publish()
				}
				g.until("two share", handled)
				c := g.join("c", cfg, d.run)
				c.active(1)
				for range 10 {
					publish()
				}
				g.until("three share", handled)
				for _, m := range []*groupMember{a, b, c} {
					if own := g.partitionsOf(m, n-1); len(own) != 1 {
						t.Errorf("%s had %v", m.name, own)
					}
				}
				must(t, a.end())
				publish()
				g.until("two are left", handled)
				must(t, b.end())
				publish()
				g.until("one is left", handled)
				time.Sleep(time.Minute)
				must(t, c.end())
				got := g.list()
				if len(got) != 3*n {
					t.Errorf("%d messages were handled %d times", 3*n, len(got))
				}
				if d.cfg.Workers > 1 {
					return
				}
				last := map[byte]string{}
				for _, what := range got {
					body := strings.Fields(what)[1]
					if body <= last[body[0]] {
						t.Errorf("%s came behind %s", body, last[body[0]])
					}
					last[body[0]] = body
				}
			})
		})
	}
}

// partitionsOf returns the partitions of which a member has handled the n-th
// message.
func (g *group) partitionsOf(m *groupMember, n int) (list []string) {
	for _, what := range g.list() {
		if body, own := strings.CutPrefix(what, m.name+" "); own && strings.HasSuffix(body, fmt.Sprintf(".%03d", n)) {
			list = append(list, body[:1])
		}
	}
	return slices.Compact(list)
}

// A Commit of a consumer of a super stream stores the partitions that it has.
func TestGroupCommitOnSuperStream(t *testing.T) {
	playPartition(t, func(g *group) {
		g.stream, g.super = "sup", ""
		cfg := ConsumerConfig{SuperStream: true, Store: StorePolicy{Manual: true}}
		a := g.join("a", cfg, nil)
		a.active(3)
		b := g.join("b", cfg, nil)
		b.active(1)
		for i := range 3 {
			must(t, g.b.Publish(fmt.Sprint("sup-", i), fmt.Sprint(i)))
		}
		g.until("all", func() bool { return len(g.list()) == 3 })
		time.Sleep(time.Second)
		must(t, a.c.Commit(context.Background()))
		for i, want := range []bool{true, false, true} {
			if _, ok := g.b.Offset("g", fmt.Sprint("sup-", i)); ok != want {
				t.Errorf("partition %d is stored: %v", i, ok)
			}
		}
		must(t, b.end())
		must(t, a.end())
	})
}
