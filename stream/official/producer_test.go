package official

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rabbitmq/rabbitmq-stream-go-client/pkg/amqp"
	"github.com/rabbitmq/rabbitmq-stream-go-client/pkg/message"
	client "github.com/rabbitmq/rabbitmq-stream-go-client/pkg/stream"

	"github.com/tidemark-go/tidemark/internal/check"
	"github.com/tidemark-go/tidemark/internal/officialtest"
	"github.com/tidemark-go/tidemark/stream"
	"github.com/tidemark-go/tidemark/streamtest"
)

func newTestProducer(t testing.TB, env *client.Environment, name string, options *client.ProducerOptions) *Producer {
	t.Helper()
	p, err := NewProducer(inTime(t), env, name, options)
	must(t, err)
	return p
}

// TestPublish returns when all are confirmed, whatever the options.
func TestPublish(t *testing.T) { onBrokers(t, testPublish) }

func testPublish(t *testing.T, b testBroker) {
	env := environment(t, b)
	for text, options := range map[string]*client.ProducerOptions{
		"default": nil, "zero": {}, "named": {Name: "p"}, "small batches": {BatchSize: 3},
		"filter":          {Filter: client.NewProducerFilter(func(m message.StreamMessage) string { return string(m.GetData()[0]) })},
		"sub-entries":     {SubEntrySize: 50},
		"zstd":            {SubEntrySize: 50, Compression: client.Compression{}.Zstd()},
		"named and zstd ": {Name: "p", SubEntrySize: 50, Compression: client.Compression{}.Zstd()},
	} {
		t.Run(text, func(t *testing.T) {
			n := 11_000 // more than may be in flight
			if options != nil && options.SubEntrySize > 1 {
				officialtest.NeedNumbering(t)
				n = 2000 // the official client makes a compressor for each sub-entry
			}
			name := newStream(t, env)
			p := newTestProducer(t, env, name, options)
			must(t, p.Publish(inTime(t)))
			must(t, p.Publish(inTime(t), numbers(0, n-1)...))
			must(t, p.Publish(inTime(t), numbers(n-1, n)...))
			must(t, p.Close(inTime(t)))
			must(t, p.Close(inTime(t)))
			wantErr(t, p.Publish(inTime(t), numbers(0, 1)...), stream.ErrClosed)
			bodies, _ := readN(t, env, name, Config{}, n)
			wantNumbers(t, bodies, 0, n)
		})
	}
}

// TestPublishFromManyGoroutines: each gets its own outcome, and more wait than
// may be in flight.
func TestPublishFromManyGoroutines(t *testing.T) { onBrokers(t, testPublishFromManyGoroutines) }

func testPublishFromManyGoroutines(t *testing.T, b testBroker) {
	env := environment(t, b)
	name := newStream(t, env)
	p := newTestProducer(t, env, name, &client.ProducerOptions{Name: "p"})
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if err := p.Publish(inTime(t), numbers(i*1000, (i+1)*1000)...); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	must(t, p.Close(inTime(t)))
	bodies, _ := readN(t, env, name, Config{}, 20_000)
	seen := map[string]bool{}
	for _, body := range bodies {
		seen[body] = true
	}
	if len(seen) != 20_000 {
		t.Errorf("%d different messages", len(seen))
	}
}

// TestNamedProducer: its ids go on where the last process has ended, and what the
// caller's ids repeat is dropped and confirmed.
func TestNamedProducer(t *testing.T) { onBrokers(t, testNamedProducer) }

func testNamedProducer(t *testing.T, b testBroker) {
	env := environment(t, b)
	name := newStream(t, env)
	for i := range 3 {
		p := newTestProducer(t, env, name, &client.ProducerOptions{Name: "counted"})
		must(t, errors.Join(p.Publish(inTime(t), numbers(10*i, 10*i+10)...), p.Close(inTime(t))))
	}
	withIDs := func(first, end int) []message.StreamMessage {
		list := numbers(first, end)
		for i, m := range list {
			m.SetPublishingId(int64(first + i))
		}
		return list
	}
	for _, end := range []int{40, 45} {
		p := newTestProducer(t, env, name, &client.ProducerOptions{Name: "given"})
		must(t, errors.Join(p.Publish(inTime(t), withIDs(30, end)...), p.Close(inTime(t))))
	}
	bodies, _ := readN(t, env, name, Config{}, 45)
	wantNumbers(t, bodies, 0, 45)
}

