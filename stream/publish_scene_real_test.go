package stream

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// TestRealSceneMoves is TestSceneMoves on three real nodes: a named producer
// publishes every 2 ms beside one without a name, while leaders are moved and one
// is killed. What is confirmed is in the stream: with the name once, in order.
func TestRealSceneMoves(t *testing.T) {
	needReal(t)
	b, err := cluster()
	must(t, err)
	for _, n := range b.Nodes() {
		must(t, b.Start(t.Context(), n.Name))
	}
	noLeaks(t, goleak.IgnoreAnyFunction("os/exec.(*Cmd).Wait"))
	env := connect(t, b.StreamURL())
	stream := newStream(t, env)
	ctx, stop := context.WithCancel(t.Context())
	names := []string{"named", ""}
	accepted := make([]int, len(names))
	var publishing sync.WaitGroup
	for i, name := range names {
		p, err := env.NewProducer(inTime(t), stream, ProducerConfig{Name: name})
		must(t, err)
		publishing.Go(func() { accepted[i] = everyTwo(ctx, t, p, name) })
	}
	for range 5 {
		pause(time.Second) // publishing goes on
		leader := leaderOf(t, env, b, stream)
		if _, err := b.Streams(t.Context(), leader, "restart_stream", stream); err != nil {
			t.Logf("restart_stream: %v", err)
		}
	}
	leader := leaderOf(t, env, b, stream)
	must(t, b.Kill(t.Context(), leader))
	pause(time.Second)
	must(t, b.Start(t.Context(), leader))
	pause(time.Second)
	stop()
	publishing.Wait()
	got := readToMark(t, env, stream)
	for i, name := range names {
		var own []string
		seen := make(map[string]bool)
		for _, body := range got {
			if body[0] == (name + "-")[0] && (name != "" || !seen[body]) {
				own, seen[body] = append(own, body), true
			}
		}
		var want []string
		for n := range accepted[i] {
			want = append(want, fmt.Sprintf("%s-%d", name, n))
		}
		if !slices.Equal(own, want) {
			t.Errorf("of %d messages of %q, all of them confirmed, %d are in the stream, or in another order", len(want), name, len(own))
		}
	}
	t.Logf("%d and %d messages", accepted[0], accepted[1])
}

// everyTwo publishes a message every 2 ms until ctx ends, and returns how many.
// Every one of them has to be confirmed.
func everyTwo(ctx context.Context, t *testing.T, p *Producer, name string) (n int) {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for ; ctx.Err() == nil; n++ {
		body := fmt.Sprintf("%s-%d", name, n)
		err := p.PublishAsync(t.Context(), Message{Body: []byte(body)}, func(err error) {
			if err != nil {
				t.Errorf("%s: %v", body, err)
			}
		})
		if err != nil {
			t.Errorf("%s: %v", body, err)
		}
		<-tick.C
	}
	if err := p.Close(inTime(t)); err != nil {
		t.Error(err)
	}
	return n
}

// readToMark returns all bodies of a stream, at whose end it publishes a mark.
func readToMark(t *testing.T, env *Env, stream string) (bodies []string) {
	t.Helper()
	p, err := env.NewProducer(inTime(t), stream, ProducerConfig{})
	must(t, err)
	must(t, p.Publish(inTime(t), Message{Body: []byte("mark")}))
	must(t, p.Close(inTime(t)))
	c, err := env.NewConsumer(stream, ConsumerConfig{Start: First()})
	must(t, err)
	ctx, cancel := context.WithCancel(inTime(t))
	defer cancel()
	must(t, c.Run(ctx, func(_ context.Context, d *Delivery) error {
		if string(d.Body) == "mark" {
			cancel()
			return nil
		}
		bodies = append(bodies, string(d.Body))
		return nil
	}))
	return bodies
}
