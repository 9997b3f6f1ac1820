package stream

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-go/tidemark/streamtest"
)

// TestFilterFailure: what the filter leaves out behind a message that fails is not
// passed.
func TestFilterFailure(t *testing.T) {
	for name, workers := range map[string]int{"one": 0, "workers": 3} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(x *filterBench) {
				x.put("a 0", "b 1")
				x.put("a 2", "b 3")
				x.put("b 4")
				c := x.consumer(ConsumerConfig{Filter: byFirst.Filter("a"), Workers: workers})
				err := c.Run(x.ctx, func(_ context.Context, d *Delivery) error {
					if d.Offset == 2 {
						// The run looks further meanwhile, and the mark must not pass it.
						// With workers it goes on looking whether there is more.
						looks, stats := x.b.Received(streamtest.Subscribe), x.b.Received(streamtest.StreamStats)
						if err := x.b.Await(x.ctx, func() bool {
							return x.b.Received(streamtest.Subscribe) > looks && (workers == 0 || x.b.Received(streamtest.StreamStats) > stats+3)
						}); err != nil {
							return err
						}
						synctest.Wait()
						if got, ok := x.b.Offset("billing", x.name); ok && got > 1 {
							t.Errorf("offset %d is stored, and 2 is in hand", got)
						}
						return errTest
					}
					return nil
				})
				wantErr(t, err, errTest)
				x.wantStored(1)
			})
		})
	}
}

// TestFilterPanics: a panic of Match ends the run as one of the handler does, once
// what comes before is handled.
func TestFilterPanics(t *testing.T) {
	for name, workers := range map[string]int{"one": 0, "workers": 3} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(x *filterBench) {
				x.put("a 0", "a 1", "a 2", "a 3")
				filter := Filter{Match: func(d *Delivery) bool {
					if d.Offset == 2 {
						panic("odd")
					}
					return true
				}}
				err := x.consumer(ConsumerConfig{Filter: filter, Workers: workers}).Run(x.ctx, x.handle)
				var h *HandlerError
				if !errors.As(err, &h) || h.Offset != 2 || !strings.Contains(err.Error(), "odd") {
					t.Errorf("the run ended with %v", err)
				}
				if got := x.handled(); len(got) != 2 {
					t.Errorf("handled %q", got)
				}
				x.wantStored(1)
			})
		})
	}
}

// TestFilterGoexit: where Match or KeyOf ends the run's goroutine, the workers end
// before the run does, and the name is free.
func TestFilterGoexit(t *testing.T) {
	type configs map[string]ConsumerConfig
	exits := func(d *Delivery) {
		if strings.HasSuffix(string(d.Body), "exit") {
			runtime.Goexit()
		}
	}
	match := Filter{Match: func(d *Delivery) bool { exits(d); return true }}
	keyOf := func(d *Delivery) string { exits(d); return "" }
	for name, cfg := range (configs{
		"Match": {Filter: match}, "KeyOf": {KeyOf: keyOf},
		"Match in a group": {Filter: match, SingleActive: true}, "KeyOf in a group": {KeyOf: keyOf, SingleActive: true},
		"Match on a super stream": {Filter: match, SuperStream: true}, "KeyOf on a super stream": {KeyOf: keyOf, SuperStream: true},
	}) {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(x *filterBench) {
				of, to := x.name, x.name
				if cfg.SuperStream {
					of, to = "super", "super-1"
					must(t, x.env.DeclareSuperStream(x.ctx, of, SuperStreamConfig{Partitions: 2}))
				}
				cfg.Name, cfg.Workers = "billing", 3
				c, err := x.env.NewConsumer(of, cfg)
				must(t, err)
				var atWork atomic.Int64
				handled, ended := make(chan struct{}, 1), make(chan struct{})
				go func() {
					defer close(ended)
					err := c.Run(x.ctx, func(ctx context.Context, d *Delivery) error {
						atWork.Add(1)
						defer atWork.Add(-1)
						handled <- struct{}{}
						<-ctx.Done()
						synctest.Wait() // Run must be waiting for it
						return ctx.Err()
					})
					if err == nil || !cfg.SuperStream {
						t.Errorf("Run has returned %v", err)
					}
				}()
				must(t, x.b.Publish(to, "a 0"))
				<-handled
				must(t, x.b.Publish(to, "a exit"))
				<-ended
				if n := atWork.Load(); n > 0 {
					t.Errorf("%d handlers are at work", n)
				}
				again, err := x.env.NewConsumer(of, ConsumerConfig{Name: "billing", SuperStream: cfg.SuperStream, SingleActive: cfg.SingleActive})
				must(t, err)
				stop := x.run(again)
				x.settle(time.Second)
				x.wantHandled("a 0", "a exit")
				must(t, stop())
			})
		})
	}
}
