package stream

import (
	"bytes"
	"errors"
	"testing"
)

// TestRelay: Delivery.Message publishes every message byte for byte, by itself
// and within a sub-batch.
func TestRelay(t *testing.T) { onBrokers(t, testRelay) }

func testRelay(t *testing.T, b testBroker) {
	env := connect(t, b.StreamURL())
	msgs := []Message{
		{Body: []byte("data")}, {Body: make([]byte, 300)}, {}, {Value: "text"}, {Value: Described{Symbol("d"), Char('x')}},
		{Sequences: [][]any{{"a"}, {}}}, messageOver([]byte("bare")), messageOver([]byte{}), messageOver([]byte("\x00\x53\x75\xa0\x01a\x00\x53\x75\xa0\x01b")),
		messageOver([]byte("\x00\xa3\x10amqp:data:binary\xa0\x02hi")), messageOver([]byte("\x00\x53\x74\x41\x00\x53\x75\xa0\x01b")),
		{
			Body: []byte("all"), Header: &Header{Durable: true}, DeliveryAnnotations: map[string]any{"x-d": Decimal64{1}}, Annotations: map[string]any{"x-a": []UUID{{1}}},
			Properties: &Properties{MessageID: UUID{2}, CreationTime: noon}, ApplicationProperties: map[string]any{"k": map[any]any{UUID{3}: nil}}, Footer: map[string]any{"x-f": noon},
		},
	}
	stream := newStream(t, env)
	send := func(to string, cfg ProducerConfig, msgs []Message) []*Delivery {
		p, err := env.NewProducer(inTime(t), to, cfg)
		must(t, err)
		must(t, errors.Join(p.Publish(inTime(t), msgs...), p.Close(inTime(t))))
		return published(t, env, to, len(msgs))
	}
	first := send(stream, ProducerConfig{}, msgs)
	for i, d := range first {
		if raw := msgs[i].mustEncode(); !bytes.Equal(d.Raw(), raw) {
			t.Errorf("message %d came as %q, not as %q", i, d.Raw(), raw)
		}
	}
	for name, cfg := range map[string]ProducerConfig{
		"plain": {}, "named": {Name: "relay", CreationTime: true}, "sub-batches": {SubEntries: 5, Compression: CompressionGzip},
	} {
		t.Run(name, func(t *testing.T) {
			again := make([]Message, len(first))
			for i, d := range first {
				again[i] = d.Message()
			}
			for i, d := range send(newStream(t, env), cfg, again) {
				if want := again[i].mustEncode(); !bytes.Equal(d.Raw(), want) || !bytes.Equal(want, first[i].Raw()) {
					t.Errorf("message %d became %q, not %q", i, d.Raw(), want)
				}
			}
		})
	}
}
