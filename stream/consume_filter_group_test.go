package stream

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"
)

// TestFilterInGroup: a member's mark passes what the broker skips, while it is
// active and at the end of its term, and the next member begins behind that.
func TestFilterInGroup(t *testing.T) {
	inBubble(t, func(x *filterBench) {
		cfg := ConsumerConfig{SingleActive: true, Filter: byFirst.Filter("a")}
		x.put("b 0", "b 1")
		first := x.run(x.consumer(cfg))
		x.settle(5 * time.Second)
		x.wantStored(1)
		second := x.run(x.consumer(cfg))
		x.put("a 2", "b 3")
		x.put("b 4")
		x.settle(5 * time.Second)
		x.wantHandled("a 2")
		x.wantStored(4)
		x.put("b 5")
		must(t, first()) // before anybody looks at the last chunk
		x.wantStored(5)
		x.put("b 6")
		x.put("a 7")
		x.settle(time.Second / 2)
		x.wantHandled("a 7")
		x.wantStored(7)
		x.put("b 8")
		x.settle(5 * time.Second)
		x.wantStored(8)
		must(t, second())
	})
}

// TestFilterInMixedBatches: the marks of the partitions pass what the filter
// leaves out, together with what the batch has of each and not before.
func TestFilterInMixedBatches(t *testing.T) {
	inBubble(t, func(x *filterBench) {
		must(t, x.env.DeclareSuperStream(x.ctx, "super", SuperStreamConfig{Partitions: 2}))
		p, err := x.env.NewProducer(x.ctx, "super", ProducerConfig{SuperStream: true, Routing: RouteBy(func(m *Message, partitions []string) ([]string, error) {
			return []string{partitions[m.Body[len(m.Body)-1]-'0']}, nil
		})})
		must(t, err)
		put := func(bodies ...string) {
			for _, body := range bodies { // a chunk each
				must(t, p.Publish(x.ctx, byFirst.Tag(Message{Body: []byte(body)})))
			}
		}
		stored := func() string {
			n0, ok0 := x.b.Offset("billing", "super-0")
			n1, ok1 := x.b.Offset("billing", "super-1")
			return fmt.Sprint(n0, ok0, n1, ok1)
		}
		c, err := x.env.NewConsumer("super", ConsumerConfig{Name: "billing", SuperStream: true, BatchSize: 3, BatchWait: time.Minute, Filter: byFirst.Filter("a")})
		must(t, err)
		ctx, cancel := context.WithCancel(x.ctx)
		ended := make(chan error, 1)
		var batches [][]string
		go func() {
			ended <- c.RunBatch(ctx, func(_ context.Context, batch []Delivery) error {
				var bodies []string
				for i := range batch {
					bodies = append(bodies, string(batch[i].Body))
				}
				slices.Sort(bodies)
				batches = append(batches, bodies)
				return nil
			})
		}()
		x.settle(time.Second)
		put("a 0", "b 0", "b 1", "b 1")
		x.settle(20 * time.Second)
		if got, want := stored(), "0 false 1 true"; got != want || len(batches) > 0 {
			t.Errorf("with a message in the batch %s is stored, want %s; handled %q", got, want, batches)
		}
		put("a 1", "b 1", "a 1")
		x.settle(20 * time.Second)
		if got, want := stored(), "1 true 4 true"; got != want || fmt.Sprint(batches) != "[[a 0 a 1 a 1]]" {
			t.Errorf("behind the batch %s is stored, want %s; handled %q", got, want, batches)
		}
		cancel()
		must(t, <-ended)
		must(t, p.Close(x.ctx))
	})
}
