package stream

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/Azure/go-amqp"
)

// deliveryOf is what a consumer gets for the bytes.
func deliveryOf(raw []byte) *Delivery {
	body, _ := bodyOf(raw)
	return &Delivery{Stream: "s", Body: body, sections: &sections{raw: raw}}
}

func TestMessageRoundTrip(t *testing.T) {
	id := UUID{1, 2, 3, 15: 255}
	m := Message{
		Body: []byte("body"),
		Properties: &Properties{
			MessageID: id, UserID: []byte("user"), To: "to", Subject: "subject", ReplyTo: "reply", CorrelationID: uint64(7),
			ContentType: "text/plain", ContentEncoding: "gzip", AbsoluteExpiryTime: noon, CreationTime: noon.Add(time.Millisecond),
			GroupID: "group", GroupSequence: 9, ReplyToGroupID: "other",
		},
		ApplicationProperties: map[string]any{
			"string": "ü", "bool": true, "int8": int8(-1), "int16": int16(-300), "int32": int32(-1), "int64": int64(math.MinInt64),
			"uint8": uint8(255), "uint16": uint16(65535), "uint32": uint32(0), "uint64": uint64(math.MaxUint64),
			"float32": float32(1.5), "float64": math.Pi, "binary": []byte{0, 255}, "time": noon, "uuid": id,
		},
		Annotations: map[string]any{
			"x-list": []any{"a", int64(-5), []any{id}}, "x-map": map[string]any{"k": map[string]any{"deep": id}},
		},
		DeliveryAnnotations: map[string]any{"d": "1"},
		Footer:              map[string]any{"f": "2"},
		Header:              &Header{Durable: true, Priority: 4, TTL: 1500 * time.Millisecond, FirstAcquirer: true, DeliveryCount: 3},
	}
	raw, err := m.encode()
	if err != nil {
		t.Fatal(err)
	}
	d := deliveryOf(raw)
	if string(d.Body) != "body" {
		t.Errorf("body %q", d.Body)
	}
	for _, section := range []struct {
		name string
		get  func() (any, error)
		want any
	}{
		{"properties", func() (any, error) { return d.Properties() }, m.Properties},
		{"application properties", func() (any, error) { return d.ApplicationProperties() }, m.ApplicationProperties},
		{"annotations", func() (any, error) { return d.Annotations() }, m.Annotations},
		{"delivery annotations", func() (any, error) { return d.DeliveryAnnotations() }, m.DeliveryAnnotations},
		{"footer", func() (any, error) { return d.Footer() }, m.Footer},
		{"header", func() (any, error) { return d.Header() }, m.Header},
	} {
		if got, err := section.get(); err != nil || !reflect.DeepEqual(got, section.want) {
			t.Errorf("%s: %#v, %v, want %#v", section.name, got, err, section.want)
		}
	}
	if v, err := d.Value(); v != nil || err != nil {
		t.Errorf("value %v, %v", v, err)
	}
}

func TestMessageWithoutSections(t *testing.T) {
	for _, n := range []int{0, 1, 255, 256, 100_000} {
		body := bytes.Repeat([]byte{0x53}, n)
		raw, err := (&Message{Body: body}).encode()
		if err != nil {
			t.Fatal(err)
		}
		d := deliveryOf(raw)
		if !bytes.Equal(d.Body, body) {
			t.Errorf("a body of %d bytes came back with %d", n, len(d.Body))
		}
		m, err := codecReads(raw)
		if err != nil || !bytes.Equal(m.GetData(), body) {
			t.Errorf("the codec reads another body: %v", err)
		}
		p, err := d.Properties()
		a, err2 := d.ApplicationProperties()
		h, err3 := d.Header()
		if p != nil || a != nil || h != nil || errors.Join(err, err2, err3) != nil {
			t.Errorf("sections out of nothing: %v %v %v", p, a, h)
		}
	}
}

func TestMessageEncodeCopies(t *testing.T) {
	for _, m := range []Message{{Body: []byte("abc")}, {Body: []byte("abc"), Properties: &Properties{To: "x"}}} {
		raw, err := m.encode()
		if err != nil {
			t.Fatal(err)
		}
		m.Body[0] = 'X'
		if body, _ := bodyOf(raw); string(body) != "abc" {
			t.Errorf("the caller's change is seen: %q", body)
		}
	}
}

