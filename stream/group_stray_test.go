package stream

import (
	"context"
	"testing"
)

// A member that is told twice to step down owes two answers. RabbitMQ acts on the
// first, and if it chooses the same member again, takes the second for the answer to
// the promotion: chunks come from where Subscribe said, before the member has said
// where it begins (conformance: "a late answer to a stop counts for who is chosen
// again"). They must not be handed out in place of those in front of them.
func TestGroupChunksBeforeThePromotionIsAnswered(t *testing.T) {
	playPartition(t, func(g *group) {
		terms := 0
		a := g.join("a", ConsumerConfig{OnActive: func(context.Context, string, uint64) error {
			if terms++; terms == 2 {
				g.publish("2") // comes at once
			}
			return nil
		}}, nil)
		a.active(1)
		release := g.hold("a 0")
		g.publish("0")
		g.began("a 0")
		b := g.join("b", ConsumerConfig{}, nil)
		c := g.join("c", ConsumerConfig{}, nil) // a is told a second time
		must(t, c.end())
		must(t, b.end())
		g.publish("1")
		release()
		a.active(2)
		g.publish("3")
		g.want("a 0", "a 1", "a 2", "a 3")
		must(t, a.end())
		g.wantStored(3)
	})
}

// A member that was told twice to step down, and has learned since that the broker
// has acted upon both answers, stays in the group when it is promoted again.
func TestGroupRepeatedStepDownsAreSettled(t *testing.T) {
	playPartition(t, func(g *group) {
		a := g.join("a", ConsumerConfig{}, nil)
		a.active(1)
		release := g.hold("a 0")
		g.publish("0")
		g.began("a 0")
		b := g.join("b", ConsumerConfig{}, nil)
		c := g.join("c", ConsumerConfig{}, nil) // a is told a second time
		release()
		b.active(1)
		g.publish("1")
		g.want("a 0", "b 1")
		must(t, c.end())
		must(t, b.end())
		a.active(2)
		g.publish("2")
		g.want("a 0", "b 1", "a 2")
		if n := a.count(StateReconnecting); n > 0 {
			t.Errorf("it joined anew %d times", n)
		}
		must(t, a.end())
	})
}
