package streamtest_test

import (
	"slices"
	"strconv"
	"testing"

	"github.com/rabbitmq/rabbitmq-stream-go-client/pkg/amqp"
	"github.com/rabbitmq/rabbitmq-stream-go-client/pkg/ha"
	"github.com/rabbitmq/rabbitmq-stream-go-client/pkg/message"
	"github.com/rabbitmq/rabbitmq-stream-go-client/pkg/stream"

	"github.com/tidemark-go/tidemark/streamtest"
)

// declared starts a broker with a stream "s". It returns the broker and an
// environment of the official client.
func declared(t *testing.T) (*streamtest.Broker, *stream.Environment) {
	t.Helper()
	b := streamtest.NewBroker(t)
	env := officialEnv(t, b)
	if err := env.DeclareStream("s", stream.NewStreamOptions()); err != nil {
		t.Fatal(err)
	}
	return b, env
}

// consume reads n messages of stream "s" from the first on and returns their
// bodies.
func consume(t *testing.T, env *stream.Environment, n int, opts *stream.ConsumerOptions) []string {
	t.Helper()
	got := collect(n)
	consumer, err := env.NewConsumer("s", got.handle, opts.SetOffset(stream.OffsetSpecification{}.First()))
	if err != nil {
		t.Fatal(err)
	}
	bodies := got.wait(t)
	if err := consumer.Close(); err != nil {
		t.Error(err)
	}
	return bodies
}

func TestOfficialSubEntryCompression(t *testing.T) {
	t.Parallel()
	var c stream.Compression
	for _, compression := range []stream.Compression{c.None(), c.Gzip(), c.Snappy(), c.Lz4(), c.Zstd()} {
		t.Run(compression.String(), func(t *testing.T) {
			b, env := declared(t)
			officialPublish(t, env, "s", 95, stream.NewProducerOptions().SetSubEntrySize(10).SetCompression(compression))
			got := consume(t, env, 95, stream.NewConsumerOptions())
			if got[0] != body(0) || got[94] != body(94) {
				t.Errorf("consumed %q to %q", got[0], got[94])
			}
			records := 0
			for _, m := range b.Messages("s") {
				records += m.Records
			}
			if records != 95 {
				t.Errorf("%d records stored", records)
			}
		})
	}
}

func TestOfficialDeduplication(t *testing.T) {
	t.Parallel()
	b, env := declared(t)
	p, err := env.NewProducer("s", stream.NewProducerOptions().SetProducerName("invoices"))
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []int64{1, 2, 2, 1, 3} {
		m := amqp.NewMessage([]byte(body(int(id))))
		m.SetPublishingId(id)
		if err := p.Send(m); err != nil {
			t.Fatal(err)
		}
	}
	await(t, b, "sequence 3", func() bool { id, _ := b.Sequence("invoices", "s"); return id == 3 })
	if got := b.Bodies("s"); !slices.Equal(got, []string{body(1), body(2), body(3)}) {
		t.Errorf("stored %q", got)
	}
	if id, err := env.QuerySequence("invoices", "s"); err != nil || id != 3 {
		t.Errorf("queried %d, %v", id, err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

func TestOfficialFilter(t *testing.T) {
	t.Parallel()
	_, env := declared(t)
	for _, state := range []string{"NY", "TX", "NY"} {
		opts := stream.NewProducerOptions().SetFilter(stream.NewProducerFilter(func(message.StreamMessage) string { return state }))
		officialPublish(t, env, "s", 10, opts)
	}
	all := func(*amqp.Message) bool { return true }
	got := consume(t, env, 20, stream.NewConsumerOptions().SetFilter(stream.NewConsumerFilter([]string{"NY"}, false, all)))
	if len(got) != 20 || got[10] != body(0) {
		t.Errorf("%d messages, the eleventh %q", len(got), got[10])
	}
}

func TestOfficialSuperStream(t *testing.T) {
	t.Parallel()
	b := streamtest.NewBroker(t)
	env := officialEnv(t, b)
	if err := env.DeclareSuperStream("sup", stream.NewPartitionsOptions(3)); err != nil {
		t.Fatal(err)
	}
	key := func(m message.StreamMessage) string { return m.GetMessageProperties().GroupID }
	p, err := env.NewSuperStreamProducer("sup", stream.NewSuperStreamProducerOptions(stream.NewHashRoutingStrategy(key)))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 60 {
		m := unnumbered(t, i)
		m.Properties = &amqp.MessageProperties{GroupID: strconv.Itoa(i)}
		if err := p.Send(m); err != nil {
			t.Fatal(err)
		}
	}
	stored := func() (n int) {
		for i := range 3 {
			n += len(b.Messages("sup-" + strconv.Itoa(i)))
		}
		return n
	}
	await(t, b, "60 messages", func() bool { return stored() == 60 })
	got := collect(60)
	c, err := env.NewSuperStreamConsumer("sup", got.handle,
		stream.NewSuperStreamConsumerOptions().SetOffset(stream.OffsetSpecification{}.First()))
	if err != nil {
		t.Fatal(err)
	}
	if bodies := got.wait(t); len(bodies) != 60 {
		t.Errorf("consumed %d", len(bodies))
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if err := env.DeleteSuperStream("sup"); err != nil || len(b.Streams()) != 0 {
		t.Errorf("%v, left %q", err, b.Streams())
	}
}

func TestOfficialSingleActiveConsumer(t *testing.T) {
	t.Parallel()
	_, env := declared(t)
	officialPublish(t, env, "s", 10, nil)
	member := func(got *collector, promoted chan<- string, name string) *stream.Consumer {
		update := func(string, bool) stream.OffsetSpecification {
			promoted <- name
			return stream.OffsetSpecification{}.First()
		}
		c, err := env.NewConsumer("s", got.handle, stream.NewConsumerOptions().SetConsumerName("group").
			SetOffset(stream.OffsetSpecification{}.First()).SetSingleActiveConsumer(stream.NewSingleActiveConsumer(update)))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	promoted := make(chan string, 10)
	first, second := collect(10), collect(10)
	c1 := member(first, promoted, "first")
	first.wait(t)
	c2 := member(second, promoted, "second")
	if name := <-promoted; name != "first" || len(promoted) != 0 {
		t.Errorf("%s promoted, and %d more", name, len(promoted))
	}
	if err := c1.Close(); err != nil {
		t.Error(err)
	}
	if got := second.wait(t); len(got) != 10 {
		t.Errorf("the second got %d", len(got))
	}
	if err := c2.Close(); err != nil {
		t.Error(err)
	}
}

// TestOfficialHA runs the reliable producer and consumer of package ha on a
// broker that stays up. It does not test that they reconnect: the client does
// that by itself and takes many seconds.
func TestOfficialHA(t *testing.T) {
	t.Parallel()
	b, env := declared(t)
	confirmed := make(chan int, 100)
	p, err := ha.NewReliableProducer(env, "s", stream.NewProducerOptions(), func(list []*stream.ConfirmationStatus) {
		confirmed <- len(list)
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		if err := p.Send(unnumbered(t, i)); err != nil {
			t.Fatal(err)
		}
	}
	for n := 0; n < 20; {
		n += <-confirmed
	}
	got := collect(20)
	c, err := ha.NewReliableConsumer(env, "s", stream.NewConsumerOptions().SetOffset(stream.OffsetSpecification{}.First()), got.handle)
	if err != nil {
		t.Fatal(err)
	}
	if bodies := got.wait(t); len(bodies) != 20 || len(b.Messages("s")) != 20 {
		t.Errorf("consumed %d of %d", len(bodies), len(b.Messages("s")))
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}