// TestCloseWaits for what is in flight, under its context, as a further Close
// does under its own.
func TestCloseWaits(t *testing.T) {
	b := streamtestBroker(t)
	env := environment(t, inProcess{b})
	name := newStream(t, env)
	p := newTestProducer(t, env, name, nil)
	b.WithholdConfirms()
	published, closed := make(chan error, 1), make(chan error, 1)
	go func() { published <- p.Publish(inTime(t), numbers(0, 500)...) }()
	check.Eventually(t, "all are in the stream", func() bool { return len(b.Messages(name)) == 500 })
	go func() { closed <- p.Close(inTime(t)) }()
	check.Eventually(t, "Close waits", func() bool { p.mu.Lock(); defer p.mu.Unlock(); return p.closing != nil })
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	wantErr(t, p.Close(short), context.DeadlineExceeded)
	if len(published)+len(closed) > 0 {
		t.Error("something returned without a confirm")
	}
	b.ReleaseConfirms()
	must(t, check.Recv(t, published, "the outcome"))
	must(t, check.Recv(t, closed, "the end of Close"))
}

// TestCloseGivesUp when its context ends: the outcome is unknown.
func TestCloseGivesUp(t *testing.T) {
	b := streamtestBroker(t)
	env := environment(t, inProcess{b})
	name := newStream(t, env)
	p := newTestProducer(t, env, name, nil)
	b.WithholdConfirms()
	ctx, cancel := context.WithCancelCause(t.Context())
	published := make(chan error, 1)
	go func() { published <- p.Publish(ctx, numbers(0, 5)...) }()
	check.Eventually(t, "all are in the stream", func() bool { return len(b.Messages(name)) == 5 })
	cancel(errTest)
	wantErr(t, check.Recv(t, published, "the end of Publish"), errTest, stream.ErrUnconfirmed)
	err := p.Close(ctx)
	wantErr(t, err, errTest, stream.ErrUnconfirmed)
	if !strings.Contains(err.Error(), "5 messages") || stream.SafeToRetry(err) {
		t.Error(err)
	}
}

// TestLostProducer: what has no outcome is unknown, and a new producer is needed.
func TestLostProducer(t *testing.T) {
	b := streamtestBroker(t)
	env := environment(t, inProcess{b})
	name := newStream(t, env)
	p := newTestProducer(t, env, name, nil)
	must(t, p.Publish(inTime(t), numbers(0, 10)...))
	b.WithholdConfirms()
	published := make(chan error, 1)
	go func() { published <- p.Publish(inTime(t), numbers(10, 20)...) }()
	check.Eventually(t, "all are in the stream", func() bool { return len(b.Messages(name)) == 20 })
	b.DropConnections(streamtest.CutRST)
	wantErr(t, check.Recv(t, published, "the end of Publish"), stream.ErrUnconfirmed)
	check.Recv(t, p.lost, "the loss")
	err := p.Publish(inTime(t), numbers(20, 21)...)
	if wantErr(t, err, stream.ErrUnreachable); errors.Is(err, stream.ErrUnconfirmed) || !stream.SafeToRetry(err) {
		t.Errorf("nothing was sent: %v", err)
	}
	if err := p.Close(inTime(t)); err != nil && !errors.Is(err, stream.ErrUnconfirmed) {
		t.Error(err)
	}
}

// TestBadMessages are refused before anything of the call is sent.
func TestBadMessages(t *testing.T) {
	b := streamtestBroker(t)
	env := environment(t, inProcess{b})
	name := newStream(t, env)
	plain := newTestProducer(t, env, name, nil)
	filtered := newTestProducer(t, env, name, &client.ProducerOptions{Filter: client.NewProducerFilter(func(m message.StreamMessage) string {
		if len(m.GetData()[0]) == 0 {
			return ""
		}
		return "x"
	})})
	withID := func(id int64) message.StreamMessage {
		m := amqp.NewMessage([]byte("x"))
		m.SetPublishingId(id)
		return m
	}
	good := amqp.NewMessage([]byte("good"))
	for text, test := range map[string]struct {
		p    *Producer
		msgs []message.StreamMessage
	}{
		"nil":              {plain, []message.StreamMessage{good, nil}},
		"unencodable":      {plain, []message.StreamMessage{good, &amqp.AMQP10{Properties: nil, ApplicationProperties: map[string]any{"x": make(chan int)}}}},
		"negative id":      {plain, []message.StreamMessage{good, withID(-5)}},
		"an id twice":      {plain, []message.StreamMessage{withID(7), withID(7)}},
		"falling ids":      {plain, []message.StreamMessage{withID(7), withID(6)}},
		"below a counted":  {plain, []message.StreamMessage{withID(7), good, withID(8)}},
		"empty filter":     {filtered, []message.StreamMessage{good, amqp.NewMessage(nil)}},
		"panicking filter": {filtered, []message.StreamMessage{good, &amqp.AMQP10{}}},
	} {
		if err := test.p.Publish(inTime(t), test.msgs...); !errors.Is(err, stream.ErrInvalidMessage) {
			t.Errorf("%s: %v", text, err)
		}
	}
	if n := len(b.Messages(name)); n > 0 {
		t.Errorf("%d messages were sent", n)
	}
	large := amqp.NewMessage(make([]byte, 2<<20))
	err := plain.Publish(inTime(t), good, large, good)
	wantErr(t, err, stream.ErrMessageTooLarge)
	if n := len(b.Messages(name)); n != 2 {
		t.Errorf("%d messages are in the stream, want the two beside the large one", n)
	}
	must(t, errors.Join(plain.Close(inTime(t)), filtered.Close(inTime(t))))
}

