package stream

import (
	"context"
	"testing"

	"github.com/tidemark-go/tidemark/streamtest"
)

// TestClosedMeansFree: who hears of StateClosed may use the name at once, of a
// consumer as of a producer, of a stream as of a super stream.
func TestClosedMeansFree(t *testing.T) {
	b := streamtest.NewBroker(t)
	env, changes := watched(t, b.URI())
	name := newStream(t, env)
	must(t, env.DeclareSuperStream(t.Context(), "super", SuperStreamConfig{Partitions: 2}))
	for range 100 {
		for of, cfg := range map[string]ConsumerConfig{name: {Name: "billing"}, "super": {Name: "billing", SuperStream: true}} {
			c, err := env.NewConsumer(of, cfg)
			must(t, err)
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			ended := make(chan error, 1)
			go func() { ended <- c.Run(ctx, func(context.Context, *Delivery) error { return nil }) }()
			for awaitConsumer(t, changes, StateClosed).Stream != of {
			}
			must(t, env.useName(name, "billing", false)) // a partition's name is free before
			env.giveBackName(name, "billing")
			must(t, env.useName(superKey("super"), "billing", false))
			env.giveBackName(superKey("super"), "billing")
			must(t, <-ended)
		}
		p, err := env.NewProducer(t.Context(), name, ProducerConfig{Name: "orders"})
		must(t, err)
		closed := make(chan error, 1)
		go func() { closed <- p.Close(inTime(t)) }()
		awaitProducer(t, changes, StateClosed)
		next := newProducerOf(env, name, p.cfg)
		must(t, env.adopt(next))
		env.disown(next)
		must(t, <-closed)
	}
}
