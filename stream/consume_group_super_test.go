package stream

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/streamtest"
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

// A member that loses its connection while it has messages of a partition in hand
// says so of the partition, begins no further one, and stores nothing, as on a stream.
func TestGroupOverlapOnSuperStream(t *testing.T) {
	kinds := append(dispatches(), dispatch{"batches apart", ConsumerConfig{BatchSize: 3, BatchWait: time.Millisecond, BatchPerPartition: true}, runBatches})
	for _, d := range kinds {
		t.Run(d.name, func(t *testing.T) {
			playPartition(t, func(g *group) {
				g.stream, g.super = "sup", ""
				cfg := d.cfg
				cfg.SuperStream = true
				a := g.join("a", cfg, d.run)
				a.active(3)
				release := g.hold("a 1")
				defer release()
				must(t, g.b.Publish("sup-1", "1", "2", "3", "4", "5", "6"))
				g.began("a 1")
				before := len(g.list())
				b := g.join("b", cfg, d.run)
				g.cut(a, streamtest.CutRST)
				g.until("the first has noticed", func() bool { return len(a.reported(StateOverlap)) > 0 })
				if d.name != "all" && d.name != "batches" { // whose contexts are not of the term
					g.until("its handler has learned of it", func() bool { return a.countOf("sup-1", StateWaiting) == 2 })
				}
				release()
				time.Sleep(time.Minute)
				if list := a.reported(StateOverlap); len(list) != 1 || list[0].Stream != "sup-1" {
					t.Errorf("overlaps: %+v", list)
				}
				must(t, b.end())
				must(t, a.end())
				if offset, ok := g.b.Offset("g", "sup-1"); !ok || offset != 5 {
					t.Errorf("stored %d, %v", offset, ok)
				}
				if d.cfg.BatchSize == 0 && d.cfg.Workers == 0 && len(g.list()) != before+6 {
					t.Errorf("handled %q", g.list())
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

// TestSuperStreamGroup: the partitions spread over the members of a group. Members
// come and go in order: each message is handled once, and by partition in order.
func TestSuperStreamGroup(t *testing.T) {
	for name, cfg := range map[string]ConsumerConfig{
		"one at a time": {}, "workers": {Workers: 4, KeyOf: func(d *Delivery) string { return "" }},
		"batches": {BatchSize: 7, BatchWait: 50 * time.Millisecond}, "batches apart": {BatchSize: 7, BatchWait: 50 * time.Millisecond, BatchPerPartition: true},
	} {
		t.Run(name, func(t *testing.T) {
			playParts(t, 3, func(s *partScene) {
				cfg.Name, cfg.SingleActive = "billing", true
				by := make([]map[string]int, 3)
				join := func(i int) *superRunning {
					env := s.connect(Config{})
					c, err := env.NewConsumer("orders", func() ConsumerConfig { cfg := cfg; cfg.SuperStream = true; return cfg }())
					must(s, err)
					by[i] = map[string]int{}
					note := func(d *Delivery) {
						time.Sleep(time.Millisecond)
						s.note(d)
						s.mu.Lock()
						defer s.mu.Unlock()
						by[i][d.Stream]++
					}
					return s.start(func(ctx context.Context) error {
						if cfg.BatchSize > 0 {
							return c.RunBatch(ctx, func(_ context.Context, batch []Delivery) error {
								for i := range batch {
									note(&batch[i])
								}
								return nil
							})
						}
						return c.Run(ctx, func(_ context.Context, d *Delivery) error { note(d); return nil })
					})
				}
				members := make([]*superRunning, 3)
				end := 0
				step := func() {
					end += 100
					s.fill(end-100, end, s.partitions...)
					s.want(3 * end)
				}
				for i := range members {
					members[i] = join(i)
					time.Sleep(time.Second)
					step()
				}
				for i := range by { // each has a partition of its own now
					s.mu.Lock()
					clear(by[i])
					s.mu.Unlock()
				}
				step()
				s.mu.Lock()
				for i := range by {
					if len(by[i]) != 1 {
						s.Errorf("member %d has %v", i, by[i])
					}
				}
				s.mu.Unlock()
				for _, m := range members {
					s.fill(end, end+50, s.partitions...) // while a member leaves
					must(s, m.stopped())
					end += 50
					if m != members[2] {
						s.want(3 * end)
					}
				}
				join(0)
				s.want(3 * end)
			})
		})
	}
}
