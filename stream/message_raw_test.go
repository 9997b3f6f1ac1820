package stream

import (
	"bytes"
	"errors"
	"testing"
	"time"
)

// encodedBodies are messages that a caller may have encoded, of any kind.
var encodedBodies = [][]byte{
	appendData(nil, []byte("data")), appendData(nil, make([]byte, 300)), []byte("bare"), {}, {0xff}, []byte("\x00\x53\x75\xa0\x05cut"),
	[]byte("\x00\x53\x74\xc1\x07\x02\xa1\x01k\xa1\x01v\x00\x53\x75\xa0\x01b"),
}

// TestRawMessage: Raw is sent as it is, and nothing is added.
func TestRawMessage(t *testing.T) {
	for _, raw := range encodedBodies {
		for _, creation := range []time.Time{{}, noon} {
			m := Message{Raw: raw, PublishingID: 7, Key: "k", FilterValue: "f"}
			got, err := appendMessage([]byte("before"), &m, creation)
			if must(t, err); !bytes.Equal(got, append([]byte("before"), raw...)) {
				t.Errorf("%q became %q", raw, got)
			}
			if size, known := messageSize(&m, creation); !known || size != len(raw) {
				t.Errorf("%q has %d bytes (%v)", raw, size, known)
			}
		}
	}
}

// TestRawAndFields: a section beside the whole message is refused by its name.
func TestRawAndFields(t *testing.T) {
	empty := map[string]any{}
	for field, m := range map[string]Message{
		"Body": {Body: []byte{}}, "Value": {Value: 1}, "Sequences": {Sequences: [][]any{}}, "Properties": {Properties: &Properties{}},
		"ApplicationProperties": {ApplicationProperties: empty}, "Annotations": {Annotations: empty}, "DeliveryAnnotations": {DeliveryAnnotations: empty},
		"Header": {Header: &Header{}}, "Footer": {Footer: empty},
	} {
		for _, m.Raw = range encodedBodies {
			refused(t, m, "both Raw and "+field)
		}
	}
}

// TestRawOfADeliveryReplaced: other bytes in the message of a Delivery do not mix
// with its body.
func TestRawOfADeliveryReplaced(t *testing.T) {
	for _, d := range []*Delivery{{Body: []byte("b")}, deliveryOf([]byte("bare")), deliveryOf([]byte{})} {
		m := d.Message()
		m.Raw = []byte("other")
		if m.Body != nil {
			refused(t, m, "both Raw and Body")
		}
		if m.Body = nil; string(m.mustEncode()) != "other" {
			t.Errorf("%q became %q", m.Raw, m.mustEncode())
		}
	}
	m := deliveryOf([]byte("bare")).Message()
	m.Raw = nil // no longer a relay
	if got := m.mustEncode(); !bytes.Equal(got, appendData(nil, []byte("bare"))) {
		t.Errorf("%q", got)
	}
}

// TestRawMessageAllocates: nothing, if there is room.
func TestRawMessageAllocates(t *testing.T) {
	b, m := make([]byte, 0, 1<<10), Message{Raw: make([]byte, 100)}
	relayed := messageOver([]byte("\x00\x53\x70\x45\x00\x53\x75\xa0\x01b"))
	for _, m := range []*Message{&m, &relayed} {
		if n := testing.AllocsPerRun(100, func() { _, _ = appendMessage(b, m, noon) }); n > 0 {
			t.Errorf("%v allocations", n)
		}
	}
}

// TestPublishRaw: the stream has the bytes, whatever the caller does with them
// after the call.
func TestPublishRaw(t *testing.T) { onBrokers(t, testPublishRaw) }

func testPublishRaw(t *testing.T, b testBroker) {
	env := connect(t, b.StreamURL())
	stream := newStream(t, env)
	p, err := env.NewProducer(inTime(t), stream, ProducerConfig{Name: "relay", CreationTime: true})
	must(t, err)
	for i, raw := range encodedBodies {
		mine := bytes.Clone(raw)
		must(t, p.PublishAsync(inTime(t), Message{Raw: mine, PublishingID: uint64(i + 1), FilterValue: "f"}, nil))
		clear(mine)
	}
	wantErr(t, p.Publish(inTime(t), Message{Raw: []byte("a repeat"), PublishingID: 1}), ErrInvalidMessage)
	must(t, errors.Join(p.Flush(inTime(t)), p.Close(inTime(t))))
	for i, d := range published(t, env, stream, len(encodedBodies)) {
		if !bytes.Equal(d.Raw(), encodedBodies[i]) {
			t.Errorf("message %d is %q, want %q", i, d.Raw(), encodedBodies[i])
		}
	}
}
