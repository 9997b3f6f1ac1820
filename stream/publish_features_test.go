package stream

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidemark-go/tidemark/streamtest"
)

// published returns what a stream holds, to the number of n messages.
func published(t *testing.T, env *Env, stream string, n int) []*Delivery {
	t.Helper()
	c, err := env.NewConsumer(stream, ConsumerConfig{Start: First()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var list []*Delivery
	err = c.Run(ctx, func(_ context.Context, d *Delivery) error {
		if list = append(list, d); len(list) == n {
			cancel()
		}
		return nil
	})
	if err != nil || len(list) != n {
		t.Fatalf("%d messages of %d, %v", len(list), n, err)
	}
	return list
}

// subEntryProducer makes a producer of sub-batches, which the official client
// numbers.
func subEntryProducer(t *testing.T, env *Env, stream string, entries int, c Compression) *Producer {
	t.Helper()
	p, err := env.NewProducer(inTime(t), stream, ProducerConfig{SubEntries: entries, Compression: c})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestSubEntries(t *testing.T) {
	beside(t)
	onBrokers(t, testSubEntries)
}

// testSubEntries: with each compression, the messages come out as they went in.
func testSubEntries(t *testing.T, b testBroker) {
	env := connect(t, b.StreamURL())
	for _, c := range []Compression{CompressionNone, CompressionGzip, CompressionSnappy, CompressionLZ4, CompressionZstd} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			const total = 1003
			stream := newStream(t, env)
			p := subEntryProducer(t, env, stream, 100, c)
			msgs := make([]Message, total)
			for i := range msgs {
				msgs[i].Body = []byte(strings.Repeat(fmt.Sprintf("%d ", i), 20))
			}
			wantErr(t, p.Publish(inTime(t), Message{FilterValue: "x"}), ErrInvalidMessage)
			if err := errors.Join(p.Publish(inTime(t), msgs...), p.Close(inTime(t))); err != nil {
				t.Fatal(err)
			}
			if inside, ok := b.(inProcess); ok {
				wantSubBatches(t, inside.Messages(stream), c)
			}
			for i, d := range published(t, env, stream, total) {
				if string(d.Body) != strings.Repeat(fmt.Sprintf("%d ", i), 20) || d.Offset != uint64(i) {
					t.Fatalf("message %d is %q", i, d.Body)
				}
			}
		})
	}
}

// wantSubBatches fails the test unless a stream consists of sub-batches. The
// official client makes them of what waits, so on a slow machine a few hold one
// message; on the whole they are far fewer than the messages. The in-process
// broker takes apart those that are not compressed, or with gzip.
func wantSubBatches(t *testing.T, list []streamtest.Message, c Compression) {
	t.Helper()
	whole := c == CompressionSnappy || c == CompressionLZ4 || c == CompressionZstd
	records := 0
	for _, m := range list {
		if m.Compressed != whole {
			t.Fatalf("compression %d: offset %d is a sub-batch: %v, want %v", c, m.Offset, m.Compressed, whole)
		}
		records += m.Records
	}
	if whole && len(list) > records/2 {
		t.Fatalf("compression %d: %d sub-batches hold %d messages", c, len(list), records)
	}
}

func TestSubEntriesAcrossDrops(t *testing.T) {
	beside(t)
	onBrokers(t, testSubEntriesAcrossDrops)
}

