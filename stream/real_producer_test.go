package stream

import (
	"bytes"
	"context"
	"errors"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func newProducer(t testing.TB, env *Env, stream string, cfg ProducerConfig) *Producer {
	t.Helper()
	p, err := env.NewProducer(inTime(t), stream, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close(context.Background()) })
	return p
}

func TestCloseConfirmsEverything(t *testing.T) { onBrokers(t, testCloseConfirmsEverything) }

func testCloseConfirmsEverything(t *testing.T, b testBroker) {
	env := connect(t, b.StreamURL())
	stream := newStream(t, env)
	p := newProducer(t, env, stream, ProducerConfig{MaxInFlight: 30_000})
	const n = 50_000
	var confirmed, failed atomic.Int64
	for i := range n {
		err := p.PublishAsync(t.Context(), Message{Body: number(i)}, func(err error) {
			if err != nil {
				failed.Add(1)
			} else {
				confirmed.Add(1)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Close(inTime(t)); err != nil {
		t.Fatal(err)
	}
	if confirmed.Load() != n || failed.Load() != 0 {
		t.Fatalf("when Close returned: %d confirmed, %d failed; want %d and 0", confirmed.Load(), failed.Load(), n)
	}
	wantNumbers(t, readAll(t, env, stream), 0, n)
	if err := p.Publish(inTime(t), Message{}); !errors.Is(err, ErrClosed) {
		t.Errorf("Publish after Close: %v", err)
	}
	if err := p.Close(inTime(t)); err != nil {
		t.Errorf("Close again: %v", err)
	}
}

func TestSizes(t *testing.T) { onBrokers(t, testSizes) }

func testSizes(t *testing.T, b testBroker) {
	env := connect(t, b.StreamURL())
	stream := newStream(t, env)
	p := newProducer(t, env, stream, ProducerConfig{})
	largest := p.largestMessage() - len(appendData(nil, make([]byte, 300))) + 300
	bodies := [][]byte{{}, {0}, []byte("\xff\x00\xfe"), make([]byte, 255), make([]byte, 256), bytes.Repeat([]byte("x"), largest)}
	for _, b := range bodies {
		if err := p.Publish(inTime(t), Message{Body: b}); err != nil {
			t.Fatalf("%d bytes: %v", len(b), err)
		}
	}
	err := p.Publish(inTime(t), Message{Body: make([]byte, largest+1)})
	if !errors.Is(err, ErrMessageTooLarge) {
		t.Fatalf("%d bytes: %v, want ErrMessageTooLarge", largest+1, err)
	}
	t.Logf("largest body: %d bytes; one more: %v", largest, err)
	for i, b := range readAll(t, env, stream) {
		if b != string(bodies[i]) {
			t.Errorf("message %d has %d bytes, want %d", i, len(b), len(bodies[i]))
		}
	}
}

// Many messages that are large together are split over frames.
func TestLargeBatch(t *testing.T) { onBrokers(t, testLargeBatch) }

func testLargeBatch(t *testing.T, b testBroker) {
	env := connect(t, b.StreamURL())
	stream := newStream(t, env)
	p := newProducer(t, env, stream, ProducerConfig{})
	msgs := make([]Message, 40)
	for i := range msgs {
		msgs[i].Body = bytes.Repeat([]byte{byte(i)}, 200_000)
	}
	if err := p.Publish(inTime(t), msgs...); err != nil {
		t.Fatal(err)
	}
	for i, b := range readAll(t, env, stream) {
		if b != string(msgs[i].Body) {
			t.Errorf("message %d differs", i)
		}
	}
}

func TestPublishingIDs(t *testing.T) { onBrokers(t, testPublishingIDs) }

func testPublishingIDs(t *testing.T, b testBroker) {
	env := connect(t, b.StreamURL())
	stream := newStream(t, env)
	for range 2 { // the second time, the broker has them all
		p := newProducer(t, env, stream, ProducerConfig{Name: "file"})
		for i := 1; i <= 10; i++ {
			if err := p.Publish(inTime(t), Message{Body: number(i), PublishingID: uint64(i * 10)}); err != nil {
				t.Fatal(err)
			}
		}
		if err := p.Publish(inTime(t), Message{PublishingID: 100}); !errors.Is(err, ErrInvalidMessage) {
			t.Errorf("an id that does not grow: %v", err)
		}
		if id := p.LastPublishingID(); id != 100 {
			t.Errorf("last id is %d, want 100", id)
		}
		if err := p.Close(inTime(t)); err != nil {
			t.Fatal(err)
		}
	}
	p := newProducer(t, env, stream, ProducerConfig{Name: "file"})
	if err := p.Publish(inTime(t), Message{Body: number(11)}, Message{Body: number(12)}); err != nil {
		t.Fatal(err)
	}
	if id := p.LastPublishingID(); id != 102 {
		t.Errorf("ids given out reach %d, want 102", id)
	}
	wantNumbers(t, readAll(t, env, stream), 1, 13)
}

func TestCallbacksMayPublish(t *testing.T) { onBrokers(t, testCallbacksMayPublish) }

func testCallbacksMayPublish(t *testing.T, b testBroker) {
	env := connect(t, b.StreamURL())
	stream := newStream(t, env)
	p := newProducer(t, env, stream, ProducerConfig{MaxInFlight: 1})
	done := make(chan error)
	var again func(i int) func(error)
	again = func(i int) func(error) {
		return func(err error) {
			if err != nil || i == 20 {
				done <- err
				return
			}
			if err := p.PublishAsync(t.Context(), Message{Body: number(i)}, again(i+1)); err != nil {
				done <- err
			}
		}
	}
	again(0)(nil)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	wantNumbers(t, readAll(t, env, stream), 0, 20)
}

// While the broker takes nothing, PublishAsync waits for room under its
// context, Flush and Close wait under theirs, and every message is reported.
func TestProducerUnderSilence(t *testing.T) {
	beside(t)
	onBrokers(t, testProducerUnderSilence)
}

func testProducerUnderSilence(t *testing.T, b testBroker) {
	proxy, uri := throughProxy(t, b)
	env := connect(t, uri)
	stream := newStream(t, env)
	p := newProducer(t, env, stream, ProducerConfig{MaxInFlight: 10})
	proxy.Silence(true)
	var reported, unconfirmed atomic.Int64
	publish := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		return p.PublishAsync(ctx, Message{}, func(err error) {
			reported.Add(1)
			if errors.Is(err, ErrUnconfirmed) {
				unconfirmed.Add(1)
			}
		})
	}
	for range 10 {
		must(t, publish())
	}
	begin := time.Now()
	if err := publish(); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrUnconfirmed) {
		t.Errorf("no room: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := p.Flush(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Flush: %v", err)
	}
	err := p.Close(ctx)
	if !errors.Is(err, ErrUnconfirmed) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Close: %v", err)
	}
	t.Logf("%v; all of it took %v", err, time.Since(begin))
	eventually(t, "every message is reported", time.Second, func() bool { return reported.Load() == 10 })
	if unconfirmed.Load() != 10 {
		t.Errorf("%d of 10 were reported as unconfirmed", unconfirmed.Load())
	}
}

func TestSections(t *testing.T) { onBrokers(t, testSections) }

func testSections(t *testing.T, b testBroker) {
	env := connect(t, b.StreamURL())
	stream := newStream(t, env)
	p := newProducer(t, env, stream, ProducerConfig{})
	id := UUID{1, 2, 3, 15: 16}
	now := time.UnixMilli(time.Now().UnixMilli()).UTC()
	sent := Message{
		Body: []byte("body"),
		Properties: &Properties{
			MessageID: id, UserID: []byte("me"), To: "to", Subject: "subject", ReplyTo: "reply", CorrelationID: "corr",
			ContentType: "text/plain", ContentEncoding: "none", AbsoluteExpiryTime: now, CreationTime: now,
			GroupID: "group", GroupSequence: 7, ReplyToGroupID: "other",
		},
		ApplicationProperties: map[string]any{
			"string": "s", "bool": true, "int32": int32(-5), "int64": int64(1 << 40), "uint64": uint64(1 << 60),
			"float64": 1.5, "bytes": []byte{0, 1}, "time": now, "uuid": id,
		},
		Annotations:         map[string]any{"x-trace": "abc"},
		DeliveryAnnotations: map[string]any{"d": int32(1)},
		Header:              &Header{Durable: true, Priority: 9, TTL: time.Second, DeliveryCount: 2},
		Footer:              map[string]any{"sum": "1"},
	}
	value := Message{Value: map[string]any{"list": []any{int64(1), "two", id}}}
	must(t, p.Publish(inTime(t), sent, value, Message{Value: "text"}))
	c, _ := env.NewConsumer(stream, ConsumerConfig{})
	var got []*Delivery
	for d, err := range c.All(t.Context()) {
		must(t, err)
		if got = append(got, d); len(got) == 3 {
			break
		}
	}
	d := got[0]
	same := func(what string, want any, get func() (any, error)) {
		t.Helper()
		v, err := get()
		if plainTimes(v); err != nil || !reflect.DeepEqual(v, want) {
			t.Errorf("%s: got %v (%v), want %v", what, v, err, want)
		}
	}
	same("body", sent.Body, func() (any, error) { return d.Body, nil })
	same("properties", sent.Properties, func() (any, error) { return d.Properties() })
	same("application properties", sent.ApplicationProperties, func() (any, error) { return d.ApplicationProperties() })
	same("annotations", sent.Annotations, func() (any, error) { return d.Annotations() })
	same("delivery annotations", sent.DeliveryAnnotations, func() (any, error) { return d.DeliveryAnnotations() })
	same("header", sent.Header, func() (any, error) { return d.Header() })
	same("footer", sent.Footer, func() (any, error) { return d.Footer() })
	same("value", value.Value, func() (any, error) { return got[1].Value() })
	same("text", "text", func() (any, error) { return string(got[2].Body), nil })
	if age := time.Since(d.Timestamp); age < -time.Second || age > time.Minute {
		t.Errorf("timestamp is %v", d.Timestamp)
	}
}

// plainTimes gives the times within v the one form that DeepEqual finds equal.
func plainTimes(v any) {
	plain := func(t time.Time) time.Time { return time.UnixMilli(t.UnixMilli()).UTC() }
	switch v := v.(type) {
	case *Properties:
		v.CreationTime, v.AbsoluteExpiryTime = plain(v.CreationTime), plain(v.AbsoluteExpiryTime)
	case map[string]any:
		for key, value := range v {
			if t, ok := value.(time.Time); ok {
				v[key] = plain(t)
			}
		}
	}
}

func TestInvalidMessages(t *testing.T) { onBrokers(t, testInvalidMessages) }

func testInvalidMessages(t *testing.T, b testBroker) {
	env := connect(t, b.StreamURL())
	p := newProducer(t, env, newStream(t, env), ProducerConfig{})
	for name, m := range map[string]Message{
		"type":           {ApplicationProperties: map[string]any{"c": make(chan int)}},
		"body and value": {Body: []byte("b"), Value: 1},
		"not UTF-8":      {Properties: &Properties{Subject: "\xff"}},
		"id":             {PublishingID: 1 << 63},
	} {
		if err := p.Publish(inTime(t), m); !errors.Is(err, ErrInvalidMessage) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestEnvCloseEndsEverything(t *testing.T) { onBrokers(t, testEnvCloseEndsEverything) }

func testEnvCloseEndsEverything(t *testing.T, b testBroker) {
	env := connect(t, b.StreamURL())
	stream := newStream(t, env)
	p := newProducer(t, env, stream, ProducerConfig{})
	stop, _ := runConsumer(t, env, stream, ConsumerConfig{Name: "c"}, func(*Delivery) {})
	for i := range 100 {
		must(t, p.PublishAsync(t.Context(), Message{Body: number(i)}, nil))
	}
	for range 2 {
		if err := env.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := stop(); !errors.Is(err, ErrClosed) {
		t.Errorf("Run: %v", err)
	}
	for name, err := range map[string]error{
		"Publish": p.Publish(inTime(t), Message{}),
		"Declare": env.DeclareStream(inTime(t), "x", StreamConfig{}),
		"New":     func() error { _, err := env.NewProducer(inTime(t), stream, ProducerConfig{}); return err }(),
	} {
		if !errors.Is(err, ErrClosed) || !strings.Contains(err.Error(), "closed") {
			t.Errorf("%s after Close: %v", name, err)
		}
	}
	again := connect(t, b.StreamURL())
	wantNumbers(t, readAll(t, again, stream), 0, 100)
}
