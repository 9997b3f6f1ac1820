package stream

import (
	"bytes"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/Azure/go-amqp"
)

// fullMessage has every section but those of sequences and a value.
func fullMessage() Message {
	return Message{
		Body:                  []byte("body"),
		Header:                &Header{Durable: true, TTL: time.Second, DeliveryCount: 300},
		Properties:            &Properties{MessageID: uint64(7), UserID: []byte("me"), Subject: "s", CorrelationID: "c", ContentType: "text/plain", GroupSequence: 1 << 30},
		ApplicationProperties: map[string]any{"string": "v", "int": 5, "time": noon, "binary": []byte{1}, "float": 1.5, "uuid": UUID{1}},
		Annotations:           map[string]any{"x-a": Symbol("s")},
		DeliveryAnnotations:   map[string]any{"x-d": true},
		Footer:                map[string]any{"x-f": uint64(1)},
	}
}

// TestAppendMessage: the bytes before stay, and the message does not depend on
// them.
func TestAppendMessage(t *testing.T) {
	one := map[string]any{"k": "v"}
	before := bytes.Repeat([]byte("before"), maxSections/6+1) // more than sections may have
	for i, m := range []Message{
		{}, {Body: []byte("b")}, {Body: make([]byte, 300)}, {Value: []any{"a", map[any]any{1: "x"}}}, {Sequences: [][]any{{1}, {}}}, {Properties: &Properties{}},
		{Body: []byte("b"), Header: &Header{}, Properties: &Properties{To: "t"}, ApplicationProperties: one, Annotations: one, DeliveryAnnotations: one, Footer: one},
		{Value: Array{[]any{1}, []any{}, []any{2}}}, messageOver([]byte("bare")),
	} {
		want, err := appendMessage(nil, &m, time.Time{})
		must(t, err)
		got, err := appendMessage(before, &m, time.Time{})
		if must(t, err); !bytes.HasPrefix(got, before) || !bytes.Equal(got[len(before):], want) {
			t.Errorf("message %d behind others is not what it is alone, %q", i, want)
		}
		if size, known := messageSize(&m, time.Time{}); known != (m.plain() && m.Raw == nil) || known && size != len(want) {
			t.Errorf("message %d has %d bytes, not %d (%v)", i, len(want), size, known)
		}
	}
}

// TestAppendMessageRefused: the buffer has its old length, with room for more
// or without.
func TestAppendMessageRefused(t *testing.T) {
	for i, m := range []Message{
		{Value: make(chan int)}, {Body: []byte("b"), Footer: map[string]any{"a": 1, "b": make(chan int)}}, {Header: &Header{TTL: -1}},
		{Properties: &Properties{Subject: "s", ReplyToGroupID: "\xff"}}, {Body: []byte("b"), Value: 1},
	} {
		for _, room := range []int{0, 1 << 10} {
			before := append(make([]byte, 0, 6+room), "before"...)
			got, err := appendMessage(before, &m, noon)
			if wantErr(t, err, ErrInvalidMessage); string(got) != "before" || string(before) != "before" {
				t.Errorf("message %d: %q", i, got)
			}
		}
	}
}

// TestAppendMessageCreation: a time is sent where there is none, and the caller's
// message stays as it is.
func TestAppendMessageCreation(t *testing.T) {
	own := noon.Add(time.Hour)
	for i, test := range []struct {
		m    Message
		want time.Time
	}{
		{Message{Body: []byte("b")}, noon}, {Message{}, noon}, {Message{Properties: &Properties{To: "t"}}, noon},
		{Message{Properties: &Properties{CreationTime: own}}, own}, {messageOver(appendData(nil, []byte("b"))), time.Time{}},
		{Message{Body: []byte("b"), origin: firstByte(nil)}, time.Time{}}, {Message{Body: []byte("b"), origin: firstByte(nil), Properties: &Properties{}}, noon},
	} {
		before := test.m
		raw, err := appendMessage(nil, &test.m, noon)
		must(t, err)
		p, err := deliveryOf(raw).Properties()
		must(t, err)
		if p == nil {
			p = &Properties{}
		}
		if !p.CreationTime.Equal(test.want) || test.m.Properties != before.Properties || before.Properties != nil && before.Properties.To != p.To {
			t.Errorf("message %d has %v, want %v", i, p.CreationTime, test.want)
		}
	}
	if !reflect.DeepEqual(noProperties, Properties{}) {
		t.Errorf("the properties of none are %+v", noProperties)
	}
}

