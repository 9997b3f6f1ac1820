package official_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/rabbitmq/rabbitmq-stream-go-client/pkg/amqp"
	client "github.com/rabbitmq/rabbitmq-stream-go-client/pkg/stream"

	"github.com/tidemark-go/tidemark/internal/check"
	"github.com/tidemark-go/tidemark/stream"
	"github.com/tidemark-go/tidemark/stream/official"
	"github.com/tidemark-go/tidemark/streamtest"
)

// A service keeps its Environment, and has the place of its consumer kept.
func Example() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	env, err := client.NewEnvironment(client.NewEnvironmentOptions().SetReadBuffer(-1).SetWriteBuffer(-1))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer env.Close()

	producer, err := official.NewProducer(ctx, env, "orders", nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer producer.Close(ctx)
	if err := producer.Publish(ctx, amqp.NewMessage([]byte("an order"))); err != nil {
		fmt.Println(err)
		return
	}

	consumer, err := official.NewConsumer(env, "orders", official.Config{Name: "billing", Start: stream.Stored(stream.First())})
	if err != nil {
		fmt.Println(err)
		return
	}
	err = consumer.Run(ctx, func(_ context.Context, d *official.Delivery) error {
		fmt.Println(d.Offset, string(d.Message.GetData()))
		cancel()
		return nil
	})
	fmt.Println(err)
}

// consume goes on after a lost connection. It stands in
// docs/migrating-from-the-official-client.md, too.
func consume(ctx context.Context, uri string, handle official.Handler) error {
	for {
		err := consumeOnce(ctx, uri, handle)
		if !stream.SafeToRetry(err) { // nil once ctx has ended
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
	}
}

func consumeOnce(ctx context.Context, uri string, handle official.Handler) error {
	env, err := client.NewEnvironment(client.NewEnvironmentOptions().SetUri(uri).SetReadBuffer(-1).SetWriteBuffer(-1))
	if env != nil { // even with an error
		defer env.Close()
	}
	switch {
	case errors.Is(err, client.AuthenticationFailure), errors.Is(err, client.VirtualHostAccessFailure):
		return err
	case err != nil:
		return fmt.Errorf("%w: %w", stream.ErrUnreachable, err)
	}
	consumer, err := official.NewConsumer(env, "orders", official.Config{Name: "billing"})
	if err != nil {
		return err
	}
	return consumer.Run(ctx, handle)
}

// TestDocumentedLoop: through drops and a restart it handles every message in
// order, and only what was not stored comes again.
func TestDocumentedLoop(t *testing.T) {
	t.Parallel() // it pauses for a second at each loss
	text, err := os.ReadFile("../../docs/migrating-from-the-official-client.md")
	check.Nil(t, err)
	source, err := os.ReadFile("example_test.go")
	check.Nil(t, err)
	_, code, _ := strings.Cut(string(text), "func consume(")
	code, _, _ = strings.Cut(code, "```")
	for _, f := range strings.SplitAfter(code, "\n}\n") {
		if !strings.Contains(string(source), strings.TrimSpace(f)) {
			t.Errorf("the documentation has another function:\n%s", f)
		}
	}

	b := streamtest.NewBroker(t)
	check.Nil(t, b.CreateStream("orders"))
	for i := range 40 {
		check.Nil(t, b.Publish("orders", fmt.Sprint(i)))
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var handled []uint64
	err = consume(ctx, b.URI(), func(_ context.Context, d *official.Delivery) error {
		handled = append(handled, d.Offset)
		switch len(handled) {
		case 10:
			b.DropConnections(streamtest.CutRST)
		case 20:
			b.Stop()
			check.Nil(t, b.Restart())
		}
		if d.Offset == 39 {
			cancel()
		}
		return nil
	})
	check.Nil(t, err)
	next := uint64(0)
	for _, offset := range handled {
		if offset > next {
			t.Fatalf("%d was left out: %v", next, handled)
		}
		next = max(next, offset+1)
	}
	if next != 40 {
		t.Errorf("handled %v", handled)
	}
}
