package streamtest

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/Azure/go-amqp"

	"github.com/tidemark-go/tidemark/internal/wire"
)

// TestStreamErrors expects that each method that names a stream says what is
// wrong with it.
func TestStreamErrors(t *testing.T) {
	b := NewBroker(t)
	if err := b.CreateStream("s", "max-age", "7D"); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		err  error
		code Code
		text string
	}{
		"exists":           {b.CreateStream("s", "max-age", "7D"), StreamAlreadyExists, `create stream "s": stream already exists`},
		"other arguments":  {b.CreateStream("s"), PreconditionFailed, `create stream "s"`},
		"invalid name":     {b.CreateStream("amq.s"), PreconditionFailed, `create stream "amq.s"`},
		"invalid argument": {b.CreateStream("x", "max-age", "old"), PreconditionFailed, `create stream "x"`},
		"half an argument": {b.CreateStream("x", "max-age"), PreconditionFailed, `create stream "x"`},
		"Publish":          {b.Publish("nope", "m"), StreamDoesNotExist, `publish to stream "nope": stream does not exist`},
		"DeleteStream":     {b.DeleteStream("nope"), StreamDoesNotExist, `delete stream "nope"`},
		"SetAvailable":     {b.SetAvailable("nope", false), StreamDoesNotExist, `availability of stream "nope"`},
		"MoveLeader":       {b.MoveLeader("nope"), StreamDoesNotExist, `move leader of stream "nope"`},
		"SkipOffsets":      {b.SkipOffsets("nope", 1), StreamDoesNotExist, `skip offsets of stream "nope"`},
		"CorruptChunks":    {b.CorruptChunks("nope", 1), StreamDoesNotExist, `corrupt chunks of stream "nope"`},
	}
	for name, tt := range tests {
		var refused *StreamError
		if !errors.As(tt.err, &refused) || refused.Code != tt.code || !strings.Contains(tt.err.Error(), tt.text) {
			t.Errorf("%s: %v, want code %v and %q", name, tt.err, tt.code, tt.text)
		}
	}
	if err := b.SetAvailable("s", false); err != nil {
		t.Error(err)
	}
	if err := b.Publish("s", "m"); err == nil {
		t.Error("published to an unavailable stream")
	}
}

// TestPublishWithoutClient expects that subscriptions get what a test publishes,
// and that Await sees it.
func TestPublishWithoutClient(t *testing.T) {
	b := NewBroker(t)
	c := openRaw(t, b)
	c.create("s")
	c.subscribe(1, "s", fromNext, 10)
	if err := b.Publish("s"); err != nil || len(b.Messages("s")) != 0 {
		t.Errorf("nothing: %v, %d messages", err, len(b.Messages("s")))
	}
	if err := b.Publish("s", "a", "", strings.Repeat("c", 300)); err != nil {
		t.Fatal(err)
	}
	if _, chunk := c.chunk(); chunk.Records != 3 {
		t.Errorf("a chunk of %d messages", chunk.Records)
	}
	equal(t, "bodies", b.Bodies("s"), []string{"a", "", strings.Repeat("c", 300)})
}

// TestProperties expects that the properties of a message are decoded.
func TestProperties(t *testing.T) {
	created := time.UnixMilli(1_800_000_000_000)
	text := func(s string) *string { return &s }
	full := &amqp.Message{
		Header: &amqp.MessageHeader{Durable: true},
		Properties: &amqp.MessageProperties{
			MessageID: amqp.UUID{1}, CorrelationID: uint64(7), UserID: []byte("me"), Subject: text("order"), CreationTime: &created,
		},
		ApplicationProperties: map[string]any{"kind": "new", "count": int32(-5), "at": created, "id": amqp.UUID{2}},
		Data:                  [][]byte{[]byte("body")},
	}
	char := "\x00St\xc1\x09\x02\xa1\x01c\x73\x00\x00\x00a"
	properties := "\x00Ss\xc0\x08\x04@@@\xa1\x02hi"
	tests := map[string]struct {
		raw         string
		properties  Properties
		application map[string]any
		err         string
	}{
		"full": {marshal(t, full), Properties{
			MessageID: [16]byte{1}, CorrelationID: uint64(7), UserID: []byte("me"), Subject: "order", CreationTime: created.UTC(),
		}, map[string]any{"kind": "new", "count": int32(-5), "at": created.UTC(), "id": [16]byte{2}}, ""},
		"only a body":                 {"\x00Su\xa0\x02hi", Properties{}, nil, ""},
		"no AMQP":                     {"hi", Properties{}, nil, ""},
		"one that the codec lacks":    {properties + char + "\x00Su\xa0\x02hi", Properties{Subject: "hi"}, nil, "offset 0"},
		"nested beyond what is sound": {"\x00St" + strings.Repeat("\x00\x53\x01", 1<<20/3-100), Properties{}, nil, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			b := NewBroker(t)
			c := openRaw(t, b)
			c.create("s")
			c.declare(1, "", "s")
			frame := wire.AppendPublishEntry(wire.BeginPublish(nil, wire.Version1, 1), 1, []byte(tt.raw))
			c.write(wire.FinishPublish(frame, 0, 1))
			c.confirmed()
			m := b.Messages("s")[0]
			for _, at := range []*time.Time{&m.Properties.CreationTime} {
				*at = at.UTC()
			}
			if at, ok := m.ApplicationProperties["at"].(time.Time); ok {
				m.ApplicationProperties["at"] = at.UTC()
			}
			if !reflect.DeepEqual(m.Properties, tt.properties) || !reflect.DeepEqual(m.ApplicationProperties, tt.application) {
				t.Errorf("%+v, %v", m.Properties, m.ApplicationProperties)
			}
			if (m.Err == nil) != (tt.err == "") || m.Err != nil && !strings.Contains(m.Err.Error(), tt.err) {
				t.Errorf("error %v, want %q", m.Err, tt.err)
			}
		})
	}
}

func marshal(t *testing.T, m *amqp.Message) string {
	t.Helper()
	b, err := m.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