// TestAppendMessageAllocates: nothing for the usual sections, if there is room.
func TestAppendMessageAllocates(t *testing.T) {
	b := make([]byte, 0, 1<<12)
	full, plain := fullMessage(), Message{Body: make([]byte, 1000)}
	for name, test := range map[string]struct {
		m        *Message
		creation time.Time
		most     float64
	}{
		"a body": {&plain, time.Time{}, 0}, "a body and the creation time": {&plain, noon, 0}, "all sections": {&full, noon, 0},
		"lists and maps": {&Message{Value: []any{1, map[string]any{"k": []any{"x"}}}}, time.Time{}, 0},
	} {
		got := testing.AllocsPerRun(100, func() {
			if _, err := appendMessage(b, test.m, test.creation); err != nil {
				t.Error(err)
			}
		})
		if got > test.most {
			t.Errorf("%s: %v allocations", name, got)
		}
	}
}

// TestFieldsAreTheCodecs: our own code writes the header and the properties as
// the codec does, byte for byte.
func TestFieldsAreTheCodecs(t *testing.T) {
	for i, m := range []Message{
		{Header: &Header{}}, {Header: &Header{Priority: 4}}, {Header: &Header{Priority: 4, FirstAcquirer: true}}, {Header: &Header{Durable: true, Priority: 9, TTL: time.Hour, DeliveryCount: 255}},
		{Header: &Header{TTL: math.MaxUint32 * time.Millisecond, DeliveryCount: math.MaxUint32}}, {Properties: &Properties{}}, {Properties: &Properties{ReplyToGroupID: "r"}},
		{Properties: &Properties{MessageID: "m", UserID: []byte{}, To: strings.Repeat("x", 256), AbsoluteExpiryTime: noon}}, {Properties: &Properties{CorrelationID: UUID{9}, ContentEncoding: "gzip", ContentType: "a/b"}},
		{Properties: &Properties{MessageID: []byte{}, GroupID: "g", GroupSequence: 255, CreationTime: noon.Add(-1e6 * time.Hour), Subject: "ü"}},
	} {
		want, err := codecMessage(&m).MarshalBinary()
		must(t, err)
		if got := m.mustEncode(); !bytes.HasPrefix(got, want) || len(got) != len(want)+sectionHead+2 {
			t.Errorf("message %d: %q, by the codec %q", i, got, want)
		}
	}
}

// codecMessage returns the header and properties as the codec has them.
func codecMessage(m *Message) *amqp.Message {
	out := &amqp.Message{Header: (*amqp.MessageHeader)(m.Header)}
	if p := m.Properties; p != nil {
		out.Properties = &amqp.MessageProperties{
			MessageID: codecID(p.MessageID), UserID: p.UserID, To: unlessZero(p.To), Subject: unlessZero(p.Subject), ReplyTo: unlessZero(p.ReplyTo),
			CorrelationID: codecID(p.CorrelationID), ContentType: unlessZero(p.ContentType), ContentEncoding: unlessZero(p.ContentEncoding),
			AbsoluteExpiryTime: unlessZero(p.AbsoluteExpiryTime), CreationTime: unlessZero(p.CreationTime),
			GroupID: unlessZero(p.GroupID), GroupSequence: unlessZero(p.GroupSequence), ReplyToGroupID: unlessZero(p.ReplyToGroupID),
		}
	}
	return out
}

func codecID(id any) any {
	if u, ok := id.(UUID); ok {
		return amqp.UUID(u)
	}
	return id
}

func unlessZero[T string | uint32 | time.Time](v T) *T {
	if v == *new(T) {
		return nil
	}
	return &v
}

