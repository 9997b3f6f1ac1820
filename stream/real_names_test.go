package stream

import (
	"context"
	"strings"
	"testing"

	"github.com/tidemark-go/tidemark/internal/broker"
)

// TestRealNames: a name that checkNewStream takes works on RabbitMQ. One that it
// refuses is created there and then not found or without a leader, or closes the
// connection.
func TestRealNames(t *testing.T) {
	b := realBroker(t)
	env := connect(t, b.StreamURL())
	for _, name := range []string{
		strings.Repeat("n", 233), strings.Repeat("n", 234), strings.Repeat("日", 233), strings.Repeat("日", 234),
		strings.Repeat("e\u0301", 233), strings.Repeat("e\u0301", 234), "a\nb", "a\rb", "a\xffb", " a\t\x00b ",
	} {
		create := func(ctx context.Context, c *broker.Conn) error { return c.Create(ctx, name, nil) }
		locate := func(ctx context.Context, c *broker.Conn) error { _, err := c.Locate(ctx, name); return err }
		err := env.cluster.Ask(soon(t), create)
		if checkNewStream(name, env.vhost) == nil {
			must(t, err)
			publish(t, env, name, 0, 1)
		} else if err == nil { // it may have a leader for a moment
			eventually(t, "the stream is of no use", patience, func() bool { return env.cluster.Ask(soon(t), locate) != nil })
		}
		for _, created := range []string{name, strings.NewReplacer("\n", "", "\r", "").Replace(name)} {
			_ = env.DeleteStream(soon(t), created)
		}
	}
}
