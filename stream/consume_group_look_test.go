package stream

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"

	"github.com/tidemark-go/tidemark/streamtest"
)

// TestGroupLooksWhereOthersAre: a member that finds out where to begin makes no
// connection for that, though those of the others are full with it.
func TestGroupLooksWhereOthersAre(t *testing.T) {
	play(t, Config{}, func(s *scene) {
		conns, made := runtime.GOMAXPROCS(0), 0
		active := make(chan string)
		var runs sync.WaitGroup
		ctx, stop := context.WithCancel(s.ctx)
		for i := range 16 * conns {
			name := fmt.Sprint("s", i)
			must(s, s.b.CreateStream(name))
			must(s, s.b.Publish(name, "m"))
			c, err := s.env.NewConsumer(name, ConsumerConfig{
				Name: "billing", SingleActive: true, Start: Stored(Next()),
				OnActive: func(context.Context, string, uint64) error { active <- name; return nil },
			})
			must(s, err)
			runs.Go(func() { must(s, c.Run(ctx, func(context.Context, *Delivery) error { return nil })) })
			if <-active; i == conns {
				made = s.b.Received(streamtest.Open)
			}
		}
		if got := s.b.Received(streamtest.Open); got != made {
			s.Errorf("%d connections were made beside %d that had room for all members", got-made, conns)
		}
		stop()
		runs.Wait()
	}, streamtest.WithVersion("4.3.6"))
}
