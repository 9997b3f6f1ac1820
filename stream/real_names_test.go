package stream

import (
	"context"
	"strings"
	"testing"

	"github.com/tidemark-go/tidemark/internal/broker"
)

// TestRealNames: a name that checkNewStream takes works on RabbitMQ, and one that
// it refuses is created there and then cannot be used, or is not found.
func TestRealNames(t *testing.T) {
	b := realBroker(t)
	env := connect(t, b.StreamURL())
	for _, name := range []string{
		strings.Repeat("n", 233), strings.Repeat("n", 234), strings.Repeat("日", 233), strings.Repeat("日", 234),
		strings.Repeat("e\u0301", 233), strings.Repeat("e\u0301", 234), "a\nb", "a\rb", "a\xffb", " a\t\x00b ",
	} {
		valid := checkNewStream(name, env.vhost) == nil
		create := func(ctx context.Context, c *broker.Conn) error { return c.Create(ctx, name, nil) }
		locate := func(ctx context.Context, c *broker.Conn) error { _, err := c.Locate(ctx, name); return err }
		err := env.cluster.Ask(soon(t), create)
		if err == nil {
			err = env.cluster.Ask(soon(t), locate)
		}
		if (err == nil) != valid {
			t.Errorf("%d bytes, %.10q...: %v on RabbitMQ, and valid here: %v", len(name), name, err, valid)
		}
		for _, created := range []string{name, strings.NewReplacer("\n", "", "\r", "").Replace(name)} {
			_ = env.DeleteStream(soon(t), created)
		}
	}
}