func TestProducerOptions(t *testing.T) {
	env := environment(t, inProcess{streamtestBroker(t)})
	name := newStream(t, env)
	for _, o := range []*client.ProducerOptions{
		{Name: strings.Repeat("x", 256)}, {BatchSize: -1}, {BatchSize: 10_001}, {SubEntrySize: -1}, {SubEntrySize: 65_536},
		{SubEntrySize: 2, Filter: client.NewProducerFilter(nil)}, {Compression: client.Compression{}.Zstd()}, {Compression: client.Compression{}.Gzip()},
	} {
		if _, err := NewProducer(inTime(t), env, name, o); !errors.Is(err, stream.ErrInvalidConfig) {
			t.Errorf("%+v: %v", o, err)
		}
	}
	_, err := NewProducer(inTime(t), nil, name, nil)
	wantErr(t, err, stream.ErrInvalidConfig)
	_, err = NewProducer(inTime(t), env, "", nil)
	wantErr(t, err, stream.ErrInvalidConfig)
}

// TestWriteOnly: a producer without a name needs no other permission. A consumer
// without the permission to read says so.
func TestWriteOnly(t *testing.T) {
	b := streamtestBroker(t,
		streamtest.WithUser(streamtest.User{Name: "writer", Password: "secret", Permissions: map[string]streamtest.Permission{"/": {Write: ".*"}}}))
	must(t, b.CreateStream("s"))
	env := environment(t, onURI(strings.Replace(b.URI(), "guest:guest", "writer:secret", 1)))
	p := newTestProducer(t, env, "s", nil)
	must(t, errors.Join(p.Publish(inTime(t), numbers(0, 3)...), p.Close(inTime(t))))
	if n := len(b.Messages("s")); n != 3 {
		t.Errorf("%d messages", n)
	}
	before := len(b.Connections())
	c, err := NewConsumer(env, "s", Config{Name: "c"})
	must(t, err)
	wantErr(t, c.Run(inTime(t), func(context.Context, *Delivery) error { return nil }), stream.ErrAccessRefused, client.CodeAccessRefused)
	if now := len(b.Connections()); now > before {
		t.Errorf("%d connections, and %d before", now, before)
	}
}

func TestTranslate(t *testing.T) {
	for _, k := range known {
		err := translate(fmt.Errorf("wrapped: %w", k.theirs))
		if !errors.Is(err, k.theirs) || k.ours != nil && !errors.Is(err, k.ours) || k.ours == nil && errors.Is(err, stream.ErrUnreachable) {
			t.Errorf("%v became %v", k.theirs, err)
		}
		if again := translate(err); again != err && k.ours == nil {
			t.Errorf("%v became %v", err, again)
		}
	}
	wantErr(t, translate(errTest), stream.ErrUnreachable, errTest)
	if err := translate(nil); err != nil {
		t.Error(err)
	}
}

func TestScrub(t *testing.T) {
	for _, uri := range []string{"rabbitmq-stream://me:hunter2@h:5552/", "rabbitmq-stream+tls://me:p@hunter2@h/x", "rabbitmq-stream://me:hunter2/@h"} {
		err := translate(fmt.Errorf("parse %q: %w", uri, errTest))
		if strings.Contains(err.Error(), "hunter2") || !errors.Is(err, errTest) {
			t.Error(err)
		}
	}
}