func TestMessageValue(t *testing.T) {
	for _, value := range []any{
		"text", []byte("bytes"), true, int64(-1), uint8(3), noon, UUID{1}, []any{"a", UUID{2}}, map[string]any{"k": int64(1)},
		strings.Repeat("long", 100),
	} {
		raw, err := (&Message{Value: value}).encode()
		if err != nil {
			t.Fatal(err)
		}
		d := deliveryOf(raw)
		if got, err := d.Value(); err != nil || !reflect.DeepEqual(got, value) {
			t.Errorf("%#v came back as %#v, %v", value, got, err)
		}
		want := ""
		switch v := value.(type) {
		case string:
			want = v
		case []byte:
			want = string(v)
		}
		if string(d.Body) != want {
			t.Errorf("the body of the value %#v is %q", value, d.Body)
		}
	}
}

func TestMessageThatCannotBeEncoded(t *testing.T) {
	for _, m := range []Message{
		{Value: make(chan int)},
		{Value: struct{ X int }{1}},
		{Body: []byte("x"), Value: "y"},
		{ApplicationProperties: map[string]any{"f": func() {}}},
		{Annotations: map[string]any{"nested": []any{make(chan int)}}},
		{Properties: &Properties{MessageID: 1.5}},
		{Body: []byte("x"), Sequences: [][]any{{1}}},
		{Value: 1, Sequences: [][]any{{1}}},
		{Sequences: [][]any{}},
		{Header: &Header{TTL: -time.Millisecond}},
		{Header: &Header{TTL: (math.MaxUint32 + 1) * time.Millisecond}},
	} {
		if _, err := m.encode(); !errors.Is(err, ErrInvalidMessage) {
			t.Errorf("%+v: %v", m, err)
		}
	}
}

func TestBodyOf(t *testing.T) {
	props := "\x00\x53\x74\xc1\x01\x00"
	for _, test := range []struct {
		name, raw, body string
		ok              bool
	}{
		{"data", "\x00\x53\x75\xa0\x02hi", "hi", true},
		{"long data", "\x00\x53\x75\xb0\x00\x00\x00\x02hi", "hi", true},
		{"no bytes of data", "\x00\x53\x75\xa0\x00", "", true},
		{"several", "\x00\x53\x75\xa0\x02hi\x00\x53\x75\xa0\x01!", "hi!", true},
		{"properties, data, footer", props + "\x00\x53\x75\xa0\x02hi\x00\x53\x78\xc1\x01\x00", "hi", true},
		{"as RabbitMQ writes it", "\x00\x53\x70\xc0\x06\x05\x42\x40\x40\x41\x43" +
			"\x00\x53\x72\xc1\x27\x04\xa3\x0ax-exchange\xa1\x00\xa3\x0dx-routing-key\xa1\x07pf-amqp" + "\x00\x53\x75\xa0\x02hi", "hi", true},
		{"a string", "\x00\x53\x77\xa1\x02hi", "hi", true},
		{"a number", "\x00\x53\x77\x54\x07", "", true},
		{"null", "\x00\x53\x77\x40", "", true},
		{"no body", props, "", true},
		{"nothing", "", "", false},
		{"bare bytes", "hello", "hello", false},
		{"bare zeros", "\x00\x00\x00", "\x00\x00\x00", false},
		{"cut", "\x00\x53\x75\xa0\x03hi", "\x00\x53\x75\xa0\x03hi", false},
		{"a length beyond all bytes", "\x00\x53\x75\xb0\xff\xff\xff\xffhi", "\x00\x53\x75\xb0\xff\xff\xff\xffhi", false},
		{"bytes behind", "\x00\x53\x75\xa0\x02hi!", "\x00\x53\x75\xa0\x02hi!", false},
		{"no such section", "\x00\x53\x79\xa0\x02hi", "\x00\x53\x79\xa0\x02hi", false},
		{"data that is a string", "\x00\x53\x75\xa1\x02hi", "\x00\x53\x75\xa1\x02hi", false},
	} {
		body, ok := bodyOf([]byte(test.raw))
		if string(body) != test.body || ok != test.ok {
			t.Errorf("%s: %q, %v, want %q, %v", test.name, body, ok, test.body, test.ok)
		}
	}
}