// testSubEntriesAcrossDrops: nothing is lost; without a name some is there twice.
func testSubEntriesAcrossDrops(t *testing.T, b testBroker) {
	const total, drops = 60_000, 10
	proxy, uri := throughProxy(t, b)
	env, direct := connect(t, uri), connect(t, b.StreamURL())
	stream := newStream(t, direct)
	p := subEntryProducer(t, env, stream, 30, CompressionSnappy)
	var failed atomic.Int64
	for i := range total {
		if i%(total/drops) == total/drops/2 {
			proxy.Drop()
		}
		err := p.PublishAsync(t.Context(), Message{Body: number(i)}, func(err error) {
			if err != nil {
				failed.Add(1)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Close(inTime(t)); err != nil || failed.Load() > 0 {
		t.Fatalf("%v, %d failed", err, failed.Load())
	}
	bodies := readAll(t, direct, stream)
	seen := map[string]bool{}
	for _, b := range bodies {
		seen[b] = true
	}
	t.Logf("%d messages in the stream for %d published", len(bodies), total)
	for i := range total {
		if !seen[string(number(i))] {
			t.Fatalf("%d is not in the stream", i)
		}
	}
}

func TestFilterValues(t *testing.T) { onBrokers(t, testFilterValues) }

// testFilterValues: messages with and without a filter value stay in order.
func testFilterValues(t *testing.T, b testBroker) {
	env := connect(t, b.StreamURL())
	for _, name := range []string{"", "numbers"} {
		t.Run("name "+name, func(t *testing.T) {
			const total = 300
			stream := newStream(t, env)
			p, err := env.NewProducer(inTime(t), stream, ProducerConfig{Name: name})
			if err != nil {
				t.Fatal(err)
			}
			wantErr(t, p.Publish(inTime(t), Message{FilterValue: strings.Repeat("x", 256)}), ErrInvalidMessage)
			for i := range total {
				m := Message{Body: number(i)}
				if i/7%3 > 0 {
					m.FilterValue = fmt.Sprint("region-", i%2)
				}
				if err := p.PublishAsync(t.Context(), m, nil); err != nil {
					t.Fatal(err)
				}
			}
			if err := p.Close(inTime(t)); err != nil {
				t.Fatal(err)
			}
			wantNumbers(t, readAll(t, env, stream), 0, total)
		})
	}
}

// TestFilterValuesShareAPublisher: messages with a filter value and without one go
// through one publisher.
func TestFilterValuesShareAPublisher(t *testing.T) {
	b, env, stream := faulty(t, 0)
	p := newProducer(t, env, stream, ProducerConfig{})
	for _, filter := range []string{"", "a", "", "b", "a"} {
		must(t, p.Publish(inTime(t), Message{FilterValue: filter}))
	}
	if n := b.Received(streamtest.DeclarePublisher); n != 1 {
		t.Errorf("%d publishers were declared, want 1", n)
	}
	if got := len(b.Messages(stream)); got != 5 {
		t.Errorf("the stream has %d messages", got)
	}
}

// TestProducerRefusedClosesItsConnection: when another one has its name.
func TestProducerRefusedClosesItsConnection(t *testing.T) {
	b, env, stream := faulty(t, 0)
	newProducer(t, env, stream, ProducerConfig{Name: "p"})
	_, err := env.NewProducer(inTime(t), stream, ProducerConfig{Name: "p"})
	wantErr(t, err, ErrNameInUse)
	must(t, b.Await(soon(t), func() bool { return connectionsOf(b, "tidemark-producer") == 1 }))
}

// TestProducerThatCannotBeMade: the broker's reason comes out at each step, and
// no connection stays.
func TestProducerThatCannotBeMade(t *testing.T) {
	beside(t)
	b, env, stream := faulty(t, 0)
	connections := len(b.Connections())
	for _, test := range []struct {
		command streamtest.Command
		code    streamtest.Code
		want    error
	}{
		{streamtest.Open, streamtest.VHostAccessFailure, ErrVirtualHost},
		{streamtest.DeclarePublisher, streamtest.AccessRefused, ErrAccessRefused},
		{streamtest.DeclarePublisher, streamtest.StreamNotAvailable, ErrStreamUnavailable},
		{streamtest.QueryPublisherSequence, streamtest.StreamDoesNotExist, ErrStreamNotFound},
	} {
		b.AnswerWith(test.command, test.code, 1)
		_, err := env.NewProducer(inTime(t), stream, ProducerConfig{Name: "p"})
		wantErr(t, err, test.want)
		b.ClearFaults()
		must(t, b.Await(soon(t), func() bool { return len(b.Connections()) == connections }))
	}
	newProducer(t, env, stream, ProducerConfig{Name: "p"})
}

// TestNameInUseClosesItsConnection: a producer that finds its name in use when it
// comes back ends, and its connections with it.
func TestNameInUseClosesItsConnection(t *testing.T) {
	beside(t)
	b, env, stream := faulty(t, 0)
	p := newProducer(t, env, stream, ProducerConfig{Name: "p"})
	must(t, p.Publish(inTime(t), Message{})) // which counts its id
	other := newProducer(t, connect(t, b.URI()), stream, ProducerConfig{Name: "p"})
	must(t, other.Publish(inTime(t), Message{PublishingID: 50}))
	must(t, other.Close(inTime(t)))
	b.DropConnections(streamtest.CutRST)
	wantErr(t, p.Publish(inTime(t), Message{}), ErrNameInUse)
	recv(t, p.ended, "the end of the producer")
	must(t, b.Await(soon(t), func() bool { return connectionsOf(b, "tidemark-producer") == 0 }))
}

func TestNameInUse(t *testing.T) { onBrokers(t, testNameInUse) }

func testNameInUse(t *testing.T, b testBroker) {
	proxy, uri := throughProxy(t, b)
	env, other := connect(t, uri), connect(t, b.StreamURL())
	stream := newStream(t, env)
	cfg := ProducerConfig{Name: "numbers"}
	p, err := env.NewProducer(inTime(t), stream, cfg)
	if err != nil {
		t.Fatal(err)
	}
	_, err = env.NewProducer(inTime(t), stream, cfg)
	wantErr(t, err, ErrNameInUse)
	unnamed, err := env.NewProducer(inTime(t), stream, ProducerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(unnamed.Close(inTime(t)), p.Publish(inTime(t), Message{Body: []byte("1")}), p.Close(inTime(t))); err != nil {
		t.Fatal(err)
	}
	if p, err = env.NewProducer(inTime(t), stream, cfg); err != nil {
		t.Fatal(err) // it was closed
	}
	must(t, p.Publish(inTime(t), Message{})) // which counts its id
	q, err := other.NewProducer(inTime(t), stream, cfg)
	if err != nil {
		t.Fatal(err) // nobody knows yet
	}
	if err := q.Publish(inTime(t), Message{PublishingID: 50}); err != nil {
		t.Fatal(err)
	}
	if err := q.Close(inTime(t)); err != nil {
		t.Fatal(err)
	}
	proxy.Drop()
	wantErr(t, p.Publish(inTime(t), Message{}), ErrNameInUse)
	eventually(t, "the producer ends", 30*time.Second, func() bool {
		return errors.Is(refusalOf(p), ErrNameInUse)
	})
	_ = p.Close(inTime(t))
}

func TestCreationTimeOption(t *testing.T) {
	onBrokers(t, func(t *testing.T, b testBroker) {
		env := connect(t, b.StreamURL())
		stream := newStream(t, env)
		p, err := env.NewProducer(inTime(t), stream, ProducerConfig{CreationTime: true})
		if err != nil {
			t.Fatal(err)
		}
		own := time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)
		props := &Properties{Subject: "s"}
		begin := time.Now().Truncate(time.Millisecond)
		err = errors.Join(p.Publish(inTime(t), Message{}, Message{Properties: props}, Message{Properties: &Properties{CreationTime: own}}), p.Close(inTime(t)))
		if err != nil {
			t.Fatal(err)
		}
		if !props.CreationTime.IsZero() {
			t.Error("the caller's properties were changed")
		}
		for i, d := range published(t, env, stream, 3) {
			got, err := d.Properties()
			switch {
			case err != nil || got == nil:
				t.Fatalf("message %d: %v, %v", i, got, err)
			case i == 2 && !got.CreationTime.Equal(own):
				t.Errorf("a creation time of one's own became %v", got.CreationTime)
			case i < 2 && (got.CreationTime.Before(begin) || got.CreationTime.After(time.Now().Add(time.Second))):
				t.Errorf("message %d was created at %v", i, got.CreationTime)
			case i == 1 && got.Subject != "s":
				t.Errorf("the subject became %q", got.Subject)
			}
		}
	})
}