// TestScalarsAreTheCodecs: our own code writes what holds no other values as the
// codec does, byte for byte.
func TestScalarsAreTheCodecs(t *testing.T) {
	for _, v := range []any{
		true, false, int(-129), int(-128), int(127), int(128), int8(-1), int16(-2), int32(-129), int32(-128), int32(127), int32(128), int64(math.MinInt64), int64(-128), uint(255),
		uint8(200), uint16(1), uint32(0), uint32(255), uint32(256), uint64(0), uint64(255), uint64(256), float32(1.5), math.Inf(-1), "", "ü", strings.Repeat("x", 255), strings.Repeat("x", 256),
		[]byte{}, make([]byte, 255), make([]byte, 256), noon, time.Time{}, time.UnixMilli(-1),
	} {
		want, err := (&amqp.Message{Value: v}).MarshalBinary()
		must(t, err)
		if got := (&Message{Value: v}).mustEncode(); !bytes.Equal(got, want) {
			t.Errorf("%T: %q, by the codec %q", v, got, want)
		}
	}
	for _, text := range []string{"", "s", strings.Repeat("x", 255), strings.Repeat("x", 256)} {
		want, err := (&amqp.Message{Value: amqp.Symbol(text)}).MarshalBinary()
		must(t, err)
		if got := (&Message{Value: Symbol(text)}).mustEncode(); !bytes.Equal(got, want) {
			t.Errorf("a symbol: %q, by the codec %q", got, want)
		}
	}
}

// TestLargeBodyWithSections: the bound of the sections does not count the body.
func TestLargeBodyWithSections(t *testing.T) {
	m := Message{Body: make([]byte, maxSections+1), Footer: map[string]any{"x-f": []any{"v"}}}
	_, err := m.encode()
	must(t, err)
}

// FuzzAppendMessage: what is appended reads as what was given, whatever the
// buffer held before; what is refused leaves the buffer as it was.
func FuzzAppendMessage(f *testing.F) {
	for i, v := range bothWays {
		value, err := appendValue(nil, v)
		must(f, err)
		f.Add(uint16(1<<i%512), []byte("body"), "text", int64(i)<<i, value)
	}
	f.Add(uint16(math.MaxUint16), []byte{}, "\xff", int64(math.MinInt64), []byte{0x40})
	f.Fuzz(func(t *testing.T, which uint16, body []byte, text string, n int64, value []byte) {
		m := fuzzedMessage(which, body, text, n, value)
		var creation time.Time
		if which&1 == 0 {
			creation = noon
		}
		b, err := appendMessage([]byte("before"), &m, creation)
		if !bytes.HasPrefix(b, []byte("before")) || err != nil && (len(b) > 6 || !errors.Is(err, ErrInvalidMessage)) {
			t.Fatalf("%q, %v", b, err)
		}
		if err != nil {
			return
		}
		if m.Raw != nil {
			if !bytes.Equal(b[6:], m.Raw) {
				t.Fatalf("%q became %q", m.Raw, b[6:])
			}
			return
		}
		if size, known := messageSize(&m, creation); known && size != len(b)-6 {
			t.Fatalf("%d bytes, not %d", len(b)-6, size)
		}
		if creation != (time.Time{}) {
			if m.Properties == nil {
				m.Properties = &Properties{}
			}
			if m.Properties.CreationTime.IsZero() {
				m.Properties.CreationTime = creation
			}
		}
		if got := readBackMessage(t, b[6:]); !reflect.DeepEqual(normalMessage(got), normalMessage(m)) {
			t.Fatalf("%#v came back as %#v", m, got)
		}
	})
}

// fuzzedMessage returns a message with the sections that which names.
func fuzzedMessage(which uint16, body []byte, text string, n int64, value []byte) Message {
	v, err := readValue(value)
	if err != nil {
		v = text
	}
	has := func(bit int) bool { return which>>bit&1 != 0 }
	m := Message{PublishingID: uint64(n), FilterValue: text}
	switch {
	case has(1) && v != nil:
		m.Value = v
	case has(2):
		m.Sequences = [][]any{{v, text}, {n}}
	default:
		m.Body = body
	}
	if has(3) {
		m.Header = &Header{Durable: n&1 != 0, Priority: uint8(n), TTL: time.Duration(n), FirstAcquirer: n&2 != 0, DeliveryCount: uint32(n)}
	}
	if has(4) {
		m.Properties = &Properties{
			MessageID: []any{nil, uint64(n), UUID{byte(n)}, body, text}[uint64(n)%5], UserID: body, To: text, Subject: text, CorrelationID: text, ContentType: text,
			AbsoluteExpiryTime: time.UnixMilli(n).UTC(), GroupSequence: uint32(n), ReplyToGroupID: text,
		}
	}
	if has(5) {
		m.ApplicationProperties = map[string]any{text: v, text + "n": n}
	}
	if has(6) {
		m.Annotations = map[string]any{"x-v": v, text: uint32(n)}
	}
	if has(7) {
		m.DeliveryAnnotations, m.Footer = map[string]any{"x-d": v}, map[string]any{"x-f": []any{v, body}}
	}
	if has(8) {
		m.Raw = value
	}
	return m
}