// TestBodyHasNoRoom: appending to a body must not write into what follows it.
func TestBodyHasNoRoom(t *testing.T) {
	raw := []byte("\x00\x53\x75\xa0\x02hi\x00\x53\x78\xc1\x01\x00")
	before := bytes.Clone(raw)
	body, _ := bodyOf(raw)
	_ = append(body, '!')
	if !bytes.Equal(raw, before) {
		t.Errorf("appending to the body changed the message to %q", raw)
	}
}

func TestDeliveryThatIsNotAMQP(t *testing.T) {
	d := deliveryOf([]byte("hello"))
	_, e1 := d.Properties()
	_, e2 := d.ApplicationProperties()
	_, e3 := d.Annotations()
	_, e4 := d.DeliveryAnnotations()
	_, e5 := d.Footer()
	_, e6 := d.Header()
	_, e7 := d.Value()
	_, e8 := d.Sequences()
	for i, err := range []error{e1, e2, e3, e4, e5, e6, e7, e8} {
		if !errors.Is(err, ErrMalformed) {
			t.Errorf("method %d: %v", i, err)
		}
	}
	if string(d.Body) != "hello" || string(d.Raw()) != "hello" {
		t.Errorf("body %q, raw %q", d.Body, d.Raw())
	}
}

func seedMessages(f *testing.F) {
	for _, m := range []Message{
		{Body: []byte("hi")}, {Value: "text"}, {Value: []any{"a", map[any]any{"k": UUID{1}}}},
		{Body: []byte("x"), Properties: &Properties{MessageID: UUID{1}, CreationTime: noon}, Annotations: map[string]any{"a": int8(-1)}},
	} {
		raw, err := m.encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Add([]byte("\x00\x53\x75\xa0\x02hi\x00\x53\x75\xa0\x01!"))
	f.Add([]byte("hello"))
}

// FuzzBodyOf: what the codec takes for data, the short way takes too.
func FuzzBodyOf(f *testing.F) {
	seedMessages(f)
	f.Fuzz(func(t *testing.T, raw []byte) {
		body, ok := bodyOf(raw)
		if !ok && !bytes.Equal(body, raw) {
			t.Fatalf("not AMQP, and its body is %q", body)
		}
		if plain, isPlain := plainBody(raw); isPlain && (!ok || !bytes.Equal(plain, body)) {
			t.Fatalf("plain body %q, by the general way %q, %v", plain, body, ok)
		}
		m, err := codecReads(raw)
		if !ok || err != nil || len(m.Data) == 0 || m.Value != nil {
			return
		}
		if want := bytes.Join(m.Data, nil); !bytes.Equal(body, want) {
			t.Fatalf("body %q, the codec's %q", body, want)
		}
	})
}

// codecReads returns what go-amqp makes of a message.
func codecReads(raw []byte) (m *amqp.Message, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	m = &amqp.Message{}
	return m, m.UnmarshalBinary(raw)
}

// FuzzSections: whatever was published, the methods return, and change nothing.
func FuzzSections(f *testing.F) {
	seedMessages(f)
	f.Fuzz(func(t *testing.T, raw []byte) {
		before := bytes.Clone(raw)
		d := deliveryOf(raw)
		_, e1 := d.Properties()
		_, e2 := d.ApplicationProperties()
		_, e3 := d.Annotations()
		_, e4 := d.DeliveryAnnotations()
		_, e5 := d.Footer()
		_, e6 := d.Header()
		_, e7 := d.Value()
		_, e8 := d.Sequences()
		for i, err := range []error{e1, e2, e3, e4, e5, e6, e7, e8} {
			if err != nil && !errors.Is(err, ErrMalformed) {
				t.Fatalf("method %d: %v", i, err)
			}
		}
		m := d.Message()
		if again, err := m.encode(); err != nil || !bytes.Equal(again, before) || !bytes.Equal(raw, before) {
			t.Fatalf("%q is published as %q, %v", before, again, err)
		}
		m.ApplicationProperties = map[string]any{"set": UUID{1}}
		again, err := m.encode()
		must(t, err)
		out := deliveryOf(again)
		props, err := out.ApplicationProperties()
		if err != nil || len(props) != 1 || props["set"] != (UUID{1}) {
			t.Fatalf("%q with properties is %q: %v, %v", before, again, props, err)
		}
		if body, _ := bodyOf(again); !bytes.Equal(body, d.Body) {
			t.Fatalf("the body %q became %q", d.Body, body)
		}
	})
}

// TestValueSize has every constructor, with each length from nothing to one byte
// more than the value has.
func TestValueSize(t *testing.T) {
	for constructor := range 256 {
		fixed, width := -1, 0
		switch constructor >> 4 {
		case 0x4:
			fixed = 0
		case 0x5:
			fixed = 1
		case 0x6:
			fixed = 2
		case 0x7:
			fixed = 4
		case 0x8:
			fixed = 8
		case 0x9:
			fixed = 16
		case 0xa, 0xc, 0xe:
			fixed, width = 5, 1
		case 0xb, 0xd, 0xf:
			fixed, width = 5, 4
		}
		value := make([]byte, 1, 32)
		value[0] = byte(constructor)
		if width > 0 {
			value = append(value, make([]byte, width)...)
			value[width] = 5
		}
		value = append(value, make([]byte, max(0, fixed))...)
		whole := len(value)
		value = append(value, 'x')
		for n := range whole + 2 {
			size, head := valueSize(value[:n])
			wantSize, wantHead := -1, 0
			if fixed >= 0 && n >= whole {
				wantSize, wantHead = whole, 1+width
			}
			if size != wantSize || head != wantHead {
				t.Errorf("constructor %#02x with %d bytes: size %d, head %d; want %d, %d", constructor, n, size, head, wantSize, wantHead)
			}
		}
	}
}

// TestValueSizeLengths has the lengths that a byte more or less would get wrong.
func TestValueSizeLengths(t *testing.T) {
	for _, n := range []int{0, 1, 127, 128, 254, 255, 256, 65535, 65536} {
		long := append(binary.BigEndian.AppendUint32([]byte{0xb0}, uint32(n)), make([]byte, n)...)
		if size, head := valueSize(long); size != 5+n || head != 5 {
			t.Errorf("%d bytes behind a long head: size %d, head %d", n, size, head)
		}
		if size, _ := valueSize(long[:len(long)-1]); size != -1 {
			t.Errorf("%d bytes of which one is missing: size %d", n, size)
		}
		if n > 255 {
			continue
		}
		short := append([]byte{0xa0, byte(n)}, make([]byte, n)...)
		if size, head := valueSize(short); size != 2+n || head != 2 {
			t.Errorf("%d bytes behind a short head: size %d, head %d", n, size, head)
		}
		if size, _ := valueSize(short[:len(short)-1]); size != -1 {
			t.Errorf("%d bytes of which one is missing: size %d", n, size)
		}
	}
	for _, huge := range []uint32{1<<31 - 1, 1 << 31, 1<<32 - 1} {
		if size, head := valueSize(binary.BigEndian.AppendUint32([]byte{0xb0}, huge)); size != -1 || head != 0 {
			t.Errorf("%d bytes that are not there: size %d, head %d", huge, size, head)
		}
	}
}

func TestCutSection(t *testing.T) {
	for _, test := range []struct {
		b, value, rest string
		code           byte
		ok             bool
	}{
		{"\x00\x53\x70\x45", "\x45", "", sectionHeader, true},
		{"\x00\x53\x78\x45rest", "\x45", "rest", sectionFooter, true},
		{"\x00\x53\x75\xa0\x02hi!", "\xa0\x02hi", "!", sectionData, true},
		{"\x00\x53\x75\xb0\x00\x00\x00\x02hi", "\xb0\x00\x00\x00\x02hi", "", sectionData, true},
		{"\x00\x80\x00\x00\x00\x00\x00\x00\x00\x75\xa0\x02hi!", "\xa0\x02hi", "!", sectionData, true},
		{"\x00\xa3\x10amqp:data:binary\xa0\x02hi!", "\xa0\x02hi", "!", sectionData, true},
		{"\x00\xb3\x00\x00\x00\x10amqp:data:binary\xa0\x02hi!", "\xa0\x02hi", "!", sectionData, true},
		{"\x00\x53\x77\x00\x53\x01\x00\xa3\x01x\x41!", "\x00\x53\x01\x00\xa3\x01x\x41", "!", sectionValue, true},
		{"\x00\x53\x77\x00\x00\x53\x01\x40\x41!", "\x00\x00\x53\x01\x40\x41", "!", sectionValue, true}, // a described descriptor
		{"\x00\x53\x75\xa0\x03hi", "", "", 0, false},
		{"\x00\x53\x77\x00\x53\x01", "", "", 0, false},
		{"\x00\x53\x6f\x45", "", "", 0, false},
		{"\x00\x53\x79\x45", "", "", 0, false},
		{"\x01\x53\x75\x45", "", "", 0, false},
		{"\x00\x52\x75\x45", "", "", 0, false},
		{"\x00\xa3\x0famqp:data:strin\x45", "", "", 0, false},
		{"\x00\xa1\x10amqp:data:binary\x45", "", "", 0, false},
		{"\x00\x80\x00\x00\x00\x00\x00\x00\x01\x75\x45", "", "", 0, false},
		{"\x00\x80\x00\x00\x00\x00\x00\x00\x00", "", "", 0, false},
		{"\x00\x53\x75", "", "", 0, false},
		{"", "", "", 0, false},
	} {
		s, rest, ok := cutSection([]byte(test.b))
		if s.code != test.code || string(s.value) != test.value || string(rest) != test.rest || ok != test.ok {
			t.Errorf("%q: %#x, %q, %q, %v", test.b, s.code, s.value, rest, ok)
		}
		if string(s.whole)+string(rest) != test.b && ok {
			t.Errorf("%q: the whole section is %q", test.b, s.whole)
		}
	}
}

// TestSectionNames: each section has its symbol, as the standard spells it.
func TestSectionNames(t *testing.T) {
	if len(sectionNames) != sectionFooter-sectionHeader+1 {
		t.Errorf("%d names", len(sectionNames))
	}
	for name, code := range sectionNames {
		if s, _, ok := cutSection([]byte("\x00\xa3" + string([]byte{byte(len(name))}) + name + "\x45")); !ok || s.code != code {
			t.Errorf("%s is %#x, %v", name, s.code, ok)
		}
	}
}

// TestAppendData: the short head serves up to 255 bytes. The long one is as long
// as the room that is made.
func TestAppendData(t *testing.T) {
	for n, head := range map[int]string{
		0: "\x00\x53\x75\xa0\x00", 1: "\x00\x53\x75\xa0\x01", 255: "\x00\x53\x75\xa0\xff",
		256: "\x00\x53\x75\xb0\x00\x00\x01\x00", 70_000: "\x00\x53\x75\xb0\x00\x01\x11\x70",
	} {
		body := bytes.Repeat([]byte{'b'}, n)
		if got := appendData(nil, body); string(got) != head+string(body) || cap(got) < n+8 {
			t.Errorf("%d bytes begin with %q, in room for %d", n, got[:len(head)], cap(got))
		}
		if got := appendData([]byte("before"), body); string(got) != "before"+head+string(body) {
			t.Errorf("%d bytes behind others: %q...", n, got[:6+len(head)])
		}
	}
}

// TestPlainBody: only what appendData makes is plain, to the byte.
func TestPlainBody(t *testing.T) {
	for _, n := range []int{0, 1, 254, 255, 256, 257, 70_000} {
		body := bytes.Repeat([]byte{'b'}, n)
		raw := appendData(nil, body)
		if got, ok := plainBody(raw); !ok || !bytes.Equal(got, body) || cap(got) != n {
			t.Errorf("a body of %d bytes came back as %d, %v, with room for %d", n, len(got), ok, cap(got))
		}
		for name, other := range map[string][]byte{"one byte more": append(raw[:len(raw):len(raw)], 0), "one byte less": raw[:len(raw)-1]} {
			if _, ok := plainBody(other); ok {
				t.Errorf("%d bytes and %s are plain", n, name)
			}
		}
	}
	for _, n := range []int{0, 5, 255} {
		long := append(binary.BigEndian.AppendUint32([]byte("\x00\x53\x75\xb0"), uint32(n)), make([]byte, n)...)
		if _, ok := plainBody(long); ok {
			t.Errorf("%d bytes behind a long head are plain, and would be given back behind a short one", n)
		}
		if body, ok := bodyOf(long); !ok || len(body) != n {
			t.Errorf("%d bytes behind a long head have a body of %d, %v", n, len(body), ok)
		}
	}
	for _, raw := range []string{"", "\x00\x53\x75\xa0", "\x01\x53\x75\xa0\x00", "\x00\x54\x75\xa0\x00", "\x00\x53\x77\xa0\x00", "\x00\x53\x75\xa1\x00"} {
		if _, ok := plainBody([]byte(raw)); ok {
			t.Errorf("%q is plain", raw)
		}
	}
}

// TestBodyOfValues: the body of a value is its bytes, whichever way they are
// written, and that of another value is nothing.
func TestBodyOfValues(t *testing.T) {
	for _, c := range []byte{0xa0, 0xa1, 0xa3} {
		for _, raw := range []string{
			"\x00\x53\x77" + string([]byte{c, 2}) + "hi",
			"\x00\x53\x77" + string([]byte{c + 0x10, 0, 0, 0, 2}) + "hi",
		} {
			if body, ok := bodyOf([]byte(raw)); string(body) != "hi" || !ok || cap(body) != 2 {
				t.Errorf("%q has the body %q, %v", raw, body, ok)
			}
		}
	}
	for _, raw := range []string{"\x00\x53\x77\xa2\x02hi", "\x00\x53\x77\xc0\x02hi", "\x00\x53\x77\x71hihi", "\x00\x53\x76\xa0\x02hi", "\x00\x53\x77\x00\x53\x01\xa1\x02hi", "\x00\x53\x74\xa1\x02hi"} {
		if body, ok := bodyOf([]byte(raw)); len(body) != 0 || !ok {
			t.Errorf("%q has the body %q, %v", raw, body, ok)
		}
	}
	raw := []byte("\x00\x53\x75\xa0\x01a\x00\x53\x75\xa0\x01b\x00\x53\x75\xa0\x01c")
	before := bytes.Clone(raw)
	if body, ok := bodyOf(raw); string(body) != "abc" || !ok || !bytes.Equal(raw, before) {
		t.Errorf("three sections of data have the body %q, %v; the message is %q", body, ok, raw)
	}
}

// TestMessagePlain: any other section makes a message more than its body.
func TestMessagePlain(t *testing.T) {
	if !(&Message{Body: []byte("b"), PublishingID: 1, Key: "k", FilterValue: "f"}).plain() || !(&Message{}).plain() {
		t.Error("a body is not plain")
	}
	some := map[string]any{}
	for i, m := range []Message{
		{Value: 1}, {Properties: &Properties{}}, {ApplicationProperties: some}, {Annotations: some},
		{DeliveryAnnotations: some}, {Header: &Header{}}, {Footer: some}, {Sequences: [][]any{}},
	} {
		if m.plain() {
			t.Errorf("message %d is plain", i)
		}
	}
}

func TestMessageIDs(t *testing.T) {
	for _, id := range []any{nil, uint64(1), UUID{1}, []byte("b"), "s"} {
		for _, p := range []*Properties{{MessageID: id}, {CorrelationID: id}} {
			raw, err := (&Message{Properties: p}).encode()
			must(t, err)
			got, err := deliveryOf(raw).Properties()
			if err != nil || got == nil && id != nil || got != nil && !reflect.DeepEqual(got, p) {
				t.Errorf("%+v came back as %+v, %v", p, got, err)
			}
		}
	}
	for _, p := range []*Properties{{MessageID: 1}, {CorrelationID: 1}, {CorrelationID: true}, {MessageID: "s", CorrelationID: int64(1)}} {
		_, err := (&Message{Properties: p}).encode()
		wantErr(t, err, ErrInvalidMessage)
	}
}

// TestBodyOfOtherValues: only a value that is a string or binary is the body, and
// only in the section of the value.
func TestBodyOfOtherValues(t *testing.T) {
	for name, raw := range map[string]string{
		"an integer":         "\x00\x53\x77\x54\x07",
		"a string elsewhere": "\x00\x53\x78\xa1\x01x",
	} {
		if body, ok := bodyOf([]byte(raw)); len(body) != 0 || !ok {
			t.Errorf("%s: body %q, %v", name, body, ok)
		}
	}
	if body, ok := bodyOf([]byte("\x00\x53\x77\xa1\x01x")); string(body) != "x" || !ok {
		t.Errorf("a string: body %q, %v", body, ok)
	}
}

func (m *Message) encode() ([]byte, error) { return appendMessage(nil, m, time.Time{}) }

// appendValue appends a value as a section of its own would have it.
func appendValue(b []byte, v any) ([]byte, error) {
	w := valueWriter{limit: len(b) + maxSections, empty: maxEmpty}
	return w.value(b, v, 0)
}