// readBackMessage returns the message that a consumer makes of its bytes.
func readBackMessage(t *testing.T, raw []byte) (m Message) {
	t.Helper()
	d := deliveryOf(raw)
	var errs [8]error
	m.Header, errs[0] = d.Header()
	m.Properties, errs[1] = d.Properties()
	m.ApplicationProperties, errs[2] = d.ApplicationProperties()
	m.Annotations, errs[3] = d.Annotations()
	m.DeliveryAnnotations, errs[4] = d.DeliveryAnnotations()
	m.Footer, errs[5] = d.Footer()
	m.Value, errs[6] = d.Value()
	m.Sequences, errs[7] = d.Sequences()
	must(t, errors.Join(errs[:]...))
	if m.Value == nil && m.Sequences == nil {
		m.Body = d.Body
	}
	return m
}

// normalMessage returns what a message is made of, without the differences that
// a round trip makes: nil and empty are one, and times are whole milliseconds.
func normalMessage(m Message) map[string]any {
	out := map[string]any{"body": string(m.Body), "value": exact(m.Value)}
	for name, section := range map[string]map[string]any{"props": m.ApplicationProperties, "notes": m.Annotations, "delivery": m.DeliveryAnnotations, "footer": m.Footer} {
		if section != nil {
			out[name] = exact(section)
		}
	}
	sequences := []any{}
	for _, list := range m.Sequences {
		sequences = append(sequences, exact(list))
	}
	out["sequences"] = sequences
	if h := m.Header; h != nil {
		header := *h
		header.TTL = h.TTL.Truncate(time.Millisecond)
		out["header"] = header
	}
	if p := m.Properties; p != nil {
		props := *p
		props.MessageID, props.UserID = exact(p.MessageID), append([]byte{}, p.UserID...)
		out["properties"] = props
	}
	return out
}

// exact returns a value in a form that DeepEqual compares by all that a round
// trip keeps, which are the types of strings and keys, and the bits of NaN.
func exact(v any) any {
	switch v := v.(type) {
	case nil, bool:
		return v
	case time.Time:
		return [2]any{"time", v.UnixMilli()}
	case float32:
		return [2]any{"float32", math.Float32bits(v)}
	case float64:
		return [2]any{"float64", math.Float64bits(v)}
	case []byte:
		return [2]any{"binary", string(v)}
	case Described:
		return [2]any{exact(v.Descriptor), exact(v.Value)}
	}
	switch r := reflect.ValueOf(v); r.Kind() {
	case reflect.Slice:
		out := make([]any, r.Len())
		for i := range out {
			out[i] = exact(r.Index(i).Interface())
		}
		return [2]any{r.Type(), out}
	case reflect.Map:
		out := map[any]any{}
		for _, k := range r.MapKeys() {
			out[exact(k.Interface())] = exact(r.MapIndex(k).Interface())
		}
		return out
	}
	return v
}

// BenchmarkAppendMessage encodes into a buffer that has the room, as a frame has.
func BenchmarkAppendMessage(b *testing.B) {
	full := fullMessage()
	for _, test := range []struct {
		name     string
		m        Message
		creation time.Time
	}{
		{"body of 100 bytes", Message{Body: make([]byte, 100)}, time.Time{}}, {"with a creation time", Message{Body: make([]byte, 100)}, noon},
		{"raw", Message{Raw: make([]byte, 105)}, time.Time{}}, {"all sections", full, time.Time{}},
	} {
		b.Run(test.name, func(b *testing.B) {
			room := make([]byte, 0, 1<<12)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := appendRecord(room, &test.m, test.creation); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
